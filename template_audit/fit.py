"""What still differs where a template was ranked, in a few words, and why the first one goes before the default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from template_audit.audit import audit
from template_audit.findings import SEVERITIES, Severity
from template_audit.matching import taken_probes

if TYPE_CHECKING:
    from template_audit.matching import Match
    from template_audit.model import Model

_ABOUT_THE_MODEL = ("template-rewritten", "tokenizer-files-disagree", "template-source-conflict", "eos-mismatch")
"""Rules that say the same of every template, or nothing of how it writes."""
_FEW = 3


@dataclass(frozen=True, slots=True)
class Difference:
    """A rule that fires at warning or above, and in how many of the probes; 0 for one about the tokenizer."""

    rule: str
    severity: Severity
    probes: int
    messages: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.rule} ({self.probes})" if self.probes else self.rule


def differences(model: Model, match: Match, framework_source: str | None = None) -> list[Difference]:
    """What the rules say at warning or above of a template on the probes that it was ranked by, gravest first."""
    report = audit(model, subject=match.spec, conversations=taken_probes(model), framework_source=framework_source)
    found: dict[str, tuple[Severity, set[str]]] = {}
    messages: dict[str, list[str]] = {}
    for finding in report.findings:
        if finding.severity != "info" and finding.rule not in _ABOUT_THE_MODEL:
            _, talks = found.setdefault(finding.rule, (finding.severity, set()))
            talks.update([finding.conversation] if finding.conversation else [])
            messages.setdefault(finding.rule, []).append(finding.message)
    listed = [
        Difference(rule, severity, len(talks), tuple(messages[rule])) for rule, (severity, talks) in found.items()
    ]
    return sorted(listed, key=lambda d: (-SEVERITIES.index(d.severity), -d.probes, d.rule))


def why_not_the_default(matches: Sequence[Match], listed: Sequence[Sequence[Difference]], framework: str) -> str | None:
    """Why the first match goes before the framework's default, in a sentence; None when it is the default.

    `listed` has the differences of each match. None, too, when the default is not among the matches.
    """
    default = next((i for i, match in enumerate(matches) if match.default), 0)
    if default == 0:
        return None
    first, other = matches[0], matches[default]
    sentence = f"`{first.template}` goes before `{other.template}`, {framework}'s default for this model: "
    sentence += _measure(first, other)
    for match, mine, theirs in ((other, listed[default], listed[0]), (first, listed[0], listed[default])):
        if named := _named(mine, theirs):
            sentence += f"; `{match.template}` has {named}"
    known = {message for difference in listed[0] for message in difference.messages}
    only = [message for difference in listed[default] for message in difference.messages if message not in known]
    return f"{sentence}." + (f" With `{other.template}`: {only[0]}" if only else "")


def _measure(first: Match, other: Match) -> str:
    for what, a, b in (
        ("tokens", first.tokens, other.tokens),
        ("special tokens", first.special, other.special),
        ("labels", first.labels, other.labels),
    ):
        if (a or 0.0) != (b or 0.0):
            return f"{a or 0.0:.1%} of the {what} are equal, not {b or 0.0:.1%}"
    return "both fit equally well"


def _named(mine: Sequence[Difference], theirs: Sequence[Difference]) -> str:
    """The gravest rules that fire for one template, and for the other not or in fewer probes."""
    known = {difference.rule: difference.probes for difference in theirs}
    more = [d for d in mine if d.rule not in known or d.probes > known[d.rule]]
    return ", ".join(f"{d.rule} in {d.probes} probe{'' if d.probes == 1 else 's'}" for d in more[:_FEW] if d.probes)
