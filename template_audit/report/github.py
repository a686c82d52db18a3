"""Reports as GitHub workflow commands, which become annotations, and as the step's summary.

GitHub shows ten errors, ten warnings and ten notices of a step, and 50 of a job; a summary has at most 1 MiB.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from template_audit.errors import UsageError
from template_audit.findings import Location, ReportRecord, Severity
from template_audit.report.interface import ReportOptions
from template_audit.report.markdown import markdown
from template_audit.report.records import (
    NAME,
    OfRecords,
    advice,
    clean,
    entries,
    graver_first,
    not_evaluated,
    title,
    verdict,
)
from template_audit.report.sanitize import visible

LEVELS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "notice"}
MOST = 10
"""Annotations of one level in a step."""
SUMMARY = 1 << 20
"""Bytes in all summaries of a step."""
VARIABLE = "GITHUB_STEP_SUMMARY"


def commands(records: Sequence[ReportRecord]) -> list[str]:
    """The workflow commands: at most ten of a level, one for every cause, gravest first, the rest counted.

    What was not evaluated comes before all findings.
    """
    made: dict[str, list[str]] = {level: [] for level in ("error", "warning", "notice")}
    for record in records:
        for reason, names in not_evaluated(record).items():
            text = f"{clean(', '.join(names))} ({title(record)}) could not be evaluated: {clean(reason)}"
            made["error"].append(command("error", "not evaluated", text))
    for entry in entries(records, "new"):
        level = LEVELS[entry.first.severity]
        text = f"{entry.sentence}\n{entry.place}\nWhat to do: {advice(entry.first)}"
        made[level].append(command(level, entry.first.rule, text, entry.first.location))
    for level, found in made.items():
        if len(found) > MOST:
            rest = len(found) - MOST + 1
            found[MOST - 1 :] = [command(level, "template-audit", f"{rest:,} more; the step's summary has them.")]
    return [one for found in made.values() for one in found]


def command(level: str, heading: str, text: str, place: Location | None = None) -> str:
    """One workflow command on one line."""
    properties = {}
    if place is not None:
        properties["file"] = clean(place.path, 10 * NAME)
        if place.line is not None:
            properties["line"] = str(place.line)
    properties["title"] = clean(heading, NAME)
    said = ",".join(f"{name}={_escape(value, ':,')}" for name, value in properties.items())
    return f"::{level} {said}::{_escape(visible(text, keep=chr(10)))}"


def _escape(text: str, also: str = "") -> str:
    """`text` as workflow commands carry it (`escapeData` and `escapeProperty` of actions/toolkit)."""
    return "".join(f"%{ord(char):02X}" if char in f"%\r\n{also}" else char for char in text)


def summarise(records: Sequence[ReportRecord], path: Path) -> None:
    """Append the report to the step's summary, in what room is left there. Raises UsageError where it cannot."""
    try:
        used = path.stat().st_size if path.exists() else 0
        if SUMMARY - used < 1_000:
            return  # full: what is there stays, where one byte too many would lose it all
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(visible(markdown(records, SUMMARY - used), keep="\n"))
    except OSError as error:
        raise UsageError(f"{VARIABLE} names {path}, which cannot be written: {error.strerror}.") from None


class GithubFormat(OfRecords):
    """Workflow commands of GitHub Actions; where GITHUB_STEP_SUMMARY is set, also the step's summary."""

    name = "github"

    def write_records(self, records: Sequence[ReportRecord], stream: TextIO, options: ReportOptions) -> None:
        """Write the commands and a line for every audit; see `RecordFormat.write_records`."""
        encoding = getattr(stream, "encoding", None) or "utf-8"
        lines = commands(records)
        lines += [f"template-audit: {title(r)}: {verdict(r)}. Exit {r.exit_code}." for r in graver_first(records)]
        stream.write(visible("".join(f"{line}\n" for line in lines), keep="\n", encoding=encoding))
        summary = os.environ.get(VARIABLE)
        if summary:
            summarise(records, Path(summary))


FORMAT = GithubFormat()
