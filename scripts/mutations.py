"""Mutation testing of the auditor: break one thing in a pair that agrees, and see what the audit says.

For every mutant: is there a finding that the unbroken pair does not have (detected), of a rule that is right for
what was broken (right rule), that points at what changed (right place)? What changed is read off the streams before
and after the mutation; the rules have no part in it. `python scripts/mutations.py` writes docs/detection-mutations.md.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mutation_chat import CHAT
from mutation_operators import Operator, Words
from mutation_subject import FRAMEWORK, LABELS

from template_audit import audit, load_encoder, load_model
from template_audit.conversation import Conversation
from template_audit.errors import EncodingError, TemplateAuditError
from template_audit.findings import Finding, at_least
from template_audit.frameworks.interface import Encoder
from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
from template_audit.model import Model
from template_audit.probes import load_probes
from template_audit.results import Report
from template_audit.stream import IGNORE, EncodedStream, Origin

ROOT = Path(__file__).resolve().parent.parent
PAIRS = (
    ("chatml-plain", "chatml"),
    ("qwen25-like", "qwen"),
    ("gemma-like", "gemma"),
    ("exaone35-like", "exaone"),
    ("hermes-like", "cpm4"),
    ("qwen3-like", "qwen3"),
    ("qwen25-like", None),
    ("qwen3-like", None),
    ("llama3-like", None),
    ("hermes-like", None),
    ("exaone4-like", None),
    ("mistral-like", None),
    ("phi-like", None),
)
"""Fixture models, each with a framework template, or with its own chat template (None)."""

TALKS = (
    "single",
    "multi-turn",
    "system",
    "edge-whitespace",
    "tool-call",
    "parallel-calls",
    "text-and-call",
    "reasoning",
)
SEED = 20260
_OWN = ("literal", "role", "other")
"""Fields that are the template's own text."""

Region = tuple[str, int, int]
"""Tokens that a mutation changed: the side, and a half-open range there; an empty one is a place between tokens."""


class Mutated:
    """An encoder's streams with other labels."""

    def __init__(self, encoder: Encoder, operator: Operator) -> None:
        self.spec, self.model, self.options = encoder.spec, encoder.model, encoder.options
        self.effects, self.notes = encoder.effects, encoder.notes
        self._encoder, self._operator = encoder, operator
        if hasattr(encoder, "tokenizer"):
            self.tokenizer = encoder.tokenizer

    def encode(self, conversation: Conversation) -> EncodedStream:
        stream = self._encoder.encode(conversation)
        return replace(stream, labels=self._operator.mutate(stream, conversation))

    def encode_batch(
        self, conversations: Sequence[Conversation], *, keep_errors: bool = False
    ) -> list[EncodedStream | EncodingError]:
        return [self.encode(conversation) for conversation in conversations]


class Pair:
    """A model, a reference and a subject that agree, and the conversations on which they do."""

    def __init__(self, name: str, template: str | None) -> None:
        self.name = f"{name} × {template or 'itself'}"
        self.model = load_model(ROOT / "fixtures" / "models" / name)
        self.reference = load_encoder("chat-template", self.model)
        self.subject = load_encoder(f"llamafactory:{template}", self.model) if template else self.reference
        report = audit(self.model, subject=self.subject, reference=self.reference, conversations=_talks(self.model))
        loud = {finding.conversation for finding in report.findings if at_least(finding.severity, "warning")}
        agreeing = [c for c in report.comparisons if c.agrees and c.conversation.id not in loud]
        self.talks = [c.conversation for c in agreeing]
        self.before = [(c.reference, c.subject) for c in agreeing]
        self.known = {_identity(finding) for finding in report.findings}

    @cached_property
    def words(self) -> Words:
        """What the operators need to know of the model."""
        talk = Conversation.from_openai(
            [{"role": "system", "content": "Answer in verse."}, {"role": "user", "content": "Hi"}]
        )
        try:
            stream = self.reference.encode(talk)
            block = stream.text[: next(turn.char_start for turn in stream.turns if turn.message == 1)]
        except (EncodingError, StopIteration):
            block = "Answer in verse.\n\n"
        return Words.of(self.model.tokenizer, block.removeprefix(str(self.model.tokenizer.bos_token)))

    def mutants(self) -> Iterator[Mutant]:
        """Every mutant of this pair, equivalent ones too."""
        encoder: Any = self.subject
        for operator in CHAT:
            for key, source in self.model.chat_templates.items():
                for site, template in operator.mutate(source, self.words):
                    templates = {**self.model.chat_templates, key: template}
                    yield Mutant(self, operator, site if key == "default" else f"{site} of {key}", templates)
        if isinstance(encoder, LlamaFactoryEncoder):
            for operator in FRAMEWORK:
                for site, spec in operator.mutate(encoder.template, self.words):
                    yield Mutant(self, operator, site, spec)
        for operator in LABELS:
            yield Mutant(self, operator, "", None)


