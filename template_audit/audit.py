"""The core: conversations through two encoders, what differs, and what the rules say about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from template_audit.alignment import Alignment, compare
from template_audit.config import Config, versionless
from template_audit.conversation import Conversation
from template_audit.errors import NOT_EVALUATED, EncodingError, UsageError
from template_audit.findings import (
    SEVERITIES,
    Evidence,
    Finding,
    Level,
    Severity,
    Threshold,
    fingerprint,
)
from template_audit.frameworks import get_framework, nearest, parse_spec
from template_audit.locations import RunFile, located
from template_audit.matching import choose_encoder
from template_audit.probes import load_probes, probes
from template_audit.results import Comparison, Report
from template_audit.rules import all_rules
from template_audit.rules.interface import Case, Hit, ModelCase, Rule, called
from template_audit.stream import EncodedStream

if TYPE_CHECKING:
    from template_audit.frameworks.interface import Encoder
    from template_audit.model import Model

SCOPES = ("conversation", "model", "refusal")
"""Scopes of the rules that an audit applies."""


def audit(
    model: Model,
    *,
    subject: str | Encoder = "llamafactory",
    reference: str | Encoder = "chat-template",
    conversations: Sequence[Conversation] | None = None,
    fail_on: Threshold | None = None,
    severities: Mapping[str, Level] | None = None,
    config: Config | None = None,
    options: Mapping[str, Any] | None = None,
    reference_options: Mapping[str, Any] | None = None,
    subject_why: str | None = None,
    framework_source: str | None = None,
    python: str | None = None,
    training_config: Path | None = None,
) -> Report:
    """Encode every conversation with both encoders and apply every rule.

    `subject` and `reference` are SPECs or encoders that are loaded already; a SPEC without a template
    is completed by the framework's own choice for the model, else by the best match. `conversations`
    default to the built-in probes. `severities` replace the rules' own; ``off`` leaves a rule out. `config` is
    what `template_audit.config` reads from a project's files (None: nothing is read); its findings to ignore
    are in the report as `suppressed`, and `severities` and `fail_on` go before it. `options` are the subject's; those
    that the reference has, too (a clock, `enable_thinking`), hold for both unless `reference_options`
    say otherwise. `framework_source` is a copy of the subject's framework to read, and `python` the
    interpreter of an environment in which it is installed (see `load_encoder`). `subject_why` replaces
    the sentence that says how the subject was chosen. `training_config` is the file that describes the
    run, where there is one: findings point at its lines.

    Raises UsageError for an unknown rule, severity, encoder, template or option.
    """
    config = config or Config()
    fail_on = fail_on or config.fail_on or "error"
    severities = {**config.severities, **(severities or {})}
    rules = rules_with(severities, fail_on)
    builtin = {conversation.id: conversation for conversation in load_probes(model)}
    given = list(builtin.values()) if conversations is None else list(conversations)
    reference, reference_why = choose_encoder(
        reference, model, **{**common_options(reference, options or {}), **(reference_options or {})}
    )
    subject, chosen_why = choose_encoder(
        subject, model, framework_source=framework_source, python=python, **(options or {})
    )
    compared = tuple(compare_all(given, reference, subject))
    examined = Examiner(model, reference, subject, rules, severities, builtin)
    run = None if training_config is None else RunFile(training_config, parse_spec(subject.spec).template)
    sifted = config.sift(
        located(examined.findings(compared), model, compared, reference=reference.spec, run=run),
        model=model.id,
        encoder=subject.spec,
        conversations=[conversation.id for conversation in given],
        scopes=SCOPES,
    )
    return Report(
        model=model,
        reference=reference,
        subject=subject,
        reference_why=reference_why,
        subject_why=subject_why or chosen_why,
        comparisons=compared,
        findings=sifted.findings,
        fail_on=fail_on,
        versions={**versions_of(model), **_installed_versions(subject)},
        suppressed=sifted.suppressed,
        unused_ignores=sifted.unused,
        config=config,
    )


def compare_all(conversations: Sequence[Conversation], reference: Encoder, subject: Encoder) -> Iterator[Comparison]:
    """Every conversation through both encoders, and the streams laid beside each other."""
    theirs = reference.encode_batch(conversations, keep_errors=True)
    ours = subject.encode_batch(conversations, keep_errors=True)
    for conversation, ref, sub in zip(conversations, theirs, ours, strict=True):
        alignment = None
        if isinstance(ref, EncodedStream) and isinstance(sub, EncodedStream):
            alignment = compare(ref, sub)
        yield Comparison(conversation, ref, sub, alignment, called(reference))


def common_options(reference: str | Encoder, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the subject's options that the reference has, too."""
    if not isinstance(reference, str):
        return {}
    known = {option.name for option in get_framework(parse_spec(reference).framework).options()}
    return {name: value for name, value in options.items() if name in known}


