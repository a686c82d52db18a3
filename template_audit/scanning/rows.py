"""Which rows are scanned: data sets one after another, sampled, in shards; and which are repetitions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from operator import eq
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

from template_audit.conversation import Conversation
from template_audit.datasets import DataSource, Row, formats, open_source, read_row, row_format
from template_audit.errors import DataError, TemplateAuditError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_HEAD = 100  # rows looked at to tell the format


class Raw(NamedTuple):
    """A row on its way to whoever evaluates it: read when it gets there, `format` saying how."""

    row: Row
    format: str
    stem: str


Item = Raw | Conversation | DataError
"""A row that is still to be read, one that a framework has converted, or why there is none."""


class Source(Protocol):
    """Where rows come from. `name` and `format` are for the report."""

    name: str
    format: str

    def rows(self, wanted: Callable[[int], bool]) -> Iterator[tuple[int, str, Item]]:
        """Number from 1, place and item of the rows that are wanted, in order. Can be asked for again."""
        ...

    def count(self) -> int:
        """How many rows there are; reads all of it."""
        ...

    @property
    def share_read(self) -> float | None:
        """How much of it was read, between 0 and 1; None when that cannot be told."""
        ...


class FileSource:
    """A file, a folder or a data set of the hub (see `template_audit.datasets.open_source`)."""

    def __init__(self, name: str, format: str | None = None) -> None:
        """Raises DataError and UsageError when it is missing or its format cannot be told."""
        self.name = name
        self.opened: DataSource = open_source(name)
        head = list(islice(self.opened.rows(), 1 if format is not None else _HEAD))
        self.format = row_format(self.opened, head, format).name

    def rows(self, wanted: Callable[[int], bool]) -> Iterator[tuple[int, str, Item]]:
        """See `Source`."""
        for row in self.opened.rows(wanted=wanted):
            item = row.data if isinstance(row.data, DataError) else Raw(row, self.format, self.opened.stem)
            yield row.number, row.where, item

    def count(self) -> int:
        """See `Source`."""
        return self.opened.count()

    @property
    def share_read(self) -> float | None:
        """See `Source`."""
        return min(self.opened.position / self.opened.size, 1.0) if self.opened.size else None


@dataclass(slots=True)
class MemorySource:
    """Rows that are in memory, with numbers of their own, which need not be without gaps."""

    name: str
    format: str
    data: Sequence[tuple[int, Mapping[str, Any]]]
    share_read: float | None = None

    def rows(self, wanted: Callable[[int], bool]) -> Iterator[tuple[int, str, Item]]:
        """See `Source`."""
        for number, data in self.data:
            if wanted(number):
                where = f"{self.name}: row {number}"
                yield number, where, Raw(Row(number, where, dict(data)), self.format, self.name)

    def count(self) -> int:
        """See `Source`."""
        return len(self.data)


@dataclass(slots=True)
class ConvertedSource:
    """Rows that a framework reads and converts itself, from `open`."""

    name: str
    format: str
    open: Callable[[], Iterator[Conversation | DataError]]
    share_read: float | None = None

    def rows(self, wanted: Callable[[int], bool]) -> Iterator[tuple[int, str, Item]]:
        """See `Source`."""
        for number, item in enumerate(self.open(), 1):
            if wanted(number):
                yield number, item.id if isinstance(item, Conversation) else "", item

    def count(self) -> int:
        """See `Source`."""
        return sum(1 for _ in self.open())


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows are taken: the first `max_rows`, of these `sample` drawn by `seed`, of these the rows of a shard.

    `shard` is (index from 0, count). Whether a row is taken depends on its number alone.
    """

    sample: int | None = None
    seed: int = 0
    max_rows: int | None = None
    shard: tuple[int, int] | None = None

    def wanted(self, count: Callable[[], int]) -> Callable[[int], bool]:
        """A test for numbers; `count` gives the number of all rows, and is called only when sampling."""
        most, drawn, shard = self.max_rows, None, self.shard
        if self.sample is not None:
            rows = count() if most is None else min(count(), most)
            if rows > self.sample:
                drawn = draw(rows, self.sample, self.seed)

        def taken(number: int) -> bool:
            if most is not None and number > most:
                return False
            if drawn is not None and number not in drawn:
                return False
            return shard is None or (number - 1) % shard[1] == shard[0]

        return taken


def draw(rows: int, sample: int, seed: int) -> frozenset[int]:
    """`sample` of the numbers 1 to `rows`; for one seed, always the same ones."""
    import numpy as np

    chosen = np.random.Generator(np.random.PCG64(seed)).choice(rows, size=sample, replace=False, shuffle=False)
    return frozenset((chosen + 1).tolist())


