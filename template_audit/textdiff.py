"""What two texts share: equal stretches, chosen so that the difference reads well.

Texts are cut into units (markers, words, single characters), and units are compared. That steers
only what a difference looks like; characters decide what is equal.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Set
from itertools import accumulate, count, islice
from typing import NamedTuple

Range = tuple[int, int]
"""A half-open range of characters."""


class Block(NamedTuple):
    """``size`` equal characters, from `ref` in the reference's text and `sub` in the subject's."""

    ref: int
    sub: int
    size: int


def equal_blocks(
    ref_text: str, sub_text: str, ref: Range, sub: Range, ref_turns: Set[int], sub_turns: Set[int]
) -> list[Block]:
    """The equal stretches of two ranges of text, in order.

    A stretch that only one side has begins where a turn begins, when the text allows it: `ref_turns`
    and `sub_turns` are the characters at which one does.
    """
    a, b = ref_text[slice(*ref)], sub_text[slice(*sub)]
    if a == b:
        return [Block(ref[0], sub[0], len(a))] if a else []
    if not a or not b:
        return []
    ours, theirs = _UNIT.findall(a), _UNIT.findall(b)
    gap = _Gap(ours, _offsets(ours, ref[0]), theirs, _offsets(theirs, sub[0]))
    found = _without_islands(gap, _merge(_equal_units(ours, theirs)))
    return [
        Block(gap.ref_at[i], gap.sub_at[j], gap.ref_at[i + size] - gap.ref_at[i])
        for i, j, size in _slide(gap, found, ref_turns, sub_turns)
    ]


def increasing(pairs: list[Block]) -> list[Block]:
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


# Markers are units as a whole, so that `<|user|>` and `[|user|]` do not share their bars.
_UNIT = re.compile(
    r"<[|｜][^<>]{1,60}?[|｜]>|\[\|[^\[\]\s]{0,40}\|\]|</?[A-Za-z_][\w.:-]{0,40}>|\[/?[A-Z_]{3,40}\]|\w+|.", re.S
)
_MARKER = re.compile(r"[<\[].+[>\]]", re.S)

_CELLS = 4_000_000
"""Most unit pairs that one exact difference may look at (under a millisecond)."""
_RUN = 8
_WINDOW = 2_000
_SHARED = 0.25
"""The share of common units, in any order, from which on repetitive texts are compared at all."""
_STRETCH = 64  # units that are compared at once
_ISLAND = 16
"""Most characters that two different texts can share by chance in one place."""


class _Gap(NamedTuple):
    """Unit texts of both sides, and the character offset of each unit in its stream's text."""

    ref: list[str]
    ref_at: list[int]
    sub: list[str]
    sub_at: list[int]


def _offsets(units: list[str], start: int) -> list[int]:
    return list(accumulate(map(len, units), initial=start))


def _equal_units(ref: list[str], sub: list[str]) -> Iterator[Block]:
    """Equal runs of units, in order. Whitespace is matched last, next to what is equal already.

    Else the blanks of ``x [/INST]`` and ``x[/INST] `` would be held for equal, and the marker for moved.
    """
    ref_at, sub_at = ([i for i, blank in enumerate(map(str.isspace, units)) if not blank] for units in (ref, sub))
    number: defaultdict[str, int] = defaultdict(count().__next__)  # quicker to compare than text
    ours, theirs = [number[ref[i]] for i in ref_at], [number[sub[j]] for j in sub_at]
    found = _diff(ours, 0, len(ours), theirs, 0, len(theirs))
    a = b = 0
    for i, j, size in _together(ref, ref_at, sub, sub_at, found):
        head = 0
        while a + head < i and b + head < j and ref[a + head] == sub[b + head]:
            head += 1
        tail = 0
        while a + head < i - tail and b + head < j - tail and ref[i - tail - 1] == sub[j - tail - 1]:
            tail += 1
        yield Block(a, b, head)
        yield Block(i - tail, j - tail, tail + size)
        a, b = i + size, j + size


def _together(
    ref: list[str], ref_at: list[int], sub: list[str], sub_at: list[int], found: Iterable[Block]
) -> Iterator[Block]:
    """Runs of visible units as runs of all units: as long as the whitespace inside is the same. The ends come last."""
    for i, j, size in found:
        for start in range(0, size, _STRETCH):
            stop = min(start + _STRETCH, size) - 1
            a, a_end = ref_at[i + start], ref_at[i + stop] + 1
            b, b_end = sub_at[j + start], sub_at[j + stop] + 1
            if a_end - a == b_end - b and ref[a:a_end] == sub[b:b_end]:
                yield Block(a, b, a_end - a)
            else:
                for k in range(start, stop + 1):
                    yield Block(ref_at[i + k], sub_at[j + k], 1)
    yield Block(len(ref), len(sub), 0)


def _diff(ref: list[int], a: int, a_end: int, sub: list[int], b: int, b_end: int) -> Iterator[Block]:
    """Equal runs of units, in order; exact up to `_CELLS`, beyond that split at units that are unique."""
    size = _same(ref, a, a_end, sub, b, b_end)
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


