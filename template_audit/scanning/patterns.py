"""Rows known by their ids alone: those that are a looked-at row with other words in it.

`structure.py` needs streams with the place of every token. Where both encoders give ids and labels
quickly (`template_audit.ids`), most rows need no streams: a `Pattern` is the ids of the template's text
around the runs of a row that was looked at, on both sides, and a row fits it when it has the same ids
there, the same labels, and between them runs that are equal on both sides and plain.

What ids and labels do not tell of a row must be regular (`template_audit.ids.is_regular`): its prompts, and
that the template copies its texts.

Where the runs begin follows from the labels, which turn on and off in the template's text, and from
control tokens.

In most rows every run is the whole text of its message. Where a side trims whitespace around a text, or
a token holds template and text, a run leaves out the ends of the text: they stand in the gaps, as ids.
Such a pattern holds only for rows whose texts have the same whitespace around them, character by
character, and the same characters outside of the runs (`_Edge`). With the same ids, everything around
the runs is then the same as in the row that was looked at.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from template_audit.conversation import Conversation
from template_audit.ids import is_regular
from template_audit.rules.control import ControlTokens
from template_audit.rules.data import may_hold_placeholder
from template_audit.scanning.structure import Plain, Run, asked, between, in_its_place, is_telling, own_text
from template_audit.stream import IGNORE, EncodedStream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from template_audit.ids import IdsBatch
    from template_audit.scanning.evaluate import Verdict

_ID = 4  # bytes
_TRIED = 8
"""So many patterns are tried for rows with the same roles and fields."""
_TRIED_EDGED = 64
"""So many with the same whitespace around their texts as well; most are ruled out by the ends of the texts."""
_KEPT = 4096
"""So many patterns are kept in all."""
_OUTER = 16
"""Rows with more whitespace than this before or after a text fit no pattern of their own, in characters."""


@dataclass(frozen=True, slots=True)
class _Side:
    """One side of a pattern. `gaps` are the ids (bytes) before, between and after the runs, `labels` theirs."""

    gaps: list[bytes]
    labels: list[bytes]
    trained: list[bool]
    size: int
    """Tokens in all gaps."""
    changes: list[tuple[int, int]]
    """Where labels turn on or off: the gap, and how many tokens after its beginning."""
    notes: tuple[str, ...]


class _Edge(NamedTuple):
    """The ends of a message's text, without whitespace around it, that are outside of its run."""

    message: int
    field: str
    head: str
    tail: str


@dataclass(frozen=True, slots=True)
class Pattern:
    """What is the same in all rows that differ in their words alone, and what was found in them."""

    verdict: Verdict
    reference: _Side
    subject: _Side
    controls: list[tuple[int, int]]
    """The subject's control tokens: the gap, and the place in it."""
    anchors: list[tuple[str, int, int]]
    """For each gap but the first and the last what tells its beginning: whose labels or controls, which, and how far
    before."""
    edges: list[_Edge] | None
    """For each run what of its text it leaves out; None when every run is the whole of its text."""
    around: tuple[list[str], list[str]] | None
    """The text around the runs, of the reference and of the subject, where there is a system prompt."""

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
) -> tuple[str, int, int] | None:
    for name, places in (("subject", ours), ("reference", theirs), ("control", controls)):
        for number, (where, offset) in enumerate(places):
            if where == gap:
                return name, number, offset
    return None


def _whole(stream: EncodedStream, runs: Sequence[Run]) -> bool:
    """True when every run is the whole of its piece."""
    spans = stream.spans
    return all(spans[run.start][0] == run.piece.start and spans[run.end - 1][1] == run.piece.end for run in runs)


def _beside_brace(stream: EncodedStream, runs: Sequence[Run]) -> bool:
    """True when the template writes a brace beside a piece, which may be a placeholder with what is in the piece."""
    text = stream.text
    return any("{" in (text[r.piece.start - 1 : r.piece.start], text[r.piece.end : r.piece.end + 1]) for r in runs)


def _edges(conversation: Conversation, stream: EncodedStream, runs: Sequence[Run]) -> list[_Edge] | None:
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
        out.append(_Edge(message, name, stream.text[start:first].lstrip(), stream.text[last:end].rstrip()))
    return out


