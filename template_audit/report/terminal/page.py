"""The terminal report from top to bottom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from template_audit.findings import by_cause
from template_audit.report.interface import ReportOptions
from template_audit.report.terminal.diff import Pair, draw, legend
from template_audit.report.terminal.findings import one_per_cause, show_findings
from template_audit.report.terminal.ignored import show_ignored, show_known
from template_audit.report.terminal.mask import differs, show_mask
from template_audit.report.terminal.screen import Screen
from template_audit.report.terminal.summary import header, overview, verdict
from template_audit.report.terminal.table import pair_table
from template_audit.report.terminal.tokens import Side, special_ids

if TYPE_CHECKING:
    from template_audit.results import Comparison, Report

FEW_DIFFS = 3
"""How many diffs are drawn unless `verbose`."""


def page(screen: Screen, report: Report, options: ReportOptions) -> None:
    """Print the report."""
    if options.quiet:
        verdict(screen, report)
        return
    header(screen, report)
    screen.line()
    overview(screen, report)
    _diffs(screen, report, options.verbose)
    _mask(screen, report, options.verbose)
    if report.findings:
        screen.heading("findings")
        show_findings(screen, one_per_cause(by_cause(report.findings)), verbose=options.verbose)
    if report.suppressed or report.unused_ignores:
        screen.line()
        show_ignored(screen, report.suppressed, report.unused_ignores)
    if report.known or report.gone:
        screen.line()
        show_known(screen, report.known, report.gone)
    screen.line()
    verdict(screen, report)


def _mask(screen: Screen, report: Report, verbose: bool) -> None:
    """The table of trained tokens, when it shows a difference that matters or everything is to be shown."""
    rows = report.mask()
    if rows and (verbose or any(differs(row) for row in rows if row.kind != "trailing whitespace")):
        screen.heading("trained tokens, by class")
        show_mask(screen, rows)


def _diffs(screen: Screen, report: Report, verbose: bool) -> None:
    chosen = list(_differing(report)) if verbose else list(_telling(report))
    if not chosen:
        return
    left = special_ids(report.model, report.reference.effects)
    right = special_ids(report.model, report.subject.effects)
    for number, comparison in enumerate(chosen):
        assert comparison.alignment is not None
        pair = Pair(
            comparison.alignment,
            Side(comparison.alignment.reference, left),
            Side(comparison.alignment.subject, right),
            report.reference.spec,
            report.subject.spec,
        )
        screen.heading(comparison.conversation.id)
        if number == 0:
            screen.lines(legend(screen))
            screen.line()
        screen.lines(draw(screen, pair))
        if verbose:
            screen.line()
            screen.lines(pair_table(screen, pair))
    rest = sum(1 for _ in _differing(report)) - len(chosen)
    if rest:
        screen.line()
        noun = "conversation differs" if rest == 1 else "conversations differ"
        sentence = f"{rest} more {noun}; --verbose shows all, --conversation NAME one of them."
        screen.paragraph("", sentence, indent=0, style="quiet")


def _differing(report: Report) -> Iterator[Comparison]:
    """Comparisons with something to see: other ids, or the same ids trained differently."""
    for comparison in report.comparisons:
        alignment = comparison.alignment
        if alignment is not None and (not alignment.agrees or alignment.label_hunks):
            yield comparison


def _telling(report: Report) -> Iterator[Comparison]:
    """The first comparisons that show causes which none before them showed, or simply the first.

    Infos count only when there is nothing graver.
    """
    grave = any(finding.severity != "info" and finding.conversation for finding in report.findings)
    causes: dict[str | None, set[str]] = {}
    for finding in report.findings:
        if not grave or finding.severity != "info":
            causes.setdefault(finding.conversation, set()).add(finding.cause)
    seen: set[str] = set()
    count = 0
    for comparison in (found := list(_differing(report))):
        new = causes.get(comparison.conversation.id, set()) - seen
        if new and count < FEW_DIFFS:
            seen |= new
            count += 1
            yield comparison
    if found and not count:
        yield found[0]
