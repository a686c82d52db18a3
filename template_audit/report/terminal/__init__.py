"""Reports for people: what differs, side by side and in colour, then the findings, then one verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

from template_audit.report.interface import ReportOptions

if TYPE_CHECKING:
    from template_audit.results import Report


class TerminalFormat:
    """Text for a terminal or a pipe. `quiet` prints the verdict alone; `verbose` leaves nothing out."""

    name = "terminal"

    def write(self, report: Report, stream: TextIO, options: ReportOptions) -> None:
        """Write the report; see `ReportFormat.write`."""
        from template_audit.report.terminal.page import page  # rich only when something is printed
        from template_audit.report.terminal.screen import Screen

        page(Screen(stream, options), report, options)


FORMAT = TerminalFormat()
