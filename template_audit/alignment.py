"""Two streams laid beside each other: which stretches are equal, and how the others differ.

The texts are aligned first, the tokens second. Message fields that stand in both streams are fixed
points (their Origin says that they are the same text), so only the template's literals in between
are searched for differences and the work grows with the length of the streams, not its square.
Cuts are made where both streams have a token boundary; ids then decide what is equal.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from template_audit.stream import IGNORE, EncodedStream, Piece, Turn

Range = tuple[int, int]
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
    return Alignment(reference, subject, _hunks(reference, subject, list(_equal_blocks(reference, subject))))


# --- texts -----------------------------------------------------------------------------------------


class Block(NamedTuple):
    """``size`` equal characters, from `ref` in the reference's text and `sub` in the subject's."""

    ref: int
    sub: int
    size: int


def _equal_blocks(reference: EncodedStream, subject: EncodedStream) -> Iterator[Block]:
    """Equal stretches of the two texts in order: the anchors, and what the gaps between them share."""
    a = b = 0
    headers = _common_headers(reference, subject)
    for anchor in [*_anchors(reference, subject), Block(len(reference.text), len(subject.text), 0)]:
        inside = [(i, j) for i, j in headers if a <= i <= anchor.ref and b <= j <= anchor.sub]
        yield from _gap(reference, subject, (a, anchor.ref), (b, anchor.sub), inside)
        yield anchor
        a, b = anchor.ref + anchor.size, anchor.sub + anchor.size


_SAME_FIELD = {"system": "content", "tool_result": "content"}  # three names for a message's own text


def _anchors(reference: EncodedStream, subject: EncodedStream) -> list[Block]:
    """Message fields that both streams hold with the same text, or the same up to outer whitespace.

    Pieces are paired by message, field and occurrence; of pairs that cross, the longest increasing
    sequence is kept.
    """
    known = _fields(reference)
    pairs: list[Block] = []
    for key, piece in _fields(subject).items():
        if key in known and (block := _shared(reference.text, known[key], subject.text, piece)):
            pairs.append(block)
    return _increasing(pairs)


def _fields(stream: EncodedStream) -> dict[tuple[int | None, str, int], Piece]:
    found: dict[tuple[int | None, str, int], Piece] = {}
    seen: Counter[tuple[int | None, str]] = Counter()
    for piece in stream.pieces:
        message, field, _ = piece.origin
        if field in ("literal", "role", "other") or piece.start == piece.end:
            continue
        key = (message, _SAME_FIELD.get(field, field))
        found[(*key, seen[key])] = piece
        seen[key] += 1
    return found


def _shared(ref_text: str, ref: Piece, sub_text: str, sub: Piece) -> Block | None:
    a, b = ref_text[ref.start : ref.end], sub_text[sub.start : sub.end]
    if a == b:
        return Block(ref.start, sub.start, len(a))
    core = a.strip()
    if core and core == b.strip():
        return Block(ref.start + a.index(core), sub.start + b.index(core), len(core))
    return None


def _increasing(pairs: list[Block]) -> list[Block]:
    """The longest run of pairs (given in subject order) whose reference positions increase, too."""
    tails: list[int] = []  # reference start of the last pair of a run of each length
    last: list[int] = []
    before: list[int] = []
    for index, pair in enumerate(pairs):
        length = bisect_left(tails, pair.ref)
        before.append(last[length - 1] if length else -1)
        tails[length : length + 1] = [pair.ref]
        last[length : length + 1] = [index]
    chain: list[Block] = []
    index = last[-1] if last else -1
    while index >= 0:
        chain.append(pairs[index])
        index = before[index]
    return chain[::-1]


# Units of the text diff: markers as a whole, so that `<|user|>` and `[|user|]` do not share their bars;
# words; every other character by itself. They steer what a diff looks like, never what counts as equal.
_UNIT = re.compile(
    r"<[|｜][^<>]{1,60}?[|｜]>|\[\|[^\[\]\s]{0,40}\|\]|</?[A-Za-z_][\w.:-]{0,40}>|\[/?[A-Z_]{3,40}\]|\w+|.", re.S
)
_MARKER = re.compile(r"[<\[].+[>\]]", re.S)

_CELLS = 4_000_000
"""Most unit pairs that one exact difference may look at (about 20 ms)."""


class _Gap(NamedTuple):
    """Unit texts of both sides, and the character offset of each unit in its stream's text."""

    ref: list[str]
    ref_at: list[int]
    sub: list[str]
    sub_at: list[int]


