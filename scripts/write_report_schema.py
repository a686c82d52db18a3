"""Write docs/schema/report.schema.json from the report's types."""

from __future__ import annotations

import json
from pathlib import Path

from template_audit.findings import report_schema

PATH = Path(__file__).resolve().parent.parent / "docs" / "schema" / "report.schema.json"

if __name__ == "__main__":
    PATH.write_text(json.dumps(report_schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
