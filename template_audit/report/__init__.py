"""Report formats; each is a module or folder here that defines ``FORMAT``."""

from __future__ import annotations

from functools import cache

from template_audit.errors import UsageError
from template_audit.plugins import plugged
from template_audit.report.interface import ReportFormat


@cache
def formats() -> dict[str, ReportFormat]:
    """Every report format of this folder by name."""
    return plugged(__name__, "FORMAT")


def get_format(name: str) -> ReportFormat:
    """The format of this name. Raises UsageError naming the known ones."""
    known = formats()
    if name not in known:
        raise UsageError(f"Unknown report format `{name}`; known are {', '.join(known)}.")
    return known[name]
