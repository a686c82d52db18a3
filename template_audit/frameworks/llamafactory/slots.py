"""Filling the framework's slots: what one formatter makes of one message.

Source: LLaMA-Factory 0.9.5, data/formatter.py. A message that the framework cannot format raises the
same Python error as there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, TypeAlias, cast

from template_audit.frameworks.llamafactory.registry import Formatter, Slot, Special, Token
from template_audit.frameworks.llamafactory.tool_formats import FORMATS, Call, Marker, Prompts
from template_audit.stream import Origin
from template_audit.trace import join, literal

Element: TypeAlias = str | Token | Special
"""What is tokenized on its own. A plain ``str`` is the template's text; filled text is `Traced`."""


def fill(slots: Sequence[Slot], **values: Any) -> list[Element]:
    """Each slot with ``{{name}}`` replaced by ``values[name]``, once for each name, in their order.

    A later name also finds its placeholder inside an earlier value. Raises RuntimeError for a value
    that is no text.
    """
    out: list[Element] = []
    for slot in slots:
        if isinstance(slot, str):
            for name, value in values.items():
                if not isinstance(value, str):
                    raise RuntimeError(f"Expected a string, got {value}")
                placeholder = "{{" + name + "}}"
                if placeholder in slot:
                    slot = literal(slot).replace(placeholder, value, 1)
        out.append(slot)
    return out


def tools_text(formatter: Formatter, content: str, prompts: Prompts) -> str:
    """The text of the tool definitions (`content`, JSON), which the system slot is given after the system text."""
    marker = Marker(Origin(None, "tools"))
    if formatter.kind != "tool":  # phi4 has a plain string here
        return cast(str, fill(formatter.slots, content=marker.copied(content))[0])
    try:
        tools = json.loads(content)
    except json.JSONDecodeError:
        raise RuntimeError(f"Invalid JSON format in tool description: {[content]}.") from None
    if len(tools) == 0:
        return ""
    return join(FORMATS[formatter.tool_format or "default"].tools(tools, marker, prompts))


def fill_function(
    formatter: Formatter,
    content: str,
    message: int | None,
    thought_words: tuple[str, str] | None = None,
    tool_call_words: tuple[str, str] | None = None,
) -> list[Element]:
    """A function message: the calls (`content`, JSON) in the formatter's tool format, thoughts in front.

    Of several thoughts the first is kept, and only what equals it is taken out. With
    `tool_call_words` in the text, what is between them is the JSON and all else stands in front.
    """
    before = ""
    calls_json = content
    call_match = _between(tool_call_words, content)
    if call_match is not None:
        before = content.replace(call_match[0], "")
        calls_json = call_match[1]
    else:
        thought_match = _between(thought_words, content)
        if thought_match is not None:
            before = content[thought_match.start() : thought_match.end()]
            calls_json = content.replace(thought_match[0], "")
    calls = _parse_calls(calls_json, content)
    written = FORMATS[formatter.tool_format or "default"].calls(calls, Marker(Origin(message, "tool_call")))
    return fill(formatter.slots, content=join([before, *written]))


def _between(words: tuple[str, str] | None, text: str) -> re.Match[str] | None:
    if not words or len(words) != 2:
        return None
    return re.search(f"{re.escape(words[0])}(.*?){re.escape(words[1])}", text, re.DOTALL)


def _parse_calls(text: str, content: str) -> list[Call]:
    try:
        calls = json.loads(text)
    except json.JSONDecodeError:
        raise RuntimeError(f"Invalid JSON format in function message: {[content]}.") from None
    return [
        Call(call["name"], json.dumps(call["arguments"], ensure_ascii=False))
        for call in (calls if isinstance(calls, list) else [calls])
    ]
