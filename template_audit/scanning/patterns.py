"""Rows known by their ids alone: those that are a looked-at row with other words in it.

`structure.py` needs streams with the place of every token. Where both encoders give ids and labels
quickly (`template_audit.ids`), most rows need no streams: a `Pattern` is the ids of the template's text
around the runs of a row that was looked at, on both sides, and a row fits it when it has the same ids
there, the same labels, and between them runs that are equal on both sides and plain.

Where the runs begin follows from the labels, which turn on and off in the template's text, and from
control tokens. A pattern is made only of rows in which no token holds both template and message text.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from template_audit.conversation import Conversation
from template_audit.rules.control import ControlTokens
from template_audit.rules.data import may_hold_placeholder
from template_audit.scanning.structure import Plain, Run, asked, is_telling
from template_audit.stream import IGNORE, EncodedStream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from template_audit.ids import IdsBatch
    from template_audit.scanning.evaluate import Verdict

_ID = 4  # bytes
_TRIED = 8
"""So many patterns are tried for rows with the same roles and fields."""


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

    @property
    def runs(self) -> int:
        """How many runs the rows have."""
        return len(self.subject.trained)


def pattern_of(
    plain: Plain, verdict: Verdict, reference: EncodedStream, subject: EncodedStream, control: ControlTokens
) -> Pattern | None:
    """The pattern of a plain row; None when a token holds more than the template's own text, or a gap has no anchor."""
    if not plain.runs or not (_clean(reference, plain.theirs) and _clean(subject, plain.runs)):
        return None
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
    return Pattern(verdict, theirs, ours, controls, anchors)


def _anchor(
    gap: int, ours: list[tuple[int, int]], theirs: list[tuple[int, int]], controls: list[tuple[int, int]]
) -> tuple[str, int, int] | None:
    for name, places in (("subject", ours), ("reference", theirs), ("control", controls)):
        for number, (where, offset) in enumerate(places):
            if where == gap:
                return name, number, offset
    return None


def _clean(stream: EncodedStream, runs: Sequence[Run]) -> bool:
    """True when every run is the whole of its piece, and the template writes no brace beside it."""
    text, spans = stream.text, stream.spans
    for run in runs:
        start, end, _ = run.piece
        if spans[run.start][0] != start or spans[run.end - 1][1] != end:
            return False
        if text[start - 1 : start] == "{" or text[end : end + 1] == "{":
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
        self._table: NDArray[np.bool_] | None = None

    def add(self, conversation: Conversation, pattern: Pattern) -> None:
        """Keep a pattern; rows with the same roles and fields are held against it."""
        key = asked(conversation)
        known = self._by_key.setdefault(key, []) if key is not None else []
        if len(known) < _TRIED:
            known.append(pattern)

    def __bool__(self) -> bool:
        return bool(self._by_key)

    def fit(
        self, conversations: Sequence[Conversation], reference: IdsBatch, subject: IdsBatch
    ) -> list[Verdict | None]:
        """For every row what was found in the rows of its pattern; None for a row that fits none."""
        theirs, ours = _Batch(reference, None), _Batch(subject, self._is_control(subject.input_ids))
        out: list[Verdict | None] = []
        for index, conversation in enumerate(conversations):
            verdict = None
            if index not in reference.errors and index not in subject.errors:
                patterns = self._by_key.get(asked(conversation) or ())
                if patterns and _is_plain(conversation):
                    verdict = self._verdict(index, patterns, theirs, ours)
            out.append(verdict)
        return out

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
