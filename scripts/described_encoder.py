"""An encoder that makes a named mistake: it renders a chat template as inference does, then goes wrong as told.

The incident corpus rebuilds what public issues report of trainers and servers that this project has no
encoder for. A description is data: the template that the trainer used, and a list of faults in the
order in which they happen. There are three kinds, and each kind comes after the one before:

- of the conversation, before the template sees it (``drop-system``, ``encode-arguments``, …);
- of the text, before it is tokenized (``append``, ``replace``, ``plain``, ``piecewise``, …);
- of ids and labels (``add-bos``, ``mask-token``, ``responses-only``, ``truncate``, …).
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from template_audit.conversation import Conversation, Message, ToolCall
from template_audit.errors import EncodingError, UsageError
from template_audit.frameworks import load_encoder
from template_audit.frameworks.chat_template import ChatTemplateEncoder
from template_audit.frameworks.interface import TokenizerEffects
from template_audit.model import Model
from template_audit.stream import EncodedStream

sys.path.insert(0, str(Path(__file__).resolve().parent))

from text_faults import TEXT_FAULTS, Draft, Fault
from token_faults import TOKEN_FAULTS, Work

Indexed = list[tuple[int, Message]]
"""Messages with their places in the conversation as it was given."""


class DescribedEncoder:
    """Encodes as the description says.

    Keys of the description, all optional: `name`, for the SPEC; `template`, the text of the chat template in use;
    `kwargs` and `clock`, as the chat template encoder takes them; `faults`; `adds`, tokens that the trainer
    adds to the tokenizer; `saves`, the chat template that it writes beside the weights.
    """

    def __init__(self, model: Model, description: Mapping[str, Any]) -> None:
        self.model = model
        self.spec = f"described:{description.get('name', 'trainer')}"
        self.options: Mapping[str, Any] = {}
        self.notes: tuple[str, ...] = ()
        self.tokenizer = model.tokenizer
        adds = tuple(description.get("adds", ()))
        if adds:
            self.tokenizer = copy.deepcopy(model.tokenizer)
            self.tokenizer.add_special_tokens({"additional_special_tokens": list(adds)})
        template = description.get("template", model.chat_template)
        self.effects = TokenizerEffects(
            added_tokens=adds,
            chat_template=(model.chat_template, description.get("saves", model.chat_template)),
        )
        changed = replace(model, tokenizer=self.tokenizer, chat_templates={"default": template} if template else {})
        options = {"template_kwargs": description.get("kwargs", {})}
        if "clock" in description:
            options["clock"] = description["clock"]
        encoder = load_encoder("chat-template", changed, **options)
        assert isinstance(encoder, ChatTemplateEncoder)
        self._encoder = encoder
        self._faults: list[Fault] = list(description.get("faults", ()))
        for fault in self._faults:
            if fault["do"] not in {*CONVERSATION_FAULTS, *TEXT_FAULTS, *TOKEN_FAULTS}:
                raise UsageError(f"There is no fault `{fault['do']}`.")

    def encode(self, conversation: Conversation) -> EncodedStream:
        """Encode one conversation. Raises EncodingError when the template does."""
        messages: Indexed = list(enumerate(conversation.messages))
        tools = conversation.tools
        for fault in self._faults:
            if fault["do"] == "drop-tools":
                tools = None
            elif fault["do"] in CONVERSATION_FAULTS:
                messages = CONVERSATION_FAULTS[fault["do"]](messages, fault)
        told = replace(conversation, messages=tuple(message for _, message in messages), tools=tools)
        stream = _renumbered(self._encoder.encode(told), [index for index, _ in messages])
        draft = Draft.of(stream, self.tokenizer)
        for fault in self._faults:
            if fault["do"] in TEXT_FAULTS:
                TEXT_FAULTS[fault["do"]](draft, fault)
        if any(fault["do"] in TEXT_FAULTS for fault in self._faults):
            stream = draft.stream()
        work = Work(self._encoder, told, conversation, stream)
        for fault in self._faults:
            if fault["do"] in TOKEN_FAULTS:
                TOKEN_FAULTS[fault["do"]](work, fault)
        return work.stream

    def encode_batch(
        self, conversations: Sequence[Conversation], *, keep_errors: bool = False
    ) -> list[EncodedStream | EncodingError]:
        """Encode many, one by one."""
        found: list[EncodedStream | EncodingError] = []
        for conversation in conversations:
            try:
                found.append(self.encode(conversation))
            except EncodingError as error:
                if not keep_errors:
                    raise
                found.append(error)
        return found


def _renumbered(stream: EncodedStream, indices: Sequence[int]) -> EncodedStream:
    """The stream with messages counted as in the conversation that was given."""

    def given(message: int | None) -> int | None:
        return None if message is None else indices[message]

    return replace(
        stream,
        pieces=[
            piece._replace(origin=piece.origin._replace(message=given(piece.origin.message))) for piece in stream.pieces
        ],
        turns=[turn._replace(message=given(turn.message)) for turn in stream.turns],
        prompts=[],
    )


# Faults of the conversation


def _drop_role(messages: Indexed, fault: Fault) -> Indexed:
    return [(i, message) for i, message in messages if message.role != fault["role"]]


def _drop_fields(messages: Indexed, fault: Fault) -> Indexed:
    """`field` is ``reasoning``, ``tool_calls`` or ``content`` (of messages with calls only)."""
    empty: dict[str, Any] = {"reasoning": None, "tool_calls": (), "content": ""}
    field = fault["field"]
    return [
        (
            i,
            replace(m, **{field: empty[field]})
            if m.role == "assistant" and (field != "content" or m.tool_calls)
            else m,
        )
        for i, m in messages
    ]


def _encode_arguments(messages: Indexed, fault: Fault) -> Indexed:
    """Arguments as the JSON text that the OpenAI API carries them in."""

    def told(call: ToolCall) -> ToolCall:
        return call if isinstance(call.arguments, str) else replace(call, arguments=json.dumps(call.arguments))

    return [(i, replace(m, tool_calls=tuple(told(call) for call in m.tool_calls))) for i, m in messages]


CONVERSATION_FAULTS: dict[str, Callable[[Indexed, Fault], Indexed]] = {
    "drop-role": _drop_role,
    "drop-field": _drop_fields,
    "encode-arguments": _encode_arguments,
    "drop-tools": lambda messages, fault: messages,
}
