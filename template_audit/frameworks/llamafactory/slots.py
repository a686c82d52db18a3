"""Filling the framework's slots: what one formatter makes of one message.

Source: LLaMA-Factory 0.9.5, data/formatter.py. A message that the framework cannot format raises the
same Python error as there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, cast

from template_audit.frameworks.llamafactory.registry import Formatter, Slot, Special, Token
from template_audit.frameworks.llamafactory.tool_formats import FORMATS, Call, Marker, Release
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


def tools_text(formatter: Formatter, content: str, release: Release) -> str:
    """The text of the tool definitions (`content`, JSON), which the system slot is given after the system text."""
    marker = Marker(Origin(None, "tools"))
    if formatter.kind != "tool":  # phi4 has a plain string here
        return cast(str, fill(formatter.slots, content=marker.copied(content))[0])
    try:
        tools = json.loads(content)
    except json.JSONDecodeError:
        if release.behaviours.invalid_tool_json == "nothing":
            return ""
        raise RuntimeError(f"Invalid JSON format in tool description: {[content]}.") from None
    if len(tools) == 0:
        return ""
    return join(FORMATS[formatter.tool_format or "default"].tools(tools, marker, release))


class ThoughtWords(NamedTuple):
    """What a template tells the function formatter to look for."""

    thought: tuple[str, str] | None
    tool_call: tuple[str, str] | None


def fill_function(
    formatter: Formatter, content: str, message: int | None, words: ThoughtWords, release: Release
) -> list[Element]:
    """A function message: the calls (`content`, JSON) in the formatter's tool format, thoughts in front.

    Of several thoughts the first is kept, and only what equals it is taken out. With tool call words
    in the text, what is between them is the JSON and all else stands in front.
    """
    marker = Marker(Origin(message, "tool_call"))
    way = release.behaviours.function_formatter
    if way == "slots_per_call":
        return _slots_per_call(formatter, _parse_calls(content, content, release), marker)
    call_match = _between(words.tool_call, content) if way == "template_words" else None
    if call_match is not None:
        before, calls_json = content.replace(call_match[0], ""), call_match[1]
    else:
        thought = _between(words.thought, content) if way == "template_words" else _THINK_TAGS.search(content)
        before, calls_json = "", content
        if thought is not None:
            before, calls_json = content[thought.start() : thought.end()], content.replace(thought[0], "")
    calls = _parse_calls(calls_json, content, release)
    written = FORMATS[formatter.tool_format or "default"].calls(calls, marker, release)
    return fill(formatter.slots, content=join([before, *written]))


_THINK_TAGS = re.compile("<think>(.*)</think>", re.DOTALL)


def _between(words: tuple[str, str] | None, text: str) -> re.Match[str] | None:
    if not words or len(words) != 2:
        return None
    return re.search(f"{re.escape(words[0])}(.*?){re.escape(words[1])}", text, re.DOTALL)


def _parse_calls(text: str, content: str, release: Release) -> list[Call]:
    try:
        calls = json.loads(text)
    except json.JSONDecodeError:
        if release.behaviours.invalid_tool_json == "nothing":
            return []
        raise RuntimeError(f"Invalid JSON format in function message: {[content]}.") from None
    return [
        Call(call["name"], json.dumps(call["arguments"], ensure_ascii=False))
        for call in (calls if isinstance(calls, list) else [calls])
    ]


def _slots_per_call(formatter: Formatter, calls: list[Call], marker: Marker) -> list[Element]:
    """Every slot, the eos slot too, once for every call (up to 0.9.1)."""
    out: list[Element] = []
    for call in calls:
        for slot in formatter.slots:
            if isinstance(slot, str):
                named = literal(slot).replace("{{name}}", marker.copied("" + call.name))
                out.append(named.replace("{{arguments}}", marker.made(call.arguments)))
            else:
                out.append(slot)
    return out
