"""Rows through both encoders and the rules: what is found in each, without the evidence.

Rules look at a row in full, or at the first rows of its structure only (`structure.py`). Some rows of
every scan are looked at both ways; where the two differ, the short way is not used at all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from template_audit.alignment import Alignment, compare
from template_audit.audit import Examiner, by_key
from template_audit.conversation import Conversation
from template_audit.errors import DataError, EncodingError
from template_audit.findings import Severity
from template_audit.ids import IdsEncoder
from template_audit.results import Comparison
from template_audit.rules.control import ControlTokens, control_tokens
from template_audit.rules.interface import ModelCase, Rule
from template_audit.scanning.fitting import Patterns
from template_audit.scanning.patterns import pattern_of
from template_audit.scanning.structure import Structure, plain_row
from template_audit.stream import IGNORE, EncodedStream

EXAMPLES = 2
"""So many rows of a structure go through the rules before their findings hold for all others."""
_FIRST = 32
"""Rows at the beginning that are encoded with their streams."""
LARGEST = 8 << 20
"""Characters in the texts of a row. The sandbox renders no more, and the streams of one such row take gigabytes."""
_TOO_LARGE = f"Its texts have more than {LARGEST:,} characters; such rows are not encoded. Split or drop them."
_STRUCTURES = 4096
"""Structures that are remembered at a time."""

Lost = Literal["dropped", "refused", "not_evaluated"]
"""What became of a row that was read and not compared."""
Outcome = Literal["compared", "bad"] | Lost


class Hits(NamedTuple):
    """Hits of one rule with one cause in one row: how grave, and how many. `row` False: about the model."""

    rule: str
    cause: str
    severity: Severity
    times: int
    row: bool = True


class Verdict(NamedTuple):
    """What was found in a row of two streams: the rules' hits, and how many tokens differ, of both sides together."""

    hits: tuple[Hits, ...]
    differing: int
    agrees: bool


class Evaluated(NamedTuple):
    """What became of a row.

    `reason` is there for rows that were not compared. Lengths are in tokens; `subject` and `trained` are
    the subject's, whenever it encodes the row.
    """

    outcome: Outcome
    hits: tuple[Hits, ...] = ()
    differing: int = 0
    agrees: bool = False
    reason: str | None = None
    reference: int | None = None
    subject: int | None = None
    trained: int | None = None


