"""Reports as Markdown, for a comment on a pull request: all foreign text stands in code spans, where nothing acts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TextIO

from template_audit.findings import SEVERITIES, FindingRecord, ReportRecord
from template_audit.report.interface import ReportOptions
from template_audit.report.records import (
    FEW,
    NAME,
    Entry,
    OfRecords,
    clean,
    docs_url,
    entries,
    evidence_text,
    graver_first,
    not_evaluated,
    verdict,
)
from template_audit.report.sanitize import encodable, visible

COMMENT = 65_000
"""Bytes of a report: GitHub takes 65,536 characters in a comment."""

_SIZES = ((10_000, 1_000), (200, 100), (50, 50), (20, 20), (5, 10), (0, 5), (0, 1), (0, 0))
"""How many findings of an audit, and how many audits are shown; the first of these that fits is taken."""
_TEXT = 400  # characters of a message, an evidence or a reason
_SIGNS = {"error": "❌", "warning": "⚠", "info": "ℹ"}


def markdown(records: Sequence[ReportRecord], limit: int = COMMENT) -> str:
    """The report in at most `limit` bytes of UTF-8; what is left out is counted."""
    text = ""
    for findings, audits in _SIZES:
        text = "\n\n".join(_page(records, findings, audits)) + "\n"
        if len(text.encode("utf-8", "surrogatepass")) <= limit:
            break
    return text


def _page(records: Sequence[ReportRecord], findings: int, audits: int) -> Iterator[str]:
    code = max((record.exit_code for record in records), default=0)
    yield f"## template-audit: {('passed', 'failed', 'not evaluated in full')[code]}"
    ordered = graver_first(records)
    for record in ordered[:audits]:
        yield from _section(record, findings)
    if len(ordered) > audits:
        yield f"{len(ordered) - audits:,} more audits are left out here."


def _section(record: ReportRecord, limit: int) -> Iterator[str]:
    yield f"### {span(record.model.id, NAME)} with {span(record.subject.spec, NAME)}"
    yield f"{verdict(record).capitalize()}. Exit {record.exit_code}."
    missing = not_evaluated(record)
    if missing:
        yield "**Not evaluated**"
        yield "\n".join(f"- {_names(names)}: {span(reason)}" for reason, names in missing.items())
    found = entries([record], "new")
    shown = found[:limit]
    if shown:
        rows = [
            f"| {_SIGNS[entry.first.severity]} {entry.first.severity} | {_rule(entry.first.rule)} "
            f"| {_cell(span(entry.first.message))} | {_cell(_names(entry.cause.conversations))} |"
            for entry in shown
        ]
        yield "\n".join(["| | rule | finding | conversations |", "|---|---|---|---|", *rows])
    if len(found) > len(shown):
        yield f"{len(found) - len(shown):,} more findings are left out here."
    if shown:
        yield "<details><summary>Why, and what to do</summary>"
        yield "\n\n".join(_explained(entry) for entry in shown)
        yield "</details>"
    yield from _accepted(record, limit)


def _explained(entry: Entry) -> str:
    finding = entry.first
    lines = [f"**{_rule(finding.rule)}** {_own(finding, 'why')}"]
    for label, evidence in (("Expected", finding.reference), ("Fed", finding.subject)):
        if evidence is not None and evidence.text:
            lines.append(f"- {label}: {span(evidence_text(evidence.text, _TEXT), 9 * _TEXT)}")
    if finding.location is not None:
        line = f" line {finding.location.line}" if finding.location.line else ""
        lines.append(f"- At: {span(finding.location.path, NAME)}{line}")
    return "\n".join([lines[0], "", *lines[1:], f"- What to do: {_own(finding, 'advice')}"])


def _own(finding: FindingRecord, text: str) -> str:
    """`why` or `advice`: words of the catalogue as they are, any others as foreign text."""
    from template_audit.rules import all_rules

    said: str = getattr(finding, text)
    rule = all_rules().get(finding.rule)
    return said if rule is not None and said == getattr(rule, text) else span(said)


def _accepted(record: ReportRecord, limit: int) -> Iterator[str]:
    known = entries([record], "known")
    ignored = entries([record], "ignored")
    gone = sorted(record.gone, key=lambda finding: -SEVERITIES.index(finding.severity))
    lists = (
        ("Known from the baseline", [f"{_rule(e.first.rule)}: {span(e.first.message)}" for e in known]),
        ("Ignored by the configuration", [f"{_rule(e.first.rule)}: {span(e.reason)}" for e in ignored]),
        ("In the baseline, and no more there", [f"{_rule(f.rule)}: {span(f.message)}" for f in gone]),
    )
    for heading, rows in lists:
        if rows:
            more = [f"{len(rows) - limit:,} more"] if len(rows) > limit else []
            yield f"**{heading}**"
            yield "\n".join(f"- {row}" for row in [*rows[:limit], *more])


def _rule(name: str) -> str:
    """The rule's name, with a link to its page where that has an address."""
    from template_audit.rules import all_rules

    url = docs_url() if name in all_rules() else None
    return f"[`{name}`]({url}{name}.md)" if url else span(name, NAME)


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(span(name, NAME) for name in names[:FEW]) + more


def span(text: str, limit: int = _TEXT) -> str:
    """Foreign text as a code span: no markup, mention, link or HTML acts in one."""
    shown = clean(text, limit)
    if not shown:
        return "(empty)"
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    padding = " " if fence != "`" or shown[0] == "`" or shown[-1] == "`" else ""
    return f"{fence}{padding}{shown}{padding}{fence}"


def _cell(text: str) -> str:
    """`text` for a cell of a table, which a bar would end even within a code span."""
    return text.replace("|", "\\|")


class MarkdownFormat(OfRecords):
    """Markdown, for people who read it on a web page."""

    name = "markdown"

    def write_records(self, records: Sequence[ReportRecord], stream: TextIO, options: ReportOptions) -> None:
        """Write the report; see `RecordFormat.write_records`."""
        encoding = getattr(stream, "encoding", None) or "utf-8"
        text = markdown(records)
        for sign in _SIGNS.values():
            if not encodable(sign, encoding):
                text = text.replace(f"{sign} ", "")
        stream.write(visible(text, keep="\n", encoding=encoding))


FORMAT = MarkdownFormat()
