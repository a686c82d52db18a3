"""The parts around the diffs: the header, one line for each conversation, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from template_audit.findings import SEVERITIES, by_cause
from template_audit.report.terminal.screen import Screen
from template_audit.stream import EncodedStream

if TYPE_CHECKING:
    from template_audit.frameworks.interface import Encoder, Mismatch
    from template_audit.results import Comparison, Report

_LABEL = 11
_MANY = 3  # conversations with the same reason, from which on it is said once
_ASKED_FOR = "It was asked for."  # what `matching.choose_encoder` says when there was nothing to choose


def header(screen: Screen, report: Report) -> None:
    """Print what was audited with what: model, tokenizer, versions, both encoders and why these."""
    model = report.model
    tokenizer = model.tokenizer
    revision = f" @ {model.revision}" if model.revision else ""
    _field(screen, "model", model.id + revision)
    _field(screen, "tokenizer", f"{type(tokenizer).__name__}, {len(tokenizer):,} tokens")
    _field(screen, "versions", _versions(report))
    _field(screen, "expected", _encoder(report.reference), report.reference_why)
    _field(screen, "fed", _encoder(report.subject), report.subject_why)
    if report.mismatches is not None:
        _field(screen, "verified", _verification(report.mismatches, len(report.comparisons)))
    if report.config.path is not None:
        _field(screen, "config", str(report.config.path))
    for note in dict.fromkeys((*model.notes, *report.reference.notes, *report.subject.notes)):
        _field(screen, "note", note)


def _verification(mismatches: Sequence[Mismatch], conversations: int) -> str:
    if not mismatches:
        return f"The built-in encoder gives what the installed framework gives in all {conversations} conversations."
    where = "; ".join(
        f"{m.conversation}" + (f" at token {m.position}" if m.position is not None else "") + f": {m.what}"
        for m in mismatches
    )
    return f"The built-in encoder parts from the installed framework, whose ids are shown: {where}."


def _versions(report: Report) -> str:
    """Versions that can change ids first, no package under two spellings."""
    found = {name.replace("_", "-"): version for name, version in report.versions.items() if version}
    first = [name for name in ("template-audit", "transformers", "tokenizers") if name in found]
    return ", ".join(f"{name} {found[name]}" for name in [*first, *sorted(found.keys() - set(first))])


def _field(screen: Screen, label: str, value: str, remark: str = "") -> None:
    screen.paragraph((label, "quiet"), value, indent=_LABEL)
    if remark and remark != _ASKED_FOR:
        screen.paragraph("", remark, indent=_LABEL, style="quiet")


def _encoder(encoder: Encoder) -> str:
    changed = _changed_options(encoder)
    return encoder.spec + "".join(f"  {key}={_scalar(value)}" for key, value in changed.items())


def _changed_options(encoder: Encoder) -> Mapping[str, Any]:
    """The options that are not at the framework's default."""
    from template_audit.frameworks import frameworks, parse_spec

    framework = frameworks().get(parse_spec(encoder.spec).framework)
    defaults = {option.name: option.default for option in framework.options()} if framework else {}
    return {key: value for key, value in encoder.options.items() if value != defaults.get(key, value)}


def _scalar(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)


