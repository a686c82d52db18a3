"""Rows held against patterns by their ids and texts: which are a looked-at row with other words in it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from template_audit.conversation import Conversation
from template_audit.rules.control import ControlTokens
from template_audit.rules.data import may_hold_placeholder
from template_audit.scanning.patterns import Anchor, Edge, Pattern
from template_audit.scanning.structure import asked, in_its_place, is_telling
from template_audit.stream import IGNORE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from template_audit.ids import IdsBatch

_ID = 4
"""Bytes of an id."""
_MASKED = IGNORE.to_bytes(_ID, sys.byteorder, signed=True)
_TRIED = 8
"""So many patterns are tried for rows with the same roles and fields."""
_TRIED_EDGED = 64
"""So many with the same whitespace around their texts as well; most are ruled out by the ends of the texts."""
_KEPT = 4096
"""So many patterns are kept in all."""
_OUTER = 16
"""Rows with more whitespace than this before or after a text fit no pattern of their own, in characters."""


class Patterns:
    """The patterns of a scan, and the rows that fit them."""

    def __init__(self, control: ControlTokens, limit: int | None) -> None:
        """`limit` is the subject's length limit in tokens: longer rows are cut and fit no pattern."""
        self._control, self._limit = control, limit
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
    ) -> list[Pattern | None]:
        """For every row the pattern that it fits, or None."""
        theirs, ours = _Batch(reference, None), _Batch(subject, self._is_control(subject.input_ids))
        told = [batch.regular for batch in (reference, subject) if batch.regular is not None]
        out: list[Pattern | None] = []
        for index, conversation in enumerate(conversations):
            found = None
            if index not in reference.errors and index not in subject.errors and all(flags[index] for flags in told):
                patterns = self._for(conversation)
                if patterns and not self._is_cut(index, ours) and _is_plain(conversation):
                    found = next((pattern for pattern in patterns if _fits(pattern, index, theirs, ours)), None)
            out.append(found)
        return out

    def _for(self, conversation: Conversation) -> list[Pattern]:
        """The patterns that a conversation may fit."""
        key = asked(conversation)
        if key is None:
            return []
        known = self._by_key.get(key, [])
        if self._edged:
            edged = self._by_key.get((key, _outer(conversation)), [])
            known = [*known, *(p for p in edged if _has_edges(conversation, p.edges or ()))]
        given = (conversation.system or "").strip()
        if given:
            known = [pattern for pattern in known if _in_its_place(given, pattern)]
        return known

    def _is_cut(self, index: int, ours: _Batch) -> bool:
        return self._limit is not None and ours.offsets[index + 1] - ours.offsets[index] >= self._limit

    def _is_control(self, ids: NDArray[np.int32]) -> NDArray[np.bool_]:
        import numpy as np

        if self._table is None:
            self._table = np.zeros(self._control.size + 1, dtype=bool)
            self._table[[token for token in self._control.special if token <= self._control.size]] = True
            self._table[self._control.size :] = True
        return self._table[np.minimum(ids, self._control.size)]


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


def _has_edges(conversation: Conversation, edges: Sequence[Edge]) -> bool:
    """True when the texts have these ends, and more between them."""
    for message, name, head, tail in edges:
        if head or tail:
            text = getattr(conversation.messages[message], name).strip()
            if len(text) <= len(head) + len(tail) or not (text.startswith(head) and text.endswith(tail)):
                return False
    return True


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

    def holds(self, at: int, ids: bytes, labels: bytes) -> bool:
        """True when these ids and labels stand at token `at`."""
        return self.ids.startswith(ids, at * _ID) and self.labels.startswith(labels, at * _ID)

    def run(self, at: int, size: int, trained: bool) -> bytes | None:
        """The ids of `size` tokens from token `at`; None unless all are trained, or with `trained` False none is."""
        here = slice(at * _ID, (at + size) * _ID)
        ids = self.ids[here]
        return ids if self.labels[here] == (ids if trained else _MASKED * size) else None


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
    # All control tokens are in gaps, which have these: so the runs hold none.
    if ours.control_at[index + 1] - ours.control_at[index] != len(pattern.controls):
        return False
    if ours.change_at[index + 1] - ours.change_at[index] != len(mine.changes):
        return False
    if theirs.change_at[index + 1] - theirs.change_at[index] != len(his.changes):
        return False
    for gap, anchor in enumerate((None, *pattern.anchors, None)):
        # Here `start` and `other` are where the run before this gap begins, in the two streams.
        if gap == 0:
            size = 0
        elif anchor is None:
            size = end - len(mine.gaps[gap]) // _ID - start
        else:
            size = _distance(anchor, index, theirs, ours, start, other)
        if gap:
            run = ours.run(start, size, mine.trained[gap - 1]) if size > 0 else None
            if run is None or run != theirs.run(other, size, his.trained[gap - 1]):
                return False
        start, other = start + size, other + size
        if not ours.holds(start, mine.gaps[gap], mine.labels[gap]):
            return False
        if not theirs.holds(other, his.gaps[gap], his.labels[gap]):
            return False
        start, other = start + len(mine.gaps[gap]) // _ID, other + len(his.gaps[gap]) // _ID
    return True


def _distance(anchor: Anchor, index: int, theirs: _Batch, ours: _Batch, start: int, other: int) -> int:
    """Tokens from a run's beginning (`start` in the subject's ids, `other` in the reference's) to the gap after it."""
    if anchor.kind == "reference":
        return theirs.changes[theirs.change_at[index] + anchor.number] - anchor.offset - other
    if anchor.kind == "subject":
        return ours.changes[ours.change_at[index] + anchor.number] - anchor.offset - start
    return ours.controls[ours.control_at[index] + anchor.number] - anchor.offset - start
