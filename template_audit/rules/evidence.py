"""What several rules need to know of a case, and how they word it. No rule is defined here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from template_audit.rules.control import control_tokens
from template_audit.rules.sides import BODY_FIELDS, OWN_TEXT, Side, Span
from template_audit.stream import IGNORE

if TYPE_CHECKING:
    from template_audit.rules.interface import Case

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


def sentence(text: str) -> str:
    """`text` with a capital letter in front."""
    return text[:1].upper() + text[1:]


def count(number: int, noun: str) -> str:
    """``1 token``, ``2 tokens``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


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
            calls = bool(self.case.conversation.messages[message].tool_calls) or self.is_empty(message)
            here = self._end(self.ref, tail, None, calls)
            if here is None or self.ref.stream.input_ids[here] not in self.control:
                continue
            there = self._end(self.sub, ours, self.ref.stream.input_ids[here], calls)
            found.append(
                AnswerEnd(message, here, self.significant(self.sub, ours) if there is None else there, tail, ours)
            )
        return found

    def is_empty(self, message: int) -> bool:
        """True for an answer of which neither side writes anything."""
        bodies = (self.ref.body(message), self.sub.body(message))
        return all(body is not None and body[0] == body[1] for body in bodies)

    def _end(self, side: Side, tail: Span, wanted: int | None, calls: bool) -> int | None:
        """The control token that ends an answer: the first one that is trained right after its text.

        After tool calls, whose own markers may be control tokens, and after an empty answer, whose header may be
        trained, it is `wanted`, or else the first at which generation stops, or else the last.
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

    def header_cut(self, message: int) -> bool:
        """True when the length limit took the end of what stands before this answer, and nothing else explains it."""
        if not self.truncated or self.ref.body(message) is None or self.sub.body(message) is None:
            return False
        theirs, ours = (side.text(side.before(message)) for side in (self.ref, self.sub))
        return len(ours) < len(theirs) and theirs.startswith(ours)

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
