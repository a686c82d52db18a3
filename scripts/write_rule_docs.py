"""Write docs/rules/: a page for every rule, and the list of them."""

from __future__ import annotations

from pathlib import Path

from template_audit.rules import all_rules
from template_audit.rules.pages import index, page

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "rules"


def pages() -> dict[str, str]:
    """Every file of the folder by its name."""
    rules = all_rules()
    return {"README.md": index(rules.values()), **{f"{name}.md": page(rule) for name, rule in rules.items()}}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    written = pages()
    for stale in FOLDER.glob("*.md"):
        if stale.name not in written:
            stale.unlink()
    for name, text in written.items():
        (FOLDER / name).write_text(text, encoding="utf-8")
