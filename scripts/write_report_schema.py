"""Write docs/schema/*.schema.json from the reports' types."""

from __future__ import annotations

import json
from pathlib import Path

from template_audit.findings import report_schema
from template_audit.scanning.records import scan_schema

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "schema"

if __name__ == "__main__":
    for name, schema in (("report", report_schema()), ("scan", scan_schema())):
        text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        (FOLDER / f"{name}.schema.json").write_text(text, encoding="utf-8")
