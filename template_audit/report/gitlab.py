"""Reports as GitLab's Code Quality artifact: one issue for every cause."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TextIO

from template_audit.findings import ReportRecord, Severity, fingerprint
from template_audit.report.interface import ReportOptions
from template_audit.report.json import write_json
from template_audit.report.records import NAME, OfRecords, advice, clean, entries, not_evaluated, title

SEVERITY: dict[Severity, str] = {"error": "critical", "warning": "minor", "info": "info"}


def issues(records: Sequence[ReportRecord]) -> list[dict[str, Any]]:
    """The issues: what was not evaluated (``blocker``), then the findings that count, gravest first."""
    out = [
        _issue(
            f"{clean(', '.join(names))} ({title(record)}) could not be evaluated: {clean(reason)}",
            "not-evaluated",
            fingerprint("not-evaluated", record.model.id, record.subject.spec, *names),
            "blocker",
            record.model.id,
        )
        for record in records
        for reason, names in not_evaluated(record).items()
    ]
    for entry in entries(records, "new"):
        place = entry.first.location
        out.append(
            _issue(
                f"{entry.sentence} ({entry.place}.) What to do: {advice(entry.first)}",
                entry.first.rule,
                entry.digest,
                SEVERITY[entry.first.severity],
                place.path if place else entry.record.model.id,
                place.line if place and place.line else 1,
            )
        )
    return out


def _issue(description: str, rule: str, digest: str, severity: str, path: str, line: int = 1) -> dict[str, Any]:
    return {
        "description": description,
        "check_name": clean(rule, NAME),
        "fingerprint": digest,
        "severity": severity,
        "location": {"path": clean(path, NAME).removeprefix("./"), "lines": {"begin": line}},
    }


class GitlabFormat(OfRecords):
    """GitLab Code Quality."""

    name = "gitlab"

    def write_records(self, records: Sequence[ReportRecord], stream: TextIO, options: ReportOptions) -> None:
        """Write the issues; see `RecordFormat.write_records`."""
        write_json(issues(records), stream)


FORMAT = GitlabFormat()
