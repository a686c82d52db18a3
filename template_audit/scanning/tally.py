"""Sums over rows that can be added up in any order: of chunks, of processes, of machines."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import NamedTuple, TypeVar

from template_audit.config import Ignore
from template_audit.findings import SEVERITIES, Severity, fingerprint
from template_audit.scanning.evaluate import Evaluated, Lost, Outcome

T = TypeVar("T")

FIRST = WORST = 3
"""Rows of a cause that are shown with their evidence."""
CAUSES = 50
"""Causes of a rule that are kept: those with the smallest digests, so that every order keeps the same ones."""
BAD = 100
"""Unreadable rows that are listed one by one."""
LENGTHS = (0, *(1 << power for power in range(4, 21)))
"""Where the bins of row lengths begin, in tokens."""
SHARES = ((0.0, 0.0), *((tenth / 10, (tenth + 1) / 10) for tenth in range(10)), (1.0, 1.0))
"""The bins of trained shares: nothing at all, ten parts, everything."""


class Worst(NamedTuple):
    """How bad a row is: the greater the worse, the earlier of two that are alike."""

    times: int
    differing: int
    before: int
    """The row's number with a minus."""


@dataclass(slots=True)
class Entry:
    """Rows with hits of one cause."""

    severity: Severity
    rows: int = 0
    times: int = 0
    first: list[tuple[int, int, int]] = field(default_factory=list)
    """Row, times, differing tokens."""
    worst: list[Worst] = field(default_factory=list)

    def count(self, number: int, times: int, differing: int) -> None:
        """Take one row in."""
        self.rows += 1
        self.times += times
        if len(self.first) < FIRST or number < self.first[-1][0]:
            self.first = heapq.nsmallest(FIRST, [*self.first, (number, times, differing)])
        if len(self.worst) < WORST or (times, differing, -number) > self.worst[-1]:
            self.worst = heapq.nlargest(WORST, [*self.worst, Worst(times, differing, -number)])

    def add(self, other: Entry) -> None:
        """Take another entry's rows in."""
        self.severity = graver(self.severity, other.severity)
        self.rows += other.rows
        self.times += other.times
        self.first = heapq.nsmallest(FIRST, self.first + other.first)
        self.worst = heapq.nlargest(WORST, self.worst + other.worst)


@dataclass(slots=True)
class Reason:
    """Rows that were not compared for one reason."""

    rows: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, other: Reason) -> None:
        """Take another reason's rows in."""
        self.rows += other.rows
        self.first = heapq.nsmallest(FIRST, self.first + other.first)


def graver(a: Severity, b: Severity) -> Severity:
    """The graver of two severities."""
    return max(a, b, key=SEVERITIES.index)


