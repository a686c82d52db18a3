"""Reports as SARIF 2.1.0: one run, one result for every cause, for code scanning and SARIF viewers.

Limits of GitHub's code scanning shape it: several runs of one tool in a file are refused, results without
a file are not shown, and only ``primaryLocationLineHash`` tells two results apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import quote

from template_audit.findings import FindingRecord, Location, ReportRecord, Severity
from template_audit.report.interface import ReportOptions
from template_audit.report.json import write_json
from template_audit.report.records import (
    NAME,
    Entry,
    OfRecords,
    advice,
    clean,
    docs_url,
    entries,
    evidence_text,
    not_evaluated,
    title,
)

if TYPE_CHECKING:
    from template_audit.rules.interface import Rule

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
FINGERPRINT = "templateAuditCause/v1"
_PATH = 4096  # what a file system takes
LEVELS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}


def sarif(records: Sequence[ReportRecord]) -> dict[str, Any]:
    """One SARIF log of all reports.

    A finding that the configuration ignores is a suppressed result. Where a baseline was given, known
    findings have the `baselineState` ``unchanged``; those that are gone are no results.
    """
    from template_audit import __version__

    found = entries(records, "new", "known", "ignored")
    rules = list(dict.fromkeys(entry.first.rule for entry in found))
    some_ignored = any(entry.status == "ignored" for entry in found)
    compared = any(record.known or record.gone for record in records)
    run = {
        "tool": {
            "driver": {
                "name": "template-audit",
                "version": __version__,
                "semanticVersion": __version__,
                "rules": [_rule(name, next(e.first for e in found if e.first.rule == name)) for name in rules],
            }
        },
        "columnKind": "unicodeCodePoints",
        "invocations": [_invocation(records)],
        "results": [_result(entry, rules.index(entry.first.rule), some_ignored, compared) for entry in found],
        "properties": {"audits": [_audit(record) for record in records]},
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(name: str, finding: FindingRecord) -> dict[str, Any]:
    """The rule's catalogue entry with its whole page; of a rule that is in no catalogue, what the finding says."""
    from template_audit.rules import all_rules
    from template_audit.rules.pages import page

    known: Rule | None = all_rules().get(name)
    if known is None:
        said = {"what": name, "why": clean(finding.why), "advice": advice(finding)}
        help_text = {"text": said["advice"]}
    else:
        said = {"what": known.what, "why": known.why, "advice": known.advice}
        help_text = {"text": f"{known.why}\n\n{known.advice}", "markdown": page(known)}
    out = {
        "id": clean(name, NAME),
        "shortDescription": {"text": clean(said["what"])},
        "fullDescription": {"text": said["why"] or said["what"]},
        "help": help_text,
        "defaultConfiguration": {"level": LEVELS[known.severity if known else finding.severity]},
        "properties": {"tags": [known.group] if known else [], "precision": "very-high"},
    }
    if known is not None and (url := docs_url()) is not None:
        out["helpUri"] = f"{url}{name}.md"
    return out


def _result(entry: Entry, index: int, some_ignored: bool, compared: bool) -> dict[str, Any]:
    finding = entry.first
    text = f"{entry.sentence} ({entry.place}.) What to do: {advice(finding)}"
    out: dict[str, Any] = {
        "ruleId": clean(finding.rule, NAME),
        "ruleIndex": index,
        "kind": "fail",
        "level": LEVELS[finding.severity],
        "message": {"text": _no_links(text)},
        "locations": [_location(entry)],
        "partialFingerprints": {FINGERPRINT: entry.digest, "primaryLocationLineHash": f"{entry.digest}:1"},
        "occurrenceCount": max(1, len(entry.cause.conversations)),
        "properties": {
            "model": clean(entry.record.model.id, NAME),
            "encoder": clean(entry.record.subject.spec, NAME),
            "reference": clean(entry.record.reference.spec, NAME),
            "conversations": [clean(name, NAME) for name in entry.cause.conversations],
        },
    }
    for side in ("reference", "subject"):
        evidence = getattr(finding, side)
        if evidence is not None:
            out["properties"][f"{side}Text"] = evidence_text(evidence.text)
    if some_ignored:
        ignored = {"kind": "external", "status": "accepted", "justification": clean(entry.reason)}
        out["suppressions"] = [ignored] if entry.status == "ignored" else []
    if compared:
        out["baselineState"] = "unchanged" if entry.status == "known" else "new"
    return out


def _location(entry: Entry) -> dict[str, Any]:
    place = entry.first.location or Location(entry.record.model.id)
    physical: dict[str, Any] = {"artifactLocation": _artifact(place.path)}
    if place.line is not None:
        physical["region"] = {"startLine": place.line}
    return {"physicalLocation": physical}


def _artifact(path: str) -> dict[str, Any]:
    """A path as a URI; a relative one from the root of the sources, which is where the tool was called."""
    uri = quote(path[:_PATH].encode("utf-8", "surrogatepass"), safe="/")
    return {"uri": f"file://{uri}"} if path.startswith("/") else {"uri": uri, "uriBaseId": "%SRCROOT%"}


def _no_links(text: str) -> str:
    """`text` without what SARIF takes for a link, ``[words](target)``."""
    return text.replace("](", "] (")


def _invocation(records: Sequence[ReportRecord]) -> dict[str, Any]:
    said = [
        {
            "level": "error",
            "message": {"text": _no_links(f"{clean(', '.join(names))} ({title(record)}): {clean(reason)}")},
            "descriptor": {"id": "not-evaluated"},
        }
        for record in records
        for reason, names in not_evaluated(record).items()
    ]
    code = max((record.exit_code for record in records), default=0)
    return {"executionSuccessful": code != 2, "exitCode": code, "toolExecutionNotifications": said}


def _audit(record: ReportRecord) -> dict[str, Any]:
    return {
        "model": clean(record.model.id, NAME),
        "revision": record.model.revision and clean(record.model.revision, NAME),
        "reference": clean(record.reference.spec, NAME),
        "subject": clean(record.subject.spec, NAME),
        "versions": {clean(name, NAME): clean(version, NAME) for name, version in record.versions.items()},
    }


class SarifFormat(OfRecords):
    """SARIF 2.1.0, for code scanning."""

    name = "sarif"

    def write_records(self, records: Sequence[ReportRecord], stream: TextIO, options: ReportOptions) -> None:
        """Write the log; see `RecordFormat.write_records`."""
        write_json(sarif(records), stream)


FORMAT = SarifFormat()
