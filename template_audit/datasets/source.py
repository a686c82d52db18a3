"""From what a user names to rows: a file, a folder of files, or a data set of the hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from template_audit.datasets.compression import plain_path
from template_audit.datasets.filetypes import NOT_READ, file_type, is_data
from template_audit.datasets.rows import SKIPPED, DataFile, Row, Wanted, every
from template_audit.errors import DataError, UsageError

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[^:@]+)?(:[^:]+)?")
_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "state.json")  # of data sets, beside their data


@dataclass(frozen=True, slots=True)
class DataSource:
    """The files of one data set, in order.

    `name` is what was asked for, `stem` what its rows are called. `revision` is the hub's commit; `notes`
    say what a reader should know of where the files came from.
    """

    name: str
    stem: str
    files: tuple[DataFile, ...]
    revision: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes in all files, as they are stored."""
        return sum(file.size for file in self.files)

    @property
    def position(self) -> int:
        """How many of these bytes were read."""
        return sum(file.position for file in self.files)

    def rows(self, shard: tuple[int, int] | None = None, wanted: Wanted | None = None) -> Iterator[Row]:
        """The rows, in order; see `stream_rows`."""
        for row in self._all(_wanted(shard, wanted)):
            if row.data is not SKIPPED:
                yield row

    def count(self) -> int:
        """The number of rows; reads the files, and makes as little of the rows as it can."""
        return sum(1 for _ in self._all(lambda number: False))

    def _all(self, wanted: Wanted) -> Iterator[Row]:
        number = 0
        for file in self.files:
            begun = number
            try:
                for row in file_type(file).read(file, number, wanted):
                    number = row.number
                    yield row
            except DataError as error:
                if len(self.files) == 1 and number == begun:
                    raise
                number += 1
                yield Row(number, file.name, error, file=file.name)
            file.position = file.size


def stream_rows(
    source: str | Path | DataSource, *, shard: tuple[int, int] | None = None, wanted: Wanted | None = None
) -> Iterator[Row]:
    """The rows of a file, a folder or a data set of the hub (see `open_source`), one at a time.

    A row that cannot be read has its DataError for data, and the stream goes on. `shard` is
    ``(index, count)``: of every `count` rows the one at `index`, from 0; `wanted` chooses by row number,
    from 1. Rows that are not taken are passed over without being decoded, where the file allows it.

    Raises DataError when there is no such source, it holds no data, or its only file cannot be read from
    its beginning; UsageError for a package that is missing, and for a shard that does not exist.
    """
    opened = source if isinstance(source, DataSource) else open_source(source)
    return opened.rows(shard, wanted)


def open_source(name: str | Path) -> DataSource:
    """The data set that `name` is: an existing file or folder, else ``org/name[@revision][:split]`` of the hub.

    Of a folder all data files are taken, in the order of their paths; hidden ones, descriptions of the data
    (dataset_info.json) and files that hold no rows, such as README.md, are not. ``hf://org/name`` is the hub's
    whatever is here. Raises DataError and UsageError.
    """
    text = str(name)
    path = Path(text).expanduser()
    if not text.startswith("hf://"):
        if path.is_dir():
            return _folder(path)
        if path.exists() or not _is_hub_name(name):
            return DataSource(text, plain_path(path).stem, (DataFile.local(path),))
    from template_audit.datasets.hub import hub_source

    return hub_source(text)


def data_names(names: list[str]) -> list[str]:
    """Which of these paths inside a folder are files of data, in order of their parts."""
    found = []
    for name in names:
        path = Path(name)
        suffix = plain_path(path).suffix.lower()
        hidden = any(part.startswith(".") for part in path.parts)
        if not hidden and path.name not in _DESCRIPTIONS and (is_data(suffix) or suffix in _TABLES):
            found.append(path)
    return [path.as_posix() for path in sorted(found)]


_TABLES = tuple(suffix for suffix in NOT_READ if suffix not in (".txt", ".yaml", ".yml"))  # named, not passed over


def _folder(path: Path) -> DataSource:
    names = data_names([file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()])
    if not names:
        raise DataError(f"{path} is a folder without data: rows are read from JSON, JSON lines and Parquet files.")
    return DataSource(str(path), path.resolve().name, tuple(DataFile.local(path / name) for name in names))


def _is_hub_name(name: str | Path) -> bool:
    text = str(name)
    if isinstance(name, Path) or not _HUB_NAME.fullmatch(text):
        return False
    return not is_data(plain_path(Path(text)).suffix.lower()) and not Path(text).parent.is_dir()


def _wanted(shard: tuple[int, int] | None, wanted: Wanted | None) -> Wanted:
    if shard is None:
        return wanted or every
    index, count = shard
    if not 0 <= index < count:
        raise UsageError(f"There is no shard {index} of {count}; shards are counted from 0.")

    def mine(number: int) -> bool:
        return (number - 1) % count == index

    if wanted is None:
        return mine
    chosen = wanted
    return lambda number: mine(number) and chosen(number)