@dataclass(slots=True)
class Tally:
    """What was found in some rows. `merge` is commutative and associative."""

    ignores: Sequence[Ignore] = ()
    read: int = 0
    outcomes: dict[Outcome, int] = field(default_factory=dict)
    agree: int = 0
    causes: dict[str, dict[str, Entry]] = field(default_factory=dict)
    """By rule and cause."""
    more_causes: set[str] = field(default_factory=set)
    rules: dict[str, tuple[int, Severity]] = field(default_factory=dict)
    """By rule: rows that show it, and the gravest severity."""
    of_model: dict[tuple[str, str], tuple[Severity, int]] = field(default_factory=dict)
    """By rule and cause: the severity, and the first row of that severity."""
    reasons: dict[tuple[Lost, str], Reason] = field(default_factory=dict)
    bad: list[tuple[int, str]] = field(default_factory=list)
    gravest: dict[Severity, int] = field(default_factory=dict)
    ignored: dict[int, int] = field(default_factory=dict)
    lengths: list[int] = field(default_factory=lambda: [0] * len(LENGTHS))
    shares: list[int] = field(default_factory=lambda: [0] * len(SHARES))
    total: int = 0
    trained: int = 0
    shortest: int | None = None
    longest: int | None = None
    looked_at: tuple[int | None, int | None] = (None, None)
    """The first row that was compared, and the first of these with tools."""

    def add(self, number: int, name: str, row: Evaluated, *, tools: bool = False) -> None:
        """Count one row; `name` is what ignores are held against."""
        self.read += 1
        self.outcomes[row.outcome] = self.outcomes.get(row.outcome, 0) + 1
        if row.outcome == "bad":
            self.bad = heapq.nsmallest(BAD, [*self.bad, (number, row.reason or "")])
            return
        if row.outcome != "compared":
            self._reason((row.outcome, row.reason or ""), Reason(1, [number]))
        else:
            self.agree += row.agrees
            self.looked_at = _earlier(self.looked_at, (number, number if tools else None))
        if row.subject is not None and row.trained is not None:
            self._length(row.subject, row.trained)
        gravest: Severity | None = None
        shown: dict[str, Severity] = {}
        for hit in row.hits:
            taken = self._ignore(hit.rule, name)
            if taken is not None:
                self.ignored[taken] = self.ignored.get(taken, 0) + 1
            elif hit.row:
                gravest = hit.severity if gravest is None else graver(gravest, hit.severity)
                shown[hit.rule] = graver(shown.get(hit.rule, hit.severity), hit.severity)
                causes = self.causes.get(hit.rule)
                known = None if causes is None else causes.get(hit.cause)
                if known is None or known.severity != hit.severity:
                    known = self._entry(hit.rule, hit.cause, Entry(hit.severity))
                known.count(number, hit.times, row.differing)
            else:
                self._model((hit.rule, hit.cause), (hit.severity, number))
        for rule, severity in shown.items():
            self._rule(rule, 1, severity)
        if gravest is not None:
            self.gravest[gravest] = self.gravest.get(gravest, 0) + 1

    def merge(self, other: Tally) -> None:
        """Add all that `other` has counted."""
        self.read += other.read
        self.agree += other.agree
        _add(self.outcomes, other.outcomes)
        _add(self.gravest, other.gravest)
        _add(self.ignored, other.ignored)
        for rule, causes in other.causes.items():
            for cause, entry in causes.items():
                self._entry(rule, cause, entry)
        self.more_causes |= other.more_causes
        for rule, (rows, severity) in other.rules.items():
            self._rule(rule, rows, severity)
        for key, found in other.of_model.items():
            self._model(key, found)
        for which, reason in other.reasons.items():
            self._reason(which, reason)
        self.bad = heapq.nsmallest(BAD, self.bad + other.bad)
        self.lengths = [a + b for a, b in zip(self.lengths, other.lengths, strict=True)]
        self.shares = [a + b for a, b in zip(self.shares, other.shares, strict=True)]
        self.total += other.total
        self.trained += other.trained
        self.shortest = min((n for n in (self.shortest, other.shortest) if n is not None), default=None)
        self.longest = max((n for n in (self.longest, other.longest) if n is not None), default=None)
        self.looked_at = _earlier(self.looked_at, other.looked_at)

    def shown(self) -> set[int]:
        """The rows that a report shows, and whose data must be kept for it."""
        rows = {number for number in self.looked_at if number is not None}
        rows |= {number for _, number in self.of_model.values()}
        rows |= {number for reason in self.reasons.values() for number in reason.first}
        rows |= {number for number, _ in self.bad}
        for causes in self.causes.values():
            for entry in causes.values():
                rows |= {number for number, _, _ in entry.first}
                rows |= {-worst.before for worst in entry.worst}
        return rows

    def _ignore(self, rule: str, name: str) -> int | None:
        for index, ignore in enumerate(self.ignores):
            if ignore.rule == rule and (ignore.probe is None or fnmatchcase(name, ignore.probe)):
                return index
        return None

    def _entry(self, rule: str, cause: str, entry: Entry) -> Entry:
        causes = self.causes.setdefault(rule, {})
        known = causes.get(cause)
        if known is not None:
            known.add(entry)
            return known
        kept = causes[cause] = Entry(entry.severity, entry.rows, entry.times, entry.first, entry.worst)
        if len(causes) > CAUSES:
            del causes[max(causes)]
            self.more_causes.add(rule)
        return kept

    def _rule(self, rule: str, rows: int, severity: Severity) -> None:
        known = self.rules.get(rule)
        self.rules[rule] = (rows, severity) if known is None else (known[0] + rows, graver(known[1], severity))

    def _model(self, key: tuple[str, str], found: tuple[Severity, int]) -> None:
        known = self.of_model.get(key)
        if known is not None:
            found = min(known, found, key=lambda item: (-SEVERITIES.index(item[0]), item[1]))
        self.of_model[key] = found

    def _reason(self, which: tuple[Lost, str], reason: Reason) -> None:
        known = self.reasons.get(which)
        if known is not None:
            known.add(reason)
            return
        self.reasons[which] = Reason(reason.rows, reason.first)
        if len(self.reasons) > CAUSES:
            del self.reasons[max(self.reasons, key=lambda one: fingerprint(*one))]
            self.more_causes.add("")

    def _length(self, tokens: int, trained: int) -> None:
        self.total += tokens
        self.trained += trained
        self.lengths[_bin(LENGTHS, tokens)] += 1
        share = 0 if not trained else len(SHARES) - 1 if trained >= tokens else 1 + trained * 10 // tokens
        self.shares[share] += 1
        self.shortest = tokens if self.shortest is None else min(self.shortest, tokens)
        self.longest = tokens if self.longest is None else max(self.longest, tokens)


def _bin(edges: Sequence[int], value: int) -> int:
    return bisect_right(edges, value) - 1


def _add(sums: dict[T, int], more: dict[T, int]) -> None:
    for key, number in more.items():
        sums[key] = sums.get(key, 0) + number


def _earlier(a: tuple[int | None, int | None], b: tuple[int | None, int | None]) -> tuple[int | None, int | None]:
    def first(pair: Iterable[int | None]) -> int | None:
        return min((number for number in pair if number is not None), default=None)

    return first((a[0], b[0])), first((a[1], b[1]))
