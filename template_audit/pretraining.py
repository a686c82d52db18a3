"""Pre-training data as a framework feeds it: documents in blocks, and what became of them.

Framework-neutral. An encoder turns a stream of documents into blocks, one at a time, and counts as
it goes, so that memory does not grow with the data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import msgspec

from template_audit.blocks import Block, Separator, Totals
from template_audit.config import Config, Ignore, Suppressed, versionless
from template_audit.errors import DataError, UsageError
from template_audit.findings import (
    SCHEMA_VERSION,
    SEVERITIES,
    EncoderRecord,
    Evidence,
    Finding,
    FindingRecord,
    Level,
    ReportRecord,
    Summary,
    Threshold,
    at_least,
    fingerprint,
)
from template_audit.frameworks import check_options, frameworks, get_framework, parse_spec
from template_audit.frameworks.interface import EncoderRequest, Option, TokenizerEffects
from template_audit.results import model_record

if TYPE_CHECKING:
    from template_audit.model import Model
    from template_audit.rules.interface import Hit, Rule


@runtime_checkable
class Documents(Protocol):
    """Texts that can be read more than once, and what to call them."""

    def __iter__(self) -> Iterator[str]: ...

    def count(self) -> int:
        """The number of documents; may read the data."""
        ...

    def name(self, document: int) -> str:
        """What a document is called, once it was read."""
        ...


class PretrainEncoder(Protocol):
    """Turns documents into blocks for one model. It never changes the model it was given."""

    spec: str
    model: Model
    options: Mapping[str, Any]
    effects: TokenizerEffects
    tokenizer: Any
    """The encoder's own, changed copy."""
    separator: Separator
    packing: bool
    block_size: int
    """Tokens in a packed block; the most that an unpacked example has."""
    notes: tuple[str, ...]
    """Remarks on how the options work together."""

    def blocks(self, documents: Iterable[str], totals: Totals) -> Iterator[Block]:
        """The blocks of `documents`, in order, counting into `totals`.

        Where the framework cuts the data set into parts by its length, anything but `Documents` is
        held in memory. Raises EncodingError where the framework raises.
        """
        ...

    def open_documents(
        self,
        names: Sequence[str],
        *,
        dataset_dir: str | Path | Mapping[str, Any] | None = None,
        column: str | None = None,
        max_samples: int | None = None,
        seed: int = 42,
    ) -> Documents:
        """Data sets as the framework reads them: files, or names that `dataset_dir` describes.

        `column` names the column of text in a file that the framework has no description of. `seed`
        is what rows are drawn with.
        """
        ...


@runtime_checkable
class PretrainFramework(Protocol):
    """What a framework offers beside `Framework` when it pre-trains."""

    def pretrain_options(self) -> Sequence[Option]:
        """The options that matter in pre-training."""
        ...

    def load_pretrain(self, request: EncoderRequest) -> PretrainEncoder:
        """Build the encoder. Raises UsageError for unknown templates and options that are refused."""
        ...


def check_pretraining(spec: str, options: Mapping[str, Any]) -> tuple[PretrainFramework, dict[str, Any]]:
    """The framework that `spec` names and all its options, before any model is loaded.

    Raises UsageError for a framework that is unknown or does not pre-train, and for an unknown option.
    """
    framework = get_framework(parse_spec(spec).framework)
    if not isinstance(framework, PretrainFramework):
        known = [name for name, other in frameworks().items() if isinstance(other, PretrainFramework)]
        raise UsageError(f"{framework.title} does not pre-train; frameworks that do are {', '.join(known)}.")
    return framework, check_options(framework, dict(options), framework.pretrain_options())


def load_pretrain_encoder(
    spec: str, model: Model, *, framework_source: str | None = None, python: str | None = None, **options: Any
) -> PretrainEncoder:
    """The pre-training encoder that `spec` names, for `model`.

    Raises UsageError as `check_pretraining`, and for an unknown version or template.
    """
    framework, checked = check_pretraining(spec, options)
    parsed = parse_spec(spec)
    return framework.load_pretrain(
        EncoderRequest(model, parsed.version, parsed.template, checked, source=framework_source, python=python)
    )


