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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from template_audit.conversation import Conversation, Message, ToolCall
from template_audit.errors import EncodingError, UsageError
from template_audit.frameworks import load_encoder
from template_audit.frameworks.chat_template import ChatTemplateEncoder
from template_audit.frameworks.interface import TokenizerEffects
from template_audit.model import Model
from template_audit.model.tokenizer import encode_texts
from template_audit.stream import IGNORE, LITERAL, EncodedStream, Origin, Piece, Turn

Fault = Mapping[str, Any]
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
            if fault["do"] not in {*_CONVERSATION, *_TEXT, *_TOKENS}:
                raise UsageError(f"There is no fault `{fault['do']}`.")

    def encode(self, conversation: Conversation) -> EncodedStream:
        """Encode one conversation. Raises EncodingError when the template does."""
        messages: Indexed = list(enumerate(conversation.messages))
        tools = conversation.tools
        for fault in self._faults:
            if fault["do"] == "drop-tools":
                tools = None
            elif fault["do"] in _CONVERSATION:
                messages = _CONVERSATION[fault["do"]](messages, fault)
        told = replace(conversation, messages=tuple(message for _, message in messages), tools=tools)
        stream = _renumbered(self._encoder.encode(told), [index for index, _ in messages])
        draft = Draft.of(stream, self.tokenizer)
        for fault in self._faults:
            if fault["do"] in _TEXT:
                _TEXT[fault["do"]](draft, fault)
        if any(fault["do"] in _TEXT for fault in self._faults):
            stream = draft.stream()
        work = Work(self._encoder, told, conversation, stream)
        for fault in self._faults:
            if fault["do"] in _TOKENS:
                _TOKENS[fault["do"]](work, fault)
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


_CONVERSATION: dict[str, Callable[[Indexed, Fault], Indexed]] = {
    "drop-role": _drop_role,
    "drop-field": _drop_fields,
    "encode-arguments": _encode_arguments,
    "drop-tools": lambda messages, fault: messages,
}


# Faults of the text


@dataclass
class Char:
    """One character of a text before it is tokenized."""

    text: str
    origin: Origin
    trained: bool
    turn: tuple[int | None, str]
    plain: bool = False
    """Control tokens are not looked for here."""
    cut: bool = False
    """The tokenizer starts anew here."""


@dataclass
class Draft:
    """A text that is not tokenized yet, character by character."""

    tokenizer: Any
    chars: list[Char]

    @classmethod
    def of(cls, stream: EncodedStream, tokenizer: Any) -> Draft:
        """The characters of a stream with the labels of their tokens."""
        chars = [Char(text, LITERAL, False, (None, "")) for text in stream.text]
        for piece in stream.pieces:
            for char in chars[piece.start : piece.end]:
                char.origin = piece.origin
        for turn in stream.turns:
            for char in chars[turn.char_start : turn.char_end]:
                char.turn = (turn.message, turn.role)
        for (start, end), label in zip(stream.spans, stream.labels, strict=True):
            for char in chars[start:end]:
                char.trained = label != IGNORE
        return cls(tokenizer, chars)

    @property
    def text(self) -> str:
        """The text as it stands."""
        return "".join(char.text for char in self.chars)

    def put(self, at: int, text: str, trained: bool | None) -> None:
        """Insert literal text; `trained` None: as what stands before it."""
        near = self.chars[max(at - 1, 0)]
        flag = near.trained if trained is None else trained
        self.chars[at:at] = [Char(char, LITERAL, flag, near.turn) for char in text]

    def literals(self, text: str) -> Iterator[int]:
        """Where `text` stands in the template's own text, from the last place to the first."""
        whole = self.text
        at = whole.rfind(text)
        while at >= 0:
            if all(char.origin.field in ("literal", "role", "other") for char in self.chars[at : at + len(text)]):
                yield at
            at = whole.rfind(text, 0, at)

    def stream(self) -> EncodedStream:
        """The text tokenized."""
        groups: list[tuple[bool, int, int]] = []
        for i, char in enumerate(self.chars):
            if not groups or char.cut or char.plain != groups[-1][0]:
                groups.append((char.plain, i, i))
            groups[-1] = (char.plain, groups[-1][1], i + 1)
        text = self.text
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        for plain, start, end in groups:
            more, places = _encode(self.tokenizer, text[start:end], plain)
            ids += more
            spans += [(a + start, b + start) for a, b in places]
        labels = [id if self.chars[a].trained else IGNORE for id, (a, _) in zip(ids, spans, strict=True)]
        pieces = [Piece(a, b, origin) for a, b, origin in _runs([char.origin for char in self.chars])]
        turns = []
        for a, b, (message, role) in _runs([char.turn for char in self.chars]):
            inside = [i for i, span in enumerate(spans) if a <= span[0] < b]
            first, last = (inside[0], inside[-1] + 1) if inside else (len(ids), len(ids))
            turns.append(Turn(message, role, first, last, a, b))
        return EncodedStream(ids, labels, text, spans, pieces, turns)