@dataclass(slots=True)
class Evaluator:
    """Evaluates rows for one model and two encoders.

    `checked` says of a row (by its number) whether it is looked at both ways. `mistrusted` is set when
    the two ways differed; the numbers of this evaluator must then not be used.
    """

    examiner: Examiner
    checked: Callable[[int], bool]
    by_structure: bool = True
    mistrusted: bool = False
    rows_in_full: int = 0
    """Rows that went through the rules."""
    _known: dict[Structure, _Known] = field(default_factory=dict)
    _always: tuple[Rule, ...] = ()
    _reading: tuple[Rule, ...] = ()
    _of_model: tuple[Rule, ...] = ()
    _control: ControlTokens = field(init=False)
    _limit: int | None = field(init=False)
    _patterns: Patterns = field(init=False)
    _short: bool = field(init=False)

    def __post_init__(self) -> None:
        model = self.examiner.model
        rules = [r for r in self.examiner.in_scope("conversation") if r.concerns is None or r.concerns(model)]
        self._reading = tuple(rule for rule in rules if rule.reads == "structure")
        self._always = tuple(rule for rule in rules if rule.reads != "structure")
        self._of_model = tuple(rule for rule in self.examiner.in_scope("model") if rule.reads == "structure")
        reference, subject = self.examiner.reference, self.examiner.subject
        self._control = control_tokens(model, subject)
        limit = subject.options.get("cutoff_len")
        self._limit = limit if isinstance(limit, int) else None
        self._patterns = Patterns(self._control, self._limit)
        quick = isinstance(reference, IdsEncoder) and isinstance(subject, IdsEncoder)
        self._short = self.by_structure and not self._always and quick

    def evaluate(self, rows: Sequence[tuple[int, Conversation | DataError]]) -> list[Evaluated]:
        """What became of every row. Rows are pairs of a number and a conversation, or why there is none."""
        out: dict[int, Evaluated] = {}
        talks: list[tuple[int, Conversation]] = []
        for number, row in rows:
            if isinstance(row, Conversation) and is_too_large(row):
                out[number] = Evaluated("not_evaluated", reason=_TOO_LARGE)
            elif isinstance(row, Conversation):
                talks.append((number, row))
            else:
                out[number] = Evaluated("bad", reason=str(row))
        rest = talks
        if self._short and not self._patterns:  # the first rows make the patterns that the others may fit
            self._in_full(talks[:_FIRST], out)
            rest = talks[_FIRST:]
        if self._short and self._patterns and rest:
            rest = self._by_ids(rest, out)
        self._in_full(rest, out)
        return [out[number] for number, _ in rows]

    def _by_ids(
        self, rows: Sequence[tuple[int, Conversation]], out: dict[int, Evaluated]
    ) -> list[tuple[int, Conversation]]:
        """Evaluate the rows that fit a pattern, by their ids; returns the others."""
        reference, subject = self.examiner.reference, self.examiner.subject
        assert isinstance(reference, IdsEncoder)
        assert isinstance(subject, IdsEncoder)
        talks = [talk for _, talk in rows]
        theirs, ours = reference.encode_ids_batch(talks), subject.encode_ids_batch(talks)
        lengths, others, trained = ours.lengths.tolist(), theirs.lengths.tolist(), ours.trained.tolist()
        rest, twice = [], []
        for index, pattern in enumerate(self._patterns.fit(talks, theirs, ours)):
            number, talk = rows[index]
            if pattern is None:
                rest.append((number, talk))
                continue
            out[number] = Evaluated("compared", *pattern.verdict, None, others[index], lengths[index], trained[index])
            pattern.fitted += 1
            if pattern.fitted <= EXAMPLES or self.checked(number):
                twice.append((number, talk))
        looked: dict[int, Evaluated] = {}
        if twice:
            talks = [talk for _, talk in twice]
            expected = reference.encode_in_full(talks, keep_errors=True)
            self._hold(twice, expected, subject.encode_in_full(talks, keep_errors=True), looked)
        if any(out[number] != found for number, found in looked.items()):
            self.mistrusted = True
        return rest

    def _in_full(self, rows: Sequence[tuple[int, Conversation]], out: dict[int, Evaluated]) -> None:
        """Evaluate rows with both streams of each."""
        if not rows:
            return
        talks = [talk for _, talk in rows]
        theirs = self.examiner.reference.encode_batch(talks, keep_errors=True)
        ours = self.examiner.subject.encode_batch(talks, keep_errors=True)
        self._hold(rows, theirs, ours, out)

    def _hold(
        self,
        rows: Sequence[tuple[int, Conversation]],
        theirs: Sequence[EncodedStream | EncodingError],
        ours: Sequence[EncodedStream | EncodingError],
        out: dict[int, Evaluated],
    ) -> None:
        for (number, talk), reference, subject in zip(rows, theirs, ours, strict=True):
            out[number] = self._row(number, talk, reference, subject)

    def _row(
        self,
        number: int,
        conversation: Conversation,
        reference: EncodedStream | EncodingError,
        subject: EncodedStream | EncodingError,
    ) -> Evaluated:
        if isinstance(reference, EncodingError) or isinstance(subject, EncodingError):
            return self._refused(Comparison(conversation, reference, subject, None))
        verdict = self._verdict(number, conversation, reference, subject)
        trained = len(subject) - subject.labels.count(IGNORE)
        return Evaluated("compared", *verdict, None, len(reference), len(subject), trained)

    def _refused(self, comparison: Comparison) -> Evaluated:
        hits = tuple(Hits(f.rule, f.cause, f.severity, 1) for f in self.examiner.refused(comparison))
        reference, subject = comparison.reference, comparison.subject
        outcome: Outcome = "refused"
        if not comparison.evaluated:
            outcome = "not_evaluated"
        elif isinstance(subject, EncodingError) and subject.kind == "example-dropped":
            outcome = "dropped"
        reason = (comparison.reason or "").replace(comparison.conversation.id, "the row")
        length = None if isinstance(reference, EncodingError) else len(reference)
        if isinstance(subject, EncodingError):
            return Evaluated(outcome, hits, reason=reason, reference=length)
        trained = len(subject) - subject.labels.count(IGNORE)
        return Evaluated(outcome, hits, 0, False, reason, length, len(subject), trained)

    def _verdict(
        self, number: int, conversation: Conversation, reference: EncodedStream, subject: EncodedStream
    ) -> Verdict:
        plain = None
        if self.by_structure:
            plain = plain_row(conversation, reference, subject, self._control, self._limit)
        if plain is None:
            return self._look(conversation, reference, subject).joined
        structure = plain.structure
        known = self._known.get(structure)
        if known is None:
            if len(self._known) >= _STRUCTURES:
                self._known.clear()
            known = self._known[structure] = _Known()
        if known.verdict is None or known.seen < EXAMPLES:
            looked = self._look(conversation, reference, subject)
            self._compare(known.verdict, looked.verdict)
            known.verdict = looked.verdict
            known.seen += 1
            if known.seen == EXAMPLES and self._short:
                pattern = pattern_of(plain, looked.verdict, conversation, reference, subject, self._control)
                if pattern is not None:
                    self._patterns.add(conversation, pattern)
            return looked.joined
        if self.checked(number):
            self._compare(known.verdict, self._look(conversation, reference, subject).verdict)
        if self._always:
            alignment = compare(reference, subject)
            return _Looked(known.verdict, self._hits(self._always, conversation, alignment)).joined
        return known.verdict

    def _compare(self, short: Verdict | None, whole: Verdict) -> None:
        if short is not None and short != whole:
            self.mistrusted = True

    def _look(self, conversation: Conversation, reference: EncodedStream, subject: EncodedStream) -> _Looked:
        """The row through every rule."""
        self.rows_in_full += 1
        alignment = compare(reference, subject)
        hits = self._hits(self._reading, conversation, alignment, of_model=True)
        differing = sum(
            hunk.ref_end - hunk.ref_start + hunk.sub_end - hunk.sub_start
            for hunk in alignment.hunks
            if hunk.kind != "equal"
        )
        more = self._hits(self._always, conversation, alignment) if self._always else ()
        return _Looked(Verdict(hits, differing, alignment.agrees), more)

    def _hits(
        self, rules: Sequence[Rule], conversation: Conversation, alignment: Alignment, *, of_model: bool = False
    ) -> tuple[Hits, ...]:
        examiner = self.examiner
        case = examiner.case(conversation, alignment)
        out = []
        for rule in rules:
            for same in by_key(rule.check(case)):
                severity = examiner.severity(rule, same[0], conversation)
                out.append(Hits(rule.name, examiner.cause(rule, same[0].key), severity, len(same)))
        if of_model:
            alone = ModelCase(examiner.model, examiner.reference, examiner.subject, (case,))
            for rule in self._of_model:
                for same in by_key(rule.check(alone)):
                    severity = examiner.severity(rule, same[0])
                    out.append(Hits(rule.name, examiner.cause(rule, same[0].key), severity, len(same), False))
        return tuple(sorted(out))


def is_too_large(conversation: Conversation) -> bool:
    """True for a row that is not encoded: its texts are longer than `LARGEST`."""
    return sum(len(m.content or "") + len(m.reasoning or "") for m in conversation.messages) > LARGEST


class _Looked(NamedTuple):
    """What the rules found that read the structure, and what the others did."""

    verdict: Verdict
    more: tuple[Hits, ...]

    @property
    def joined(self) -> Verdict:
        if not self.more:
            return self.verdict
        return self.verdict._replace(hits=tuple(sorted((*self.verdict.hits, *self.more))))


@dataclass(slots=True)
class _Known:
    verdict: Verdict | None = None
    seen: int = 0
