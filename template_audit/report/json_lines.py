"""Reports as lines of JSON: one finding a line, and one line for every conversation that was not evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from template_audit.findings import FindingRecord, ReportRecord
from template_audit.report.interface import ReportOptions
from template_audit.report.json import write_json
from template_audit.report.records import OfRecords


def lines(record: ReportRecord) -> Iterator[dict[str, Any]]:
    """The objects, told apart by `kind`: ``not-evaluated``, ``finding``, ``known``, ``ignored``, ``gone``.

    Findings have the keys that they have in the JSON report; `model`, `encoder` and `expected` stand beside.
    """
    audit = {"model": record.model.id, "encoder": record.subject.spec, "expected": record.reference.spec}
    for conversation in record.conversations:
        if not conversation.evaluated:
            yield {
                **audit,
                "kind": "not-evaluated",
                "conversation": conversation.id,
                "message": conversation.reason,
            }
    for kind, findings in (("finding", record.findings), ("known", record.known), ("gone", record.gone)):
        for finding in findings:
            yield {**audit, "kind": kind, **_plain(finding)}
    for suppressed in record.suppressed:
        yield {**audit, "kind": "ignored", "reason": suppressed.reason, **_plain(suppressed.finding)}


def _plain(finding: FindingRecord) -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(finding)
    return plain


class JsonLinesFormat(OfRecords):
    """One JSON object a line."""

    name = "json-lines"

    def write_records(self, records: Sequence[ReportRecord], stream: TextIO, options: ReportOptions) -> None:
        """Write the lines; see `RecordFormat.write_records`."""
        for record in records:
            for line in lines(record):
                write_json(line, stream, indent=None)


FORMAT = JsonLinesFormat()
