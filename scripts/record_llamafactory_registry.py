"""Record the registry of LLaMA-Factory releases from their source, which is read and never run.

    pip download --no-deps --dest wheels llamafactory==0.9.5
    python scripts/record_llamafactory_registry.py wheels/llamafactory-0.9.5-py3-none-any.whl

Each argument is a wheel, an unpacked release or a checkout; each record goes to
template_audit/frameworks/llamafactory/registries/<version>.json. With --check nothing is written, and a
record that differs from its source makes the script fail.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from template_audit.errors import TemplateAuditError
from template_audit.frameworks.llamafactory.importer import import_registry
from template_audit.frameworks.llamafactory.registry import dump_registry

REGISTRIES = Path(__file__).parent.parent / "template_audit" / "frameworks" / "llamafactory" / "registries"


def main() -> int:
    """Record or check every release named on the command line; 1 when a check fails, 2 when one is unreadable."""
    parser = argparse.ArgumentParser(description="Record the registry of LLaMA-Factory releases from their source.")
    parser.add_argument("release", nargs="+", help="a wheel, an unpacked release or a checkout")
    parser.add_argument("--check", action="store_true", help="compare with the records, write nothing")
    arguments = parser.parse_args()
    status = 0
    for path in arguments.release:
        try:
            registry = import_registry(path)
        except TemplateAuditError as error:
            print(error)
            return 2
        file = REGISTRIES / f"{registry.version}.json"
        text = dump_registry(registry)
        size = f"{len(registry.templates)} templates, {len(registry.models)} model ids"
        if not arguments.check:
            file.write_text(text, encoding="utf-8")
            print(f"{file.name}: {size}")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            print(f"{file.name}: {size}, DIFFERS from its source")
            status = 1
        else:
            print(f"{file.name}: {size}, equals its source")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
