"""From sums to a report: the evidence of the rows that are shown, looked at once more, and the totals."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple

from template_audit.audit import Examiner, compare_all, versions_of
from template_audit.conversation import Conversation
from template_audit.findings import (
    SEVERITIES,
    Finding,
    FindingRecord,
    Severity,
    Threshold,
    at_least,
)
from template_audit.results import encoder_record, model_record
from template_audit.rules import all_rules
from template_audit.rules.interface import Case, ModelCase
from template_audit.scanning.evaluate import is_too_large
from template_audit.scanning.records import (
    SCHEMA_VERSION,
    BadRow,
    BinRecord,
    DatasetRecord,
    DuplicateRecord,
    DuplicatesRecord,
    IgnoredRecord,
    ModelFinding,
    PlaceRecord,
    ReasonRecord,
    RowRecord,
    RowsRecord,
    RuleRecord,
    ScanFinding,
    ScanRecord,
    ScanSummary,
    ShardRecord,
    TokensRecord,
)
from template_audit.scanning.rows import Item, Repetitions, Selection, conversation_of
from template_audit.scanning.tally import LENGTHS, SHARES, Tally

if TYPE_CHECKING:
    from template_audit.frameworks.interface import Encoder
    from template_audit.model import Model

DUPLICATES = 10
"""Repeated rows that are listed."""


@dataclass(frozen=True, slots=True)
class Sides:
    """Model and encoders, and why these."""

    model: Model
    reference: Encoder
    reference_why: str
    subject: Encoder
    subject_why: str


class _Row(NamedTuple):
    where: str
    findings: Mapping[tuple[str, str], FindingRecord]
    """By rule and cause."""
    case: Case | None


def record_of(
    sides: Sides,
    examiner: Examiner,
    tally: Tally,
    kept: Mapping[int, tuple[str, Item]],
    repetitions: Repetitions,
    *,
    datasets: Sequence[tuple[str, str]],
    selection: Selection,
    fail_on: Threshold,
    partial: bool,
    whole: bool = True,
    notes: Sequence[str] = (),
) -> ScanRecord:
    """The report of what `tally` holds; `kept` are the rows that it shows. `whole`: nothing will be merged into it."""
    rows = {number: _looked_at(examiner, *kept[number]) for number in sorted(tally.shown())}
    outcomes = tally.outcomes
    shard = selection.shard
    repeated, first = repetitions.found(DUPLICATES)
    record = ScanRecord(
        schema_version=SCHEMA_VERSION,
        model=model_record(sides.model),
        versions=versions_of(sides.model),
        reference=encoder_record(sides.reference, sides.reference_why),
        subject=encoder_record(sides.subject, sides.subject_why),
        datasets=[DatasetRecord(*dataset) for dataset in datasets],
        fail_on=fail_on,
        sample=selection.sample,
        seed=selection.seed,
        max_rows=selection.max_rows,
        partial=partial,
        rows=RowsRecord(
            tally.read,
            outcomes.get("compared", 0),
            outcomes.get("dropped", 0),
            outcomes.get("refused", 0),
            outcomes.get("not_evaluated", 0),
            outcomes.get("bad", 0),
            tally.agree,
        ),
        tokens=_tokens(tally),
        duplicates=DuplicatesRecord(repeated, [DuplicateRecord(*pair) for pair in first]),
        rules=[RuleRecord(rule, severity, count, 0.0) for rule, (count, severity) in tally.rules.items()],
        findings=_findings(tally, rows),
        more_causes=sorted(tally.more_causes),
        model_findings=_of_model(examiner, tally, rows),
        reasons=[
            ReasonRecord(outcome, text, reason.rows, [PlaceRecord(n, rows[n].where) for n in reason.first])
            for (outcome, text), reason in tally.reasons.items()
        ],
        bad_rows=[BadRow(number, rows[number].where, reason) for number, reason in tally.bad],
        summary=ScanSummary(0, 0, 0, *(tally.gravest.get(severity, 0) for severity in reversed(SEVERITIES))),
        exit_code=0,
        notes=[*notes],
        ignored=[
            IgnoredRecord(ignore.rule, ignore.reason, tally.ignored.get(index, 0))
            for index, ignore in enumerate(tally.ignores)
        ],
        shards=[] if shard is None else [ShardRecord(shard[0] + 1, shard[1])],
        digests="" if whole else base64.b64encode(repetitions.numbers).decode(),
        looked_at=[-1 if number is None else number for number in tally.looked_at],
    )
    return finished(record, whole=whole)


def finished(record: ScanRecord, *, whole: bool) -> ScanRecord:
    """The report in its order, with everything that follows from the rest; `whole`: nothing will be merged into it."""
    import msgspec

    order = list(all_rules())

    def place(finding: ScanFinding | FindingRecord | RuleRecord) -> tuple[int, int]:
        return -SEVERITIES.index(finding.severity), order.index(finding.rule)

    read = max(record.rows.read, 1)
    rules = sorted((msgspec.structs.replace(one, share=round(one.rows / read, 6)) for one in record.rules), key=place)
    findings = sorted(
        (msgspec.structs.replace(one, share=round(one.rows / read, 6)) for one in record.findings),
        key=lambda one: (*place(one), -one.rows, one.cause),
    )
    of_model = sorted(record.model_findings, key=lambda one: (*place(one.finding), one.row, one.finding.cause))
    known = {(one.finding.rule, one.finding.cause): one for one in reversed(of_model)}
    if whole:
        of_model = [one for one in of_model if known[one.finding.rule, one.finding.cause] is one]
    severities: list[Severity] = [one.severity for one in findings]
    severities += [one.finding.severity for one in known.values()]
    summary = msgspec.structs.replace(
        record.summary, **{severity: severities.count(severity) for severity in SEVERITIES}
    )
    gravest = {one.severity for one in record.rules} | {one.finding.severity for one in known.values()}
    code: Literal[0, 1, 2] = 1 if any(at_least(severity, record.fail_on) for severity in gravest) else 0
    if record.partial or record.rows.not_evaluated or record.rows.bad:
        code = 2
    return msgspec.structs.replace(
        record,
        rules=rules,
        findings=findings,
        model_findings=of_model,
        reasons=sorted(record.reasons, key=lambda one: (one.outcome, -one.rows, one.reason)),
        summary=summary,
        exit_code=code,
        shards=[] if whole else record.shards,
        digests=None if whole else record.digests,
        looked_at=[] if whole else record.looked_at,
    )


def _looked_at(examiner: Examiner, where: str, item: Item) -> _Row:
    """A row through every rule, with its evidence."""
    conversation = conversation_of(item)
    if not isinstance(conversation, Conversation) or is_too_large(conversation):
        return _Row(where, {}, None)
    (comparison,) = compare_all([conversation], examiner.reference, examiner.subject)
    found: Iterable[Finding]
    case = None
    if comparison.alignment is None:
        found = examiner.refused(comparison)
    else:
        case = examiner.case(conversation, comparison.alignment)
        rules = (
            rule for rule in examiner.in_scope("conversation") if rule.concerns is None or rule.concerns(case.model)
        )
        found = chain.from_iterable(examiner.of_rule(rule, case) for rule in rules)
    return _Row(where, {(one.rule, one.cause): one.record() for one in found}, case)


def _findings(tally: Tally, rows: Mapping[int, _Row]) -> list[ScanFinding]:
    out = []
    for rule, causes in tally.causes.items():
        for cause, entry in causes.items():
            first = [_shown(rows, rule, cause, *one) for one in entry.first]
            worst = [_shown(rows, rule, cause, -one.before, one.times, one.differing) for one in entry.worst]
            evidence = first[0].finding
            out.append(
                ScanFinding(
                    rule,
                    entry.severity,
                    cause,
                    entry.rows,
                    0.0,
                    entry.times,
                    evidence.why,
                    evidence.advice,
                    first,
                    worst,
                )
            )
    return out


def _shown(rows: Mapping[int, _Row], rule: str, cause: str, number: int, times: int, differing: int) -> RowRecord:
    row = rows[number]
    return RowRecord(number, row.where, times, differing, row.findings[rule, cause])


def _of_model(examiner: Examiner, tally: Tally, rows: Mapping[int, _Row]) -> list[ModelFinding]:
    """Findings about the model: of rules that read every row, as they were seen; of the others, in the first rows."""
    out: list[ModelFinding] = []
    for (rule_name, cause), (severity, number) in tally.of_model.items():
        rule, case = examiner.rules[rule_name], rows[number].case
        alone = ModelCase(examiner.model, examiner.reference, examiner.subject, () if case is None else (case,))
        for finding in examiner.of_model_rule(rule, alone):
            if finding.cause == cause and finding.severity == severity:
                out.append(ModelFinding(number, finding.record()))
    ignored = {ignore.rule for ignore in tally.ignores if ignore.probe is None}
    for number in dict.fromkeys(n for n in tally.looked_at if n is not None) or (0,):
        case = rows[number].case if number else None
        alone = ModelCase(examiner.model, examiner.reference, examiner.subject, () if case is None else (case,))
        for rule in examiner.in_scope("model"):
            if rule.reads != "structure" and rule.name not in ignored:
                out += [ModelFinding(number, finding.record()) for finding in examiner.of_model_rule(rule, alone)]
    return out


def _tokens(tally: Tally) -> TokensRecord:
    ends = [*map(float, LENGTHS[1:]), None]
    return TokensRecord(
        tally.total,
        tally.trained,
        tally.shortest,
        tally.longest,
        [BinRecord(float(start), end, rows) for start, end, rows in zip(LENGTHS, ends, tally.lengths, strict=True)],
        [BinRecord(start, end, rows) for (start, end), rows in zip(SHARES, tally.shares, strict=True)],
    )
