"""What the configuration ignores: one quiet line for each entry, with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from template_audit.report.terminal.screen import Screen

if TYPE_CHECKING:
    from template_audit.config import Ignore, Suppressed

_FEW = 3


def show_ignored(screen: Screen, suppressed: Sequence[Suppressed], unused: Sequence[Ignore]) -> None:
    """Print every ignore that took findings, with how many, where and why, then those that took none."""
    taken: dict[Ignore, list[Suppressed]] = {}
    for one in suppressed:
        taken.setdefault(one.ignore, []).append(one)
    for ignore, ones in taken.items():
        places = list(dict.fromkeys(one.finding.conversation for one in ones if one.finding.conversation is not None))
        more = f" and {len(places) - _FEW} more" if len(places) > _FEW else ""
        where = f" ({', '.join(places[:_FEW])}{more})" if places else ""
        findings = f"{len(ones)} finding{'s' if len(ones) != 1 else ''}"
        _line(screen, f"ignored  {ignore.rule}, {findings}{where}: {ignore.reason}")
    for ignore in unused:
        scope = "".join(
            f", {name} {value}"
            for name in ("model", "encoder", "probe")
            if (value := getattr(ignore, name)) is not None
        )
        _line(screen, f"ignored nothing  {ignore.rule}{scope}: there is no such finding; the entry can go.")


def _line(screen: Screen, text: str) -> None:
    screen.paragraph("", text, indent=2, style="quiet")