def _gap(reference: EncodedStream, subject: EncodedStream, ref: Range, sub: Range, headers: list[Range]) -> list[Block]:
    """Equal stretches of two texts between anchors; `headers` are where a turn begins on both sides.

    The texts are taken turn by turn, unless the two sides turn out not to mean the same by a turn:
    then more text is equal when they are taken whole.
    """
    if reference.text[slice(*ref)] == subject.text[slice(*sub)]:
        return [Block(ref[0], sub[0], ref[1] - ref[0])]
    whole = _differing(reference, subject, ref, sub)
    cuts = [cut for cut in headers if cut not in ((ref[0], sub[0]), (ref[1], sub[1]))]
    if not cuts:
        return whole
    by_turn: list[Block] = []
    for i, j in [*cuts, (ref[1], sub[1])]:
        by_turn += _differing(reference, subject, (ref[0], i), (sub[0], j))
        ref, sub = (i, ref[1]), (j, sub[1])
    return by_turn if _weight(reference, by_turn) >= _weight(reference, whole) else whole


def _weight(reference: EncodedStream, blocks: list[Block]) -> int:
    """How many characters of equal text are not whitespace."""
    return sum(len("".join(reference.text[b.ref : b.ref + b.size].split())) for b in blocks)


def _differing(reference: EncodedStream, subject: EncodedStream, ref: Range, sub: Range) -> list[Block]:
    ref_text, sub_text = reference.text[slice(*ref)], subject.text[slice(*sub)]
    if not ref_text or not sub_text:
        return []
    ours, theirs = _UNIT.findall(ref_text), _UNIT.findall(sub_text)
    gap = _Gap(ours, _offsets(ours, ref[0]), theirs, _offsets(theirs, sub[0]))
    ops = _without_islands(gap, _merge(_diff(ours, 0, len(ours), theirs, 0, len(theirs))))
    return [
        Block(gap.ref_at[i], gap.sub_at[j], gap.ref_at[i + size] - gap.ref_at[i])
        for i, j, size in _slide(reference, subject, gap, ops)
    ]


def _common_headers(reference: EncodedStream, subject: EncodedStream) -> list[Range]:
    """Where the same message's header begins in both texts, in order."""
    theirs = _headers(subject)
    pairs: list[Range] = []
    for message, turn in _headers(reference).items():
        if message in theirs:
            pair = (turn.char_start, theirs[message].char_start)
            if not pairs or (pair[0] >= pairs[-1][0] and pair[1] >= pairs[-1][1]):
                pairs.append(pair)
    return pairs


def _headers(stream: EncodedStream) -> dict[int, Turn]:
    """The turns that begin with a header, by message.

    A framework may count the header of an answer to the turn before it.
    """
    said = {piece.start for piece in stream.pieces if piece.origin.field not in ("literal", "role", "other")}
    return {turn.message: turn for turn in stream.turns if turn.message is not None and turn.char_start not in said}


def _offsets(units: list[str], start: int) -> list[int]:
    out = [start]
    for unit in units:
        start += len(unit)
        out.append(start)
    return out


def _diff(ref: list[str], a: int, a_end: int, sub: list[str], b: int, b_end: int) -> Iterator[Block]:
    """Equal runs of units, in order; exact up to `_CELLS`, beyond that split at units that are unique."""
    size = 0
    while a + size < a_end and b + size < b_end and ref[a + size] == sub[b + size]:
        size += 1
    if size:
        yield Block(a, b, size)
    a, b, size = a + size, b + size, 0
    while a < a_end - size and b < b_end - size and ref[a_end - size - 1] == sub[b_end - size - 1]:
        size += 1
    a_end, b_end = a_end - size, b_end - size
    if a < a_end and b < b_end:
        if (a_end - a) * (b_end - b) <= _CELLS:
            yield from _exact(ref, a, a_end, sub, b, b_end)
        else:
            yield from _at_unique(ref, a, a_end, sub, b, b_end)
    if size:
        yield Block(a_end, b_end, size)