@dataclass(frozen=True)
class Mutant:
    """One broken pair. The chat template is broken on the reference's side, or the subject's when it is both."""

    pair: Pair
    operator: Operator
    site: str
    change: Any

    @property
    def name(self) -> str:
        return f"{self.operator.kind} · {self.operator.name} · {self.pair.name}" + (f" · {self.site}" * bool(self.site))

    @property
    def side(self) -> int:
        """0 when the reference is broken, 1 when the subject is."""
        framework = self.pair.subject is not self.pair.reference
        return 0 if self.operator.kind == "chat template" and framework else 1

    def encoders(self) -> tuple[Model, Encoder, Encoder]:
        """The model, reference and subject. Raises TemplateAuditError for what no longer loads."""
        pair, encoder = self.pair, self.pair.subject
        if self.operator.kind == "labels":
            return pair.model, pair.reference, Mutated(encoder, self.operator)
        if self.operator.kind == "chat template":
            model = replace(pair.model, chat_templates=self.change)
            broken = load_encoder("chat-template", model)
            return (model, broken, encoder) if self.side == 0 else (pair.model, pair.reference, broken)
        assert isinstance(encoder, LlamaFactoryEncoder)
        broken = LlamaFactoryEncoder(pair.model, encoder.registry, self.change, encoder.options)
        return pair.model, pair.reference, broken


@dataclass(frozen=True, slots=True)
class Result:
    """What the audit said of a mutant that is not equivalent."""

    kind: str
    operator: str
    does: str
    mutant: str
    detected: bool
    rule: bool
    place: bool
    found: tuple[str, ...]
    """The rules of the new findings."""
    right: tuple[str, ...]


def measure(mutant: Mutant) -> Result | None:
    """Audit a mutant; None for an equivalent one and for one that no longer compiles."""
    try:
        model, reference, subject = mutant.encoders()
        report = audit(model, reference=reference, subject=subject, conversations=mutant.pair.talks)
    except TemplateAuditError:
        return None
    changes = _changes(mutant, report)
    if not changes or any(not c.evaluated for c in report.comparisons):
        return None
    wanted = mutant.operator.severity
    new = [f for f in report.findings if at_least(f.severity, wanted) and _identity(f) not in mutant.pair.known]
    zones = {zone for change in changes.values() for zone in change.zones}
    right = mutant.operator.right(zones, ("reference", "subject")[mutant.side]) | (
        {"role-unsupported"} if "refused" in zones else set()
    )
    fitting = [finding for finding in new if finding.rule in right]
    return Result(
        mutant.operator.kind,
        mutant.operator.name,
        mutant.operator.does,
        mutant.name,
        bool(new),
        bool(fitting),
        any(_points(finding, mutant, changes) for finding in fitting or new),
        tuple(dict.fromkeys(finding.rule for finding in new)),
        tuple(sorted(right)),
    )


