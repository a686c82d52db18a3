"""What does not count: findings that the configuration ignores, and those that the baseline knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from template_audit.findings import FindingRecord, by_cause
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


def show_known(screen: Screen, known: Sequence[FindingRecord], gone: Sequence[FindingRecord]) -> None:
    """Print one line for every rule with findings of the baseline, then what is in the baseline and no more there."""
    rules: dict[str, list[FindingRecord]] = {}
    for finding in known:
        rules.setdefault(finding.rule, []).append(finding)
    for rule, findings in rules.items():
        number = f"{len(findings)} finding{'s' if len(findings) != 1 else ''}"
        _line(screen, f"known  {rule}, {number}: in the baseline.")
    for cause in by_cause(gone):
        where = f" ({len(cause.conversations)} conversations)" if len(cause.conversations) > 1 else ""
        _line(screen, f"no more there  {cause.first.rule}{where}: {cause.first.message}")
    if gone:
        _line(screen, "Write the baseline anew, so that these do not come back unseen.")


def _line(screen: Screen, text: str) -> None:
    screen.paragraph("", text, indent=2, style="quiet")
