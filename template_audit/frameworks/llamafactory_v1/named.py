"""The named templates of the v1 that release 0.9.5 ships: text, turn by turn.

Source: LLaMA-Factory 0.9.5, v1/core/utils/rendering.py (``render_chatml_messages``) and
v1/plugins/model_plugins/templates/{qwen3,qwen3_nothink}.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from template_audit.conversation import Conversation, Message
from template_audit.errors import EncodingError
from template_audit.frameworks.llamafactory_v1.samples import plain_json
from template_audit.stream import Origin
from template_audit.trace import Traced, join, traced
from template_audit.trace_data import to_json, trace

_START, _END = "<|im_start|>", "<|im_end|>\n"
_TOOLS_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_TOOLS_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)


@dataclass(frozen=True, slots=True)
class Segment:
    """Text that is tokenized on its own, and the message that it belongs to (None: tools alone)."""

    text: Traced
    message: int | None
    role: str
    trained: bool = False


def chatml(conversation: Conversation) -> Iterator[Segment]:
    """Template ``chatml``: content only, tools are passed over. Raises EncodingError for anything else."""
    for index, message in enumerate(conversation.messages):
        yield Segment(_turn(index, message), index, message.role, message.role == "assistant")


def qwen3(conversation: Conversation) -> Iterator[Segment]:
    """Template ``qwen3``: a thought, empty if need be, in the answer to the last question. Raises EncodingError."""
    last = _last_query(conversation.messages)
    count = len(conversation.messages)

    def answer(index: int, message: Message) -> Traced:
        text = traced(message.content or "", Origin(index, "content"))
        parts: list[str] = [text]
        if index > last and (index == count - 1 or message.reasoning):
            thought = traced(message.reasoning or "", Origin(index, "reasoning")).strip("\n")
            parts = ["<think>\n", thought, "\n</think>\n\n", text.lstrip("\n")]
        for number, call in enumerate(_calls(index, message)):
            arguments = call["arguments"]
            written = arguments if isinstance(arguments, str) else to_json(arguments)
            parts += ["\n" if number or message.content else "", *_call(call["name"], written)]
        return join(parts)

    return _qwen(conversation, answer)


def qwen3_nothink(conversation: Conversation) -> Iterator[Segment]:
    """Template ``qwen3_nothink``: thoughts in ``<thinking>``, wherever they are. Raises EncodingError."""

    def answer(index: int, message: Message) -> Traced:
        parts: list[str] = []
        if message.reasoning is not None:
            parts += ["<thinking>\n", traced(message.reasoning, Origin(index, "reasoning")), "\n</thinking>\n\n"]
        if message.content is not None:
            parts.append(traced(message.content, Origin(index, "content")))
        for number, call in enumerate(_calls(index, message)):
            between = "\n" if number or message.content is not None else ""
            parts += [between, *_call(call["name"], to_json(call["arguments"]))]
        return join(parts)

    return _qwen(conversation, answer)


NAMED: dict[str, Callable[[Conversation], Iterator[Segment]]] = {
    "chatml": chatml,
    "qwen3": qwen3,
    "qwen3_nothink": qwen3_nothink,
}


def _qwen(conversation: Conversation, answer: Callable[[int, Message], Traced]) -> Iterator[Segment]:
    messages = conversation.messages
    system = messages[0] if messages[0].role == "system" else None
    if conversation.tools is not None:
        said = [_said(0, system), "\n\n"] if system else []
        tools = [join(["\n", to_json(trace(tool, Origin(None, "tools")))]) for tool in plain_json(conversation.tools)]
        text = join([_START, "system\n", *said, _TOOLS_HEAD, *tools, _TOOLS_TAIL, _END])
        yield Segment(text, 0 if system else None, "system")
    elif system:
        yield Segment(join([_START, "system\n", _said(0, system), _END]), 0, "system")
    for index, message in enumerate(messages):
        if message.role == "assistant":
            head = [_START, traced(message.role, Origin(index, "role")), "\n"]
            yield Segment(join([*head, answer(index, message), _END]), index, message.role, trained=True)
        elif message.role == "tool":
            opens = not index or messages[index - 1].role != "tool"
            closes = index == len(messages) - 1 or messages[index + 1].role != "tool"
            parts = [f"{_START}user" if opens else "", "\n<tool_response>\n", _said(index, message)]
            yield Segment(join([*parts, "\n</tool_response>", _END if closes else ""]), index, message.role)
        elif message.role == "user" or index:
            yield Segment(_turn(index, message), index, message.role)


def _turn(index: int, message: Message) -> Traced:
    role = traced(message.role, Origin(index, "role"))
    return join([_START, role, "\n", _said(index, message), _END])


def _said(index: int, message: Message) -> Traced:
    """The content of a message that may have nothing else."""
    if message.reasoning is not None or message.tool_calls:
        raise EncodingError(
            f"LLaMA-Factory v1 stops on message {index}: this template takes nothing but text from role {message.role}."
        )
    origin = {"system": "system", "tool": "tool_result"}.get(message.role, "content")
    return traced(message.content or "", Origin(index, origin))  # type: ignore[arg-type]


def _last_query(messages: tuple[Message, ...]) -> int:
    """The index of the last user message that is no wrapped tool result; the last message when there is none."""
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message.role != "user" or message.reasoning is not None or message.tool_calls:
            continue
        text = message.content or ""
        if not (text.startswith("<tool_response>") and text.endswith("</tool_response>")):
            return index
    return len(messages) - 1


def _calls(index: int, message: Message) -> list[dict[str, Any]]:
    calls = [plain_json({"name": call.name, "arguments": call.arguments}) for call in message.tool_calls]
    return [trace(call, Origin(index, "tool_call")) for call in calls]


def _call(name: str, arguments: str) -> list[str]:
    return ['<tool_call>\n{"name": "', name, '", "arguments": ', arguments, "}\n</tool_call>"]
