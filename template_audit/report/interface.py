"""The plug point for report formats: what a format must offer.

A format is a module or folder beside this file that defines ``FORMAT``, an object with the shape of
`ReportFormat` or, when it is for machines, `RecordFormat`. Nothing else names
it: `template_audit.report` finds it by its folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TextIO, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from template_audit.findings import ReportRecord
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


@runtime_checkable
class RecordFormat(ReportFormat, Protocol):
    """A format that needs nothing but the records, and takes those of several audits at once."""

    def write_records(self, records: Sequence[ReportRecord], stream: TextIO, options: ReportOptions) -> None:
        """Write all reports as one document, whatever text is in them; never raises UnicodeError.

        What is written to `stream` depends on `records` alone.
        """
        ...
