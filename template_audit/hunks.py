"""From equal stretches of text to hunks of tokens: where two streams can be cut, and what lies between.

Every step costs what it adds, so the work grows with the length of the streams, whatever they hold.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import lt
from typing import Literal, NamedTuple

from template_audit.stream import EncodedStream
from template_audit.textdiff import Block

HunkKind = Literal["equal", "segmentation", "whitespace", "missing", "extra", "replaced"]

_STRETCH = 64  # boundaries that are compared at once
_DIFFERENT = frozenset({"missing", "extra", "replaced", "whitespace"})


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


def hunks_of(reference: EncodedStream, subject: EncodedStream, blocks: Iterable[Block]) -> list[Hunk]:
    """The hunks that tile both streams, cut where both have a token boundary inside a block of equal text."""
    hunks = _Hunks(reference, subject)
    ours, theirs = _Boundaries.of(reference), _Boundaries.of(subject)
    for block in _joined(blocks):
        shift = block.sub - block.ref
        r, r_end = ours.within(block.ref, block.size)
        s, s_end = theirs.within(block.sub, block.size)
        while r < r_end and s < s_end:
            stretch = min(_STRETCH, r_end - r, s_end - s)
            if ours.like(r, theirs, s, stretch, shift) and hunks.equal(ours, r, theirs, s, stretch):
                r, s = r + stretch, s + stretch
                continue
            r_stop = r + stretch
            while r < r_stop and s < s_end:
                here, there = ours.at[r] + shift, theirs.at[s]
                if here == there:
                    hunks.cut(ours.first[r], theirs.first[s])
                    hunks.cut(ours.last[r], theirs.last[s])
                r += here <= there
                s += there <= here
    hunks.cut(len(reference), len(subject))
    return hunks.finished()


def _joined(blocks: Iterable[Block]) -> Iterator[Block]:
    """Blocks that follow one another on both sides as one."""
    last: Block | None = None
    for block in blocks:
        if last and last.ref + last.size == block.ref and last.sub + last.size == block.sub:
            last = Block(last.ref, last.sub, last.size + block.size)
        else:
            if last:
                yield last
            last = block
    if last:
        yield last


@dataclass(frozen=True, slots=True)
class _Boundaries:
    """The character positions between two tokens, in order.

    Of each the index of the first token there, and of the first that covers characters: tokens without
    text may stand at one position.
    """

    at: list[int]
    first: list[int]
    last: list[int]

    @classmethod
    def of(cls, stream: EncodedStream) -> _Boundaries:
        """Those of a stream."""
        starts, ends = [start for start, _ in stream.spans], [end for _, end in stream.spans]
        if starts[1:] == ends[:-1] and all(map(lt, starts, ends)):  # one after the other, as nearly always
            indices = list(range(len(starts) + 1))
            return cls([*starts, len(stream.text)], indices, indices)
        at: list[int] = []
        first: list[int] = []
        last: list[int] = []
        reached = 0
        before = -1
        for index, (start, end) in enumerate(stream.spans):
            if start >= reached:
                if start == before:
                    last[-1] = index
                else:
                    at.append(start)
                    first.append(index)
                    last.append(index)
                    before = start
            if end > reached:
                reached = end
        if before == len(stream.text):
            last[-1] = len(stream)
        else:
            at.append(len(stream.text))
            first.append(len(stream))
            last.append(len(stream))
        return cls(at, first, last)

    def within(self, start: int, size: int) -> tuple[int, int]:
        """Which of them, as a half-open range, lie in a stretch of text, its ends included."""
        return bisect_left(self.at, start), bisect_right(self.at, start + size)

    def like(self, r: int, other: _Boundaries, s: int, count: int, shift: int) -> bool:
        """True when `count` of them from `r` on are the other side's from `s` on, `shift` characters earlier."""
        tokens = other.last[s] - self.last[r]
        if [x + shift for x in self.at[r : r + count]] != other.at[s : s + count]:
            return False
        if self.first is self.last and other.first is other.last:
            return True  # every boundary is one token further than the one before
        firsts = [x + tokens for x in self.first[r : r + count]]
        lasts = [x + tokens for x in self.last[r : r + count]]
        return firsts == other.first[s : s + count] and lasts == other.last[s : s + count]