def _exact(ref: list[str], a: int, a_end: int, sub: list[str], b: int, b_end: int) -> Iterator[Block]:
    from rapidfuzz.distance import Indel

    number: dict[str, int] = {}
    left = [number.setdefault(unit, len(number)) for unit in ref[a:a_end]]
    right = [number.setdefault(unit, len(number)) for unit in sub[b:b_end]]
    for op in Indel.opcodes(left, right):
        if op.tag == "equal":
            yield Block(a + op.src_start, b + op.dest_start, op.src_end - op.src_start)


def _at_unique(ref: list[str], a: int, a_end: int, sub: list[str], b: int, b_end: int) -> Iterator[Block]:
    """Fix units that occur once on each side and in the same order; compare what lies between."""
    once = {unit for unit, count in Counter(ref[a:a_end]).items() if count == 1}
    once &= {unit for unit, count in Counter(sub[b:b_end]).items() if count == 1}
    where = {ref[i]: i for i in range(a, a_end) if ref[i] in once}
    fixed = _increasing([Block(where[sub[j]], j, 1) for j in range(b, b_end) if sub[j] in once])
    if not fixed:
        return  # nothing to hold on to: one replaced stretch
    for block in [*fixed, Block(a_end, b_end, 0)]:
        yield from _diff(ref, a, block.ref, sub, b, block.sub)
        if block.size:
            yield block
        a, b = block.ref + block.size, block.sub + block.size


def _merge(blocks: Iterable[Block]) -> list[Block]:
    merged: list[Block] = []
    for block in blocks:
        last = merged[-1] if merged else None
        if last and last.ref + last.size == block.ref and last.sub + last.size == block.sub:
            merged[-1] = Block(last.ref, last.sub, last.size + block.size)
        elif block.size:
            merged.append(block)
    return merged


def _without_islands(gap: _Gap, blocks: list[Block]) -> list[Block]:
    """Drop equal stretches that are shorter than the edits on both of their sides and hold no marker.

    They are chance agreements, such as the word `user` inside two different headers. Beside text that
    only one side has, only whitespace counts as chance.
    """
    kept: list[Block] = []
    a = b = 0
    for k, block in enumerate(blocks):
        following = blocks[k + 1] if k + 1 < len(blocks) else Block(len(gap.ref), len(gap.sub), 0)
        a_next, b_next = block.ref + block.size, block.sub + block.size
        edits = [
            (gap.ref_at[block.ref] - gap.ref_at[a], gap.sub_at[block.sub] - gap.sub_at[b]),
            (gap.ref_at[following.ref] - gap.ref_at[a_next], gap.sub_at[following.sub] - gap.sub_at[b_next]),
        ]
        units = gap.ref[block.ref : a_next]
        blank = not any(unit.strip() for unit in units)
        replaced = [min(edit) > 0 for edit in edits]
        chance = all(replaced) or (blank and any(replaced))
        if chance and sum(map(len, units)) <= min(map(max, edits)) and not any(map(_MARKER.fullmatch, units)):
            continue
        kept.append(block)
        a, b = a_next, b_next
    return kept


def _slide(reference: EncodedStream, subject: EncodedStream, gap: _Gap, blocks: list[Block]) -> list[Block]:
    """Move stretches that only one side has to where a turn begins, when the text allows it.

    ``<s>system<e><s>user`` against ``<s>user`` can lack ``system<e><s>`` or ``<s>system<e>``: the
    second is what a reader expects.
    """
    ref_turns = {turn.char_start for turn in reference.turns}
    sub_turns = {turn.char_start for turn in subject.turns}
    out = list(blocks)
    for k in range(len(out) - 1):
        left, right = out[k], out[k + 1]
        a, b = left.ref + left.size, left.sub + left.size
        if b == right.sub:
            shift = _shift(gap.ref, gap.ref_at, ref_turns, a, right.ref, left.size, right.size)
        elif a == right.ref:
            shift = _shift(gap.sub, gap.sub_at, sub_turns, b, right.sub, left.size, right.size)
        else:
            continue
        out[k] = Block(left.ref, left.sub, left.size + shift)
        out[k + 1] = Block(right.ref + shift, right.sub + shift, right.size - shift)
    return [block for block in out if block.size]


