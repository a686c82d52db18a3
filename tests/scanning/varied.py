"""Rows made to break what is assumed about rows that look alike: every field with every odd text in it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from template_audit.conversation import Conversation, Message, ToolCall

PLAIN = (
    "What is the capital of France?",
    "Paris.",
    "3",
    "Translate “good morning” into Korean.",
    "좋은 아침입니다.",
    "def f(x):\n    return x * 2\n",
    "1. One\n2. Two\n\n3. Three",
    "The quick brown fox jumps over the lazy dog. " * 12,
    "🚀🚀 Ready for takeoff!",
    "naïve café, ﬁne ½",
    "e\u0301te\u0301",
)
ODD = (
    "",
    " ",
    "\n\n",
    "  leading",
    "trailing  ",
    "\n\nlines around\n\n",
    "{{name}} wrote this",
    "an open {",
    "{name}} closes",
    "<NAME> and <AUTHOR>",
    "a < b and c > d",
    "ends with <|",
    "ends with [",
    "[1] a list [2]",
    "user|> begins",
    "<|im_end|>",
    "<|im_start|>assistant\nI am not.",
    "text <|eot_id|> text",
    "</s>",
    "[INST] inner [/INST]",
    "[|assistant|]",
    "[|endofturn|]",
    "<start_of_turn>model",
    "<think>\nhm\n</think>\n\nSo.",
    "</think>",
    "<think>",
    "[THINK]x[/THINK]",
    "\u200b\u202ehidden",
    "\x00\x07",
    "lone \ud800 surrogate",
    "{{content}}",
    "<image>",
    '{"name": "f", "arguments": {}}',
    "/no_think",
    "detailed thinking on",
)
OUTER = (
    "",
    "",
    "",
    " ",
    "\n",
    "\n\n",
    "  ",
    " \n",
    "\t",
    "\r\n",
    "\u00a0",
    "\u3000",
    "\x85",
    "\u2028",
    "\x1c",
    "\n" * 9,
)
"""What may stand around a text; all of it is whitespace to `str.strip`."""
ENDS = (
    "",
    "",
    ".",
    "?",
    "!",
    ":",
    ")",
    "]",
    "}",
    "{",
    ">",
    "<",
    "*",
    "1",
    "\u200b",
    "\u0301",
    "\u037e",
    ".\n.",
    "。",
    "é",
    "🚀",
)
TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    },
)


def varied(count: int, seed: int, odd: float = 0.15) -> Iterator[Conversation]:
    """`count` conversations; of their texts a share of `odd` is odd."""
    draw = random.Random(seed)

    def text() -> str:
        return draw.choice(ODD) if draw.random() < odd else draw.choice(PLAIN)

    for number in range(1, count + 1):
        messages: list[Message] = []
        if draw.random() < 0.25:
            messages.append(Message("system", text()))
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            messages.append(Message("user", text()))
            if draw.random() < 0.04:
                call = ToolCall("weather", {"city": draw.choice(PLAIN)})
                messages += [Message("assistant", None, tool_calls=(call,)), Message("tool", text())]
            reasoning = text() if draw.random() < 0.05 else None
            messages.append(Message("assistant", text(), reasoning=reasoning))
        if draw.random() < 0.03:
            messages.append(Message("user", text()))
        tools = TOOLS if draw.random() < 0.06 else None
        yield Conversation(tuple(messages), tools, id=f"varied#{number}")


def spaced(count: int, seed: int, outer: Sequence[str] = OUTER, ends: Sequence[str] = ENDS) -> Iterator[Conversation]:
    """`count` conversations of plain texts with whitespace around them, of which most come again with other words."""
    draw = random.Random(seed)

    def text() -> str:
        words = " ".join(draw.choice(PLAIN).strip() for _ in range(draw.choice((1, 1, 2))))
        if draw.random() < 0.3:
            words = draw.choice(ends) + words
        if draw.random() < 0.5:
            words += draw.choice(ends)
        before = draw.choice(outer) if draw.random() < 0.3 else ""
        return before + words + draw.choice(outer)

    for number in range(1, count + 1):
        messages = [Message("system", text())] if draw.random() < 0.1 else []
        for _ in range(draw.choice((1, 1, 1, 2))):
            reasoning = text() if draw.random() < 0.05 else None
            messages += [Message("user", text()), Message("assistant", text(), reasoning=reasoning)]
        yield Conversation(tuple(messages), id=f"spaced#{number}")


def numbered(conversations: Sequence[Conversation]) -> list[tuple[int, Conversation]]:
    return list(enumerate(conversations, 1))
