"""What rules look at: control tokens, the bodies of messages, turn ends. No rule is defined here."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from template_audit.stream import IGNORE, EncodedStream, Origin

if TYPE_CHECKING:
    from template_audit.frameworks.interface import Encoder
    from template_audit.model import Model
    from template_audit.rules.interface import Case

Span = tuple[int, int]
"""A half-open range of tokens."""

BODY_FIELDS = ("content", "reasoning", "tool_call", "tool_result", "system")
OWN_TEXT = ("content", "tool_result", "system")
"""Three names for what a message says itself."""
TEMPLATE_FIELDS = ("literal", "role", "other")
"""Fields whose text is the template's own doing; everything else is what somebody wrote."""

# Control tokens as families write them. Plain words in angle brackets count only when they are known.
MARKER = re.compile(
    r"<\|[\w/▁.:-]{1,40}\|?>|<[\w/]{1,30}\|>|<｜[^<>｜]{1,40}｜>|\[\|[^\[\]|\s]{1,30}\|\]"
    r"|</?(?:s|bos|eos|eod|pad|unk|sep|sop|eop|start_of_turn|end_of_turn|beginning_of_sentence|end_of_sentence"
    r"|_bot|_user|_system|start_header_id|end_header_id|human|bot)>|<<?/?SYS>>?"
    r"|\[/?(?:INST|SYSTEM_PROMPT|TOOL_CALLS|TOOL_RESULTS|AVAILABLE_TOOLS|IMG|gMASK)\]"
)
THOUGHT = re.compile(
    r"</?(?:think|thinking|thought|seed:think|reasoning)>|◁/?think▷|\[/?THINK\]|<\|(?:START|END)_THINKING\|>"
)


def show(text: str, limit: int = 70) -> str:
    """`text` in backticks on one line, whitespace written out, the middle of long text left out."""
    shown = text.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    if len(shown) > limit:
        shown = f"{shown[: limit * 2 // 3]}…{shown[-(limit // 3) :]}"
    return f"`{shown}`" if shown else "nothing"


def count(number: int, noun: str) -> str:
    """``1 token``, ``2 tokens``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class ControlTokens:
    """The tokens that steer a model, as its tokenizer and the subject's changes to it have them."""

    tokenizer: Any
    special: frozenset[int]
    size: int
    """Ids from here on are new: the encoder added them."""
    eos: int | None
    """The eos token after the encoder's changes."""
    pad: int | None
    stops: frozenset[int]
    """Where generation stops: the model's own stop tokens and `eos`."""

    @property
    def bos(self) -> int | None:
        """The id of the bos token, or None."""
        value: int | None = self.tokenizer.bos_token_id
        return value

    @property
    def unknown(self) -> int | None:
        """The id that stands for what the vocabulary lacks, where that is a token of its own."""
        value: int | None = self.tokenizer.unk_token_id
        return None if value == self.eos else value

    def __contains__(self, token: int) -> bool:
        return token in self.special or token >= self.size

    def single(self, text: str) -> int | None:
        """The id of the model's token that is exactly `text`, or None."""
        token: int | None = self.tokenizer.convert_tokens_to_ids(text)
        if token is None or (token == self.tokenizer.unk_token_id and text != self.tokenizer.unk_token):
            return None
        return token


@lru_cache(maxsize=1)
def _control_tokens(tokenizer: Any, encoder: Any) -> tuple[frozenset[int], int, int | None, int | None]:
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | set(
        tokenizer.all_special_ids
    )
    changed = getattr(encoder, "tokenizer", tokenizer)
    effects = encoder.effects
    special |= {i for token in effects.made_special if (i := tokenizer.convert_tokens_to_ids(token)) is not None}
    size = max(len(tokenizer), max(special, default=0) + 1)
    eos = changed.eos_token_id if effects.eos_token[1] else tokenizer.eos_token_id
    pad = changed.pad_token_id if effects.pad_token[1] else tokenizer.pad_token_id
    return frozenset(special), size, eos, pad


