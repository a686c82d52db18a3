"""Reports of parts of a data set put together: the report that one scan of all of it would have given."""

from __future__ import annotations

import base64
import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import msgspec

from template_audit.errors import UsageError
from template_audit.scanning.records import (
    BinRecord,
    DuplicateRecord,
    DuplicatesRecord,
    IgnoredRecord,
    ModelFinding,
    ReasonRecord,
    RowRecord,
    RowsRecord,
    RuleRecord,
    ScanFinding,
    ScanRecord,
    ScanSummary,
    TokensRecord,
)
from template_audit.scanning.reporting import DUPLICATES, finished
from template_audit.scanning.rows import Repetitions
from template_audit.scanning.tally import BAD, CAUSES, FIRST, WORST, graver

T = TypeVar("T", bound=msgspec.Struct)

_SAME = (
    *("schema_version", "model", "versions", "reference", "subject"),
    *("datasets", "fail_on", "sample", "seed", "max_rows"),
)
"""What reports must have in common to be merged."""


def merge(records: Sequence[ScanRecord], *, whole: bool | None = None) -> ScanRecord:
    """The report of all rows of `records`, in whatever order they come.

    `whole` says that no other part is missing; None: when every shard is there. The report is then what a
    scan of everything gives; otherwise it can be merged again.

    Raises UsageError for reports of different scans, a part that comes twice, and whole reports, of which
    nothing can be merged.
    """
    if not records:
        raise UsageError("There are no reports to merge.")
    _check(records)
    shards = sorted((shard for record in records for shard in record.shards), key=lambda shard: shard.index)
    if whole is None:
        counts = {shard.count for shard in shards}
        whole = len(counts) == 1 and len(shards) == counts.pop()
    first = records[0]
    repetitions = Repetitions(bytearray().join(base64.b64decode(record.digests or "") for record in records))
    repeated, earliest = repetitions.found(DUPLICATES)
    findings, more = _findings(records)
    reasons = _reasons(records)
    merged = ScanRecord(
        **{name: getattr(first, name) for name in _SAME},
        partial=any(record.partial for record in records),
        rows=_sum(RowsRecord, (record.rows for record in records)),
        tokens=_tokens([record.tokens for record in records]),
        duplicates=DuplicatesRecord(repeated, [DuplicateRecord(*pair) for pair in earliest]),
        rules=_rules(records),
        findings=findings,
        more_causes=sorted({*more, *(name for record in records for name in record.more_causes)}),
        model_findings=_of_model(records),
        reasons=reasons,
        bad_rows=heapq.nsmallest(BAD, (row for record in records for row in record.bad_rows), key=lambda row: row.row),
        summary=_sum(ScanSummary, (record.summary for record in records)),
        exit_code=0,
        notes=list(dict.fromkeys(note for record in records for note in record.notes)),
        ignored=[
            IgnoredRecord(one.rule, one.reason, sum(record.ignored[index].rows for record in records))
            for index, one in enumerate(first.ignored)
        ],
        shards=shards,
        digests=base64.b64encode(repetitions.sorted()).decode(),
        looked_at=_looked_at(records),
    )
    return finished(merged, whole=whole)


def _check(records: Sequence[ScanRecord]) -> None:
    seen: set[tuple[int, int]] = set()
    for number, record in enumerate(records, 1):
        if record.digests is None:
            raise UsageError(
                f"Report {number} is of a whole data set and not of a part; only reports of `scan --shard` are merged."
            )
        for name in _SAME:
            if getattr(record, name) != getattr(records[0], name):
                raise UsageError(
                    f"Report {number} is of another scan than the first: its `{name}` is different. Parts must be "
                    "scanned with the same model, options, data and versions."
                )
        if [(one.rule, one.reason) for one in record.ignored] != [(one.rule, one.reason) for one in records[0].ignored]:
            raise UsageError(f"Report {number} was made with another configuration than the first: its ignores differ.")
        for shard in record.shards:
            if (shard.index, shard.count) in seen:
                raise UsageError(f"Shard {shard.index}/{shard.count} is there twice.")
            if seen and shard.count != next(iter(seen))[1]:
                raise UsageError(f"Report {number} is of shard {shard.index}/{shard.count}, the others of other parts.")
            seen.add((shard.index, shard.count))


