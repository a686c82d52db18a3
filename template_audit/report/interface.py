"""The plug point for report formats: what a format must offer.

A format is a module or folder beside this file that defines ``FORMAT``, an object with the shape of
`ReportFormat`. Nothing else names it: `template_audit.report` finds it by its folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from template_audit.results import Report


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """How to print. `width` None: the terminal's, or COLUMNS, or 100 when the stream is no terminal.

    `colour` None: only on a terminal, and never when NO_COLOR is set. A format ignores what does not
    apply to it.
    """

    verbose: bool = False
    quiet: bool = False
    width: int | None = None
    colour: bool | None = None


class ReportFormat(Protocol):
    """One way to write a report."""

    name: str

    def write(self, report: Report, stream: TextIO, options: ReportOptions) -> None:
        """Write the whole report to `stream`, a text stream of any encoding; never raises UnicodeError."""
        ...