def _encode(tokenizer: Any, text: str, plain: bool) -> tuple[list[int], list[tuple[int, int]]]:
    if not plain:
        (encoded,) = encode_texts(tokenizer, [text])
        return encoded
    found = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    return found["input_ids"], found["offset_mapping"]


def _runs(values: Sequence[Any]) -> Iterator[tuple[int, int, Any]]:
    at = 0
    for value, group in groupby(values):
        size = len(list(group))
        yield at, at + size, value
        at += size


def _append(draft: Draft, fault: Fault) -> None:
    draft.put(len(draft.chars), fault["text"], fault.get("trained"))


def _prepend(draft: Draft, fault: Fault) -> None:
    text = fault["text"]
    draft.put(0, text, False)
    for char in draft.chars[: len(text)]:
        char.turn = (None, "system")


def _replace(draft: Draft, fault: Fault) -> None:
    """`old` of the template becomes `new`: everywhere, or in the last place or in turns of one `role` only."""
    old, new = fault["old"], fault["new"]
    for at in draft.literals(old):
        if draft.chars[at].turn[1] != fault.get("role", draft.chars[at].turn[1]):
            continue
        draft.put(at + len(old), new, draft.chars[at].trained)
        del draft.chars[at : at + len(old)]
        if fault.get("last"):
            return


def _plain(draft: Draft, fault: Fault) -> None:
    """The marker is tokenized as ordinary text; without a marker everything is."""
    marker = fault.get("marker")
    for at in draft.literals(marker) if marker else (0,):
        for char in draft.chars[at : at + len(marker)] if marker else draft.chars:
            char.plain = True


def _piecewise(draft: Draft, fault: Fault) -> None:
    """Template text and messages are tokenized one by one."""
    before: Origin | None = None
    for char in draft.chars:
        char.cut = char.origin != before
        before = char.origin


def _trim(draft: Draft, fault: Fault) -> None:
    """Trailing whitespace is stripped from the whole text."""
    while draft.chars and draft.chars[-1].text.isspace():
        draft.chars.pop()


_TEXT: dict[str, Callable[[Draft, Fault], None]] = {
    "append": _append,
    "prepend": _prepend,
    "replace": _replace,
    "plain": _plain,
    "piecewise": _piecewise,
    "trim": _trim,
}


# Faults of ids and labels


@dataclass
class Work:
    """A stream that faults of ids and labels change."""

    encoder: ChatTemplateEncoder
    told: Conversation
    """The conversation as the template got it."""
    conversation: Conversation
    stream: EncodedStream

    @property
    def tokenizer(self) -> Any:
        """The trainer's tokenizer."""
        return self.encoder.model.tokenizer

    def token(self, name: str) -> int:
        """The id of a token: ``bos``, ``eos``, ``pad`` or ``unk``, or the token's own text."""
        if name in ("bos", "eos", "pad", "unk"):
            name = getattr(self.tokenizer, f"{name}_token")
        found: int = self.tokenizer.convert_tokens_to_ids(name)
        return found

    def train(self, wanted: Sequence[bool]) -> None:
        """Set the labels anew."""
        ids = self.stream.input_ids
        labels = [id if flag else IGNORE for id, flag in zip(ids, wanted, strict=True)]
        self.stream = replace(self.stream, labels=labels)

    @property
    def trained(self) -> list[bool]:
        """Which tokens have a label."""
        return [label != IGNORE for label in self.stream.labels]


def _add_bos(work: Work, fault: Fault) -> None:
    stream, text = work.stream, work.tokenizer.bos_token
    size = len(text)
    work.stream = replace(
        stream,
        input_ids=[work.token("bos"), *stream.input_ids],
        labels=[IGNORE, *stream.labels],
        text=text + stream.text,
        spans=[(0, size), *((a + size, b + size) for a, b in stream.spans)],
        pieces=[Piece(0, size, LITERAL), *(Piece(a + size, b + size, origin) for a, b, origin in stream.pieces)],
        turns=[Turn(m, r, a + 1, b + 1, c + size, d + size) for m, r, a, b, c, d in stream.turns],
    )


def _truncate(work: Work, fault: Fault) -> None:
    stream, limit = work.stream, fault["length"]
    if len(stream) <= limit:
        return
    end = stream.spans[limit - 1][1]
    work.stream = replace(
        stream,
        input_ids=stream.input_ids[:limit],
        labels=stream.labels[:limit],
        text=stream.text[:end],
        spans=stream.spans[:limit],
        pieces=[Piece(a, min(b, end), origin) for a, b, origin in stream.pieces if a < end],
        turns=[Turn(m, r, a, min(b, limit), c, min(d, end)) for m, r, a, b, c, d in stream.turns if a < limit],
        notes=(*stream.notes, f"cut to a cutoff of {limit} tokens"),
    )


