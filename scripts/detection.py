"""`make detection`: what the rules find in the incident corpus, and what they say of pairs that agree.

    python scripts/detection.py [--write] [INCIDENT…]

Prints recall, precision and every miss; with ``--write`` also docs/detection.md. With names of
incidents it prints all that is found in these. The data: fixtures/incidents/README.md.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from template_audit import load_encoder, load_model
from template_audit.audit import audit
from template_audit.conversation import Conversation
from template_audit.findings import SEVERITIES, Finding
from template_audit.frameworks.interface import Encoder
from template_audit.model import Model
from template_audit.probes import probe, probes
from template_audit.results import Report

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from described_encoder import DescribedEncoder  # noqa: E402 - beside this script
from mutation_page import summary  # noqa: E402 - beside this script

INCIDENTS = ROOT / "fixtures" / "incidents"
BENIGN = ROOT / "fixtures" / "benign.json"
MODELS = ROOT / "fixtures" / "models"
CONVERSATIONS = ROOT / "fixtures" / "conversations"
REPORT = ROOT / "docs" / "detection.md"
MUTATIONS = ROOT / "docs" / "detection-mutations.md"


@dataclass(frozen=True)
class Incident:
    """One rebuilt failure: what to audit, and what has to be found."""

    id: str
    framework: str
    title: str
    source: str
    said: str
    """What the public thread reports, in our words."""
    model: Mapping[str, Any]
    subject: Mapping[str, Any]
    conversation: Any
    expected: Sequence[Mapping[str, Any]]
    reference: Mapping[str, Any] = field(default_factory=dict)
    miss: str = ""
    """Why it is known not to be caught."""


@dataclass(frozen=True)
class Outcome:
    """An incident, what was found, and which expectations no finding met."""

    incident: Incident
    report: Report
    missed: tuple[Mapping[str, Any], ...]

    @property
    def caught(self) -> bool:
        """True when everything that has to be found was found."""
        return not self.missed


@dataclass(frozen=True)
class Agreement:
    """A pair that agrees and the findings at warning or above, of which there must be none."""

    name: str
    conversations: int
    report: Report

    @property
    def accusations(self) -> list[Finding]:
        """Findings at warning or above."""
        return [finding for finding in self.report.findings if finding.severity != "info"]


def incidents() -> list[Incident]:
    """The corpus, framework by framework."""
    return [
        Incident(framework=path.stem, **row)
        for path in sorted(INCIDENTS.glob("*.json"))
        for row in json.loads(path.read_text(encoding="utf-8"))
    ]


def model_of(description: Mapping[str, Any]) -> Model:
    """A fixture model, changed as told.

    `fixture` is its folder. `template` is another chat template (see `template_text`), null for none.
    `files` holds by name what is merged into a json file, or the text of another one.
    """
    return _model(json.dumps(description, sort_keys=True))


@cache
def _model(description: str) -> Model:
    told: dict[str, Any] = json.loads(description)
    source = MODELS / told["fixture"]
    if set(told) == {"fixture"}:
        return load_model(str(source))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / source.name
        shutil.copytree(source, folder)
        config = folder / "tokenizer_config.json"
        if "template" in told:
            text = template_text(told["template"], source.name)
            for path in (folder / "chat_template.jinja", folder / "additional_chat_templates"):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            _merge(config, {"chat_template": text})
        for name, change in told.get("files", {}).items():
            if isinstance(change, Mapping):
                _merge(folder / name, change)
            else:
                (folder / name).write_text(change, encoding="utf-8")
        return load_model(str(folder))


def _merge(path: Path, change: Mapping[str, Any]) -> None:
    data = {**json.loads(path.read_text(encoding="utf-8")), **change}
    path.write_text(json.dumps({k: v for k, v in data.items() if v is not None}, ensure_ascii=False), encoding="utf-8")


def template_text(told: Any, fixture: str) -> str | None:
    """A chat template: its text, or ``{"of": FIXTURE, "edits": [[OLD, NEW], …]}`` with the given fixture as default."""
    if told is None or isinstance(told, str):
        return told
    text = load_model(str(MODELS / told.get("of", fixture))).chat_templates["default"]
    for old, new in told.get("edits", ()):
        if old not in text:
            raise ValueError(f"{told}: the template has no {old!r}")
        text = text.replace(old, new)
    return text


def encoder_of(told: Mapping[str, Any], model: Model, fixture: str) -> Encoder:
    """The encoder that `spec` and `options` name, or one that is described (see `described_encoder`)."""
    if "spec" in told:
        return load_encoder(told["spec"], model, **told.get("options", {}))
    description = dict(told["described"])
    for key in ("template", "saves"):
        if key in description:
            description[key] = template_text(description[key], fixture)
    return DescribedEncoder(model, description)


def conversation_of(told: Any, model: Model) -> Conversation:
    """The name of a probe, ``file:NAME`` for one of fixtures/conversations, or the conversation itself.

    Probes become conversations of their own, because an audit is lenient with what a probe provokes on purpose.
    """
    if not isinstance(told, str):
        return Conversation.from_openai(told, id="incident")
    if told.startswith("file:"):
        data = json.loads((CONVERSATIONS / f"{told[5:]}.json").read_text(encoding="utf-8"))
        return Conversation.from_openai(data, id=told)
    found = probe(told, model)
    return Conversation(found.messages, found.tools, id=f"as {told}")


def run(incident: Incident) -> Outcome:
    """Rebuild and audit one incident."""
    model = model_of(incident.model)
    fixture = incident.model["fixture"]
    report = audit(
        model,
        subject=encoder_of(incident.subject, model, fixture),
        reference=encoder_of({"spec": "chat-template", **incident.reference}, model, fixture),
        conversations=[conversation_of(incident.conversation, model)],
    )
    missed = [wanted for wanted in incident.expected if not any(_meets(f, wanted) for f in report.findings)]
    return Outcome(incident, report, tuple(missed))


def _meets(finding: Finding, wanted: Mapping[str, Any]) -> bool:
    """True when the finding is the one that has to be found, in its place and at its severity or above."""
    texts = [finding.message, *(side.text for side in (finding.reference, finding.subject) if side)]
    return (
        finding.rule == wanted["rule"]
        and SEVERITIES.index(finding.severity) >= SEVERITIES.index(wanted.get("severity", "warning"))
        and wanted.get("turn", finding.turn) == finding.turn
        and wanted.get("role", finding.role) == finding.role
        and any(wanted.get("text", "") in text for text in texts)
    )


def agreements() -> Iterator[Agreement]:
    """The benign corpus: every pair with every conversation that it is given."""
    for row in json.loads(BENIGN.read_text(encoding="utf-8")):
        model = model_of(row["model"])
        fixture = row["model"]["fixture"]
        names = (
            [name for name in probes() if name not in row.get("except", ())] if "all" in row else row["conversations"]
        )
        conversations = [probe(name, model) if name in probes() else conversation_of(name, model) for name in names]
        report = audit(
            model,
            subject=encoder_of(row["subject"], model, fixture),
            reference=encoder_of({"spec": "chat-template", **row.get("reference", {})}, model, fixture),
            conversations=conversations,
        )
        told = row["subject"]
        name = f"{row.get('name') or told.get('spec')} on {fixture}"
        yield Agreement(name, len(conversations), report)


def main(arguments: Sequence[str]) -> int:
    """Exit code 0 when recall is 95 % or more and nobody is falsely accused."""
    names = [argument for argument in arguments if not argument.startswith("--")]
    if names:
        for incident in incidents():
            if incident.id in names:
                _explain(run(incident))
        return 0
    outcomes = [run(incident) for incident in incidents()]
    pairs = list(agreements())
    text = report_text(outcomes, pairs)
    print(text)
    if "--write" in arguments:
        REPORT.write_text(text, encoding="utf-8")
    return 0 if recall(outcomes) >= 0.95 and not any(pair.accusations for pair in pairs) else 1


def recall(outcomes: Sequence[Outcome]) -> float:
    """The share of incidents in which everything was found that has to be found."""
    return sum(outcome.caught for outcome in outcomes) / len(outcomes)


def _explain(outcome: Outcome) -> None:
    print(f"{outcome.incident.id}: {'caught' if outcome.caught else f'missed {list(outcome.missed)}'}")
    for finding in outcome.report.findings:
        print(f"  {finding.severity:8}{finding.rule:26} turn {finding.turn} {finding.role}: {finding.message}")
    for comparison in outcome.report.comparisons:
        for side in (comparison.reference, comparison.subject):
            print(f"  {getattr(side, 'text', side)!r}")


def report_text(outcomes: Sequence[Outcome], pairs: Sequence[Agreement]) -> str:
    """docs/detection.md."""
    caught = [outcome for outcome in outcomes if outcome.caught]
    missed = [outcome for outcome in outcomes if not outcome.caught]
    accused = [pair for pair in pairs if pair.accusations]
    versions = outcomes[0].report.versions
    frameworks = sorted({outcome.incident.framework for outcome in outcomes})
    rules = {wanted["rule"] for outcome in outcomes for wanted in outcome.incident.expected}
    lines = [
        "# What is detected",
        "",
        "Written by `make detection`; the test suite computes the numbers again. How cases are described:",
        "[fixtures/incidents/README.md](../fixtures/incidents/README.md).",
        "",
        f"{date.today().isoformat()}, {', '.join(f'{name} {version}' for name, version in versions.items())}.",
        "",
        "| | |",
        "|---|---|",
        f"| incidents | {len(outcomes)}, in {len(frameworks)} groups, for {len(rules)} rules |",
        f"| recall | {len(caught)} of {len(outcomes)} ({recall(outcomes):.1%}) |",
        f"| pairs that agree | {len(pairs)}, with {sum(pair.conversations for pair in pairs)} conversations |",
        f"| pairs accused at warning or above | {len(accused)} |",
        "",
        "An incident is caught when every rule named beside it fires, at warning or above unless said otherwise, in",
        "the turn and with the text that it names. Nothing may fire at warning or above on a pair that agrees.",
        "",
        *summary(MUTATIONS.read_text(encoding="utf-8")).splitlines(),
        "",
        "## Missed",
        "",
        *(map(_line, missed) if missed else ["Nothing."]),
        "",
        "## Accused though they agree",
        "",
        *(
            [f"- {pair.name}: {finding.rule}. {finding.message}" for pair in accused for finding in pair.accusations]
            or ["Nobody."]
        ),
        "",
        "## The incidents",
        "",
        "Each was rebuilt from what a public thread reports, with a fixture model in place of the real one.",
        "",
    ]
    for framework in frameworks:
        lines += [f"### {framework}", "", "| incident | reported in | rules that must fire | |", "|---|---|---|---|"]
        for outcome in outcomes:
            one = outcome.incident
            if one.framework == framework:
                told = f"| {one.title} | {_link(one.source)} | {_wanted(one.expected)} |"
                lines.append(f"{told} {'caught' if outcome.caught else '**missed**'} |")
        lines.append("")
    lines += ["## The pairs that agree", "", "| pair | conversations |", "|---|---|"]
    lines += [f"| {pair.name} | {pair.conversations} |" for pair in pairs]
    lines += ["", "Left out, because there the template itself does not keep its word:", ""]
    for row in json.loads(BENIGN.read_text(encoding="utf-8")):
        for name, why in row.get("except", {}).items():
            lines.append(f"- {row['model']['fixture']}, {name}: {why}")
    return "\n".join(lines) + "\n"


def _line(outcome: Outcome) -> str:
    one = outcome.incident
    return f"- {one.title} ({_link(one.source)}): {_wanted(outcome.missed)}. {one.miss}".rstrip()


def _link(source: str) -> str:
    repository, number = source.split("#")
    return f"[{source}](https://github.com/{repository}/issues/{number})"


def _wanted(expected: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(
        f"`{wanted['rule']}`" + (f" ({wanted['severity']})" if "severity" in wanted else "") for wanted in expected
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
