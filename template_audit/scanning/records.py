"""The JSON report of a scan. Reports of parts of a data set can be merged (`merging.py`)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from template_audit.findings import SCHEMA_VERSION as REPORT_VERSION
from template_audit.findings import (
    ConversationRecord,
    EncoderRecord,
    FindingRecord,
    ModelRecord,
    ReportRecord,
    Severity,
    Summary,
    Threshold,
)

SCHEMA_VERSION = 1
"""Raised whenever a reader of the JSON report would have to change."""


class DatasetRecord(msgspec.Struct, frozen=True):
    """A data set as it was asked for: `format` is the rows' own, or the framework's name where it converts them."""

    name: str
    format: str


class ShardRecord(msgspec.Struct, frozen=True):
    """One of `count` parts of the rows; `index` counts from 1."""

    index: int
    count: int


class RowsRecord(msgspec.Struct, frozen=True):
    """What became of the rows: every row that was read is in one of the five numbers after `read`.

    `compared`: both sides encode it; `agree` of them to the same ids. `dropped`: the framework leaves it out.
    `refused`: a side does not take it. `not_evaluated`: nothing can be said. `bad`: it could not be read.
    """

    read: int
    compared: int
    dropped: int
    refused: int
    not_evaluated: int
    bad: int
    agree: int

    @property
    def whole(self) -> bool:
        """True when no row was lost."""
        return self.read == self.compared + self.dropped + self.refused + self.not_evaluated + self.bad


class RowRecord(msgspec.Struct, frozen=True):
    """A row that shows a finding, with its evidence.

    `row` counts from 1 over all data sets. `times` is how often the row shows it, and `differing` how many
    tokens of both streams differ in the row, whatever the reason.
    """

    row: int
    where: str
    times: int
    differing: int
    finding: FindingRecord


class ScanFinding(msgspec.Struct, frozen=True):
    """Findings of one rule with one cause, over all rows. `share` is of the rows read.

    `first` are the first rows; `worst` those that show it most often, of these the ones whose streams
    differ most.
    """

    rule: str
    severity: Severity
    cause: str
    rows: int
    share: float
    times: int
    why: str
    advice: str
    first: list[RowRecord]
    worst: list[RowRecord]


class RuleRecord(msgspec.Struct, frozen=True):
    """Rows in which a rule found something, whatever the cause, and the gravest severity. `share`: of the rows read."""

    rule: str
    severity: Severity
    rows: int
    share: float


class ModelFinding(msgspec.Struct, frozen=True):
    """A finding about the model and the encoders; `row` is the first row that shows it."""

    row: int
    finding: FindingRecord


class PlaceRecord(msgspec.Struct, frozen=True):
    """A row and where it stands."""

    row: int
    where: str


class ReasonRecord(msgspec.Struct, frozen=True):
    """Rows that were not compared for one reason."""

    outcome: Literal["dropped", "refused", "not_evaluated"]
    reason: str
    rows: int
    first: list[PlaceRecord]


class BadRow(msgspec.Struct, frozen=True):
    """A row that could not be read, and why."""

    row: int
    where: str
    reason: str


class DuplicateRecord(msgspec.Struct, frozen=True):
    """A row that is an exact repetition of an earlier one."""

    row: int
    of: int


class DuplicatesRecord(msgspec.Struct, frozen=True):
    """Rows that repeat an earlier row exactly: how many, and the first of them."""

    rows: int
    first: list[DuplicateRecord]


class BinRecord(msgspec.Struct, frozen=True, rename={"start": "from", "end": "to"}):
    """Rows whose value is at least `from` and below `to` (null: no bound)."""

    start: float
    end: float | None
    rows: int


class TokensRecord(msgspec.Struct, frozen=True):
    """What the subject's rows hold, in tokens.

    `lengths` are the rows by their tokens, `trained_share` by the share of their tokens that is trained.
    `shortest` and `longest` are null when no row was encoded.
    """

    total: int
    trained: int
    shortest: int | None
    longest: int | None
    lengths: list[BinRecord]
    trained_share: list[BinRecord]


class IgnoredRecord(msgspec.Struct, frozen=True):
    """Rows with findings that the configuration ignores."""

    rule: str
    reason: str
    rows: int


class ScanSummary(msgspec.Struct, frozen=True):
    """Causes by severity, those of the model included, and rows by the gravest thing found in them."""

    error: int
    warning: int
    info: int
    rows_with_error: int
    rows_with_warning: int
    rows_with_info: int


class ScanRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The JSON report of a scan.

    `partial` says that the scan was interrupted. `more_causes` names rules with more causes than are kept,
    whose `findings` are then a sample of them; the rows of each cause are still exact.
    `shard` is there for one part of the rows; `digests` (base64, 24 bytes a row: its number, big-endian,
    and a digest of its data), `looked_at` and `gravest` are what merging needs, and in no other report.
    """

    schema_version: int
    model: ModelRecord
    versions: dict[str, str]
    reference: EncoderRecord
    subject: EncoderRecord
    datasets: list[DatasetRecord]
    fail_on: Threshold
    sample: int | None
    seed: int
    max_rows: int | None
    partial: bool
    rows: RowsRecord
    tokens: TokensRecord
    duplicates: DuplicatesRecord
    rules: list[RuleRecord]
    findings: list[ScanFinding]
    more_causes: list[str]
    model_findings: list[ModelFinding]
    reasons: list[ReasonRecord]
    bad_rows: list[BadRow]
    summary: ScanSummary
    exit_code: Literal[0, 1, 2]
    notes: list[str] = []
    ignored: list[IgnoredRecord] = []
    shards: list[ShardRecord] = []
    digests: str | None = None
    looked_at: list[int] = []


def as_report(record: ScanRecord) -> ReportRecord:
    """The scan in the shape of an audit's report, for formats that know no other: each cause by its first row."""
    findings = [one.first[0].finding for one in record.findings] + [one.finding for one in record.model_findings]
    rows = record.rows
    return ReportRecord(
        schema_version=REPORT_VERSION,
        model=record.model,
        versions=record.versions,
        reference=record.reference,
        subject=record.subject,
        conversations=[ConversationRecord(row.where, False, row.reason, None, None, None) for row in record.bad_rows],
        findings=findings,
        summary=Summary(
            record.summary.error,
            record.summary.warning,
            record.summary.info,
            rows.read,
            rows.read - rows.bad - rows.not_evaluated,
            rows.agree,
        ),
        exit_code=record.exit_code,
    )


def scan_schema() -> dict[str, Any]:
    """The JSON Schema of the report, as published in docs/schema/scan.schema.json."""
    schema = msgspec.json.schema(ScanRecord)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "template-audit scan", **schema}
