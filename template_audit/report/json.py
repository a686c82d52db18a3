"""Reports as JSON: deterministic, sorted, and safe to print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from template_audit.findings import SCHEMA_VERSION
from template_audit.report.interface import ReportOptions
from template_audit.report.sanitize import LOG_COMMAND, json_escaped

if TYPE_CHECKING:
    from template_audit.findings import ReportRecord
    from template_audit.results import Report


def dumps(value: Any, *, ascii_only: bool = False, indent: int | None = 2) -> str:
    """`value` as JSON with sorted keys and a final newline; on one line with `indent` None.

    Hidden characters and lone surrogates are written as ``\\uXXXX``, which JSON readers give back
    unchanged, and so is what a build server obeys in a log; other text stays readable unless `ascii_only`.
    """
    separators = (",", ":") if indent is None else None
    text = json.dumps(
        value, ensure_ascii=ascii_only, sort_keys=True, indent=indent, separators=separators, allow_nan=False
    )
    return LOG_COMMAND.sub(r"#\\u0023", json_escaped(text)) + "\n"


def write_json(value: Any, stream: TextIO, *, indent: int | None = 2) -> None:
    """Write `value` to `stream` whatever its encoding."""
    stream.write(dumps(value, ascii_only=not is_unicode(stream), indent=indent))


def is_unicode(stream: TextIO) -> bool:
    """True when the stream takes every character but lone surrogates."""
    encoding = (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "").replace("_", "")
    return encoding in ("utf8", "utf8sig", "utf16", "utf32")


class JsonFormat:
    """`Report.to_dict` as JSON. `verbose` and `quiet` change nothing: a reader picks what it wants.

    Several reports are ``{"schema_version", "reports": [...], "exit_code"}``, the code being the gravest of all.
    """

    name = "json"

    def write(self, report: Report, stream: TextIO, options: ReportOptions) -> None:
        """Write the report; see `ReportFormat.write`."""
        write_json(report.to_dict(), stream)

    def write_records(self, records: Sequence[ReportRecord], stream: TextIO, options: ReportOptions) -> None:
        """Write the reports; see `RecordFormat.write_records`."""
        import msgspec

        reports = [msgspec.to_builtins(record) for record in records]
        code = max((record.exit_code for record in records), default=0)
        write_json({"schema_version": SCHEMA_VERSION, "reports": reports, "exit_code": code}, stream)


FORMAT = JsonFormat()
