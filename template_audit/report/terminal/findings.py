"""Findings as text: the graver ones first, each said once with the conversations that show it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from template_audit.findings import Cause, Evidence, FindingRecord
from template_audit.report.terminal.screen import Screen

_LABEL = 8  # columns of "why" and "fix"
_INNER = 14  # columns of "expected", "fed", …
_FEW_IDS = 12
_FEW_PLACES = 6
_EVIDENCE = 160  # characters of evidence text


def one_per_cause(causes: Iterable[Cause]) -> list[Cause]:
    """Causes that have several severities, by conversation, at the gravest one, with all conversations."""
    found: dict[tuple[str, str], Cause] = {}
    for cause in causes:
        key = (cause.first.rule, cause.first.cause or cause.first.fingerprint)
        known = found.get(key)
        places = (*known.conversations, *cause.conversations) if known else cause.conversations
        found[key] = Cause(known.first if known else cause.first, tuple(dict.fromkeys(places)))
    return list(found.values())


def show_findings(screen: Screen, causes: Sequence[Cause], *, verbose: bool = False) -> None:
    """Print the findings rule by rule, with evidence, reason and advice; infos in brief unless `verbose`."""
    for (severity, _), group in groupby(causes, key=lambda cause: (cause.first.severity, cause.first.rule)):
        if severity != "info" or verbose:
            _rule(screen, list(group), verbose)
    infos = [cause for cause in causes if cause.first.severity == "info"]
    if infos and not verbose:
        screen.line()
        for (rule, message), same in groupby(infos, key=lambda cause: (cause.first.rule, cause.first.message)):
            _brief(screen, rule, message, [name for cause in same for name in cause.conversations])


def symbol(screen: Screen, severity: str) -> str:
    """A mark for a severity that needs no colour."""
    return {"error": screen.glyphs.bad, "warning": "!", "info": "i"}[severity]


def _rule(screen: Screen, causes: Sequence[Cause], verbose: bool) -> None:
    first = causes[0].first
    mark = symbol(screen, first.severity)
    screen.line()
    screen.line((f"{mark} {first.severity}", first.severity), "  ", (screen.clean(first.rule), "strong"))
    one_advice = len({cause.first.advice for cause in causes}) == 1
    for cause in causes:
        finding = cause.first
        screen.paragraph("  ", finding.message, indent=2)
        where = _where(cause, everything=verbose)
        if where:
            screen.paragraph(("    in", "quiet"), where, indent=_INNER)
        show_evidence(screen, "expected", finding.reference, verbose)
        show_evidence(screen, "fed", finding.subject, verbose)
        if not one_advice:
            screen.paragraph(("    fix", "quiet"), finding.advice, indent=_INNER)
    screen.paragraph(("  why", "quiet"), first.why, indent=_LABEL)
    if one_advice:
        screen.paragraph(("  fix", "quiet"), first.advice, indent=_LABEL)


def _brief(screen: Screen, rule: str, message: str, places: list[str]) -> None:
    where = f" ({_names(places)})" if places else ""
    lead = screen.text((f"{symbol(screen, 'info')} ", "info"))
    screen.paragraph(lead, f"{rule}: {message}{where}", indent=2)


def _where(cause: Cause, *, everything: bool) -> str:
    """The conversations that show it, the first with the message."""
    if not cause.conversations:
        return ""
    first = cause.conversations[0] + _message(cause.first)
    return _names([first, *cause.conversations[1:]], everything=everything)


def _names(names: list[str], *, everything: bool = False) -> str:
    shown = names if everything or len(names) == _FEW_PLACES + 1 else names[:_FEW_PLACES]
    rest = len(names) - len(shown)
    return ", ".join(shown) + (f" and {rest} more" if rest else "")


def _message(finding: FindingRecord) -> str:
    if finding.turn is None:
        return ""
    return f" (message {finding.turn}, {finding.role})" if finding.role else f" (message {finding.turn})"


def _edges(screen: Screen, text: str) -> str:
    """`text` with the spaces at its ends made visible."""
    body = text.strip(" ")
    if not body:
        return screen.glyphs.space * len(text)
    lead = text.index(body)
    return screen.glyphs.space * lead + body + screen.glyphs.space * (len(text) - lead - len(body))


def show_evidence(screen: Screen, label: str, evidence: Evidence | None, verbose: bool) -> None:
    """Print a stretch of one stream on a line of its own, ids behind the text."""
    if evidence is None or not evidence.ids:
        return
    text = _edges(screen, screen.clean(evidence.text))
    if len(text) > _EVIDENCE and not verbose:
        text = f"{text[: _EVIDENCE // 2]} {screen.glyphs.dots} {text[-_EVIDENCE // 2 :]}"
    ids = evidence.ids if verbose else evidence.ids[:_FEW_IDS]
    more = f" {screen.glyphs.dots}" if len(ids) < len(evidence.ids) else ""
    last = evidence.end - 1
    place = f"token {last}" if last == evidence.start else f"tokens {evidence.start}{screen.glyphs.dash}{last}"
    numbers = f"{place}, id{'s' if len(evidence.ids) > 1 else ''} {' '.join(map(str, ids))}{more}"
    head = ("    " + label, "quiet")
    if screen.text(text, "   ", numbers).cell_len <= screen.width - _LABEL - 2:
        screen.line(screen.text((f"{head[0]:<{_INNER}}", "quiet"), text, (f"   {numbers}", "quiet")))
        return
    screen.paragraph(head, text, indent=_INNER)
    screen.paragraph("", numbers, indent=_INNER, style="quiet")
