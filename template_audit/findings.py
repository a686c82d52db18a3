"""What an audit finds and what its report holds, in the shape that every format prints."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import msgspec

SCHEMA_VERSION = 1
"""Raised whenever a reader of the JSON report would have to change."""

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")


Threshold = Literal["info", "warning", "error", "never"]
"""From which severity on a finding fails an audit."""

Level = Literal["off", "info", "warning", "error"]
"""What a user may make of a rule: a severity, or ``off``, which leaves it out."""


def at_least(severity: Severity, threshold: Threshold) -> bool:
    """True when `severity` is `threshold` or graver; never for the threshold ``never``."""
    return threshold != "never" and SEVERITIES.index(severity) >= SEVERITIES.index(threshold)


class Evidence(msgspec.Struct, frozen=True):
    """A stretch of one stream: half-open token range, the ids in it and the text they cover."""

    start: int
    end: int
    ids: list[int]
    text: str


class Location(msgspec.Struct, frozen=True):
    """Where the cause of a finding stands: a file and, where it is certain, a line in it, counted from 1.

    `path` is relative to the working directory when the file lies in it; the file of a model of the hub is
    ``org/name/FILE``.
    """

    path: str
    line: int | None = None


class FindingRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A finding as the JSON report has it.

    `conversation` is None for findings about the model and the encoder as such. `message` is one
    sentence with the evidence in it. `turn` is the index of the message in the conversation.
    `fingerprint` identifies the finding across runs; it depends on no position or line number.
    `cause` is equal for findings of one rule that have the same cause in different conversations.
    """

    rule: str
    severity: Severity
    conversation: str | None
    message: str
    turn: int | None
    role: str | None
    reference: Evidence | None
    subject: Evidence | None
    why: str
    advice: str
    fingerprint: str
    cause: str = ""
    location: Location | None = None


class Finding(FindingRecord, frozen=True):
    """One thing that one rule found."""

    def record(self) -> FindingRecord:
        """The part that is in the JSON report."""
        return FindingRecord(**{name: getattr(self, name) for name in FindingRecord.__struct_fields__})


class Cause(NamedTuple):
    """Findings of one rule with one cause. The first of the gravest stands for all."""

    first: FindingRecord
    conversations: tuple[str, ...]
    """The conversations that show it, in order; empty for a finding about the model."""


def by_cause(findings: Iterable[FindingRecord]) -> list[Cause]:
    """Findings with the same rule and cause put together, in the order of their gravest ones."""
    groups: dict[tuple[str, str], list[FindingRecord]] = {}
    for finding in sorted(findings, key=lambda finding: -SEVERITIES.index(finding.severity)):
        groups.setdefault((finding.rule, finding.cause or finding.fingerprint), []).append(finding)
    return [
        Cause(group[0], tuple(dict.fromkeys(f.conversation for f in group if f.conversation is not None)))
        for group in groups.values()
    ]


def fingerprint(*parts: str | int | None) -> str:
    """A short stable digest of what makes a finding this finding."""
    joined = "\x1f".join("" if part is None else str(part) for part in parts)
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:16]


# --- the JSON report -------------------------------------------------------------------------------


class FileRecord(msgspec.Struct, frozen=True):
    """A file of the model that was read."""

    path: str
    sha256: str


class TokenizerRecord(msgspec.Struct, frozen=True, rename={"kind": "class"}):
    """The tokenizer's class and the number of its tokens, added ones included."""

    kind: str
    size: int


class ModelRecord(msgspec.Struct, frozen=True):
    """Which model was audited."""

    id: str
    revision: str | None
    files: list[FileRecord]
    tokenizer: TokenizerRecord


class EncoderRecord(msgspec.Struct, frozen=True):
    """One side of the comparison: its SPEC, every option in force, why it was taken, and remarks on it."""

    spec: str
    options: dict[str, Any]
    why: str
    notes: list[str] = []


class ConversationRecord(msgspec.Struct, frozen=True):
    """What became of one conversation. `agrees` is None when there were no two streams to compare."""

    id: str
    evaluated: bool
    reason: str | None
    agrees: bool | None
    reference_tokens: int | None
    subject_tokens: int | None


class Summary(msgspec.Struct, frozen=True):
    """Numbers of findings by severity, and of conversations."""

    error: int
    warning: int
    info: int
    conversations: int
    evaluated: int
    agree: int


class MismatchRecord(msgspec.Struct, frozen=True):
    """Where the built-in encoder parts from the installed framework: at a token index, or altogether (null)."""

    conversation: str
    position: int | None
    what: str


class SuppressedRecord(msgspec.Struct, frozen=True):
    """A finding that the configuration ignores; `reason` is the configuration's. It counts nowhere else."""

    finding: FindingRecord
    reason: str


class IgnoreRecord(msgspec.Struct, frozen=True):
    """An entry of the configuration's ignores; a scope that is null is every model, encoder or conversation."""

    rule: str
    reason: str
    model: str | None
    encoder: str | None
    probe: str | None


TokenClass = Literal["content", "reasoning", "tool call", "header", "turn end", "trailing whitespace", "other roles"]


class MaskRecord(msgspec.Struct, frozen=True):
    """How many tokens of a class each side trains, and how many it has, over all conversations that were compared."""

    kind: TokenClass
    reference_trained: int
    reference_tokens: int
    subject_trained: int
    subject_tokens: int


class ReportRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The JSON report.

    `fail_on` is the threshold that `exit_code` goes by. `verification` is there when an installed framework
    took part; empty means equal. `suppressed` are findings that the configuration ignores and
    `unused_ignores` its entries that fit this model and encoder and took no finding. `known` are findings
    that the baseline accepts, and `gone` those in the baseline that are no more. `mask` holds the mask that the
    reference implies against the one that training uses, by class of tokens. What is empty is left out.
    """

    schema_version: int
    model: ModelRecord
    versions: dict[str, str]
    reference: EncoderRecord
    subject: EncoderRecord
    conversations: list[ConversationRecord]
    findings: list[FindingRecord]
    summary: Summary
    exit_code: Literal[0, 1, 2]
    verification: list[MismatchRecord] | None = None
    suppressed: list[SuppressedRecord] = []
    unused_ignores: list[IgnoreRecord] = []
    fail_on: Threshold = "error"
    known: list[FindingRecord] = []
    gone: list[FindingRecord] = []
    mask: list[MaskRecord] = []


def report_schema() -> dict[str, Any]:
    """The JSON Schema of the report, as published in docs/schema/report.schema.json."""
    schema = msgspec.json.schema(ReportRecord)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "template-audit report", **schema}
