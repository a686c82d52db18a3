"""Whole data sets: every row through both encoders and every rule, in one report.

`scan` does it for files, folders and data sets of the hub, `scan_rows` for rows that are in memory, and
`merge` puts the reports of parts together.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from template_audit.scanning.merging import merge
    from template_audit.scanning.records import ScanRecord
    from template_audit.scanning.rows import Selection
    from template_audit.scanning.scans import open_scan, scan, scan_rows

_PUBLIC = {
    "ScanRecord": "records",
    "Selection": "rows",
    "merge": "merging",
    "open_scan": "scans",
    "scan": "scans",
    "scan_rows": "scans",
}

__all__ = ["ScanRecord", "Selection", "merge", "open_scan", "scan", "scan_rows"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'template_audit.scanning' has no attribute {name!r}")
