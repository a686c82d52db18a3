"""What rows that differ in their words alone have in common, as ids: a pattern, made of a row that was looked at.

`structure.py` needs streams with the place of every token. Where both encoders give ids and labels
quickly (`template_audit.ids`), most rows need no streams: a `Pattern` is the ids of the template's text
around the runs of a row that was looked at, on both sides, and a row fits it when it has the same ids
there, the same labels, and between them runs that are equal on both sides and plain (`fitting.py`).

What ids and labels do not tell of a row must be regular (`template_audit.ids.is_regular`): its prompts, and
that the template copies its texts.

Where the runs begin follows from the labels, which turn on and off in the template's text, and from
control tokens.

In most rows every run is the whole text of its message. Where a side trims whitespace around a text, or
a token holds template and text, a run leaves out the ends of the text: they stand in the gaps, as ids.
Such a pattern holds only for rows whose texts have the same whitespace around them, character by
character, and the same characters outside of the runs (`Edge`). With the same ids, everything around
the runs is then the same as in the row that was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from template_audit.conversation import Conversation
from template_audit.ids import is_regular
from template_audit.rules.control import ControlTokens
from template_audit.scanning.structure import Plain, Run, between, own_text
from template_audit.stream import IGNORE, EncodedStream

if TYPE_CHECKING:
    from template_audit.scanning.evaluate import Verdict


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a pattern: `gaps` are the ids around the runs (bytes of int32), `labels` theirs."""

    gaps: list[bytes]
    labels: list[bytes]
    trained: list[bool]
    size: int
    """Tokens in all gaps."""
    changes: list[tuple[int, int]]
    """Where labels turn on or off: the gap, and how many tokens after its beginning."""
    notes: tuple[str, ...]


class Edge(NamedTuple):
    """The ends of a message's text, without whitespace around it, that are outside of its run."""

    message: int
    field: str
    head: str
    tail: str


class Anchor(NamedTuple):
    """What tells where a gap begins: `offset` tokens before a change of a side's labels, or before a control token."""

    kind: Literal["subject", "reference", "control"]
    number: int
    """Which of the row's changes or control tokens."""
    offset: int


@dataclass(slots=True)
class Pattern:
    """What is the same in all rows that differ in their words alone, and what was found in them."""

    verdict: Verdict
    reference: Side
    subject: Side
    controls: list[tuple[int, int]]
    """The subject's control tokens: the gap, and the place in it."""
    anchors: list[Anchor]
    """For each gap but the first and the last."""
    edges: list[Edge] | None
    """For each run what of its text it leaves out; None when every run is the whole of its text."""
    around: tuple[list[str], list[str]] | None
    """The text around the runs, of the reference and of the subject, where there is a system prompt."""
    fitted: int = 0
    """How many rows fitted it."""

    @property
    def runs(self) -> int:
        """How many runs the rows have."""
        return len(self.subject.trained)


def pattern_of(
    plain: Plain,
    verdict: Verdict,
    conversation: Conversation,
    reference: EncodedStream,
    subject: EncodedStream,
    control: ControlTokens,
) -> Pattern | None:
    """The pattern of a plain row; None when its ids alone do not tell the rows that are like it."""
    if not plain.runs or _beside_brace(reference, plain.theirs) or _beside_brace(subject, plain.runs):
        return None
    if any(stream.prompts and not is_regular(conversation, stream) for stream in (reference, subject)):
        return None
    edges = None
    if not (_whole(reference, plain.theirs) and _whole(subject, plain.runs)):
        edges = _edges(conversation, subject, plain.runs)
        if edges is None or edges != _edges(conversation, reference, plain.theirs):
            return None
    around = None
    if conversation.system:
        if edges is not None and any(edge.head and edge.message == 0 for edge in edges):
            return None
        around = between(reference, plain.theirs), between(subject, plain.runs)
    theirs, ours = _side(reference, plain.theirs), _side(subject, plain.runs)
    controls = []
    for gap, ids in enumerate(_gaps(subject.input_ids, plain.runs)):
        controls += [(gap, place) for place, token in enumerate(ids) if token in control]
    anchors = []
    for gap in range(1, len(plain.runs)):
        anchor = _anchor(gap, ours.changes, theirs.changes, controls)
        if anchor is None:
            return None
        anchors.append(anchor)
    return Pattern(verdict, theirs, ours, controls, anchors, edges, around)


def _anchor(
    gap: int, ours: list[tuple[int, int]], theirs: list[tuple[int, int]], controls: list[tuple[int, int]]
) -> Anchor | None:
    kinds: tuple[tuple[Literal["subject", "reference", "control"], list[tuple[int, int]]], ...]
    kinds = ("subject", ours), ("reference", theirs), ("control", controls)
    for kind, places in kinds:
        for number, (where, offset) in enumerate(places):
            if where == gap:
                return Anchor(kind, number, offset)
    return None


def _whole(stream: EncodedStream, runs: Sequence[Run]) -> bool:
    """True when every run is the whole of its piece."""
    spans = stream.spans
    return all(spans[run.start][0] == run.piece.start and spans[run.end - 1][1] == run.piece.end for run in runs)


def _beside_brace(stream: EncodedStream, runs: Sequence[Run]) -> bool:
    """True when the template writes a brace beside a piece, which may be a placeholder with what is in the piece."""
    text = stream.text
    return any("{" in (text[r.piece.start - 1 : r.piece.start], text[r.piece.end : r.piece.end + 1]) for r in runs)


def _edges(conversation: Conversation, stream: EncodedStream, runs: Sequence[Run]) -> list[Edge] | None:
    """What the runs leave out of their texts; None when a piece is not the message's text, or an end is cut within
    a character."""
    spans, out = stream.spans, []
    for run in runs:
        start, end, origin = run.piece
        first, last = spans[run.start][0], spans[run.end - 1][1]
        if (run.start and spans[run.start - 1][1] > first) or (run.end < len(spans) and spans[run.end][0] < last):
            return None
        message, name = origin.message, own_text(origin)
        if message is None or name is None:
            return None
        value = getattr(conversation.messages[message], name)
        text = stream.text[start:end]
        if value is None or value.strip() != text.strip():
            return None
        out.append(Edge(message, name, stream.text[start:first].lstrip(), stream.text[last:end].rstrip()))
    return out


def _gaps(ids: Sequence[int], runs: Sequence[Run]) -> list[Sequence[int]]:
    edges = [0, *(edge for run in runs for edge in (run.start, run.end)), len(ids)]
    return [ids[edges[k] : edges[k + 1]] for k in range(0, len(edges), 2)]


def _side(stream: EncodedStream, runs: Sequence[Run]) -> Side:
    gaps, labels = _gaps(stream.input_ids, runs), _gaps(stream.labels, runs)
    trained = [stream.labels[run.start] != IGNORE for run in runs]
    changes: list[tuple[int, int]] = []
    on = False
    for gap, values in enumerate(labels):
        for place, label in enumerate(values):
            if (label != IGNORE) != on:
                on = not on
                changes.append((gap, place))
        if gap < len(runs) and trained[gap] != on:
            on = not on
            changes.append((gap, len(values)))
    return Side(
        [_bytes(part) for part in gaps],
        [_bytes(part) for part in labels],
        trained,
        sum(map(len, gaps)),
        changes,
        stream.notes,
    )


def _bytes(ids: Sequence[int]) -> bytes:
    import numpy as np

    return np.array(ids, dtype=np.int32).tobytes()
