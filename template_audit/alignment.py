"""Two streams laid beside each other: which stretches are equal, and how the others differ.

The texts are aligned first, the tokens second. Message fields that stand in both streams are fixed
points (their Origin says that they are the same text), so only the template's literals in between
are searched for differences and the work grows with the length of the streams, not its square.
Cuts are made where both streams have a token boundary; ids then decide what is equal.
"""

from __future__ import annotations

import gc
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from template_audit.hunks import Hunk, HunkKind, hunks_of, kind_of
from template_audit.stream import IGNORE, WRITTEN, EncodedStream, Piece, Turn
from template_audit.textdiff import Block, Range, equal_blocks, increasing

_LONG = 100_000  # tokens on both sides

__all__ = ["Alignment", "Hunk", "HunkKind", "LabelHunk", "compare"]


class LabelHunk(NamedTuple):
    """A run of equal tokens that one side trains and the other does not.

    `trained_by` names the side in which the labels of these tokens count.
    """

    trained_by: Literal["reference", "subject"]
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

    @property
    def label_hunks(self) -> list[LabelHunk]:
        """Where the ids are equal and only one side trains them."""
        return list(_label_hunks(self))

    def subject_index(self, reference_index: int) -> int | None:
        """The subject's token that is equal to this reference token, or None."""
        hunk = self.hunks[bisect_left(self.hunks, reference_index + 1, key=lambda h: h.ref_end)]
        return reference_index - hunk.ref_start + hunk.sub_start if hunk.kind == "equal" else None


def compare(reference: EncodedStream, subject: EncodedStream) -> Alignment:
    """Lay `subject` beside `reference`. The hunks tile both token sequences."""
    if reference.input_ids == subject.input_ids and reference.text == subject.text:
        size = len(reference)
        return Alignment(reference, subject, [Hunk("equal", 0, size, 0, size)] if size else [])
    if len(reference) + len(subject) < _LONG:
        return _compare(reference, subject)
    collecting = gc.isenabled()
    gc.disable()  # millions of small objects and no cycles: looking for some takes a third of the time
    try:
        return _compare(reference, subject)
    finally:
        if collecting:
            gc.enable()


def _compare(reference: EncodedStream, subject: EncodedStream) -> Alignment:
    headers = _common_headers(reference, subject)
    blocks = list(_equal_text(reference, subject, [(a.char_start, b.char_start) for a, b in headers]))
    hunks = hunks_of(reference, subject, blocks)
    turns = [(a.start, b.start) for a, b in headers]
    return Alignment(reference, subject, list(_at_turns(reference, subject, hunks, turns)))


def _common_headers(reference: EncodedStream, subject: EncodedStream) -> list[tuple[Turn, Turn]]:
    """The turns that begin with a header on both sides, in order.

    A framework may count the header of an answer to the turn before it.
    """
    theirs = _with_header(subject)
    pairs: list[tuple[Turn, Turn]] = []
    for message, turn in _with_header(reference).items():
        other = theirs.get(message)
        if other is not None and (
            not pairs or (pairs[-1][0].start <= turn.start and pairs[-1][1].start <= other.start)
        ):
            pairs.append((turn, other))
    return pairs


def _with_header(stream: EncodedStream) -> dict[int, Turn]:
    said = {piece.start for piece in stream.pieces if piece.origin.field not in ("literal", "role", "other")}
    return {turn.message: turn for turn in stream.turns if turn.message is not None and turn.char_start not in said}


# --- texts -----------------------------------------------------------------------------------------


def _equal_text(reference: EncodedStream, subject: EncodedStream, headers: list[Range]) -> Iterator[Block]:
    """Equal stretches of the two texts in order: the anchors, and what the gaps between them share."""
    a = b = 0
    ends = Block(len(reference.text), len(subject.text), 0)
    turns = {turn.char_start for turn in reference.turns}, {turn.char_start for turn in subject.turns}
    headers = sorted(headers)  # as they are already, turns being in order
    starts = [h[0] for h in headers]

    def differing(ref: Range, sub: Range) -> list[Block]:
        return equal_blocks(reference.text, subject.text, ref, sub, *turns)

    for anchor in [*_anchors(reference, subject), ends]:
        corners = ((a, b), (anchor.ref, anchor.sub))
        if reference.text[a : anchor.ref] == subject.text[b : anchor.sub]:
            yield Block(a, b, anchor.ref - a)
            yield anchor
            a, b = anchor.ref + anchor.size, anchor.sub + anchor.size
            continue
        near = headers[bisect_left(starts, a) : bisect_right(starts, anchor.ref)]
        inside = [h for h in near if b <= h[1] <= anchor.sub and h not in corners]
        yield from _gap(reference.text, differing, (a, anchor.ref), (b, anchor.sub), inside)
        yield anchor
        a, b = anchor.ref + anchor.size, anchor.sub + anchor.size


