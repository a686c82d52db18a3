"""What a rule finds, in the shape that every report prints."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")


def at_least(severity: Severity, threshold: Severity) -> bool:
    """True when `severity` is `threshold` or graver."""
    return SEVERITIES.index(severity) >= SEVERITIES.index(threshold)


class Evidence(msgspec.Struct, frozen=True):
    """A stretch of one stream: half-open token range, the ids in it and the text they cover."""

    start: int
    end: int
    ids: list[int]
    text: str


class Finding(msgspec.Struct, frozen=True):
    """One thing that one rule found.

    `conversation` is None for findings about the model and the encoder as such. `message` is one
    sentence with the evidence in it. `turn` is the index of the message in the conversation.
    `fingerprint` identifies the finding across runs; it depends on no position or line number.
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


def fingerprint(*parts: str | int | None) -> str:
    """A short stable digest of what makes a finding this finding."""
    joined = "\x1f".join("" if part is None else str(part) for part in parts)
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:16]
