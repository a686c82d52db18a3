"""Findings as text: graver ones first, each said once with the list of probes that show it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from template_audit.findings import SEVERITIES, Evidence, Finding
from template_audit.report.terminal.screen import Screen

_LABEL = 12  # columns of "expected", "why", …
_FEW_IDS = 12
_FEW_PLACES = 4
_EVIDENCE = 120  # characters of evidence text


@dataclass(frozen=True, slots=True)
class Group:
    """One finding as several conversations show it; the first one speaks for all."""

    findings: tuple[Finding, ...]

    @property
    def first(self) -> Finding:
        """The finding that is printed."""
        return self.findings[0]


def grouped(findings: Sequence[Finding], key: Callable[[Finding], object]) -> list[Group]:
    """Findings with the same key together, errors first, otherwise in the order they came."""
    found: dict[object, list[Finding]] = {}
    for finding in findings:
        found.setdefault(key(finding), []).append(finding)
    groups = [Group(tuple(same)) for same in found.values()]
    return sorted(groups, key=lambda group: -SEVERITIES.index(group.first.severity))


def show_groups(screen: Screen, groups: Sequence[Group], *, verbose: bool = False) -> None:
    """Print the findings with evidence and advice. The `why` of a rule is said once."""
    explained: set[str] = set()
    for group in groups:
        finding = group.first
        screen.line()
        screen.line(
            (f"{symbol(screen, finding.severity)} {finding.severity}", finding.severity),
            "  ",
            (screen.clean(finding.rule), "strong"),
        )
        screen.paragraph("  ", finding.message, indent=2)
        where = _where(screen, group, all_of_them=verbose)
        if where:
            screen.paragraph(("  where", "quiet"), where, indent=_LABEL)
        _evidence(screen, "expected", finding.reference, verbose)
        _evidence(screen, "fed", finding.subject, verbose)
        if finding.rule not in explained:
            screen.paragraph(("  why", "quiet"), finding.why, indent=_LABEL)
        explained.add(finding.rule)
        screen.paragraph(("  fix", "quiet"), finding.advice, indent=_LABEL)


def symbol(screen: Screen, severity: str) -> str:
    """A mark for a severity that needs no colour."""
    return {"error": screen.glyphs.bad, "warning": "!", "info": "i"}[severity]


def _where(screen: Screen, group: Group, *, all_of_them: bool) -> str:
    places = list(dict.fromkeys(_place(finding) for finding in group.findings))
    places = [place for place in places if place]
    shown = places if all_of_them else places[:_FEW_PLACES]
    rest = len(places) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _place(finding: Finding) -> str:
    if finding.conversation is None:
        return ""
    if finding.turn is None:
        return finding.conversation
    return f"{finding.conversation} (message {finding.turn}{', ' + finding.role if finding.role else ''})"


def _evidence(screen: Screen, label: str, evidence: Evidence | None, verbose: bool) -> None:
    if evidence is None or (evidence.start == evidence.end and not evidence.text):
        return
    text = screen.clean(evidence.text)
    if len(text) > _EVIDENCE and not verbose:
        cut = _EVIDENCE // 2
        text = f"{text[:cut]}{screen.glyphs.dots}{text[-cut:]}"
    ids = evidence.ids if verbose else evidence.ids[:_FEW_IDS]
    more = f" {screen.glyphs.dots}" if len(ids) < len(evidence.ids) else ""
    place = f"token {evidence.start}" if evidence.end - evidence.start == 1 else f"tokens {evidence.start}{screen.glyphs.dash}{evidence.end - 1}"
    screen.paragraph((f"  {label}", "quiet"), text or "(nothing)", indent=_LABEL)
    screen.paragraph("", f"{place}, ids {' '.join(map(str, ids))}{more}", indent=_LABEL, style="quiet")