def choose_pretrain_encoder(
    spec: str, model: Model, *, framework_source: str | None = None, python: str | None = None, **options: Any
) -> tuple[PretrainEncoder, str]:
    """As `load_pretrain_encoder`; a SPEC without a template is completed as for SFT. Also says why it is this one."""
    from template_audit.matching import choose_encoder

    if parse_spec(spec).template is not None:
        why = "It was asked for."
    else:
        chosen, why = choose_encoder(spec, model, framework_source=framework_source)
        spec = chosen.spec
    return load_pretrain_encoder(spec, model, framework_source=framework_source, python=python, **options), why


@dataclass(frozen=True, slots=True)
class PretrainCase:
    """What a rule of scope "pretraining" may look at: the encoder and the finished totals.

    `turn_ends` are the ids that end an assistant's turn in the model's chat template, empty when it
    has none.
    """

    model: Model
    encoder: PretrainEncoder
    totals: Totals
    turn_ends: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class PretrainReport:
    """Everything about one stream. `why` says how the template was chosen; `block` is the one asked for.

    `names` are what the documents of that block are called.
    """

    encoder: PretrainEncoder
    why: str
    totals: Totals
    findings: tuple[Finding, ...]
    block: Block | None = None
    names: tuple[str, ...] = ()
    fail_on: Threshold = "error"
    versions: Mapping[str, str] = field(default_factory=dict)
    suppressed: tuple[Suppressed, ...] = ()
    unused_ignores: tuple[Ignore, ...] = ()
    known: tuple[FindingRecord, ...] = ()
    """Findings that the baseline accepts; they are not among `findings` and do not count."""
    gone: tuple[FindingRecord, ...] = ()
    """Findings of the baseline that are no more."""

    def to_dict(self) -> dict[str, Any]:
        """The JSON report as plain Python values; with a block, its ids, labels and spans."""
        encoder, totals = self.encoder, self.totals
        model = encoder.model
        out: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "model": {
                "id": model.id,
                "revision": model.revision,
                "files": [{"path": file.path, "sha256": file.sha256} for file in model.files],
            },
            "versions": dict(self.versions),
            "encoder": {"spec": encoder.spec, "options": dict(encoder.options), "why": self.why},
            "packing": encoder.packing,
            "block_size": encoder.block_size,
            "separator": msgspec.to_builtins(encoder.separator),
            "notes": list(self.notes),
            **msgspec.to_builtins(totals),
            "cross_document_attention": round(totals.cross_document_attention, 6),
            "findings": [msgspec.to_builtins(finding.record()) for finding in self.findings],
            "exit_code": self.exit_code,
        }
        if self.suppressed:
            out["suppressed"] = [msgspec.to_builtins(suppressed.record()) for suppressed in self.suppressed]
        if self.unused_ignores:
            out["unused_ignores"] = [msgspec.to_builtins(ignore.record()) for ignore in self.unused_ignores]
        for name, findings in (("known", self.known), ("gone", self.gone)):
            if findings:
                out[name] = msgspec.to_builtins(findings)
        if self.block is not None:
            out |= {
                "block": self.block.index,
                "input_ids": self.block.input_ids,
                "labels": self.block.labels,
                "replaced": self.block.replaced,
                "spans": [
                    {"name": name, **span._asdict(), "cut_before": span.cut_before, "cut_after": span.cut_after}
                    for span, name in zip(self.block.spans, self.names, strict=True)
                ],
            }
        return out

    def record(self) -> ReportRecord:
        """The report in the shape of an SFT audit, for the formats that print such: no conversations, no reference."""
        encoder = self.encoder
        severities = [finding.severity for finding in self.findings]
        return ReportRecord(
            schema_version=SCHEMA_VERSION,
            model=model_record(encoder.model),
            versions=dict(self.versions),
            reference=EncoderRecord("documents", {}, "Pre-training has no chat template to be held against."),
            subject=EncoderRecord(encoder.spec, dict(encoder.options), self.why, list(self.notes)),
            conversations=[],
            findings=[finding.record() for finding in self.findings],
            summary=Summary(
                **{severity: severities.count(severity) for severity in SEVERITIES},
                conversations=0,
                evaluated=0,
                agree=0,
            ),
            exit_code=self.exit_code,
            suppressed=[suppressed.record() for suppressed in self.suppressed],
            unused_ignores=[ignore.record() for ignore in self.unused_ignores],
            fail_on=self.fail_on,
            known=list(self.known),
            gone=list(self.gone),
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks on the encoder, and what an installed framework gave beside it."""
        remark: str | None = getattr(self.encoder, "remark", None)
        return self.encoder.notes if remark is None else (*self.encoder.notes, remark)

    @property
    def mismatches(self) -> bool:
        """True when an installed framework took part and gave something else than the built-in encoder."""
        return bool(getattr(self.encoder, "mismatches", ()))

    @property
    def exit_code(self) -> Literal[0, 1]:
        """1 when something at or above `fail_on` was found."""
        return 1 if any(at_least(finding.severity, self.fail_on) for finding in self.findings) else 0


def audit_pretraining(
    encoder: PretrainEncoder,
    documents: Iterable[str],
    *,
    block: int | None = None,
    why: str = "It was asked for.",
    fail_on: Threshold | None = None,
    severities: Mapping[str, Level] | None = None,
    config: Config | None = None,
    training_config: Path | None = None,
) -> PretrainReport:
    """Encode all documents, keep block number `block`, and apply the pre-training rules.

    `config` is that of `template_audit.config`; `severities` and `fail_on` go before it. `training_config` is the
    file that describes the run, where there is one: findings point at its lines.
    Raises UsageError when there is no such block, DataError when there are no documents, and
    EncodingError where the framework raises.
    """
    from template_audit.locations import RunFile, located
    from template_audit.rules import all_rules

    config = config or Config()
    levels = {**config.severities, **(severities or {})}
    totals = Totals()
    kept = None
    for made in encoder.blocks(documents, totals):
        if made.index == block:
            kept = made
    if not totals.documents:
        raise DataError("The data sets hold no documents: there is nothing to pre-train on.")
    if block is not None and kept is None:
        raise UsageError(f"There is no block {block}; this data set gives {totals.blocks}, counted from 0.")
    case = PretrainCase(encoder.model, encoder, totals, turn_ends(encoder.model))
    rules = {name: rule for name, rule in all_rules().items() if rule.scope == "pretraining"}
    found = [
        _finding(rule, hit, encoder, level)
        for name, rule in rules.items()
        if (level := levels.get(name)) != "off"
        for hit in rule.check(case)
    ]
    found.sort(key=lambda finding: (-SEVERITIES.index(finding.severity), list(rules).index(finding.rule)))
    spans = kept.spans if kept else ()
    names = (documents.name(s.document) if isinstance(documents, Documents) else f"#{s.document + 1}" for s in spans)
    run = None if training_config is None else RunFile(training_config, parse_spec(encoder.spec).template)
    placed = located(found, encoder.model, run=run)
    sifted = config.sift(placed, model=encoder.model.id, encoder=encoder.spec, scopes=("pretraining",))
    return PretrainReport(
        encoder,
        why,
        totals,
        sifted.findings,
        kept,
        tuple(names),
        fail_on or config.fail_on or "error",
        encoder.model.versions,
        sifted.suppressed,
        sifted.unused,
    )


def _finding(rule: Rule, hit: Hit, encoder: PretrainEncoder, level: Level | None) -> Finding:
    cause = fingerprint(rule.name, versionless(encoder.spec), hit.key)
    evidence = None
    if rule.name in ("missing-document-separator", "separator-is-turn-end", "separator-untrained"):
        separator = encoder.separator
        evidence = Evidence(0, len(separator.ids), list(separator.ids), separator.text)
    return Finding(
        rule=rule.name,
        severity=level if level is not None and level != "off" else hit.severity or rule.severity,
        conversation=None,
        message=hit.message,
        turn=None,
        role=None,
        reference=None,
        subject=evidence,
        why=rule.why,
        advice=hit.advice or rule.advice,
        fingerprint=fingerprint(cause, None),
        cause=cause,
    )


def turn_ends(model: Model) -> frozenset[int]:
    """The special token that follows an answer in the model's chat template; empty when there is none."""
    from template_audit.errors import TemplateAuditError
    from template_audit.frameworks import load_encoder
    from template_audit.probes import probe
    from template_audit.rules.sides import Side

    try:
        conversation = probe("single", model)
        stream = load_encoder("chat-template", model).encode(conversation)
    except TemplateAuditError:
        return frozenset()
    side = Side(stream)
    answer = max((i for i, m in enumerate(conversation.messages) if m.role == "assistant"), default=None)
    if answer is None or side.body(answer) is None:
        return frozenset()
    special = {i for i, token in model.tokenizer.added_tokens_decoder.items() if token.special}
    special.update(model.tokenizer.all_special_ids)
    first = next((stream.input_ids[i] for i in range(*side.after(answer)) if stream.token_text(i).strip()), None)
    return frozenset({first}) & special if first is not None else frozenset()
