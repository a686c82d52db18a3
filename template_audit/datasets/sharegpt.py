"""ShareGPT rows: `conversations` of from and value, and columns `system` and `tools`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from template_audit.conversation import Conversation, Message, Role
from template_audit.datasets.interface import RowFormat, read_tool_calls, read_tools, text_field
from template_audit.errors import DataError

_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "observation": "tool",
    "tool": "tool",
    "function_call": "assistant",
}
_COLUMNS = ("conversations", "messages", "conversation")
_THOUGHT = re.compile(r"\s*<think>(.*?)</think>", re.DOTALL)


class ShareGPT:
    """An assistant's text keeps the ``<think>…</think>`` that stands in it: the template decides what it is.

    A `function_call` is JSON, so a thought before it cannot stay there and becomes the message's
    reasoning. The order of the roles is not checked; frameworks that are strict about it say so.
    """

    name = "sharegpt"
    fields = "`conversations` with `from` and `value`"

    def recognises(self, row: Mapping[str, Any]) -> bool:
        """True when the first message says whom it is from."""
        messages = row.get(_column(row))
        return isinstance(messages, list) and bool(messages) and isinstance(messages[0], dict) and "from" in messages[0]

    def read(self, row: Mapping[str, Any], where: str) -> Conversation:
        """The conversation in a row. Raises DataError."""
        column = _column(row)
        rows = row.get(column)
        if not isinstance(rows, list) or not rows:
            raise DataError(f"{where}: `{column}` must be a non-empty list of messages.")
        messages = [_message(message, f"{where}: {column}[{i}]") for i, message in enumerate(rows)]
        system = text_field(row, "system", where)
        if system and messages[0].role != "system":  # a system message wins over the column, as in LLaMA-Factory
            messages.insert(0, Message("system", system))
        return Conversation(tuple(messages), read_tools(row, where))


def _column(row: Mapping[str, Any]) -> str:
    return next((key for key in _COLUMNS if key in row), _COLUMNS[0])


def _message(message: Any, where: str) -> Message:
    if not isinstance(message, Mapping):
        raise DataError(f"{where} must be an object with `from` and `value`, got {type(message).__name__}.")
    sender, value = message.get("from"), message.get("value")
    if not isinstance(sender, str) or sender not in _ROLES:
        raise DataError(f"{where}.from must be one of {', '.join(_ROLES)}, got {sender!r:.60}.")
    if not isinstance(value, str):
        raise DataError(f"{where}.value must be text, got {type(value).__name__}.")
    if sender != "function_call":
        return Message(_ROLES[sender], value)
    thought = _THOUGHT.match(value)
    calls = read_tool_calls(value[thought.end() :] if thought else value, f"{where}.value")
    return Message("assistant", reasoning=thought.group(1).strip("\n") if thought else None, tool_calls=calls)


FORMAT: RowFormat = ShareGPT()