def rules_with(severities: Mapping[str, Level], fail_on: Threshold) -> dict[str, Rule]:
    """All rules. Raises UsageError for an unknown rule in `severities`, a severity or a threshold that is none."""
    rules = all_rules()
    for name, severity in {**severities, "": fail_on}.items():
        if name and name not in rules:
            raise UsageError(f"There is no rule `{name}`.{nearest(name, list(rules))}")
        if severity not in SEVERITIES and severity != ("off" if name else "never"):
            raise UsageError(f"`{severity}` is no severity; known are {', '.join(SEVERITIES)}.")
    return rules


def _installed_versions(encoder: Encoder) -> dict[str, str]:
    """Versions in the environment that the encoder's framework is installed in, if it runs in one."""
    versions: Mapping[str, str] = getattr(encoder, "versions", {})
    return {f"installed {name}": version for name, version in versions.items()}


def versions_of(model: Model) -> dict[str, str]:
    """The versions of what read the model, and of this package."""
    from template_audit import __version__

    return {**model.versions, "template-audit": __version__}


@dataclass(frozen=True, slots=True)
class Examiner:
    """Applies the rules and turns their hits into findings."""

    model: Model
    reference: Encoder
    subject: Encoder
    rules: Mapping[str, Rule]
    severities: Mapping[str, Level]
    builtin: Mapping[str, Conversation] = field(default_factory=dict)
    """The probes as this model gets them, by id."""

    def findings(self, comparisons: Sequence[Comparison]) -> list[Finding]:
        """Everything that the rules find, each finding once: by severity, catalogue and conversation."""
        found: list[tuple[Finding, int]] = []
        cases = []
        for place, comparison in enumerate(comparisons):
            if comparison.alignment is None:
                found += [(finding, place) for finding in self.refused(comparison)]
                continue
            case = self.case(comparison.conversation, comparison.alignment)
            cases.append(case)
            for rule in self.in_scope("conversation"):
                found += [(finding, place) for finding in self.of_rule(rule, case, comparison.lacks)]
        found += [(finding, -1) for finding in self.of_model(cases)]
        order = list(self.rules)
        found.sort(key=lambda item: (-SEVERITIES.index(item[0].severity), order.index(item[0].rule), item[1]))
        once = {(finding.rule, finding.fingerprint): finding for finding, _ in reversed(found)}
        return [finding for finding, _ in found if once[finding.rule, finding.fingerprint] is finding]

    def case(self, conversation: Conversation, alignment: Alignment) -> Case:
        """What rules look at: a conversation and its two streams beside each other."""
        return Case(
            self.model,
            conversation,
            self.reference,
            self.subject,
            alignment.reference,
            alignment.subject,
            alignment,
        )

    def in_scope(self, scope: str) -> Iterator[Rule]:
        """The rules of a scope that are on."""
        return (rule for rule in self.rules.values() if rule.scope == scope and self._on(rule))

    def _on(self, rule: Rule) -> bool:
        return self.severities.get(rule.name) != "off"

    def of_rule(self, rule: Rule, case: Case, lacks: str | None = None) -> Iterator[Finding]:
        """What one rule finds in a case: one finding for every cause, the first place stands for the others."""
        for same in by_key(rule.check(case)):
            yield self._finding(rule, _first(same), case.conversation, case, lacks)

    def of_model(self, cases: Sequence[Case]) -> Iterator[Finding]:
        """What the rules about the model and the encoders find."""
        model_case = ModelCase(self.model, self.reference, self.subject, tuple(cases))
        for rule in self.in_scope("model"):
            yield from self.of_model_rule(rule, model_case)

    def of_model_rule(self, rule: Rule, case: ModelCase) -> Iterator[Finding]:
        """What one of the rules about the model finds."""
        for same in by_key(rule.check(case)):
            yield self._finding(rule, _first(same), None)

    def refused(self, comparison: Comparison) -> Iterator[Finding]:
        """The findings about a conversation that one side does not take."""
        if comparison.unsupported:
            return
        for side, encoder, other in (
            (comparison.reference, self.reference, comparison.subject),
            (comparison.subject, self.subject, comparison.reference),
        ):
            if not isinstance(side, EncodingError) or side.kind == NOT_EVALUATED:
                continue
            rule = self.rules.get(side.kind, self.rules["encoding-failed"])
            if not self._on(rule):
                continue
            message = str(side)
            if isinstance(other, EncodedStream) and rule.name == "role-unsupported":
                message += f" {(self.subject if encoder is self.reference else self.reference).spec} encodes it."
            about_model = rule.name == "template-missing"
            yield self._finding(rule, Hit(message, key=side.kind), None if about_model else comparison.conversation)

    def cause(self, rule: Rule, key: str) -> str:
        """What is the same for findings of `rule` with this key, whatever the conversation."""
        return fingerprint(rule.name, versionless(self.reference.spec), versionless(self.subject.spec), key)

    def severity(
        self, rule: Rule, hit: Hit, conversation: Conversation | None = None, lacks: str | None = None
    ) -> Severity:
        """The user's word counts first; a probe that asks for what the model cannot do accuses nobody."""
        chosen = self.severities.get(rule.name, "off")
        if chosen != "off":
            return chosen
        builtin = conversation is not None and self.builtin.get(conversation.id) == conversation
        if conversation is not None and builtin and (lacks or rule.name in probes()[conversation.id].provoked):
            return "info"
        return hit.severity or rule.severity

    def _finding(
        self,
        rule: Rule,
        hit: Hit,
        conversation: Conversation | None,
        case: Case | None = None,
        lacks: str | None = None,
    ) -> Finding:
        turn = hit.turn
        cause = self.cause(rule, hit.key)
        return Finding(
            rule=rule.name,
            severity=self.severity(rule, hit, conversation, lacks),
            conversation=None if conversation is None else conversation.id,
            message=hit.message,
            turn=turn,
            role=None if turn is None or conversation is None else conversation.messages[turn].role,
            reference=_evidence(case.reference, hit.reference) if case else None,
            subject=_evidence(case.subject, hit.subject) if case else None,
            why=rule.why,
            advice=hit.advice or rule.advice,
            fingerprint=fingerprint(cause, None if conversation is None else conversation.id),
            cause=cause,
        )


def by_key(hits: Iterable[Hit]) -> Iterable[list[Hit]]:
    """Hits of one rule with the same key put together, in the order in which they came."""
    groups: dict[str, list[Hit]] = {}
    for hit in hits:
        groups.setdefault(hit.key, []).append(hit)
    return groups.values()


def _first(same: list[Hit]) -> Hit:
    return same[0] if len(same) == 1 else replace(same[0], message=f"{same[0].message} ({len(same)} times.)")


def _evidence(stream: EncodedStream, span: tuple[int, int] | None) -> Evidence | None:
    if span is None:
        return None
    start, end = span
    text = stream.text[stream.spans[start][0] : max(e for _, e in stream.spans[start:end])] if end > start else ""
    return Evidence(start, end, stream.input_ids[start:end], text)