def _shift(units: list[str], at: list[int], turns: set[int], start: int, end: int, left: int, right: int) -> int:
    """How many units to move ``units[start:end]``: negative to the left; 0 when no turn begins in reach."""
    back = 0
    while back < left and units[start - back - 1] == units[end - back - 1]:
        back += 1
    ahead = 0
    while ahead < right and units[start + ahead] == units[end + ahead]:
        ahead += 1
    reach = sorted(range(-back, ahead + 1), key=abs)
    for wanted in (turns, {at[start + s] for s in reach if _MARKER.fullmatch(units[start + s])}):
        for shift in reach:
            if at[start + shift] in wanted:
                return shift
    return 0


# --- tokens ----------------------------------------------------------------------------------------


def _hunks(reference: EncodedStream, subject: EncodedStream, blocks: list[Block]) -> list[Hunk]:
    hunks: list[Hunk] = []
    i = j = 0
    for cut in _cuts(reference, subject, blocks):
        i_next, j_next = max(i, cut[0]), max(j, cut[1])
        # a marker that swallows the whitespace behind it is one token, whatever its text
        while i < i_next and j < j_next and _same_id_other_text(reference, subject, i, j):
            _append(hunks, Hunk("equal", i, i + 1, j, j + 1), reference, subject)
            i, j = i + 1, j + 1
        if i_next > i or j_next > j:
            kind = _kind(reference, subject, i, i_next, j, j_next)
            _append(hunks, Hunk(kind, i, i_next, j, j_next), reference, subject)
        i, j = i_next, j_next
    return [part for hunk in hunks for part in _at_turns(reference, subject, hunk)]


def _same_id_other_text(reference: EncodedStream, subject: EncodedStream, i: int, j: int) -> bool:
    if reference.input_ids[i] != subject.input_ids[j]:
        return False
    a, b = reference.token_text(i), subject.token_text(j)
    return a != b and a.rstrip() == b.rstrip() != ""


def _at_turns(reference: EncodedStream, subject: EncodedStream, hunk: Hunk) -> Iterator[Hunk]:
    """Cut a replaced stretch where the same message's header begins on both sides inside it."""
    _, i, i_end, j, j_end = hunk
    if hunk.kind == "replaced":
        theirs = _headers(subject)
        for message, turn in _headers(reference).items():
            if message not in theirs:
                continue
            here, there = turn.start, theirs[message].start
            if i <= here <= i_end and j <= there <= j_end and (here, there) not in ((i, j), (i_end, j_end)):
                yield Hunk(_kind(reference, subject, i, here, j, there), i, here, j, there)
                i, j = here, there
    yield Hunk(_kind(reference, subject, i, i_end, j, j_end), i, i_end, j, j_end)


def _cuts(reference: EncodedStream, subject: EncodedStream, blocks: list[Block]) -> Iterator[tuple[int, int]]:
    """Pairs of token indices at which both streams can be cut, in order; the ends come last."""
    ref_cuts, sub_cuts = _boundaries(reference), _boundaries(subject)
    for block in blocks:
        for offset in range(block.size + 1):
            here, there = ref_cuts.get(block.ref + offset), sub_cuts.get(block.sub + offset)
            if here and there:
                yield here[0], there[0]
                yield here[1], there[1]
    yield len(reference), len(subject)


def _boundaries(stream: EncodedStream) -> dict[int, tuple[int, int]]:
    """Character positions between two tokens: the index of the first token there, and of the first
    that covers characters (tokens without text may stand at one position)."""
    found: dict[int, tuple[int, int]] = {}
    reached = 0
    for index, (start, end) in enumerate(stream.spans):
        if start >= reached:
            found[start] = (found[start][0] if start in found else index, index)
        reached = max(reached, end)
    size = len(stream)
    found[len(stream.text)] = (found.get(len(stream.text), (size, size))[0], size)
    return found


def _kind(reference: EncodedStream, subject: EncodedStream, i: int, i_end: int, j: int, j_end: int) -> HunkKind:
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


def _append(hunks: list[Hunk], hunk: Hunk, reference: EncodedStream, subject: EncodedStream) -> None:
    """Add a hunk, joined with the one before when both are the same kind of difference."""
    if hunks:
        last = hunks[-1]
        alike = last.kind == hunk.kind or {last.kind, hunk.kind} <= {"missing", "extra", "replaced", "whitespace"}
        if alike:
            span = (last.ref_start, hunk.ref_end, last.sub_start, hunk.sub_end)
            kind = last.kind if last.kind == hunk.kind == "equal" else _kind(reference, subject, *span)
            hunks[-1] = Hunk(kind, *span)
            return
    hunks.append(hunk)


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