def _same(ref: list[int], a: int, a_end: int, sub: list[int], b: int, b_end: int) -> int:
    """How many units are the same on both sides from here on."""
    size, most = 0, min(a_end - a, b_end - b)
    while size + _STRETCH <= most and ref[a + size : a + size + _STRETCH] == sub[b + size : b + size + _STRETCH]:
        size += _STRETCH
    while size < most and ref[a + size] == sub[b + size]:
        size += 1
    return size


def _exact(ref: list[int], a: int, a_end: int, sub: list[int], b: int, b_end: int) -> Iterator[Block]:
    from rapidfuzz.distance import Indel

    for op in Indel.opcodes(ref[a:a_end], sub[b:b_end]):
        if op.tag == "equal":
            yield Block(a + op.src_start, b + op.dest_start, op.src_end - op.src_start)


def _at_unique(ref: list[int], a: int, a_end: int, sub: list[int], b: int, b_end: int) -> Iterator[Block]:
    """Fix units that occur once on each side and in the same order; compare what lies between.

    Where there is none, runs of `_RUN` units take their place; where there is none of them either, the
    text repeats itself, and is compared in windows.
    """
    ours, theirs = Counter(ref[a:a_end]), Counter(sub[b:b_end])
    once = {unit for unit, count in ours.items() if count == 1}
    once &= {unit for unit, count in theirs.items() if count == 1}
    if once:
        where = {ref[i]: i for i in range(a, a_end) if ref[i] in once}
        fixed = increasing([Block(where[sub[j]], j, 1) for j in range(b, b_end) if sub[j] in once])
    else:
        shared = sum(min(count, theirs[unit]) for unit, count in ours.items())
        if shared < _SHARED * min(a_end - a, b_end - b):
            return  # nothing to hold on to: one replaced stretch
        fixed = _unique_runs(ref, a, a_end, sub, b, b_end)
        if not fixed:
            yield from _by_windows(ref, a, a_end, sub, b, b_end)
            return
    for block in [*fixed, Block(a_end, b_end, 0)]:
        if block.size and (block.ref < a or block.sub < b):
            continue  # the stretch before goes on beyond it
        yield from _diff(ref, a, block.ref, sub, b, block.sub)
        size = _same(ref, block.ref, a_end, sub, block.sub, b_end)
        if size:
            yield Block(block.ref, block.sub, size)
        a, b = block.ref + size, block.sub + size


def _unique_runs(ref: list[int], a: int, a_end: int, sub: list[int], b: int, b_end: int) -> list[Block]:
    """The first units of some runs of `_RUN` units that occur once on each side, in the same order on both.

    Of all runs one in eight is looked at, the same ones on both sides.
    """
    number: defaultdict[int, int] = defaultdict(count().__next__)  # whatever comes before, the same runs are taken
    sides = []
    for units, start, end in ((ref, a, a_end), (sub, b, b_end)):
        ids = [number[unit] for unit in units[start:end]]
        at: dict[int, int | None] = {}
        for place, run in enumerate(map(hash, zip(*(islice(ids, k, None) for k in range(_RUN)), strict=False)), start):
            if not run & 7:
                at[run] = None if run in at else place
        sides.append(at)
    ours, theirs = sides
    pairs = [
        Block(i, j, 1)
        for run, j in theirs.items()
        if j is not None and (i := ours.get(run)) is not None and ref[i : i + _RUN] == sub[j : j + _RUN]
    ]
    return increasing(sorted(pairs, key=lambda block: block.sub))


def _by_windows(ref: list[int], a: int, a_end: int, sub: list[int], b: int, b_end: int) -> Iterator[Block]:
    """Repetitive texts, in which no unit is unique: exact within a window that goes along both.

    A window's last quarter is compared again in the next one: where it ends says little.
    """
    while a < a_end and b < b_end:
        a_to, b_to = min(a + _WINDOW, a_end), min(b + _WINDOW, b_end)
        last = a_to == a_end and b_to == b_end
        ahead = _WINDOW if last else _WINDOW * 3 // 4
        found = [
            Block(i, j, min(size, max(a + ahead - i, 0), max(b + ahead - j, 0)))
            for i, j, size in _exact(ref, a, a_to, sub, b, b_to)
        ]
        found = [block for block in found if block.size]
        yield from found
        if last:
            return
        # where little is equal, the last agreement is a chance one: keep to the diagonal
        if sum(block.size for block in found) >= ahead // 4:
            a, b = found[-1].ref + found[-1].size, found[-1].sub + found[-1].size
        else:
            a, b = a + ahead, b + ahead


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
    """Drop short equal stretches without a marker between longer edits.

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
        short = sum(map(len, units)) <= min(_ISLAND, *map(max, edits))
        if not (chance and short) or any(map(_MARKER.fullmatch, units)):
            kept.append(block)
        a, b = a_next, b_next
    return kept


def _slide(gap: _Gap, blocks: list[Block], ref_turns: Set[int], sub_turns: Set[int]) -> list[Block]:
    """Move stretches that only one side has to where a turn begins, when the text allows it.

    ``<s>system<e><s>user`` against ``<s>user`` can lack ``system<e><s>`` or ``<s>system<e>``: the
    second is what a reader expects.
    """
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


def _shift(units: list[str], at: list[int], turns: Set[int], start: int, end: int, left: int, right: int) -> int:
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
