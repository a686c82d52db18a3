"""Two streams laid beside each other. (Placeholder types; the comparison follows.)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from template_audit.stream import EncodedStream

HunkKind = Literal["equal", "segmentation", "whitespace", "missing", "extra", "replaced"]


class Hunk(NamedTuple):
    """One stretch of the alignment: half-open token ranges in the reference and in the subject.

    `segmentation`: the same text in other ids. `whitespace`: the text differs in whitespace only.
    `missing`: only the reference has it. `extra`: only the subject has it.
    """

    kind: HunkKind
    ref_start: int
    ref_end: int
    sub_start: int
    sub_end: int


@dataclass(frozen=True, slots=True)
class Alignment:
    """The hunks tile both streams, in order."""

    reference: EncodedStream
    subject: EncodedStream
    hunks: list[Hunk]

    @property
    def agrees(self) -> bool:
        """True when the two streams have the same ids throughout."""
        return all(hunk.kind == "equal" for hunk in self.hunks)