def numbered(sources: Sequence[Source], selection: Selection) -> Iterator[tuple[int, str, Item]]:
    """The rows that are taken, numbered through all sources."""
    counts: dict[int, int] = {}

    def total() -> int:
        for index, source in enumerate(sources):
            counts[index] = source.count()
        return sum(counts.values())

    wanted = selection.wanted(total)
    before = 0
    for index, source in enumerate(sources):
        if selection.max_rows is not None and before >= selection.max_rows:
            return
        last = 0
        begun = before
        for last, where, item in source.rows(_Counted(begun, wanted)):
            yield begun + last, where, item
            if selection.max_rows is not None and begun + last >= selection.max_rows:
                return
        before += counts[index] if index in counts else _rows_of(source, last, selection, index == len(sources) - 1)


def _rows_of(source: Source, last: int, selection: Selection, is_last: bool) -> int:
    """How many rows a source has, of which row `last` is the last that was taken."""
    return last if selection.shard is None or is_last else source.count()


class _Counted:
    """`wanted` for the numbers of one source, the first `before` rows being others'."""

    def __init__(self, before: int, wanted: Callable[[int], bool]) -> None:
        self.before, self.wanted = before, wanted

    def __call__(self, number: int) -> bool:
        return self.wanted(self.before + number)


def one_row(sources: Sequence[Source], number: int) -> Item:
    """Row `number`, counted through all sources. Raises UsageError when there are fewer."""
    before = 0
    for source in sources:
        for _, _, item in source.rows(partial(eq, number - before)):
            return item
        before += source.count()
    raise UsageError(f"There is no row {number}: the data has {before:,}.")


def size_of(sources: Sequence[Source]) -> int | None:
    """Bytes of all sources; None when that is not known of all."""
    sizes = [source.opened.size if isinstance(source, FileSource) else None for source in sources]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def conversation_of(item: Item) -> Conversation | DataError:
    """The conversation in an item, or why there is none."""
    if not isinstance(item, Raw):
        return item
    try:
        return read_row(item.row, formats()[item.format], item.stem)
    except DataError as error:
        return error
    except RecursionError:
        return DataError(f"{item.row.where}: nested too deeply.")


def digest(number: int, item: Item) -> tuple[bytes, int]:
    """16 bytes that are equal for rows with equal data, and the size of the data; unreadable rows are equal to none."""
    if isinstance(item, Raw):
        value: Any = item.row.data
    elif isinstance(item, Conversation) and item.messages:
        value = [item.messages, item.tools, _example(item.row)]
    else:
        value = ["row", number]
    data = _plain_bytes(value)
    return hashlib.blake2b(data, digest_size=16).digest(), len(data)


def _example(row: Mapping[str, Any] | None) -> Any:
    return [repr(value) if isinstance(value, TemplateAuditError) else value for value in (row or {}).values()]


def _plain_bytes(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value, order="deterministic", enc_hook=repr)
    except (TypeError, ValueError, RecursionError, OverflowError):
        return json.dumps(value, sort_keys=True, default=repr).encode("utf-8", "surrogatepass")


@dataclass(slots=True)
class Repetitions:
    """Finds rows that repeat an earlier one exactly, in 24 bytes a row."""

    numbers: bytearray = field(default_factory=bytearray)

    def add(self, number: int, row_digest: bytes) -> None:
        """Take a row's digest in."""
        self.numbers += number.to_bytes(8, "big") + row_digest

    def keep(self, rows: int) -> None:
        """Forget all but the first `rows` rows that were taken in."""
        del self.numbers[rows * 24 :]

    def sorted(self) -> bytes:
        """The digests by row number."""
        entries = [bytes(self.numbers[at : at + 24]) for at in range(0, len(self.numbers), 24)]
        return b"".join(sorted(entries))

    def found(self, first: int) -> tuple[int, list[tuple[int, int]]]:
        """How many rows repeat an earlier one, and the `first` of them with the row that they repeat."""
        import numpy as np

        if not self.numbers:
            return 0, []
        table: NDArray[np.uint64] = np.frombuffer(self.numbers, dtype=">u8").reshape(-1, 3).astype(np.uint64)
        order = np.lexsort((table[:, 0], table[:, 2], table[:, 1]))
        table = table[order]
        same = np.zeros(len(table), dtype=bool)
        same[1:] = (table[1:, 1] == table[:-1, 1]) & (table[1:, 2] == table[:-1, 2])
        starts = np.maximum.accumulate(np.where(same, 0, np.arange(len(table))))
        rows, of = table[same, 0], table[starts[same], 0]
        earliest = np.argsort(rows)[:first]
        return len(rows), list(zip(rows[earliest].tolist(), of[earliest].tolist(), strict=True))


def share_read(sources: Sequence[Source]) -> float | None:
    """How much of all sources was read, between 0 and 1."""
    shares = [source.share_read for source in sources]
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known and len(known) == len(shares) else None