def _sum(kind: Callable[..., T], parts: Iterable[T]) -> T:
    """The sums of all numbers in structs of one kind."""
    columns = zip(*(msgspec.structs.astuple(part) for part in parts), strict=True)
    return kind(*(sum(column) for column in columns))


def _tokens(parts: Sequence[TokensRecord]) -> TokensRecord:
    def bins(columns: Iterable[Sequence[BinRecord]]) -> list[BinRecord]:
        return [
            BinRecord(same[0].start, same[0].end, sum(one.rows for one in same)) for same in zip(*columns, strict=True)
        ]

    return TokensRecord(
        sum(part.total for part in parts),
        sum(part.trained for part in parts),
        min((part.shortest for part in parts if part.shortest is not None), default=None),
        max((part.longest for part in parts if part.longest is not None), default=None),
        bins(part.lengths for part in parts),
        bins(part.trained_share for part in parts),
    )


def _rules(records: Sequence[ScanRecord]) -> list[RuleRecord]:
    found: dict[str, RuleRecord] = {}
    for one in (rule for record in records for rule in record.rules):
        known = found.get(one.rule)
        if known is not None:
            one = RuleRecord(one.rule, graver(known.severity, one.severity), known.rows + one.rows, 0.0)
        found[one.rule] = one
    return list(found.values())


def _findings(records: Sequence[ScanRecord]) -> tuple[list[ScanFinding], set[str]]:
    """Every cause once, of each rule the `CAUSES` with the smallest digests; and rules that had more."""
    found: dict[str, dict[str, ScanFinding]] = {}
    more: set[str] = set()
    for one in (finding for record in records for finding in record.findings):
        causes = found.setdefault(one.rule, {})
        known = causes.get(one.cause)
        causes[one.cause] = one if known is None else _joined(known, one)
        if len(causes) > CAUSES:
            del causes[max(causes)]
            more.add(one.rule)
    return [finding for causes in found.values() for finding in causes.values()], more


def _joined(a: ScanFinding, b: ScanFinding) -> ScanFinding:
    first = heapq.nsmallest(FIRST, a.first + b.first, key=lambda row: row.row)
    worst = heapq.nlargest(WORST, a.worst + b.worst, key=_badness)
    return msgspec.structs.replace(
        a,
        severity=graver(a.severity, b.severity),
        rows=a.rows + b.rows,
        times=a.times + b.times,
        why=first[0].finding.why,
        advice=first[0].finding.advice,
        first=first,
        worst=worst,
    )


def _badness(row: RowRecord) -> tuple[int, int, int]:
    return row.times, row.differing, -row.row


def _looked_at(records: Sequence[ScanRecord]) -> list[int]:
    """The first of the rows that the parts looked at for the rules about the model; −1 where none did."""
    return [
        min((number for number in numbers if number > 0), default=-1)
        for numbers in zip(*(record.looked_at for record in records), strict=True)
    ]


def _of_model(records: Sequence[ScanRecord]) -> list[ModelFinding]:
    """What was seen in every row by the rules that read all, and in the first rows by the others."""
    from template_audit.findings import SEVERITIES
    from template_audit.rules import all_rules

    rules = all_rules()
    every: dict[tuple[str, str], ModelFinding] = {}
    first: dict[tuple[str, str, int], ModelFinding] = {}
    places = {number if number > 0 else 0 for number in _looked_at(records)}
    if places != {0}:
        places.discard(0)
    for one in (finding for record in records for finding in record.model_findings):
        key = (one.finding.rule, one.finding.cause)
        if rules[one.finding.rule].reads == "structure":
            known = every.get(key, one)
            every[key] = min(known, one, key=lambda it: (-SEVERITIES.index(it.finding.severity), it.row))
        elif one.row in places:
            first[(*key, one.row)] = one
    return [*every.values(), *first.values()]


def _reasons(records: Sequence[ScanRecord]) -> list[ReasonRecord]:
    found: dict[tuple[str, str], ReasonRecord] = {}
    for one in (reason for record in records for reason in record.reasons):
        known = found.get((one.outcome, one.reason))
        if known is not None:
            first = heapq.nsmallest(FIRST, known.first + one.first, key=lambda place: place.row)
            one = msgspec.structs.replace(known, rows=known.rows + one.rows, first=first)
        found[one.outcome, one.reason] = one
    return list(found.values())
