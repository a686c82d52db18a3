"""Which rows of a batch differ in nothing but the texts of their messages, and where those stand.

A *run* is the tokens of one message's own text. Two rows of one *kind* have the same ids, labels,
turns, pieces and generation prompts outside their runs, and the same labels on them. So what a check
finds that does not look into the texts, it finds in every row of the kind. Exact for tokenizers whose
tokens, put together, are the text (byte-level ones); others have no kinds.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from template_audit.ids import gather

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from template_audit.ids import Ids, IdsBatch, Places


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """`kinds[i]` numbers the kind of row i, −1 when it has none that is known.

    The runs of row i are ``[first[i]:first[i + 1]]`` of `starts` and `ends`, which are positions in the
    batch. They mean something for rows with a kind only.
    """

    kinds: NDArray[np.int32]
    first: Places
    starts: Places
    ends: Places


class Hole(NamedTuple):
    """The text of one message in a segment (its number in the row), and the ids of what stands around it there."""

    segment: int
    before: tuple[int, ...]
    after: tuple[int, ...]


def find_runs(
    ids: Ids, places: Places, first: Places, groups: Sequence[tuple[int, Sequence[Hole], Sequence[int]]]
) -> tuple[NDArray[np.int32], Places, Places, Places]:
    """Kinds and runs (as in `Runs`) of rows whose segments are known.

    Segment k of row i is ``[places[first[i] + k]:places[first[i] + k + 1]]`` of `ids`. A group has the
    number of its kind, the holes of its rows in order, and its rows. A row has its group's kind when
    around every text the tokens are those of the template alone: nothing has merged.
    """
    import numpy as np

    count = len(first) - 1
    sizes = np.zeros(count, dtype=np.int64)
    for _, holes, members in groups:
        sizes[list(members)] = len(holes)
    run_first = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(sizes, out=run_first[1:])
    kinds = np.full(count, -1, dtype=np.int32)
    starts, ends = np.zeros(int(run_first[-1]), dtype=np.int64), np.zeros(int(run_first[-1]), dtype=np.int64)
    for kind, holes, members in groups:
        rows = np.array(members, dtype=np.int64)
        clean = np.ones(len(rows), dtype=bool)
        for number, hole in enumerate(holes):
            begin, end = places[first[rows] + hole.segment], places[first[rows] + hole.segment + 1]
            clean &= end - begin > len(hole.before) + len(hole.after)
            clean &= _are(ids, begin, hole.before) & _are(ids, end - len(hole.after), hole.after)
            starts[run_first[rows] + number] = begin + len(hole.before)
            ends[run_first[rows] + number] = end - len(hole.after)
        kinds[rows[clean]] = kind
    return kinds, run_first, starts, ends


def _are(ids: Ids, places: Places, wanted: Sequence[int]) -> NDArray[np.bool_]:
    """At which of the places the ids are `wanted`."""
    import numpy as np

    if not wanted:
        return np.ones(len(places), dtype=bool)
    at = np.clip(places[:, None] + np.arange(len(wanted)), 0, len(ids) - 1)
    found: NDArray[np.bool_] = (ids[at] == np.array(wanted, dtype=np.int32)).all(axis=1)
    return found


def moved(runs: Runs, old: Places, new: Places) -> Runs:
    """The same runs in rows that begin elsewhere: row i at ``new[i]`` instead of ``old[i]``."""
    import numpy as np

    by = np.repeat(new[:-1] - old[:-1], np.diff(runs.first))
    return Runs(runs.kinds, runs.first, runs.starts + by, runs.ends + by)


def spread(runs: Runs, offsets: Places, rows: Sequence[int], without: Sequence[int], batch: Places) -> Runs:
    """The runs of some `rows` of a batch, which lie at `offsets`, as those of the whole batch at its offsets `batch`.

    The rows in `without` have no kind.
    """
    import numpy as np

    at = np.array(rows, dtype=np.int64)
    shifted = moved(runs, offsets, np.append(batch[at], 0))
    sizes = np.zeros(len(batch) - 1, dtype=np.int64)
    sizes[at] = np.diff(runs.first)
    first = np.zeros(len(batch), dtype=np.int64)
    np.cumsum(sizes, out=first[1:])
    kinds = np.full(len(batch) - 1, -1, dtype=np.int32)
    kinds[at] = runs.kinds
    kinds[list(without)] = -1
    return Runs(kinds, first, shifted.starts, shifted.ends)


def no_runs(count: int) -> Runs:
    """For `count` rows of no known kind."""
    import numpy as np

    empty = np.zeros(0, dtype=np.int64)
    return Runs(np.full(count, -1, dtype=np.int32), np.zeros(count + 1, dtype=np.int64), empty, empty)


class Kinds:
    """Numbers kinds by what they have in common."""

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}

    def number(self, key: Hashable) -> int:
        """The same number for the same key."""
        return self._numbers.setdefault(key, len(self._numbers))


def joined_runs(batches: Sequence[IdsBatch]) -> Runs | None:
    """The runs of batches one after another; None when one of them has none."""
    import numpy as np

    parts: list[Runs] = []
    tokens: list[int] = []
    total = 0
    for batch in batches:
        if batch.runs is None:
            return None
        parts.append(batch.runs)
        tokens.append(total)
        total += len(batch.input_ids)
    counts = [len(part.starts) for part in parts]
    shifts = [sum(counts[:k]) for k in range(len(counts))]
    return Runs(
        np.concatenate([part.kinds for part in parts]),
        np.concatenate([[0], *(part.first[1:] + shift for part, shift in zip(parts, shifts, strict=True))]),
        np.concatenate([part.starts + shift for part, shift in zip(parts, tokens, strict=True)]),
        np.concatenate([part.ends + shift for part, shift in zip(parts, tokens, strict=True)]),
    )


def same_runs(one: IdsBatch, other: IdsBatch) -> NDArray[np.bool_]:
    """For every row whether both batches have a kind for it and the same tokens in its runs, in order."""
    import numpy as np

    none: NDArray[Any] = np.zeros(len(one), dtype=bool)
    if one.runs is None or other.runs is None:
        return none
    a, b = one.runs, other.runs
    alike = (a.kinds >= 0) & (b.kinds >= 0) & (np.diff(a.first) == np.diff(b.first))
    rows = np.flatnonzero(alike)
    if not len(rows):
        return none
    counts = np.diff(a.first)[rows]
    here, there = (gather(np.arange(len(x.starts)), x.first[rows], counts) for x in (a, b))
    sizes, others = a.ends[here] - a.starts[here], b.ends[there] - b.starts[there]
    of_row = np.repeat(np.arange(len(rows)), counts)
    equal = np.ones(len(rows), dtype=bool)
    equal[of_row[sizes != others]] = False
    kept = equal[of_row]
    sizes = sizes[kept]
    left = gather(one.input_ids, a.starts[here][kept], sizes)
    right = gather(other.input_ids, b.starts[there][kept], sizes)
    equal[np.repeat(of_row[kept], sizes)[left != right]] = False
    none[rows] = equal
    return none
