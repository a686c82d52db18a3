"""The result of a check for people: first the place that is different, then what follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from template_audit.lock.drift import shown
from template_audit.lock.records import missing_reason

if TYPE_CHECKING:
    from template_audit.lock.checking import LockReport, Result
    from template_audit.report.terminal.screen import Screen

_FINDINGS = 8  # of one entry, unless everything is asked for


def show_check(screen: Screen, report: LockReport, *, verbose: bool, quiet: bool) -> None:
    """Print the report. Its first line names the place of the first drift, or what could not be evaluated."""
    shown = False
    for state in ("drift", "not-evaluated", "missing", "same", "unchanged"):
        results = [result for result in report.results if result.state == state]
        if state == "drift":  # what is ignored, or too mild to fail, comes after what fails
            results.sort(key=lambda result: not result.fails(report.config))
        for result in results:
            if not _speaks(result, verbose, quiet):
                continue
            if shown and not quiet:
                screen.line()
            shown = True
            _show(screen, result, report, verbose=verbose, quiet=quiet)
    if shown:
        screen.line()
    _verdict(screen, report)


def _speaks(result: Result, verbose: bool, quiet: bool) -> bool:
    if result.state in ("drift", "not-evaluated", "missing"):
        return True
    return not quiet and (verbose or bool(result.notes or result.findings))


def _show(screen: Screen, result: Result, report: LockReport, *, verbose: bool, quiet: bool) -> None:
    title = _title(result)
    drifts = list(result.drifts)
    findings = list(result.findings)
    if drifts:
        first = drifts.pop(0)
        counts = result.state != "drift" or result.fails(report.config)
        screen.line((screen.prose(first.headline), "error" if counts else "warning"))
        details = first.details
    elif findings and result.state == "drift":
        worst = findings.pop(0)
        screen.line((screen.prose(f"{worst.rule}: {worst.message}"), worst.severity))
        details = ()
    elif result.state == "not-evaluated":
        screen.line((screen.prose(f"not evaluated: {title}: {result.reason}"), "error"))
        return
    elif result.state == "missing":
        screen.line((screen.prose(f"not locked: {title}: {missing_reason(report)}"), "warning"))
        return
    else:
        screen.line((screen.prose(title), "strong"), f"  {result.state}")
        details = ()
    if quiet:
        return
    if result.state == "drift" or result.drifts:
        screen.line("  ", (screen.prose(title), "strong"))
    for detail in details:
        screen.paragraph("  ", detail, indent=4)
    for drift in drifts:
        screen.paragraph("  ", drift.headline, indent=4)
        for detail in drift.details:
            screen.paragraph("    ", detail, indent=6)
    for finding in findings if verbose else findings[:_FINDINGS]:
        where = f" on `{finding.conversation}`" if finding.conversation else ""
        label = screen.text("  ", (f"new {finding.severity}", finding.severity), " ")
        screen.paragraph(label, f"{finding.rule}{where}: {finding.message}", indent=label.cell_len)
    if len(findings) > _FINDINGS and not verbose:
        screen.line("  ", (f"{len(findings) - _FINDINGS} more new findings; --verbose shows all.", "quiet"))
    for note in result.notes:
        screen.paragraph("  ", note, indent=4, style="quiet")
    if result.state == "not-evaluated":
        screen.paragraph("  ", f"not evaluated: {result.reason}", indent=4, style="error")


def _title(result: Result) -> str:
    request = result.request
    options = ", ".join(
        [*request.overrides, *(f"{key}={_plain(value)}" for key, value in sorted(request.options.items()))]
    )
    return "  ".join(filter(None, [request.title, request.encoder, options]))


def _plain(value: object) -> str:
    """An option's value as it is typed."""
    return value if isinstance(value, str) else shown(value)


def _verdict(screen: Screen, report: LockReport) -> None:
    counts = {
        "drifted": sum(result.state == "drift" for result in report.results),
        "not evaluated": sum(result.state == "not-evaluated" for result in report.results),
        "not in the lock file": sum(result.state == "missing" for result in report.results),
        "audited again, the same": sum(result.state == "same" for result in report.results),
        "unchanged": sum(result.state == "unchanged" for result in report.results),
    }
    parts = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    total = len(report.results)
    entries = "1 entry" if total == 1 else f"{total} entries"
    code = report.exit_code
    mark = (screen.glyphs.ok, "ok") if code == 0 else (screen.glyphs.bad, "error")
    screen.line(mark, f" {entries} of {screen.clean(str(report.path))}: {parts}.")
    if report.accepted:
        screen.line("  Today's state was recorded.")
    elif counts["drifted"] and code == 1:
        screen.line(("  `template-audit check --update` accepts it.", "quiet"))