def _gap(
    text: str, differing: Callable[[Range, Range], list[Block]], ref: Range, sub: Range, headers: list[Range]
) -> list[Block]:
    """Equal stretches of two texts between anchors; `headers` are where a turn begins on both sides.

    The texts are taken turn by turn, unless the two sides turn out not to mean the same by a turn:
    then more text is equal when they are taken whole.
    """
    whole = differing(ref, sub)
    if not headers or whole == [Block(ref[0], sub[0], ref[1] - ref[0])]:
        return whole
    by_turn: list[Block] = []
    for i, j in [*headers, (ref[1], sub[1])]:
        by_turn += differing((ref[0], i), (sub[0], j))
        ref, sub = (i, ref[1]), (j, sub[1])
    return by_turn if _weight(text, by_turn) >= _weight(text, whole) else whole


def _weight(text: str, blocks: list[Block]) -> int:
    """How many characters of equal text are not whitespace."""
    return sum(len("".join(text[block.ref : block.ref + block.size].split())) for block in blocks)


def _anchors(reference: EncodedStream, subject: EncodedStream) -> list[Block]:
    """Message fields that both streams hold with the same text, or the same up to outer whitespace.

    Pieces are paired by message and field, when both sides have it in as many pieces; of pairs that
    cross, the longest increasing sequence is kept.
    """
    known = _fields(reference)
    pairs: list[Block] = []
    for key, pieces in _fields(subject).items():
        others = known.get(key, [])
        if len(others) == len(pieces):
            shared = (_shared(reference.text, a, subject.text, b) for a, b in zip(others, pieces, strict=True))
            pairs += [block for block in shared if block is not None]
    pairs.sort(key=lambda block: block.sub)
    return increasing(pairs)


def _fields(stream: EncodedStream) -> dict[tuple[int | None, str], list[Piece]]:
    found: dict[tuple[int | None, str], list[Piece]] = {}
    for piece in stream.pieces:
        message, field, _ = piece.origin
        if field not in ("literal", "role", "other") and piece.start < piece.end:
            found.setdefault((message, WRITTEN.get(field, field)), []).append(piece)
    return found


def _shared(ref_text: str, ref: Piece, sub_text: str, sub: Piece) -> Block | None:
    a, b = ref_text[ref.start : ref.end], sub_text[sub.start : sub.end]
    if a == b:
        return Block(ref.start, sub.start, len(a))
    core = a.strip()
    if core and core == b.strip():
        return Block(ref.start + a.index(core), sub.start + b.index(core), len(core))
    return None


# --- tokens ----------------------------------------------------------------------------------------


def _at_turns(
    reference: EncodedStream, subject: EncodedStream, hunks: list[Hunk], headers: list[Range]
) -> Iterator[Hunk]:
    """Cut replaced stretches at the tokens with which the same message's header begins on both sides."""
    starts = [here for here, _ in headers]
    for hunk in hunks:
        kind, i, i_end, j, j_end = hunk
        if kind == "replaced":
            for here, there in headers[bisect_left(starts, i) : bisect_right(starts, i_end)]:
                if i <= here and j <= there <= j_end and (here, there) not in ((i, j), (i_end, j_end)):
                    yield Hunk(kind_of(reference, subject, i, here, j, there), i, here, j, there)
                    i, j = here, there
            kind = kind_of(reference, subject, i, i_end, j, j_end)
        yield Hunk(kind, i, i_end, j, j_end)


def _label_hunks(alignment: Alignment) -> Iterator[LabelHunk]:
    ref_labels, sub_labels = alignment.reference.labels, alignment.subject.labels
    for hunk in alignment.hunks:
        if hunk.kind != "equal":
            continue
        start, side = 0, 0
        for offset in range(hunk.ref_end - hunk.ref_start + 1):
            now = 0
            if offset < hunk.ref_end - hunk.ref_start:
                ref = ref_labels[hunk.ref_start + offset] != IGNORE
                sub = sub_labels[hunk.sub_start + offset] != IGNORE
                now = int(ref) - int(sub)
            if now != side:
                if side:
                    yield LabelHunk(
                        "reference" if side > 0 else "subject",
                        hunk.ref_start + start,
                        hunk.ref_start + offset,
                        hunk.sub_start + start,
                        hunk.sub_start + offset,
                    )
                start, side = offset, now
