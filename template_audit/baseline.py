"""The baseline: findings that were there when a project took the tool up, and that count no more.

A baseline is an earlier JSON report, of `audit`, `pretrain` or of several audits at once; nothing is
written by hand, and writing it anew accepts what is there now. A finding is told by its fingerprint,
which hangs on no position and no line, and on no version of the framework.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from template_audit.config import versionless
from template_audit.errors import UsageError
from template_audit.findings import SCHEMA_VERSION, Finding, FindingRecord

if TYPE_CHECKING:
    from template_audit.pretraining import PretrainReport
    from template_audit.results import Report

_MAKE = "make one with `--format json --output FILE`"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The findings of one report: those that counted then, and those that were known already."""

    model: str
    encoder: str
    findings: tuple[FindingRecord, ...]


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a baseline file accepts."""

    path: Path
    reports: tuple[Accepted, ...]

    def apply(self, report: Report) -> Report:
        """The report with its known findings set apart, and those of the baseline named that are no more.

        A finding of the baseline is only missed where it was looked for: for this model and encoder (of a
        file with one report: for any), and in a conversation that was evaluated.
        """
        conversations = {None, *(c.conversation.id for c in report.comparisons if c.evaluated)}
        kept, known = self._parted(report.findings)
        gone = self._gone(report, report.model.id, report.subject.spec, conversations)
        return replace(report, findings=kept, known=known, gone=gone)

    def apply_to_pretraining(self, report: PretrainReport) -> PretrainReport:
        """The same for a pre-training stream."""
        kept, known = self._parted(report.findings)
        gone = self._gone(report, report.encoder.model.id, report.encoder.spec, {None})
        return replace(report, findings=kept, known=known, gone=gone)

    def _parted(self, findings: Iterable[Finding]) -> tuple[tuple[Finding, ...], tuple[FindingRecord, ...]]:
        accepted = {finding.fingerprint for one in self.reports for finding in one.findings}
        found = list(findings)
        kept = tuple(finding for finding in found if finding.fingerprint not in accepted)
        return kept, tuple(finding.record() for finding in found if finding.fingerprint in accepted)

    def _gone(
        self, report: Report | PretrainReport, model: str, encoder: str, conversations: Set[str | None]
    ) -> tuple[FindingRecord, ...]:
        there = {finding.fingerprint for finding in report.findings}
        there |= {suppressed.finding.fingerprint for suppressed in report.suppressed}
        missed = {
            finding.fingerprint: finding
            for one in self.reports
            if len(self.reports) == 1 or (one.model, versionless(one.encoder)) == (model, versionless(encoder))
            for finding in one.findings
            if finding.fingerprint not in there and finding.conversation in conversations
        }
        return tuple(missed.values())


def read_baseline(path: str | Path) -> Baseline:
    """The baseline in `path`. Raises UsageError, one sentence, for what is no JSON report of ours."""
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"Cannot read the baseline {path}: {error.strerror}; {_MAKE}.") from None
    except UnicodeDecodeError:
        raise UsageError(f"The baseline {path} is not UTF-8 text; {_MAKE}.") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UsageError(f"The baseline {path} is not valid JSON ({place}: {error.msg}); {_MAKE}.") from None
    except (RecursionError, ValueError):
        raise UsageError(f"The baseline {path} cannot be read as JSON; {_MAKE}.") from None
    if not isinstance(data, dict) or not isinstance(data.get("findings", data.get("reports")), list):
        raise UsageError(f"The baseline {path} is no JSON report of template-audit; {_MAKE}.")
    version = data.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"The baseline {path} has schema_version {version!r:.40}, and this template-audit reads {SCHEMA_VERSION}; "
            f"{_MAKE}."
        )
    try:
        return Baseline(path, tuple(_reports(data)))
    except (msgspec.ValidationError, TypeError, KeyError, AttributeError):
        raise UsageError(f"The baseline {path} is a broken report of template-audit; {_MAKE}.") from None


def _reports(data: dict[str, Any]) -> Iterator[Accepted]:
    for report in data.get("reports", [data]):
        findings = [*report["findings"], *report.get("known", [])]
        encoder = report["subject"] if "subject" in report else report["encoder"]  # that of `pretrain`
        yield Accepted(
            msgspec.convert(report["model"]["id"], str),
            msgspec.convert(encoder["spec"], str),
            tuple(msgspec.convert(findings, list[FindingRecord])),
        )