def overview(screen: Screen, report: Report) -> None:
    """Print one line for every conversation: whether the two sides agree, lengths, findings."""
    width = min(max((len(screen.clean(c.conversation.id)) for c in report.comparisons), default=0), screen.width // 3)
    counts = finding_counts(report)
    alike: dict[str, list[Comparison]] = {}
    for comparison in report.comparisons:
        if comparison.alignment is None and comparison.reason:
            alike.setdefault(comparison.reason, []).append(comparison)
    rows = _rows_alike(report)
    for comparison in report.comparisons:
        severities = counts.get(comparison.conversation.id, {})
        group = rows.get(comparison.conversation.id, [])
        if len(group) >= _MANY:
            if comparison is group[0]:
                _rows_at_once(screen, group, _mark(screen, comparison, severities), severities)
            continue
        same = alike.get(comparison.reason or "", []) if comparison.alignment is None else []
        if len(same) >= _MANY:
            if comparison is same[0]:
                _said_once(screen, same, _mark(screen, comparison, severities))
            continue
        mark, style = _mark(screen, comparison, severities)
        name = screen.clean(comparison.conversation.id)
        if len(name) > width:
            name = name[: width - len(screen.glyphs.dots)] + screen.glyphs.dots
        lead = screen.text((f"{mark} ", style), f"{name:<{width}}  ")
        if comparison.alignment is None:
            screen.paragraph(lead, comparison.reason or "", indent=lead.cell_len, style="quiet")
            continue
        remark = f"{comparison.reference_name} does not write {comparison.lacks}" if comparison.lacks else ""
        line = screen.text(lead, f"{_lengths(comparison):<27}", *_severities(severities), "  ", (remark, "quiet"))
        line.rstrip()
        screen.line(line)


def _rows_alike(report: Report) -> dict[str, list[Comparison]]:
    """For each row of a data set (``name#number``) the rows of it that have the same findings."""
    causes: dict[str, set[str]] = {}
    for finding in report.findings:
        if finding.conversation is not None:
            causes.setdefault(finding.conversation, set()).add(finding.cause)
    groups: dict[tuple[str, frozenset[str], bool | None], list[Comparison]] = {}
    for comparison in report.comparisons:
        name, numbered, _ = comparison.conversation.id.rpartition("#")
        if numbered and comparison.alignment is not None:
            key = (name, frozenset(causes.get(comparison.conversation.id, ())), comparison.agrees)
            groups.setdefault(key, []).append(comparison)
    return {comparison.conversation.id: group for group in groups.values() for comparison in group}


def _rows_at_once(
    screen: Screen, group: list[Comparison], mark: tuple[str, str], severities: Mapping[str, int]
) -> None:
    """Rows of a data set that have the same findings: how many, how long, which."""
    name = screen.clean(group[0].conversation.id.rpartition("#")[0])
    lead = screen.text((f"{mark[0]} ", mark[1]))
    both = [[len(s) for s in (c.reference, c.subject) if isinstance(s, EncodedStream)] for c in group]
    expected, fed = (_range([lengths[side] for lengths in both]) for side in (0, 1))
    lengths = f"{expected} tokens, equal" if group[0].agrees else f"{expected} expected, {fed} fed"
    line = screen.text(lead, f"{name}: {plural(len(group), 'row')}  {lengths}  ", *_severities(severities))
    line.rstrip()
    screen.line(line)
    numbers = ", ".join("#" + c.conversation.id.rpartition("#")[2] for c in group)
    screen.paragraph("", numbers, indent=lead.cell_len, style="quiet")


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _said_once(screen: Screen, same: list[Comparison], mark: tuple[str, str]) -> None:
    """One paragraph for conversations that give no two streams for the same reason."""
    names = ", ".join(comparison.conversation.id for comparison in same)
    lead = screen.text((f"{mark[0]} ", mark[1]))
    screen.paragraph(lead, f"{plural(len(same), 'conversation')}: {same[0].reason}", indent=lead.cell_len)
    screen.paragraph("", names, indent=lead.cell_len, style="quiet")


def finding_counts(report: Report) -> dict[str, dict[str, int]]:
    """For each conversation how many findings of each severity it has."""
    counts: dict[str, dict[str, int]] = {}
    for finding in report.findings:
        if finding.conversation is not None:
            of_one = counts.setdefault(finding.conversation, {})
            of_one[finding.severity] = of_one.get(finding.severity, 0) + 1
    return counts


def _mark(screen: Screen, comparison: Comparison, severities: Mapping[str, int]) -> tuple[str, str]:
    glyphs = screen.glyphs
    if not comparison.evaluated:
        return "?", "error"
    if severities.get("error"):
        return glyphs.bad, "error"
    if severities.get("warning"):
        return "!", "warning"
    if comparison.unsupported:
        return glyphs.dash, "quiet"
    return (glyphs.ok, "ok") if comparison.agrees else ("~", "info")


def _lengths(comparison: Comparison) -> str:
    expected, fed = (len(s) if isinstance(s, EncodedStream) else 0 for s in (comparison.reference, comparison.subject))
    if comparison.agrees:
        return f"{plural(expected, 'token')}, equal"
    return f"{expected:,} expected, {fed:,} fed"


def _severities(severities: Mapping[str, int]) -> list[tuple[str, str]]:
    parts: list[tuple[str, str]] = []
    for severity in reversed(SEVERITIES):
        if severities.get(severity):
            parts += [(", " if parts else "", "quiet"), (plural(severities[severity], severity), severity)]
    return parts


def plural(number: int, noun: str) -> str:
    """``1 error``, ``2 errors``; an uncountable ``info`` stays as it is."""
    return f"{number:,} {noun}{'s' if number != 1 and noun != 'info' else ''}"


def verdict(screen: Screen, report: Report) -> None:
    """Print the one line that says it all, with the exit code. It is not wrapped."""
    numbers, spec = report.summary, report.subject.spec
    total = plural(numbers.conversations, "conversation")
    missing = numbers.conversations - numbers.evaluated
    mark, style = screen.glyphs.ok, "ok"
    reference = report.reference.spec
    expected = "what its chat template shows" if reference.startswith("chat-template") else f"what {reference} does"
    sentence = f"{spec} feeds this model {expected}, in {total}."
    if numbers.agree < numbers.evaluated:
        equal = f"({numbers.agree} equal to the token)"
        sentence = f"No errors or warnings in {total}: {spec} feeds this model {expected} {equal}."
    if report.known:
        sentence = f"Nothing new in {total}."
    if numbers.error:
        mark, style = screen.glyphs.bad, "error"
        sentence = f"{_found(report)}: {spec} does not feed this model {expected}."
    elif numbers.warning:
        mark, style = "!", "warning"
        sentence = f"{_found(report)}: {spec} feeds this model almost {expected}."
    if missing:
        mark, style = "?", "error"
        known = numbers.evaluated and sentence
        sentence = f"{missing} of {total} could not be evaluated." + (f" {known}" if known else "")
    if report.known:
        sentence += f" {plural(len(report.known), 'finding')} known from the baseline."
    if report.suppressed:
        sentence += f" {plural(len(report.suppressed), 'finding')} ignored."
    screen.line((f"{mark} {screen.prose(sentence)} Exit {report.exit_code}.", style))


def _found(report: Report) -> str:
    """``3 errors and 2 warnings in 5 of 15 conversations``, or nothing."""
    causes = [cause.first for cause in by_cause(report.findings) if cause.first.severity != "info"]
    if not causes:
        return ""
    numbers = [sum(finding.severity == severity for finding in causes) for severity in ("error", "warning")]
    said = " and ".join(plural(n, noun) for n, noun in zip(numbers, ("error", "warning"), strict=True) if n)
    shown = sum(any(s != "info" for s in severities) for severities in finding_counts(report).values())
    return f"{said} in {shown} of {plural(len(report.comparisons), 'conversation')}" if shown else said
