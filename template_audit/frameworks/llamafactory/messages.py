"""From a neutral conversation to the example that the framework's SFT processor encodes.

Source: LLaMA-Factory 0.9.5, data/converter.py (``OpenAIDatasetConverter``). The framework's own
converters for its data set formats give an `Example` too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from template_audit.conversation import Conversation, Message
from template_audit.errors import NOT_EVALUATED, EncodingError
from template_audit.stream import Field, Origin
from template_audit.trace import Traced, join

ExampleRole = Literal["user", "assistant", "observation", "function"]
ROW_KEY = "llamafactory"
"""Under this key of `Conversation.row` stands the Example (or the EncodingError) of the framework's converter."""

TOOL_RESULT_SEPARATOR = "\n</tool_response>\n<tool_response>\n"
_FIELDS: dict[str, Field] = {
    "user": "content",
    "assistant": "content",
    "observation": "tool_result",
    "function": "tool_call",
}
_PLAIN_ROLES: dict[str, ExampleRole] = {"user": "user", "assistant": "assistant"}
_MODEL_TURN = ("assistant", "function")


@dataclass(frozen=True, slots=True)
class ExampleMessage:
    """One message as the framework holds it.

    `content` is what the framework has there: text (of a function call, the JSON of the calls), or,
    in a malformed row, anything. `message` is the index in `Conversation.messages`.
    """

    role: ExampleRole
    content: Any
    message: int | None = None

    def traced(self) -> Any:
        """`content`, with the Origin of its text."""
        if isinstance(self.content, Traced) or not isinstance(self.content, str):
            return self.content
        return Traced(self.content, Origin(self.message, _FIELDS[self.role]))


@dataclass(frozen=True, slots=True)
class Example:
    """The row that the framework's converters make (``_prompt``, ``_response``, ``_system``, ``_tools``).

    `tools` is the JSON text of a list of tools, or empty. `system_message` is the index of the
    message that `system` came from. `notes` say what the conversion lost. `stage` is the one whose
    processor takes the row.
    """

    prompt: tuple[ExampleMessage, ...]
    response: tuple[ExampleMessage, ...]
    system: str | None = ""
    tools: str | None = ""
    system_message: int | None = None
    notes: tuple[str, ...] = ()
    stage: str = "sft"

    @property
    def paired(self) -> bool:
        """True when the stage takes two answers (`rm`, which is DPO's too, and `kto`)."""
        return self.stage in ("rm", "kto")


def example_of(conversation: Conversation, thought_words: tuple[str, str]) -> Example:
    """The conversation as an `Example`.

    - A leading system message is the system text.
    - Consecutive tool results become one observation, joined as the ``openai`` converter joins
      them; results that nothing follows are lost, as they are there.
    - An assistant message with tool calls becomes a function message: the JSON list of their names
      and arguments as given. Text beside the calls is lost.
    - Reasoning stands in front of the content or the calls, inside `thought_words`.
    - `tools` None is no tools; empty tools are the text ``[]``, which the framework takes for tools.

    Raises EncodingError: ``role-unsupported`` for a system message after the first message,
    ``example-dropped`` where the framework drops the row, ``encoding-failed`` for missing content.
    """
    messages = list(enumerate(conversation.messages))
    system: str = ""
    system_message = None
    if conversation.system is not None:
        system, system_message = Traced(conversation.system, Origin(0, "system")), 0
        messages = messages[1:]
    aligned, notes = _aligned(messages, thought_words)
    _check_alternation(aligned)
    try:
        tools = "" if conversation.tools is None else json.dumps(list(conversation.tools), ensure_ascii=False)
    except RecursionError:
        raise EncodingError("The conversation's tools are nested too deeply.", NOT_EVALUATED) from None
    return Example(tuple(aligned[:-1]), tuple(aligned[-1:]), system, tools, system_message, tuple(notes))


def _aligned(
    messages: list[tuple[int, Message]], thought_words: tuple[str, str]
) -> tuple[list[ExampleMessage], list[str]]:
    aligned: list[ExampleMessage] = []
    results: list[tuple[int, str]] = []
    notes: list[str] = []
    role: ExampleRole
    for i, message in messages:
        if message.role == "tool":
            results.append((i, Traced(_text(i, message), Origin(i, "tool_result"))))
            continue
        if results:
            aligned.append(_observation(results))
            results = []
        if message.role == "system":
            raise EncodingError(
                f"Message {i} is a system message that does not come first; LLaMA-Factory has one system text, "
                "before the first turn.",
                kind="role-unsupported",
            )
        if message.role == "assistant" and message.tool_calls:
            if message.content:
                notes.append(f"The text of message {i} is lost: a message with tool calls keeps only the calls.")
            role, text = "function", _calls(i, message)
        else:
            role, text = _PLAIN_ROLES[message.role], Traced(_text(i, message), Origin(i, "content"))
        aligned.append(ExampleMessage(role, _with_reasoning(i, message, text, thought_words), i))
    if results:
        lost = ", ".join(str(i) for i, _ in results)
        notes.append(f"The tool results of message {lost} are lost: no answer follows them.")
    return aligned, notes


def _text(i: int, message: Message) -> str:
    if message.content is None:
        raise EncodingError(f"Message {i} ({message.role}) has no content; LLaMA-Factory takes text only.")
    return message.content


def _calls(i: int, message: Message) -> str:
    calls = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
    return Traced(json.dumps(calls, ensure_ascii=False), Origin(i, "tool_call", derived=True))


def _with_reasoning(i: int, message: Message, text: str, thought_words: tuple[str, str]) -> str:
    if not message.reasoning:
        return text
    return join([thought_words[0], Traced(message.reasoning, Origin(i, "reasoning")), thought_words[1], text])


def _observation(results: list[tuple[int, str]]) -> ExampleMessage:
    return ExampleMessage("observation", join((text for _, text in results), TOOL_RESULT_SEPARATOR), results[0][0])


def _check_alternation(aligned: list[ExampleMessage]) -> None:
    for turn, message in enumerate(aligned):
        if (message.role in _MODEL_TURN) != bool(turn % 2):
            wanted = "the model's" if turn % 2 else "a user's or a tool's"
            raise EncodingError(
                f"LLaMA-Factory drops this example (its log: “Invalid role tag”): turn {turn} is "
                f"{message.role}'s where it must be {wanted}.",
                kind="example-dropped",
            )
    if not aligned:
        raise EncodingError(
            "LLaMA-Factory drops this example (its log: “Dropped invalid example”): it has no turns.",
            kind="example-dropped",
        )
    if len(aligned) % 2:
        raise EncodingError(
            "LLaMA-Factory drops this example (its log: “Invalid message count”): it does not end with an answer.",
            kind="example-dropped",
        )
