"""Report formats; each is a module or folder here that defines ``FORMAT``."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from template_audit.errors import UsageError
from template_audit.report.interface import ReportFormat


@cache
def formats() -> dict[str, ReportFormat]:
    """Every report format of this folder by name."""
    found: dict[str, ReportFormat] = {}
    for module in iter_modules(__path__):
        report_format = getattr(import_module(f"{__name__}.{module.name}"), "FORMAT", None)
        if report_format is not None:
            found[report_format.name] = report_format
    return found


def get_format(name: str) -> ReportFormat:
    """The format of this name. Raises UsageError naming the known ones."""
    known = formats()
    if name not in known:
        raise UsageError(f"Unknown report format `{name}`; known are {', '.join(known)}.")
    return known[name]