def _outer(conversation: Conversation) -> tuple[str, ...] | None:
    """The whitespace before and after every text; None when it is long."""
    out = []
    for message in conversation.messages:
        for text in (message.content, message.reasoning):
            if text and not text.isspace():
                before, after = len(text) - len(text.lstrip()), len(text.rstrip())
                if before > _OUTER or len(text) - after > _OUTER:
                    return None
                out += [text[:before], text[after:]]
    return tuple(out)


def _in_its_place(given: str, pattern: Pattern) -> bool:
    return pattern.around is None or all(in_its_place(given, gaps, gaps[0]) for gaps in pattern.around)


def _has_edges(conversation: Conversation, edges: Sequence[_Edge]) -> bool:
    """True when the texts have these ends, and more between them."""
    for message, name, head, tail in edges:
        if head or tail:
            text = getattr(conversation.messages[message], name).strip()
            if len(text) <= len(head) + len(tail) or not (text.startswith(head) and text.endswith(tail)):
                return False
    return True


def _gaps(ids: Sequence[int], runs: Sequence[Run]) -> list[Sequence[int]]:
    edges = [0, *(edge for run in runs for edge in (run.start, run.end)), len(ids)]
    return [ids[edges[k] : edges[k + 1]] for k in range(0, len(edges), 2)]


