"""OpenAI-shaped rows: `messages` of role and content, and `tools`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from template_audit.conversation import Conversation
from template_audit.datasets.interface import RowFormat, read_tool_calls, read_tools
from template_audit.errors import DataError

_COLUMNS = ("messages", "conversations", "conversation")


class OpenAI:
    """Reasoning stands in `reasoning_content` (or `reasoning`, `thinking`), or in a content part.

    Content parts may be OpenAI's (``{"type": "text", "text"}``) or those of LLaMA-Factory's newer data
    sets (``{"type": "text" | "reasoning" | "tool_call", "value"}``).
    """

    name = "openai"
    fields = "`messages` with `role` and `content`"

    def recognises(self, row: Mapping[str, Any]) -> bool:
        """True when the first message has a role."""
        messages = row.get(_column(row))
        return isinstance(messages, list) and bool(messages) and isinstance(messages[0], dict) and "role" in messages[0]

    def read(self, row: Mapping[str, Any], where: str) -> Conversation:
        """The conversation in a row. Raises DataError."""
        messages = row.get(_column(row))
        if isinstance(messages, list):
            messages = [_plain(message, f"{where}: {_column(row)}[{i}]") for i, message in enumerate(messages)]
        tools = read_tools(row, where)
        data = {"messages": messages, "tools": None if tools is None else list(tools)}
        return Conversation.from_openai(data, where=where)


def _column(row: Mapping[str, Any]) -> str:
    return next((key for key in _COLUMNS if key in row), "messages")


def _plain(message: Any, where: str) -> Any:
    """A message with parts that carry a `value` as one with text, reasoning and tool calls of its own."""
    parts = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(parts, list) or not any(isinstance(part, Mapping) and "value" in part for part in parts):
        return message
    texts: dict[str, list[str]] = {"text": [], "reasoning": []}
    calls = list(message.get("tool_calls") or [])
    for i, part in enumerate(parts):
        place = f"{where}.content[{i}]"
        kind = part.get("type") if isinstance(part, Mapping) else None
        value = part.get("value", part.get("text")) if isinstance(part, Mapping) else None
        if not isinstance(value, str):
            raise DataError(f"{place}.value must be text.")
        if kind == "tool_call":
            found = read_tool_calls(value, f"{place}.value")
            calls += [{"function": {"name": call.name, "arguments": call.arguments}} for call in found]
        elif kind in texts:
            texts[kind].append(value)
        else:
            raise DataError(f"{place}.type must be text, reasoning or tool_call, got {kind!r:.40}.")
    plain = dict(message)
    plain["content"] = "".join(texts["text"]) if texts["text"] or not calls else None
    if texts["reasoning"]:
        plain["reasoning_content"] = "".join(texts["reasoning"])
    if calls:
        plain["tool_calls"] = calls
    return plain


FORMAT: RowFormat = OpenAI()