def control_tokens(model: Model, subject: Encoder) -> ControlTokens:
    """The control tokens of `model` as `subject` uses them."""
    encoder: Any = subject  # hashed by identity
    special, size, eos, pad = _control_tokens(model.tokenizer, encoder)
    stops = model.stop_token_ids | ({eos} if eos is not None else set())
    return ControlTokens(model.tokenizer, special, size, eos, pad, frozenset(stops))


class Side:
    """One stream with the places of its messages."""

    def __init__(self, stream: EncodedStream) -> None:
        self.stream = stream
        self.origins: list[Origin] = stream.origins
        self._starts = [start for start, _ in stream.spans]
        self._chars: dict[int, tuple[int, int]] = {}
        self._bodies = self._find_bodies()
        self._order = sorted((span, message) for message, span in self._bodies.items())
        self.turns = {turn.message: turn for turn in stream.turns if turn.message is not None}

    def _find_bodies(self) -> dict[int, Span]:
        chars = self._chars
        for start, end, origin in self.stream.pieces:
            if origin.message is not None and origin.field in BODY_FIELDS and end > start:
                known = chars.get(origin.message, (start, end))
                chars[origin.message] = (min(known[0], start), max(known[1], end))
        bodies = {message: self.tokens(*span) for message, span in chars.items()}
        for turn in self.stream.turns:  # an empty answer has no text, but a place: before what is trained
            if turn.message is not None and turn.message not in bodies and turn.role == "assistant":
                place = next(self.trained(turn.start, turn.end), None)
                if place is not None:
                    bodies[turn.message] = (place, place)
        return bodies

    def tokens(self, start: int, end: int) -> Span:
        """The tokens that hold the characters ``text[start:end]``, cut ones at the edges included."""
        first = bisect_right(self._starts, start) - 1
        while first > 0 and self.stream.spans[first - 1][1] > start:
            first -= 1  # bytes of one character
        return max(first, 0), bisect_left(self._starts, end)

    def text(self, span: Span) -> str:
        """The characters that these tokens cover."""
        start, end = span
        if start >= end:
            return ""
        return self.stream.text[self._starts[start] : max(stop for _, stop in self.stream.spans[start:end])]

    def trained(self, start: int, end: int) -> Iterator[int]:
        """Indices of trained tokens in a range."""
        return (i for i in range(start, min(end, len(self.stream))) if self.stream.labels[i] != IGNORE)

    def is_trained(self, index: int) -> bool:
        """True when the label of this token counts."""
        return self.stream.labels[index] != IGNORE

    def messages(self) -> Iterable[int]:
        """Messages that have a body here."""
        return self._bodies.keys()

    def body(self, message: int) -> Span | None:
        """Tokens from the first to the last that hold text of this message; None when there are none."""
        return self._bodies.get(message)

    def before(self, message: int) -> Span:
        """Tokens between the body before and the body of this message: an end marker and a header."""
        start = self._bodies[message][0]
        ends = [span[1] for span, other in self._order if other != message and span[0] <= start and span[1] <= start]
        return max(ends, default=0), start

    def after(self, message: int) -> Span:
        """Tokens between the body of this message and the next body, or the end of the stream."""
        span = self._bodies[message]
        starts = [other[0] for other, m in self._order if m != message and other[0] >= span[1]]
        return span[1], min(starts, default=len(self.stream))

    def text_before(self, message: int) -> int:
        """The character at which the text before this message's body ends: where its header begins."""
        start = self._chars[message][0] if message in self._chars else self.char(self._bodies[message][0])
        return max((end for m, (_, end) in self._chars.items() if m != message and end <= start), default=0)

    def char(self, token: int) -> int:
        """The character at which a token begins; the end of the text for the index after the last one."""
        return self._starts[token] if token < len(self._starts) else len(self.stream.text)

    def has(self, message: int, field: str) -> bool:
        """True when the stream holds text of this field of the message."""
        return any(p.origin.message == message and p.origin.field == field for p in self.stream.pieces)

    def written(self, message: int, fields: Collection[str]) -> str:
        """The text of these fields of a message, wherever it stands."""
        text = self.stream.text
        return "".join(
            text[p.start : p.end]
            for p in self.stream.pieces
            if p.origin.message == message and p.origin.field in fields
        )

    def fields(self, span: Span) -> set[Origin]:
        """Origins of all characters of these tokens."""
        start, end = span
        if start >= end:
            return set()
        a, b = self._starts[start], max(stop for _, stop in self.stream.spans[start:end])
        return {p.origin for p in self.stream.pieces if p.start < b and a < p.end}

    def said(self, span: Span, fields: Collection[str] = BODY_FIELDS) -> str:
        """The text in these tokens that came from messages, from these fields of theirs."""
        if span[0] >= span[1]:
            return ""
        start, end = self.char(span[0]), max(stop for _, stop in self.stream.spans[span[0] : span[1]])
        return "".join(
            self.stream.text[max(piece.start, start) : min(piece.end, end)]
            for piece in self.stream.pieces
            if piece.origin.field in fields and piece.start < end and start < piece.end
        )

    def header(self, message: int) -> int | None:
        """The token with which the header of this message begins; None when its turn has none."""
        turn, body = self.turns.get(message), self.body(message)
        return turn.start if turn and body and turn.start < body[0] else None