@dataclass(frozen=True, slots=True)
class Change:
    """What a mutation did to one conversation's streams."""

    regions: tuple[Region, ...]
    messages: frozenset[int]
    """Messages in whose turns the regions lie, or at whose edge."""
    zones: frozenset[str]


def _changes(mutant: Mutant, report: Report) -> dict[str, Change]:
    """By conversation; those whose streams did not change are left out."""
    found: dict[str, Change] = {}
    for comparison, before in zip(report.comparisons, mutant.pair.before, strict=True):
        talk, old = comparison.conversation, before[mutant.side]
        new = (comparison.reference, comparison.subject)[mutant.side]
        assert isinstance(old, EncodedStream)
        if isinstance(new, EncodingError):
            found[talk.id] = Change((), frozenset(range(len(talk.messages))), frozenset({"refused"}))
        elif change := _change(mutant, talk, old, new):
            found[talk.id] = change
    return found


def _change(mutant: Mutant, talk: Conversation, old: EncodedStream, new: EncodedStream) -> Change | None:
    here, there = ("reference", "subject") if mutant.side == 0 else ("subject", "reference")
    regions: list[Region] = []
    messages: set[int] = set()
    zones: set[str] = set()
    last_old, last_new = _last(old), _last(new)
    for tag, a, b, c, d in SequenceMatcher(None, old.input_ids, new.input_ids, autojunk=False).get_opcodes():
        if tag != "equal":
            if a > last_old and c > last_new:
                continue  # behind the last end marker: neither trained nor shown
            regions += [(here, c, d), (there, a, b)]
            messages |= _turns_at(old, a, b) | _turns_at(new, c, d)
            zones |= _zones_at(old, talk, a, b)
            continue
        if mutant.operator.kind == "labels":
            for i in range(b - a):
                if old.labels[a + i] != new.labels[c + i]:
                    regions += [(here, c + i, c + i + 1), (there, a + i, a + i + 1)]
                    messages |= _turns_at(old, a + i, a + i + 1)
                    zones |= _zones_at(old, talk, a + i, a + i + 1)
    if mutant.side == 0:
        for then, now in zip(old.prompts, new.prompts, strict=True):
            if then.input_ids != now.input_ids and then.error is None:
                same = _common(then.input_ids, now.input_ids)
                regions += [(side, same, max(same, len(then.input_ids))) for side in (here, there)]
                messages.add(then.message)
                zones.add("header:assistant")
    return Change(tuple(regions), frozenset(messages), frozenset(zones)) if regions else None


def _last(stream: EncodedStream) -> int:
    """The last trained token that is more than whitespace."""
    trained = (i for i in range(len(stream) - 1, -1, -1) if stream.labels[i] != IGNORE)
    return next((i for i in trained if stream.token_text(i).strip()), -1)


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _turns_at(stream: EncodedStream, start: int, end: int) -> set[int]:
    turns = (turn for turn in stream.turns if turn.message is not None)
    return {turn.message for turn in turns if turn.start <= end and start <= turn.end and turn.message is not None}


def _zones_at(stream: EncodedStream, talk: Conversation, start: int, end: int) -> set[str]:
    """Zones of these tokens: ``opening``, ``header:role``, ``body:role``, ``end:role``; of a place, both sides'."""
    indices = range(start, end) if start < end else range(max(start - 1, 0), min(start + 1, len(stream)))
    origins = stream.origins
    return {_zone(stream, origins, talk, i) for i in indices}


def _zone(stream: EncodedStream, origins: Sequence[Origin], talk: Conversation, index: int) -> str:
    origin = origins[index]
    if origin.field in ("default_system", "tools", "system"):
        return "opening"
    if origin.message is not None and origin.field not in _OWN:
        return f"body:{talk.messages[origin.message].role}"
    turn = next((t for t in stream.turns if t.start <= index < t.end), None)
    if turn is None or turn.message is None:
        return "opening"
    said = range(turn.start, turn.end)
    fields = [i for i in said if origins[i].message == turn.message and origins[i].field not in _OWN]
    if not fields:
        return f"body:{turn.role}"
    place = "header" if index < fields[0] else "end" if index > fields[-1] else "body"
    return f"{place}:{turn.role}"


