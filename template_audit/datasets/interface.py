"""The plug point for row formats: how one row of a data set becomes a Conversation.

A row format is a module beside this file that defines ``FORMAT``, an object with the shape of
`RowFormat`. `template_audit.datasets` finds it by its folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Protocol

from template_audit.conversation import Conversation, ToolCall
from template_audit.datasets.rows import unreadable
from template_audit.errors import DataError


class RowFormat(Protocol):
    """One way of writing conversations as rows."""

    name: str
    fields: str
    """The fields that tell it, for the message when a format cannot be told."""

    def recognises(self, row: Mapping[str, Any]) -> bool:
        """True when a row has this format's fields."""
        ...

    def read(self, row: Mapping[str, Any], where: str) -> Conversation:
        """The conversation in a row. Raises DataError that begins with `where` and names the field."""
        ...


def text_field(row: Mapping[str, Any], key: str, where: str) -> str | None:
    """``row[key]`` if it is text, None when it is missing or null. Raises DataError otherwise."""
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise DataError(f"{where}: `{key}` must be text, got {type(value).__name__}.")
    return value


def read_tools(row: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], ...] | None:
    """The `tools` column: a list, or the JSON text of one; None without a column, () when it is empty."""
    value = row.get("tools")
    if value is None:
        return None
    if isinstance(value, str):
        if not value.strip():
            return ()
        value = parse_json(value, f"{where}: `tools`")
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise DataError(f"{where}: `tools` must be a list of tool objects, or the JSON text of one.")
    return tuple(value)


def read_tool_calls(text: str, where: str) -> tuple[ToolCall, ...]:
    """Tool calls from the JSON text of ``{"name", "arguments"}`` or a list of such objects."""
    value = parse_json(text, where)
    calls = value if isinstance(value, list) else [value]
    if not calls:
        raise DataError(f"{where} holds no tool call.")
    return tuple(_tool_call(call, where) for call in calls)


def _tool_call(call: Any, where: str) -> ToolCall:
    if not isinstance(call, Mapping) or not isinstance(call.get("name"), str):
        raise DataError(f"{where}: a tool call must be an object with a `name`.")
    arguments = call.get("arguments")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, (Mapping, str)):
        raise DataError(f"{where}: `arguments` must be an object or JSON text, got {type(arguments).__name__}.")
    return ToolCall(call["name"], arguments)


def parse_json(text: str, where: str) -> Any:
    """Parse JSON that stands inside a field. Raises DataError naming `where`."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{where} is not valid JSON (character {error.pos}: {error.msg}).") from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"{where}: {unreadable(error)}.") from None