def _train_all(work: Work, fault: Fault) -> None:
    work.train([True] * len(work.stream))


def _train_last(work: Work, fault: Fault) -> None:
    """Only the last answer is trained."""
    last = [turn for turn in work.stream.turns if turn.role == "assistant"][-1]
    work.train([flag and last.start <= i < last.end for i, flag in enumerate(work.trained)])


def _train_content(work: Work, fault: Fault) -> None:
    """Only what the assistant said is trained, and the token `end` where it stands in an answer's turn."""
    messages = work.conversation.messages
    end = work.token(fault["end"]) if "end" in fault else None
    wanted = [
        origin.message is not None and messages[origin.message].role == "assistant" and origin.field != "role"
        for origin in work.stream.origins
    ]
    for turn in work.stream.turns:
        for i in range(turn.start, turn.end):
            wanted[i] = wanted[i] or (turn.role == "assistant" and work.stream.input_ids[i] == end)
    work.train(wanted)


def _train_turns(work: Work, fault: Fault) -> None:
    """Every turn of the assistant is trained whole; without `header` from the end of the header on."""
    wanted = [False] * len(work.stream)
    for turn in work.stream.turns:
        if turn.role == fault.get("role", "assistant"):
            own = [i for i in range(turn.start, turn.end) if work.stream.origins[i].message == turn.message]
            first = turn.start if fault.get("header") else min(own, default=turn.end)
            wanted[first : turn.end] = [True] * (turn.end - first)
    work.train(wanted)


def _train_from(work: Work, fault: Fault) -> None:
    """Everything from token `start` on is trained: a prompt's length that was taken wrongly."""
    work.train([i >= fault["start"] for i in range(len(work.stream))])


def _mask_token(work: Work, fault: Fault) -> None:
    """Every label that is this token is masked; with `not-last` all but the last one."""
    token = work.token(fault["token"])
    places = [i for i, id in enumerate(work.stream.input_ids) if id == token]
    if fault.get("not-last"):
        places = places[:-1]
    work.train([flag and i not in places for i, flag in enumerate(work.trained)])


def _mask_start(work: Work, fault: Fault) -> None:
    """The first `count` trained tokens of every answer are masked."""
    wanted = work.trained
    for turn in work.stream.turns:
        for i in [i for i in range(turn.start, turn.end) if wanted[i]][: fault["count"]]:
            wanted[i] = False
    work.train(wanted)


def _generation_tags(work: Work, fault: Fault) -> None:
    """The template's ``{% generation %}`` tags decide; with `to-end` a range runs to the end of the text."""
    ranges = work.encoder.renderer.render(work.told).generation_ranges
    ends = [(a, len(work.stream.text) if fault.get("to-end") else b) for a, b in ranges]
    work.train([any(a <= start < b for a, b in ends) for start, _ in work.stream.spans])


def _responses_only(work: Work, fault: Fault) -> None:
    """Train what follows the ids of `response`, up to those of `instruction`; nothing when they are not found."""
    ids = work.stream.input_ids

    def find(text: str | None) -> list[int]:
        wanted = work.tokenizer.encode(text, add_special_tokens=False) if text else []
        size = len(wanted)
        return [i for i in range(len(ids) - size + 1) if size and ids[i : i + size] == wanted]

    size = len(work.tokenizer.encode(fault["response"], add_special_tokens=False))
    starts, stops = find(fault["response"]), find(fault.get("instruction"))
    wanted = [False] * len(ids)
    for start in starts if "instruction" in fault else starts[-1:]:
        end = min((stop for stop in stops if stop > start), default=len(ids))
        wanted[start + size : end] = [True] * max(end - start - size, 0)
    work.train(wanted)


def _shift_labels(work: Work, fault: Fault) -> None:
    """Labels are moved to the token before, as a trainer does once more."""
    work.stream = replace(work.stream, labels=[*work.stream.labels[1:], IGNORE])


def _lose_token(work: Work, fault: Fault) -> None:
    """The marker's id is not found and the unknown token takes its place."""
    old, new = work.token(fault["token"]), work.token("unk")
    ids = [new if id == old else id for id in work.stream.input_ids]
    labels = [new if label == old else label for label in work.stream.labels]
    work.stream = replace(work.stream, input_ids=ids, labels=labels)


_TOKENS: dict[str, Callable[[Work, Fault], None]] = {
    "add-bos": _add_bos,
    "truncate": _truncate,
    "train-all": _train_all,
    "train-last": _train_last,
    "train-content": _train_content,
    "train-turns": _train_turns,
    "train-from": _train_from,
    "mask-token": _mask_token,
    "mask-start": _mask_start,
    "generation-tags": _generation_tags,
    "responses-only": _responses_only,
    "shift-labels": _shift_labels,
    "lose-token": _lose_token,
}