@dataclass(frozen=True, slots=True)
class AnswerEnd:
    """How one answer ends on both sides.

    `reference` is the end marker of the reference: a control token that it trains right after the
    answer. `subject` is the first token after the answer there that is no whitespace, or None.
    """

    message: int
    reference: int
    subject: int | None
    reference_tail: Span
    subject_tail: Span


class Facts:
    """What several rules need to know of a case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.control = control_tokens(case.model, case.subject_encoder)
        self.ref = Side(case.reference)
        self.sub = Side(case.subject)
        self._cut: dict[int, bool] = {}

    @cached_property
    def answers(self) -> list[int]:
        """Assistant messages that the subject has, in order."""
        messages = self.case.conversation.messages
        return [i for i in sorted(self.sub.messages()) if i < len(messages) and messages[i].role == "assistant"]

    @cached_property
    def last_answer(self) -> int | None:
        """The last assistant message of the conversation, or None."""
        messages = self.case.conversation.messages
        return max((i for i, message in enumerate(messages) if message.role == "assistant"), default=None)

    @cached_property
    def truncated(self) -> bool:
        """True when the subject was cut to its length limit."""
        limit = self.case.subject_encoder.options.get("cutoff_len")
        return any("cutoff" in note for note in self.case.subject.notes) or (
            isinstance(limit, int) and len(self.case.subject) >= limit
        )

    @cached_property
    def openings(self) -> tuple[Span, Span]:
        """What stands before the first turn on both sides: BOS, system text, tool definitions.

        Where the header of that turn is the same, it begins on both sides where either side says.
        """
        here, there = self.ref.header(self.first_message), self.sub.header(self.first_message)
        for hunk in self.case.alignment.hunks:
            if hunk.kind != "equal":
                continue
            if there is not None and hunk.sub_start <= there < hunk.sub_end:
                here = max(here or 0, there - hunk.sub_start + hunk.ref_start)
            elif here is not None and hunk.ref_start <= here < hunk.ref_end:
                there = max(there or 0, here - hunk.ref_start + hunk.sub_start)
        return (0, here or 0), (0, there or 0)

    @cached_property
    def first_message(self) -> int:
        """Index of the first message that is not the system message."""
        return 1 if self.case.conversation.system is not None else 0

    @cached_property
    def all_trained(self) -> bool:
        """True when the subject masks nothing."""
        return bool(self.case.subject.labels) and IGNORE not in self.case.subject.labels

    @cached_property
    def ends(self) -> list[AnswerEnd]:
        """Answers that stand whole on both sides and that the reference ends with a control token."""
        found = []
        for message in self.answers:
            if self.ref.body(message) is None or self.is_cut(message):
                continue
            tail, ours = self.ref.after(message), self.sub.after(message)
            calls = bool(self.case.conversation.messages[message].tool_calls)
            here = self._end(self.ref, tail, None, calls)
            if here is None or self.ref.stream.input_ids[here] not in self.control:
                continue
            there = self._end(self.sub, ours, self.ref.stream.input_ids[here], calls)
            found.append(
                AnswerEnd(message, here, self.significant(self.sub, ours) if there is None else there, tail, ours)
            )
        return found

    def _end(self, side: Side, tail: Span, wanted: int | None, calls: bool) -> int | None:
        """The control token that ends an answer: the first one that is trained right after its text.

        After tool calls, whose own markers may be control tokens, it is `wanted`, or else the first
        at which generation stops, or else the last.
        """
        ids = side.stream.input_ids
        first = self.significant(side, tail)
        run = range(tail[0], tail[0])
        while run.stop < tail[1] and side.stream.labels[run.stop] == ids[run.stop]:
            run = range(run.start, run.stop + 1)
        control = [i for i in run if ids[i] in self.control]
        if not control:
            if calls:  # an untrained turn: the calls' own markers stand before the end
                return next((i for i in range(*tail) if ids[i] == wanted), None)
            return first if first is not None and ids[first] == wanted else None
        if not calls:
            return control[0]
        stops = (lambda i: ids[i] in self.control.stops) if wanted is None else (lambda i: ids[i] == wanted)
        return next(filter(stops, control), control[-1])

    def is_cut(self, message: int) -> bool:
        """True when the length limit took text of this message, or the end marker behind it."""
        if not self.truncated:
            return False
        if message not in self._cut:
            self._cut[message] = self._lost_text(message)
        return self._cut[message]

    def _lost_text(self, message: int) -> bool:
        if self.sub.body(message) is None or self.ref.body(message) is None:
            return True
        last = message == max(self.sub.messages())
        for fields in (OWN_TEXT, ("reasoning",), BODY_FIELDS):
            ours, theirs = (len(side.written(message, fields).strip()) for side in (self.sub, self.ref))
            if ours < theirs and (ours or last):
                return True
        return self.sub.after(message)[0] == len(self.sub.stream)

    def significant(self, side: Side, span: Span) -> int | None:
        """The first token of a range that covers more than whitespace."""
        return next((i for i in range(*span) if side.stream.token_text(i).strip()), None)

    def overlaps(self, a: Span, b: Span) -> bool:
        """True when two ranges share a token."""
        return a[0] < b[1] and b[0] < a[1]

    @cached_property
    def missing_in_subject(self) -> frozenset[int]:
        """Messages with something to say of which only the reference holds text."""
        return self._absent(self.sub, self.ref)

    @cached_property
    def missing_in_reference(self) -> frozenset[int]:
        """Messages with something to say of which only the subject holds text."""
        return self._absent(self.ref, self.sub)

    def _absent(self, where: Side, other: Side) -> frozenset[int]:
        messages = self.case.conversation.messages
        return frozenset(
            i
            for i in other.messages()
            if i < len(messages)
            and messages[i].role != "system"
            and where.body(i) is None
            and other.text(other.body(i) or (0, 0)).strip()
        )

    @cached_property
    def owners(self) -> list[str]:
        """For each hunk the rule that answers for it; empty for equal ones."""
        from template_audit.rules.ownership import owners

        return owners(self)

    def owned(self, rule: str) -> Iterator[Any]:
        """The hunks that `rule` answers for."""
        return (h for h, owner in zip(self.case.alignment.hunks, self.owners, strict=True) if owner == rule)