def _identity(finding: Finding) -> tuple[str, str]:
    return finding.rule, finding.fingerprint


def _points(finding: Finding, mutant: Mutant, changes: dict[str, Change]) -> bool:
    """True when a finding lies at what changed: evidence that touches it, in a turn at it or the one after."""
    if finding.conversation is None:
        quotes = mutant.operator.quotes
        return quotes in finding.message
    change = changes.get(finding.conversation)
    if change is None:
        return False
    if finding.turn is not None and not {finding.turn, finding.turn - 1} & change.messages:
        return False
    if "refused" in change.zones or (finding.reference is None and finding.subject is None):
        return True
    sides = (("reference", finding.reference), ("subject", finding.subject))
    return any(
        name == side and evidence is not None and evidence.start <= end and start <= evidence.end
        for name, evidence in sides
        for side, start, end in change.regions
    )


def _talks(model: Model) -> list[Conversation]:
    """Probes under other names, so that the audit takes them for a user's, and fixture conversations."""
    talks = [replace(talk, id=f"own-{talk.id}") for talk in load_probes(model) if talk.id in TALKS]
    for name in ("system_two_turns",):
        data = json.loads((ROOT / "fixtures" / "conversations" / f"{name}.json").read_text(encoding="utf-8"))
        talks.append(Conversation.from_openai(data))
    return talks


def sample(mutants: Sequence[Mutant], sites: int, seed: int = SEED) -> list[Mutant]:
    """At most `sites` mutants of each operator and pair, drawn with a seed."""
    groups: dict[tuple[str, str, str], list[Mutant]] = {}
    for mutant in mutants:
        groups.setdefault((mutant.pair.name, mutant.operator.kind, mutant.operator.name), []).append(mutant)
    draw = random.Random(seed)
    return [m for group in groups.values() for m in (group if len(group) <= sites else draw.sample(group, sites))]


def measure_pair(name: str, template: str | None, sites: int, only: str = "") -> tuple[list[Result], int]:
    """The results of one pair, and how many of its mutants were left out."""
    pair = Pair(name, template)
    mutants = [m for m in sample(list(pair.mutants()), sites) if only in m.name]
    results = [result for mutant in mutants if (result := measure(mutant))]
    for r in results:
        if not (r.detected and r.rule and r.place):
            print(f"  missed: {r.mutant}: {', '.join(r.found) or 'nothing'}", file=sys.stderr)
    print(f"{pair.name}: {len(pair.talks)} conversations, {len(mutants)} mutants", file=sys.stderr)
    return results, len(mutants) - len(results)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sites", type=int, default=3, help="at most so many places of each operator and pair")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--only", default="", help="only operators whose name holds this; nothing is written")
    parser.add_argument("--pair", default="", help="only pairs whose name holds this; nothing is written")
    args = parser.parse_args()
    pairs = [pair for pair in PAIRS if args.pair in f"{pair[0]} × {pair[1] or 'itself'}"]
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        futures = [pool.submit(measure_pair, name, template, args.sites, args.only) for name, template in pairs]
        done = [future.result() for future in futures]
    results = [result for found, _ in done for result in found]
    skipped = sum(count for _, count in done)
    from mutation_page import page, with_summary

    text = page(results, skipped, args.sites)
    print(text)
    if not args.only and not args.pair:
        (ROOT / "docs" / "detection-mutations.md").write_text(text, encoding="utf-8")
        detection = ROOT / "docs" / "detection.md"
        detection.write_text(with_summary(detection.read_text(encoding="utf-8"), text), encoding="utf-8")


if __name__ == "__main__":
    main()
