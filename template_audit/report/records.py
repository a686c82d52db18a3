"""What the formats for machines share: findings of several reports by cause, and foreign text made short and safe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal, NamedTuple, TextIO

from template_audit.findings import SEVERITIES, Cause, FindingRecord, ReportRecord, by_cause, fingerprint
from template_audit.report.sanitize import one_line, visible

if TYPE_CHECKING:
    from template_audit.report.interface import RecordFormat, ReportOptions
    from template_audit.results import Report

MESSAGE = 2_000
"""Characters of a message, a reason or a piece of advice that are shown."""
NAME = 200
"""Characters of a name: of a model, a conversation, a file."""
FEW = 10
"""Conversations that are named in a sentence."""

Status = Literal["new", "known", "ignored"]


class OfRecords:
    """The half of a `RecordFormat` that prints one report: it is its record, and nothing else."""

    def write(self: RecordFormat, report: Report, stream: TextIO, options: ReportOptions) -> None:
        """Write the report; see `ReportFormat.write`."""
        self.write_records([report.record()], stream, options)


class Entry(NamedTuple):
    """Findings of one cause in one report. `reason` says why they are ignored; empty for other findings."""

    record: ReportRecord
    cause: Cause
    status: Status
    reason: str = ""

    @property
    def first(self) -> FindingRecord:
        """The finding that stands for all."""
        return self.cause.first

    @property
    def digest(self) -> str:
        """What makes this cause itself across runs: model, rule and cause; no line, no position, no wording."""
        return fingerprint(_lasting(self.record.model.id), self.first.rule, self.first.cause or self.first.fingerprint)

    @property
    def sentence(self) -> str:
        """The finding's message."""
        return clean(self.first.message)

    @property
    def place(self) -> str:
        """Which model, which encoder, which conversations."""
        names = ", ".join(clean(name, NAME) for name in self.cause.conversations[:FEW])
        more = len(self.cause.conversations) - FEW
        where = f": {names}" + (f" and {more} more" if more > 0 else "") if names else ""
        return f"{title(self.record)}{where}"


def entries(records: Iterable[ReportRecord], *statuses: Status) -> list[Entry]:
    """The findings of these statuses of all reports, one entry for every cause in a report, gravest first."""
    found = [entry for record in records for entry in _entries(record) if entry.status in statuses]
    return sorted(found, key=lambda entry: -SEVERITIES.index(entry.first.severity))


def _entries(record: ReportRecord) -> Iterator[Entry]:
    for cause in by_cause(record.findings):
        yield Entry(record, cause, "new")
    for cause in by_cause(record.known):
        yield Entry(record, cause, "known")
    reasons: dict[str, list[FindingRecord]] = {}
    for suppressed in record.suppressed:
        reasons.setdefault(suppressed.reason, []).append(suppressed.finding)
    for reason, findings in reasons.items():
        for cause in by_cause(findings):
            yield Entry(record, cause, "ignored", reason)


def title(record: ReportRecord) -> str:
    """``model with encoder``."""
    return f"{clean(record.model.id, NAME)} with {clean(record.subject.spec, NAME)}"


def verdict(record: ReportRecord) -> str:
    """What came of a report in a few words, numbers and our own words only: no foreign text."""
    causes = by_cause(record.findings)
    counted = {severity: sum(cause.first.severity == severity for cause in causes) for severity in SEVERITIES}
    found = [_plural(counted[severity], severity) for severity in reversed(SEVERITIES) if counted[severity]]
    parts = [", ".join(found) or "nothing found"]
    if record.conversations:
        parts[0] += f" in {_plural(len(record.conversations), 'conversation')}"
    missing = sum(not conversation.evaluated for conversation in record.conversations)
    for number, what in (
        (missing, "not evaluated"),
        (len(by_cause(record.known)), "known from the baseline"),
        (len(record.suppressed), "ignored by the configuration"),
        (len(by_cause(record.gone)), "of the baseline no more there"),
    ):
        if number:
            parts.append(f"{number:,} {what}")
    return "; ".join(parts)


def _plural(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' if number != 1 and noun != 'info' else ''}"


def clean(text: str, limit: int = MESSAGE) -> str:
    """Foreign text on one line, with nothing hidden in it; what is longer than `limit` is cut, with a remark."""
    left = len(text) - limit
    if left <= 0:
        return one_line(text)
    return f"{one_line(text[:limit])}… ({left:,} more characters)"


def evidence_text(text: str, limit: int = MESSAGE) -> str:
    """Text of a stream on one line, with its whitespace as it is: line breaks and tabs written out."""
    left = len(text) - limit
    shown = text[:limit].replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r")
    return visible(shown) + (f"… ({left:,} more characters)" if left > 0 else "")


def advice(finding: FindingRecord) -> str:
    """What to do, on one line."""
    return clean(finding.advice)


def not_evaluated(record: ReportRecord) -> dict[str, list[str]]:
    """The conversations of which nothing is known, by the reason."""
    out: dict[str, list[str]] = {}
    for conversation in record.conversations:
        if not conversation.evaluated:
            out.setdefault(conversation.reason or "No reason is known.", []).append(conversation.id)
    return out


def graver_first(records: Sequence[ReportRecord]) -> list[ReportRecord]:
    """The reports, those that could not be evaluated and those that fail first."""
    return sorted(records, key=lambda record: (-record.exit_code, -record.summary.error, -record.summary.warning))


@cache
def docs_url() -> str | None:
    """Where the pages of the rules are read, with a final slash; None when the distribution names no such address."""
    from importlib.metadata import PackageNotFoundError, metadata

    try:
        urls = metadata("template-audit").get_all("Project-URL") or []
    except PackageNotFoundError:
        return None
    named = dict(url.split(", ", 1) for url in urls if ", " in url)
    return f"{named['Rules'].rstrip('/')}/" if "Rules" in named else None


def _lasting(model: str) -> str:
    """A model's name that does not change with the folder that a checkout lies in."""
    path = PurePath(model)
    return path.name if path.is_absolute() else path.as_posix()