class _Hunks:
    """Hunks as cut follows cut; both streams are covered up to token `i` and `j`."""

    def __init__(self, reference: EncodedStream, subject: EncodedStream) -> None:
        self._reference, self._subject = reference, subject
        self._i = self._j = 0
        self._done: list[Hunk] = []
        self._last: _Growing | None = None

    def cut(self, i_next: int, j_next: int) -> None:
        """Cut both streams before these tokens; one that is covered already is cut where it is."""
        i, j = self._i, self._j
        i_next, j_next = max(i, i_next), max(j, j_next)
        if i == i_next and j == j_next:
            return
        kind = kind_of(self._reference, self._subject, i, i_next, j, j_next)
        if kind not in ("equal", "segmentation"):
            # a marker that swallows the whitespace behind it is one token, whatever its text
            start = i
            while i < i_next and j < j_next and self._same_id_other_text(i, j):
                self._add(Hunk("equal", i, i + 1, j, j + 1))
                i, j = i + 1, j + 1
            if i > start and (i < i_next or j < j_next):
                kind = kind_of(self._reference, self._subject, i, i_next, j, j_next)
        if i < i_next or j < j_next:
            self._add(Hunk(kind, i, i_next, j, j_next))
        self._i, self._j = i_next, j_next

    def equal(self, ours: _Boundaries, r: int, theirs: _Boundaries, s: int, count: int) -> bool:
        """Cut at `count` boundaries that both streams have, when there are equal ids throughout; else False.

        What comes before the first of them is cut off in any case.
        """
        self.cut(ours.first[r], theirs.first[s])
        self.cut(ours.last[r], theirs.last[s])
        i, j = ours.last[r], theirs.last[s]
        if (i, j) != (self._i, self._j):
            return False
        i_end, j_end = ours.first[r + count - 1], theirs.first[s + count - 1]
        if i_end > i:
            if self._reference.input_ids[i:i_end] != self._subject.input_ids[j:j_end]:
                return False
            self._add(Hunk("equal", i, i_end, j, j_end))
            self._i, self._j = i_end, j_end
        self.cut(ours.last[r + count - 1], theirs.last[s + count - 1])
        return True

    def finished(self) -> list[Hunk]:
        """All hunks."""
        if self._last is not None:
            self._done.append(self._last.hunk)
            self._last = None
        return self._done

    def _same_id_other_text(self, i: int, j: int) -> bool:
        if self._reference.input_ids[i] != self._subject.input_ids[j]:
            return False
        a, b = self._reference.token_text(i), self._subject.token_text(j)
        return a != b and a.rstrip() == b.rstrip() != ""

    def _add(self, hunk: Hunk) -> None:
        """Add a hunk, joined with the one before when both are the same kind of difference."""
        last = self._last
        if last is not None:
            if last.hunk.kind == hunk.kind or (last.hunk.kind in _DIFFERENT and hunk.kind in _DIFFERENT):
                last.extend(hunk)
                return
            self._done.append(last.hunk)
        self._last = _Growing(self._reference, self._subject, hunk)


class _Growing:
    """The last hunk. As it grows its kind is found again from where the two sides were seen to part."""

    def __init__(self, reference: EncodedStream, subject: EncodedStream, hunk: Hunk) -> None:
        self.hunk = hunk
        self._reference, self._subject = reference, subject
        self._ids = 0  # how many leading ids are the same
        self._texts = _Texts(reference, subject, hunk.ref_start, hunk.sub_start)

    def extend(self, other: Hunk) -> None:
        """Take the hunk that follows into this one."""
        kind, i, _, j, _ = self.hunk
        _, _, i_end, _, j_end = other
        if kind == other.kind == "equal":
            self.hunk = Hunk("equal", i, i_end, j, j_end)
            return
        ours, theirs = self._reference.input_ids, self._subject.input_ids
        shorter = min(i_end - i, j_end - j)
        while self._ids < shorter and ours[i + self._ids] == theirs[j + self._ids]:
            self._ids += 1
        if self._ids == i_end - i == j_end - j:
            kind = "equal"
        else:
            kind = self._texts.kind(i_end, j_end) or (
                "extra" if i == i_end else "missing" if j == j_end else "replaced"
            )
        self.hunk = Hunk(kind, i, i_end, j, j_end)


class _Texts:
    """The texts of two growing token ranges, and how far they are the same, with and without whitespace."""

    def __init__(self, reference: EncodedStream, subject: EncodedStream, i: int, j: int) -> None:
        self._sides = (_Side(reference, i), _Side(subject, j))
        self._same = 0
        self._visible = (0, 0)  # how far each side is compared without whitespace

    def kind(self, i_end: int, j_end: int) -> HunkKind | None:
        """`segmentation`, `whitespace`, or None for texts that differ in more."""
        ours, theirs = self._sides
        ours.grow(i_end)
        theirs.grow(j_end)
        shorter = min(ours.size, theirs.size)
        while self._same < shorter:
            a, b = (side.part(self._same, min(self._same + _STRETCH, shorter)) for side in self._sides)
            equal = len(a) if a == b else next(k for k, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
            self._same += equal
            if equal < len(a):
                break
        if self._same == ours.size == theirs.size:
            return "segmentation"
        p, q = max(self._visible, (self._same, self._same))
        while True:
            p, q = ours.visible(p), theirs.visible(q)
            if p == ours.size or q == theirs.size or ours.part(p, p + 1) != theirs.part(q, q + 1):
                break
            p, q = p + 1, q + 1
        self._visible = p, q
        return "whitespace" if p == ours.size and q == theirs.size else None


class _Side:
    """The text of tokens from one on."""

    def __init__(self, stream: EncodedStream, start: int) -> None:
        self._stream, self._token = stream, start
        self._from = self._to = stream.spans[start][0] if start < len(stream) else len(stream.text)

    @property
    def size(self) -> int:
        return self._to - self._from

    def grow(self, end: int) -> None:
        """Up to token `end`, which is not in it."""
        if end > self._token:
            self._to = max(self._to, max(stop for _, stop in self._stream.spans[self._token : end]))
            self._token = end

    def part(self, start: int, end: int) -> str:
        return self._stream.text[self._from + start : self._from + end]

    def visible(self, position: int) -> int:
        """The first place from `position` on that is no whitespace."""
        text, at = self._stream.text, self._from + position
        while at < self._to and text[at].isspace():
            at += 1
        return at - self._from


def kind_of(reference: EncodedStream, subject: EncodedStream, i: int, i_end: int, j: int, j_end: int) -> HunkKind:
    """What kind of difference two token ranges are."""
    if reference.input_ids[i:i_end] == subject.input_ids[j:j_end]:
        return "equal"
    a, b = _text(reference, i, i_end), _text(subject, j, j_end)
    if a == b:
        return "segmentation"
    if "".join(a.split()) == "".join(b.split()):
        return "whitespace"
    return "extra" if i == i_end else "missing" if j == j_end else "replaced"


def _text(stream: EncodedStream, start: int, end: int) -> str:
    return stream.text[stream.spans[start][0] : max(e for _, e in stream.spans[start:end])] if end > start else ""
