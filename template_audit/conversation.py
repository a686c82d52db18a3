"""What a user gives: messages, tools, reasoning and tool calls. Neutral, OpenAI-shaped, immutable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from template_audit.errors import DataError

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")
_ROLE_ALIASES = {"developer": "system", "function": "tool", "observation": "tool", "human": "user", "gpt": "assistant"}
_REASONING_KEYS = ("reasoning", "reasoning_content", "thinking")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One function call. `arguments` stays as it was given: a mapping, or the JSON text of one."""

    name: str
    arguments: Mapping[str, Any] | str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `content` is None when the message has none (a bare tool call)."""

    role: Role
    content: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    name: str | None = None
    tool_call_id: str | None = None

    def to_openai(self) -> dict[str, Any]:
        """The message as chat templates expect it; keys without a value are left out."""
        out: dict[str, Any] = {"role": self.role}
        if self.content is not None:
            out["content"] = self.content
        if self.reasoning is not None:
            out["reasoning_content"] = self.reasoning
        if self.tool_calls:
            out["tool_calls"] = [
                {
                    **({"id": call.id} if call.id is not None else {}),
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        if self.name is not None:
            out["name"] = self.name
        if self.tool_call_id is not None:
            out["tool_call_id"] = self.tool_call_id
        return out


@dataclass(frozen=True, slots=True)
class Conversation:
    """Messages and tools of one training example.

    `tools` is None when the example has no tools column, and empty when it has an empty one:
    some encoders tell the two apart. `id` names the conversation in reports. `row` is the data set
    row that the conversation was read from, for encoders that have a converter of their own.
    """

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] | None = None
    id: str = "conversation"
    row: Mapping[str, Any] | None = None

    @property
    def system(self) -> str | None:
        """The text of a leading system message, or None."""
        if self.messages and self.messages[0].role == "system":
            return self.messages[0].content or ""
        return None

    def openai_messages(self) -> list[dict[str, Any]]:
        """All messages as plain dicts for a chat template."""
        return [message.to_openai() for message in self.messages]

    @classmethod
    def from_openai(cls, data: Any, id: str = "conversation", where: str = "conversation") -> Conversation:
        """Read ``{"messages": [...], "tools": [...]}`` or a bare list of messages.

        Raises DataError naming `where` and the field that is wrong.
        """
        if isinstance(data, list):
            data = {"messages": data}
        if not isinstance(data, Mapping):
            raise DataError(f"{where}: expected an object with `messages`, got {type(data).__name__}.")
        rows = data.get("messages")
        if not isinstance(rows, list) or not rows:
            raise DataError(f"{where}: `messages` must be a non-empty list of messages.")
        messages = tuple(_message(row, f"{where}: messages[{i}]") for i, row in enumerate(rows))
        return cls(messages=messages, tools=_tools(data.get("tools"), where), id=str(data.get("id", id)))


def _tools(value: Any, where: str) -> tuple[Mapping[str, Any], ...] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise DataError(f"{where}: `tools` must be a list of tool objects.")
    return tuple(value)


def _text(value: Any, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):  # OpenAI content parts; only text can be audited
        parts = []
        for part in value:
            if not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
                raise DataError(f"{where}: only text content is supported, found {part!r:.80}.")
            parts.append(part["text"])
        return "".join(parts)
    raise DataError(f"{where} must be a string, got {type(value).__name__}.")


def _message(row: Any, where: str) -> Message:
    if not isinstance(row, Mapping):
        raise DataError(f"{where} must be an object with `role` and `content`, got {type(row).__name__}.")
    role = row.get("role")
    role = _ROLE_ALIASES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise DataError(f"{where}.role must be one of {', '.join(ROLES)}, got {role!r:.60}.")
    reasoning = next((row[key] for key in _REASONING_KEYS if row.get(key) is not None), None)
    calls = row.get("tool_calls") or []
    if not isinstance(calls, list):
        raise DataError(f"{where}.tool_calls must be a list.")
    message = Message(
        role=role,
        content=_text(row.get("content"), f"{where}.content"),
        reasoning=_text(reasoning, f"{where}.reasoning"),
        tool_calls=tuple(_tool_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)),
        name=_text(row.get("name"), f"{where}.name"),
        tool_call_id=_text(row.get("tool_call_id"), f"{where}.tool_call_id"),
    )
    if message.content is None and not message.tool_calls:
        raise DataError(f"{where} has neither `content` nor `tool_calls`.")
    return message


def _tool_call(call: Any, where: str) -> ToolCall:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise DataError(f"{where} must have a function with a `name`.")
    arguments = function.get("arguments", {})
    if not isinstance(arguments, (Mapping, str)):
        raise DataError(f"{where}.arguments must be an object or a JSON string, got {type(arguments).__name__}.")
    call_id = call.get("id")
    return ToolCall(name=function["name"], arguments=arguments, id=None if call_id is None else str(call_id))