def _side(stream: EncodedStream, runs: Sequence[Run]) -> _Side:
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
    return _Side(
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


class Patterns:
    """The patterns of a scan, and the rows that fit them."""

    def __init__(self, control: ControlTokens, limit: Any) -> None:
        self.limit = limit if isinstance(limit, int) else None
        self._control = control
        self._by_key: dict[tuple[Any, ...], list[Pattern]] = {}
        self._count = 0
        self._edged = False
        self._table: NDArray[np.bool_] | None = None

    def add(self, conversation: Conversation, pattern: Pattern) -> None:
        """Keep a pattern; rows with the same roles and fields are held against it."""
        key = asked(conversation)
        if key is None or self._count >= _KEPT:
            return
        tried = _TRIED
        if pattern.edges is not None:
            outer, tried = _outer(conversation), _TRIED_EDGED
            if outer is None:
                return
            key = (key, outer)
            self._edged = True
        known = self._by_key.setdefault(key, [])
        if len(known) < tried:
            known.append(pattern)
            self._count += 1

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def fit(
        self, conversations: Sequence[Conversation], reference: IdsBatch, subject: IdsBatch
    ) -> list[Verdict | None]:
        """For every row what was found in the rows of its pattern; None for a row that fits none."""
        theirs, ours = _Batch(reference, None), _Batch(subject, self._is_control(subject.input_ids))
        out: list[Verdict | None] = []
        told = [batch.regular for batch in (reference, subject) if batch.regular is not None]
        for index, conversation in enumerate(conversations):
            verdict = None
            if index not in reference.errors and index not in subject.errors and all(flags[index] for flags in told):
                patterns = self._for(conversation)
                if patterns and _is_plain(conversation):
                    verdict = self._verdict(index, patterns, theirs, ours)
            out.append(verdict)
        return out

    def _for(self, conversation: Conversation) -> list[Pattern]:
        """The patterns that a conversation may fit."""
        key = asked(conversation)
        if key is None:
            return []
        known = self._by_key.get(key, [])
        if self._edged:
            edged = self._by_key.get((key, _outer(conversation)))
            if edged:
                known = [*known, *(p for p in edged if _has_edges(conversation, p.edges or ()))]
        given = (conversation.system or "").strip()
        if given:
            known = [pattern for pattern in known if _in_its_place(given, pattern)]
        return known

    def _verdict(self, index: int, patterns: list[Pattern], theirs: _Batch, ours: _Batch) -> Verdict | None:
        size = ours.offsets[index + 1] - ours.offsets[index]
        if self.limit is not None and size >= self.limit:
            return None
        for pattern in patterns:
            if _fits(pattern, index, theirs, ours):
                return pattern.verdict
        return None

    def _is_control(self, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        import numpy as np

        if self._table is None:
            self._table = np.zeros(self._control.size + 1, dtype=bool)
            self._table[[token for token in self._control.special if token <= self._control.size]] = True
            self._table[self._control.size :] = True
        return self._table[np.minimum(ids, self._control.size)]


def _is_plain(conversation: Conversation) -> bool:
    """True when no text holds what rules look for."""
    for message in conversation.messages:
        for text in (message.content, message.reasoning):
            if text and (may_hold_placeholder(text) or is_telling(text)):
                return False
    return True


class _Batch:
    """A batch with what is looked up in it row by row."""

    def __init__(self, batch: IdsBatch, control: NDArray[np.bool_] | None) -> None:
        import numpy as np

        self.notes = batch.notes
        self.ids, self.labels = batch.input_ids.tobytes(), batch.labels.tobytes()
        self.offsets: list[int] = batch.offsets.tolist()
        on = batch.labels != IGNORE
        before = np.zeros(len(on), dtype=bool)
        before[1:] = on[:-1]
        starts = batch.offsets[:-1]
        before[starts[starts < len(on)]] = False  # a row begins with nothing trained before it
        self.changes, self.change_at = _places(on != before, batch.offsets)
        self.controls, self.control_at = ([], []) if control is None else _places(control, batch.offsets)


def _places(flags: NDArray[np.bool_], offsets: NDArray[np.int64]) -> tuple[list[int], list[int]]:
    """All places of flags, and for every row (and the end) how many come before it."""
    import numpy as np

    places = np.flatnonzero(flags)
    return places.tolist(), np.searchsorted(places, offsets).tolist()


def _fits(pattern: Pattern, index: int, theirs: _Batch, ours: _Batch) -> bool:
    """True when the row is the pattern with other words in its runs."""
    start, end = ours.offsets[index], ours.offsets[index + 1]
    other, other_end = theirs.offsets[index], theirs.offsets[index + 1]
    mine, his = pattern.subject, pattern.reference
    words = end - start - mine.size
    if words < pattern.runs or words != other_end - other - his.size:
        return False
    if ours.notes.get(index, ()) != mine.notes or theirs.notes.get(index, ()) != his.notes:
        return False
    at, until = ours.control_at[index], ours.control_at[index + 1]
    if until - at != len(pattern.controls):
        return False
    first, last = ours.change_at[index], ours.change_at[index + 1]
    if last - first != len(mine.changes):
        return False
    before, after = theirs.change_at[index], theirs.change_at[index + 1]
    if after - before != len(his.changes):
        return False
    shift = 0  # how much further the reference is than the subject, by the gaps so far
    place = start
    for gap, anchor in enumerate((None, *pattern.anchors, None)):
        mine_gap, his_gap = mine.gaps[gap], his.gaps[gap]
        if gap == pattern.runs:
            begin = end - len(mine_gap) // _ID
        elif anchor is None:
            begin = start
        else:
            name, number, offset = anchor
            if name == "subject":
                begin = ours.changes[first + number] - offset
            elif name == "control":
                begin = ours.controls[at + number] - offset
            else:
                begin = theirs.changes[before + number] - offset - other + start - shift
        if gap:
            run, over = (place - start + other + shift) * _ID, (begin - start + other + shift) * _ID
            a, b = place * _ID, begin * _ID
            ids = ours.ids[a:b]
            if a >= b or ids != theirs.ids[run:over]:
                return False
            if ours.labels[a:b] != (ids if mine.trained[gap - 1] else _MASKED * (begin - place)):
                return False
            if theirs.labels[run:over] != (ids if his.trained[gap - 1] else _MASKED * (begin - place)):
                return False
        at_ours, at_theirs = begin * _ID, (begin - start + other + shift) * _ID
        if (
            not ours.ids.startswith(mine_gap, at_ours)
            or not theirs.ids.startswith(his_gap, at_theirs)
            or not ours.labels.startswith(mine.labels[gap], at_ours)
            or not theirs.labels.startswith(his.labels[gap], at_theirs)
        ):
            return False
        place = begin + len(mine_gap) // _ID
        shift += (len(his_gap) - len(mine_gap)) // _ID
    return True  # all control tokens were in gaps: there are no more than these


_MASKED = IGNORE.to_bytes(_ID, sys.byteorder, signed=True)
