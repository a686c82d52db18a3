"""What an audit found out: each conversation's comparison, and the whole report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from template_audit.alignment import Alignment
from template_audit.config import Config, Ignore, Suppressed
from template_audit.conversation import Conversation
from template_audit.errors import NOT_EVALUATED, EncodingError
from template_audit.findings import (
    SCHEMA_VERSION,
    SEVERITIES,
    ConversationRecord,
    EncoderRecord,
    FileRecord,
    Finding,
    FindingRecord,
    MaskRecord,
    MismatchRecord,
    ModelRecord,
    ReportRecord,
    Summary,
    Threshold,
    TokenizerRecord,
    at_least,
)
from template_audit.stream import EncodedStream

if TYPE_CHECKING:
    from template_audit.frameworks.interface import Encoder, Mismatch
    from template_audit.model import Model

REFUSALS = ("role-unsupported", "example-dropped", "unknown-special-token")
"""Kinds of EncodingError that are a result: the encoder does not take such a conversation."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One conversation through both encoders: two streams and their alignment, or who refused."""

    conversation: Conversation
    reference: EncodedStream | EncodingError
    subject: EncodedStream | EncodingError
    alignment: Alignment | None
    reference_name: str = "the chat template"

    @property
    def evaluated(self) -> bool:
        """False when nothing can be said: the template is missing, broken or hit a limit, or the tool did.

        A refusal is a result. So is a framework that raises, on either side, for its training run would, too.
        """
        if isinstance(self.subject, EncodingError) and self.subject.kind == NOT_EVALUATED:
            return False
        return not isinstance(self.reference, EncodingError) or self.reference.kind in (*REFUSALS, "encoding-failed")

    @property
    def agrees(self) -> bool | None:
        """True when both sides give the same ids; None when there was nothing to compare."""
        return None if self.alignment is None else self.alignment.agrees

    @property
    def unsupported(self) -> bool:
        """True when both sides refuse: the model does not support such a conversation."""
        return all(isinstance(s, EncodingError) and s.kind in REFUSALS for s in (self.reference, self.subject))

    @property
    def lacks(self) -> str | None:
        """What the conversation has and the reference never writes: tools or reasoning; None when nothing."""
        if isinstance(self.reference, EncodingError):
            return None
        written = {piece.origin.field for piece in self.reference.pieces}
        reasoning = any(message.reasoning for message in self.conversation.messages)
        wanted = {"tools": bool(self.conversation.tools), "reasoning": reasoning}
        missing = [name for name, given in wanted.items() if given and name not in written]
        return " and ".join(missing) or None

    @property
    def reason(self) -> str | None:
        """Why the streams cannot be compared, or only in part; None when all of both was compared."""
        errors = [str(side) for side in (self.reference, self.subject) if isinstance(side, EncodingError)]
        if self.unsupported:
            errors.insert(0, "Not supported by this model:")
        elif self.lacks:
            errors.append(f"Not supported by this model: {self.reference_name} does not write {self.lacks}.")
        return " ".join(dict.fromkeys(errors)) or None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that an audit found out. `why` says how each encoder was chosen."""

    model: Model
    reference: Encoder
    subject: Encoder
    reference_why: str
    subject_why: str
    comparisons: tuple[Comparison, ...]
    findings: tuple[Finding, ...]
    """By severity, gravest first; then in the order of the catalogue, then of the conversations."""
    fail_on: Threshold = "error"
    versions: Mapping[str, str] = field(default_factory=dict)
    suppressed: tuple[Suppressed, ...] = ()
    """Findings that the configuration ignores; they are not among `findings` and do not count."""
    unused_ignores: tuple[Ignore, ...] = ()
    """Ignores that fit this model, encoder and conversations, and took no finding."""
    config: Config = field(default_factory=Config)
    known: tuple[FindingRecord, ...] = ()
    """Findings that the baseline accepts; they are not among `findings` and do not count."""
    gone: tuple[FindingRecord, ...] = ()
    """Findings of the baseline that are no more."""

    @property
    def exit_code(self) -> Literal[0, 1, 2]:
        """2: something could not be evaluated, which weighs more than findings. 1: findings. 0: neither."""
        if not all(comparison.evaluated for comparison in self.comparisons):
            return 2
        return 1 if any(at_least(finding.severity, self.fail_on) for finding in self.findings) else 0

    @property
    def mismatches(self) -> tuple[Mismatch, ...] | None:
        """Where the built-in encoder and the installed framework part; None when there was no installed one."""
        found: list[Mismatch] | None = getattr(self.subject, "mismatches", None)
        return None if found is None else tuple(found)

    @property
    def summary(self) -> Summary:
        """Numbers of findings and conversations."""
        severities = [finding.severity for finding in self.findings]
        return Summary(
            **{severity: severities.count(severity) for severity in SEVERITIES},
            conversations=len(self.comparisons),
            evaluated=sum(comparison.evaluated for comparison in self.comparisons),
            agree=sum(comparison.agrees is True for comparison in self.comparisons),
        )

    def mask(self) -> list[MaskRecord]:
        """The mask that the reference implies beside the one that training uses; see `template_audit.mask`."""
        from template_audit.mask import mask_table  # the rules' helpers, which import this module's neighbours

        return mask_table(self.model, self.reference, self.subject, self.comparisons)

    def record(self) -> ReportRecord:
        """The report as it is published; see `template_audit.findings`."""
        return ReportRecord(
            schema_version=SCHEMA_VERSION,
            model=model_record(self.model),
            versions=dict(self.versions),
            reference=encoder_record(self.reference, self.reference_why),
            subject=encoder_record(self.subject, self.subject_why),
            conversations=[
                ConversationRecord(
                    c.conversation.id, c.evaluated, c.reason, c.agrees, _length(c.reference), _length(c.subject)
                )
                for c in self.comparisons
            ],
            findings=[finding.record() for finding in self.findings],
            summary=self.summary,
            exit_code=self.exit_code,
            verification=None
            if self.mismatches is None
            else [MismatchRecord(m.conversation, m.position, m.what) for m in self.mismatches],
            suppressed=[suppressed.record() for suppressed in self.suppressed],
            unused_ignores=[ignore.record() for ignore in self.unused_ignores],
            fail_on=self.fail_on,
            known=list(self.known),
            gone=list(self.gone),
            mask=self.mask(),
        )

    def to_dict(self) -> dict[str, Any]:
        """The JSON report as plain Python values."""
        record: dict[str, Any] = msgspec.to_builtins(self.record())
        return record


def model_record(model: Model) -> ModelRecord:
    """A model as reports publish it."""
    tokenizer = model.tokenizer
    return ModelRecord(
        model.id,
        model.revision,
        [FileRecord(file.path, file.sha256) for file in model.files],
        TokenizerRecord(type(tokenizer).__name__, len(tokenizer)),
    )


def encoder_record(encoder: Encoder, why: str) -> EncoderRecord:
    """An encoder as reports publish it; `why` says how it was chosen."""
    return EncoderRecord(encoder.spec, dict(encoder.options), why, list(encoder.notes))


def _length(side: EncodedStream | EncodingError) -> int | None:
    return None if isinstance(side, EncodingError) else len(side)
