"""From a neutral conversation to the samples of the v1 data engine and the messages of its renderer.

Source: LLaMA-Factory 0.9.6.dev0, v1/core/data_engine.py (``DataEngine._prefix_cuts``) and
v1/core/rendering/format.py (``_to_hf_messages``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from template_audit.conversation import Conversation, Message, ToolCall
from template_audit.errors import EncodingError
from template_audit.frameworks.llamafactory_v1.escape import Escaper


@dataclass(frozen=True, slots=True)
class Sample:
    """One training sample: the first messages of a conversation, the last one an assistant's.

    `conversation` holds the messages as the chat template gets them.
    """

    conversation: Conversation
    notes: tuple[str, ...]


def prefix_cuts(conversation: Conversation) -> list[int]:
    """How many messages each sample of the conversation has: one sample per assistant turn."""
    return [index + 1 for index, message in enumerate(conversation.messages) if message.role == "assistant"]


def sample_of(conversation: Conversation, cut: int | None, escaper: Escaper) -> Sample:
    """The sample of the first `cut` messages, or the longest one (None).

    - Content is always text, empty when the message has none. Names and call ids are not kept.
    - Empty reasoning is no reasoning.
    - Tools None are no tools; empty tools are the text ``[]``, which the template gets as an empty list.

    Raises EncodingError: ``encoding-failed`` for a conversation without such a sample, and where
    the framework stops.
    """
    cuts = prefix_cuts(conversation)
    if not cuts:
        raise EncodingError("LLaMA-Factory v1 stops on this conversation: no assistant message is there to be trained.")
    if cut is not None and cut not in cuts:
        raise EncodingError(f"There is no sample of {cut} messages; an assistant message ends {_listed(cuts)}.")
    size = cuts[-1] if cut is None else cut
    if size == 1:
        raise EncodingError("LLaMA-Factory v1 stops on this sample: no message comes before the assistant's.")
    escaper.broken.clear()
    messages = tuple(_message(message, escaper) for message in conversation.messages[:size])
    tools = None if conversation.tools is None else _tools(conversation.tools, escaper)
    return Sample(
        Conversation(messages=messages, tools=tools, id=conversation.id),
        (*_cut_notes(conversation, cuts, size), *_broken_notes(escaper)),
    )


def plain_json(value: Any) -> Any:
    """`value` as it comes back from JSON text. Raises EncodingError when it cannot be written as JSON."""
    try:
        return json.loads(json.dumps(value, default=_as_json))
    except (TypeError, ValueError) as error:
        raise EncodingError(f"LLaMA-Factory v1 keeps tools and tool calls as JSON text: {error}.") from None


def _message(message: Message, escaper: Escaper) -> Message:
    # Reasoning is escaped before the content and the calls, which is the order of the blocks of a message.
    reasoning = escaper.text(message.reasoning) if message.reasoning else None
    return Message(
        role=message.role,
        content=escaper.text(message.content or ""),
        reasoning=reasoning,
        tool_calls=tuple(
            ToolCall(call.name, escaper.arguments(plain_json(call.arguments))) for call in message.tool_calls
        ),
    )


def _tools(tools: Sequence[Mapping[str, Any]], escaper: Escaper) -> tuple[Mapping[str, Any], ...]:
    """The tools, broken as JSON text: what JSON escapes in a special token hides it."""
    text = json.dumps(plain_json(tools))
    try:
        return tuple(json.loads(escaper.text(text)))
    except ValueError:
        raise EncodingError("LLaMA-Factory v1 stops: with a special token broken, the tools are no JSON.") from None


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} cannot be written")


def _cut_notes(conversation: Conversation, cuts: list[int], size: int) -> list[str]:
    notes = []
    if len(cuts) > 1:
        notes.append(
            f"LLaMA-Factory v1 makes {len(cuts)} samples of this conversation, one per assistant turn, each trained on "
            f"its last turn only. This is the one of {size} messages; `cut` shows the others ({_listed(cuts)})."
        )
    left = len(conversation.messages) - cuts[-1]
    if left:
        notes.append(f"The last {left} messages are in no sample." if left > 1 else "The last message is in no sample.")
    if cuts[0] == 1:
        notes.append("The sample of the first message alone stops the training run: no message comes before it.")
    return notes


def _broken_notes(escaper: Escaper) -> list[str]:
    if not escaper.broken:
        return []
    names = ", ".join(f"`{word}`" for word in escaper.broken)
    return [f"Special tokens in the data are broken by a zero-width space: {names}."]


def _listed(cuts: list[int]) -> str:
    return ("the first " if len(cuts) == 1 else "messages ") + ", ".join(map(str, cuts))
