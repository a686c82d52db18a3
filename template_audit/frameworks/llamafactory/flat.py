"""Ids and labels of many rows at once, without a Python object for each token.

The result is that of `sft.encode_turns`, row by row. Rows whose texts change the slots (tools, calls,
thoughts, media placeholders) and rows that cannot be encoded are left to the caller.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from template_audit.frameworks.llamafactory.behaviours import Behaviours
from template_audit.frameworks.llamafactory.options import SftOptions
from template_audit.frameworks.llamafactory.outlines import Constants, Outline
from template_audit.frameworks.llamafactory.sft import cuts_backwards, fit_turns
from template_audit.ids import gather, lay_segments
from template_audit.stream import IGNORE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from template_audit.ids import Ids, Places


class Flat(NamedTuple):
    """Rows in flat arrays, the notes of rows that were cut, and rows that this module leaves to others."""

    ids: Ids
    labels: Ids
    offsets: Places
    notes: Mapping[int, tuple[str, ...]]
    refused: Sequence[int]


def assemble(
    outlines: Sequence[Outline],
    constants: Constants,
    texts: tuple[Ids, Places],
    options: SftOptions,
    eos: int | None,
    behaviours: Behaviours,
) -> Flat:
    """The rows of `outlines`, whose texts are tokenized as `texts`, in order.

    `eos` is the eos token's id for an ``efficient_eos`` template, else None. There is at least one row.
    """
    import numpy as np

    segments = [segment for outline in outlines for segment in outline.segments]
    pool, starts, lengths = lay_segments(segments, constants.ids, texts)
    sizes = np.array([size for outline in outlines for size in outline.sides], dtype=np.int64)
    first = np.cumsum(sizes) - sizes
    side_lengths = np.add.reduceat(lengths, first)
    turns = np.array([len(outline.sides) // 2 for outline in outlines], dtype=np.int64)
    turn_first = np.cumsum(turns) - turns
    flat = gather(pool, starts, lengths)
    side_starts = np.cumsum(side_lengths) - side_lengths
    kept = _kept(side_lengths, turns, turn_first, options, eos is not None, behaviours)
    last = turn_first + turns - 1
    row_sides = np.add.reduceat(kept.lengths, 2 * turn_first)
    trained = np.zeros(len(side_lengths), dtype=bool)
    trained[1::2] = True
    if options.mask_history:
        trained[1::2] = False
        trained[2 * last + 1] = True
    if options.train_on_prompt:
        trained[0::2] = True
    if eos is None and not kept.cut:
        labels = np.where(np.repeat(trained, side_lengths), flat, np.int32(IGNORE))
        return Flat(flat, labels, _offsets(row_sides), kept.notes, ())
    part_starts, part_lengths, part_trained = side_starts, kept.lengths, trained
    if eos is not None:
        at = 2 * (last + 1)
        flat = np.append(flat, np.int32(eos))
        part_starts = np.insert(part_starts, at, len(flat) - 1)
        part_lengths = np.insert(part_lengths, at, 1)
        part_trained = np.insert(part_trained, at, True)
        row_sides = row_sides + 1
    ids = gather(flat, part_starts, part_lengths)
    labels = np.where(np.repeat(part_trained, part_lengths), ids, np.int32(IGNORE))
    offsets = _offsets(row_sides)
    refused: Sequence[int] = ()
    if eos is not None:
        refused = _label_eos(labels, eos, kept, turns, turn_first, part_lengths, options, behaviours)
    return Flat(ids, labels, offsets, kept.notes, refused)


def _offsets(lengths: Places) -> Places:
    import numpy as np

    out = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=out[1:])
    return out


class _Kept(NamedTuple):
    lengths: Places
    """Of every side, after the cut."""
    cut: bool
    notes: dict[int, tuple[str, ...]]
    dropped: dict[int, set[int]]
    """Rows that lost whole turns, and which."""


def _kept(
    sides: Places,
    turns: Places,
    turn_first: Places,
    options: SftOptions,
    appends_eos: bool,
    behaviours: Behaviours,
) -> _Kept:
    import numpy as np

    limit, used = options.cutoff_len, int(appends_eos)
    totals = np.add.reduceat(sides, 2 * turn_first)
    # While twice the row fits, so does twice each prompt beside all that was taken before it: nothing is cut.
    doubtful = np.flatnonzero(2 * totals + used >= limit)
    if not len(doubtful):
        return _Kept(sides, False, {}, {})
    kept = sides.copy()
    notes: dict[int, tuple[str, ...]] = {}
    dropped: dict[int, set[int]] = {}
    backwards = cuts_backwards(options, behaviours)
    for row in doubtful.tolist():
        begin, count = 2 * int(turn_first[row]), int(turns[row])
        given = sides[begin : begin + 2 * count].tolist()
        fitted, remarks = fit_turns([*zip(given[0::2], given[1::2], strict=True)], limit, appends_eos, backwards)
        if not remarks:
            continue
        out = [0] * (2 * count)
        for turn, source, target in fitted:
            out[2 * turn], out[2 * turn + 1] = source, target
        kept[begin : begin + 2 * count] = out
        notes[row] = tuple(remarks)
        if len(fitted) < count:
            dropped[row] = set(range(count)) - {turn for turn, _, _ in fitted}
    return _Kept(kept, bool(notes), notes, dropped)


def _label_eos(
    labels: NDArray[Any],
    eos: int,
    kept: _Kept,
    turns: Places,
    turn_first: Places,
    part_lengths: Places,
    options: SftOptions,
    behaviours: Behaviours,
) -> list[int]:
    """Put the eos label on the first prompt token of the turns that get it; returns rows with such a prompt empty."""
    import numpy as np

    rows = np.repeat(np.arange(len(turns)), turns)
    wanted = np.ones(len(rows), dtype=bool)
    if not behaviours.efficient_eos_label_on_first_turn:
        spared = turn_first + turns - 1 if cuts_backwards(options, behaviours) else turn_first
        wanted[spared] = False
    for row, gone in kept.dropped.items():
        wanted[[int(turn_first[row]) + turn for turn in gone]] = False
    empty = wanted & (kept.lengths[0::2] == 0)
    refused = np.unique(rows[empty])
    part_starts = np.cumsum(part_lengths) - part_lengths
    sources = 2 * np.arange(len(rows)) + rows  # one part more, the eos, for every row before
    labels[part_starts[sources[wanted & ~empty]]] = eos
    found: list[int] = refused.tolist()
    return found
