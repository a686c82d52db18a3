"""A data set file's rows as LLaMA-Factory's converters receive them.

The framework reads files with ``datasets.load_dataset``, so its rows have been through an Arrow
table: every row has every column, every object has every key that any object in its place has
(None where it was left out, in order of first appearance), and integers among floats are floats.
It matters wherever the framework prints an object back, as it does with tools and tool calls.
Values of different kinds in one place (text and numbers, say) end the run there. Compared with datasets
4.0.0 (packaged_modules/json/json.py and text/text.py).

Not imitated: strings that are all dates become timestamps there, and a file of JSON lines is taken in
pieces of 10 MB whose columns are those of the first piece.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from template_audit.datasets.compression import plain_path
from template_audit.datasets.filetypes import file_type
from template_audit.datasets.rows import SKIPPED, DataFile, Row, Wanted, every
from template_audit.errors import DataError, UsageError
from template_audit.frameworks.llamafactory.dataset_info import FILE_TYPES

if TYPE_CHECKING:
    from numpy.random import RandomState

T = TypeVar("T")


_KINDS: Mapping[type, str] = {
    str: "text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    list: "a list",
    dict: "an object",
}


@dataclass(slots=True)
class Shape:
    """What an Arrow column would know about the values in one place.

    `kind` is that of the first value that is not None. Values of another kind are left out: Arrow refuses
    a column that has both.
    """

    fields: dict[str, Shape] = field(default_factory=dict)
    item: Shape | None = None
    has_float: bool = False
    kind: str | None = None

    def learn(self, value: Any) -> bool:
        """Take one value into account; False when Arrow refuses it beside those before."""
        kind = _KINDS.get(type(value))
        if kind is None:
            return True
        if self.kind is None:
            self.kind = kind
        elif self.kind != kind:
            return False
        fits = True
        if kind == "an object":
            fields = self.fields
            for key, part in value.items():
                known = fields.get(key)
                if known is None:
                    known = fields[key] = Shape()
                if known.kind != "text" or type(part) is not str:
                    fits &= known.learn(part)
        elif kind == "a list":
            if self.item is None:
                self.item = Shape()
            for part in value:
                fits &= self.item.learn(part)
        elif type(value) is float:
            self.has_float = True
        return fits

    def apply(self, value: Any) -> Any:
        """The value as the Arrow column gives it back."""
        if isinstance(value, dict):
            return {key: shape.apply(value.get(key)) for key, shape in self.fields.items()}
        if isinstance(value, list) and self.item is not None:
            return [self.item.apply(part) for part in value]
        if self.has_float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        return value

    def conflict(self, value: Any, place: str = "") -> str | None:
        """Where, and how, a value is not of the kind of the first one; None when it is throughout."""
        kind = _KINDS.get(type(value))
        if kind is None:
            return None
        if kind != self.kind:
            return f"`{place}` is {kind}, and {self.kind} before"
        found: Iterable[str | None] = ()
        if isinstance(value, dict):
            parts = ((key, part) for key, part in value.items() if key in self.fields)
            found = (self.fields[key].conflict(part, f"{place}.{key}" if place else key) for key, part in parts)
        elif isinstance(value, list) and self.item is not None:
            item = self.item
            found = (item.conflict(part, f"{place}[{i}]") for i, part in enumerate(value))
        return next((problem for problem in found if problem), None)


def arrow_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that are in memory already, as the Arrow table of all of them gives them back."""
    rows = list(rows)
    shape = Shape()
    for row in rows:
        shape.learn(row)
    return [shape.apply(row) for row in rows]


def read_rows(
    files: Sequence[Path],
    limit: int | None = None,
    split: str = "train",
    *,
    strict: bool = True,
    wanted: Wanted = every,
) -> Iterator[Any]:
    """The rows of local files (all of one type), one at a time, each an object.

    JSON and text are read twice, the first time to learn the columns, and never held. Of the rows before
    `limit` those that are `wanted`, by number from 1, are given.

    Raises DataError, naming file and line, for the first row of all that is not JSON or no object, or that
    has another kind of value in a column than the rows before: the framework stops on such a file. With
    `strict` False that error is in the row's place. Raises UsageError for another split than ``train``, and
    for a file type that needs a package that is not installed.
    """
    if split != "train":
        raise UsageError(f"Local files have the split `train` only; `{split}` is not supported.")
    type_ = _type_of(files[0])
    if type_ not in ("json", "text", "parquet"):
        rows = islice(enumerate(_read_with_datasets(type_ or files[0].suffix, files), 1), limit)
        yield from (row for number, row in rows if wanted(number))
        return
    shape = Shape()
    learned = mixed = False
    if type_ != "parquet":  # which has columns already
        learned = True
        for row in _raw_rows(files):
            mixed |= isinstance(row.data, dict) and not shape.learn(row.data)
            if strict and isinstance(data := _checked(row, shape if mixed else None), DataError):
                raise data
    for row in islice(_raw_rows(files, wanted), limit):
        if row.data is not SKIPPED:
            data = _checked(row, shape if mixed else None)
            if strict and isinstance(data, DataError):
                raise data
            yield shape.apply(data) if learned and not isinstance(data, DataError) else data


def _checked(row: Row, shape: Shape | None) -> dict[str, Any] | DataError:
    problem = None if shape is None or isinstance(row.data, DataError) else shape.conflict(row.data)
    if problem is None:
        data: dict[str, Any] | DataError = row.data
        return data
    return DataError(f"{row.where}: {problem}; LLaMA-Factory stops on such a file, because Arrow refuses it.")


def sampled_rows(
    files: Sequence[Path],
    split: str,
    num_samples: int | None,
    max_samples: int | None,
    random: RandomState,
    *,
    strict: bool = True,
    wanted: Wanted = every,
) -> Iterator[Any]:
    """The rows that a run takes of one data set: `num_samples` drawn at random, then the first `max_samples`.

    `random` is NumPy's generator in the state in which the framework's own is: seeded with the run's
    `seed` (42 by default), and used by the data sets before this one (data/loader.py,
    ``_load_single_dataset``). More samples than rows are drawn with repetition. Only the rows that were
    drawn are held. `wanted` chooses among the rows that are taken, by number from 1; for `strict` and what
    is raised see `read_rows`.
    """
    if num_samples is None:
        yield from read_rows(files, max_samples, split, strict=strict, wanted=wanted)
        return
    count = count_rows(files)
    drawn = [int(index) for index in random.permutation(count)[:num_samples]]
    if len(drawn) < num_samples:
        drawn += [int(index) for index in random.choice(count, num_samples - len(drawn))]
    drawn = [index for number, index in enumerate(drawn[:max_samples], 1) if wanted(number)]
    numbers = {index + 1 for index in drawn}
    found = read_rows(files, None, split, strict=strict, wanted=numbers.__contains__)
    rows = dict(zip(sorted(numbers), found, strict=True))
    for index in drawn:
        yield rows[index + 1]


def _type_of(path: Path) -> str | None:
    return FILE_TYPES.get(plain_path(path).suffix[1:])


def count_rows(files: Sequence[Path]) -> int:
    """How many rows the files have."""
    if _type_of(files[0]) in ("json", "text", "parquet"):
        return sum(1 for _ in _raw_rows(files, lambda number: False))
    return sum(1 for _ in _read_with_datasets(_type_of(files[0]) or files[0].suffix, files))


def _raw_rows(files: Sequence[Path], wanted: Wanted = every) -> Iterator[Row]:
    """The rows before Arrow: an object, a DataError, or SKIPPED for one that is not wanted."""
    number = 0
    for path in files:
        file = DataFile.local(path)
        try:
            for row in _text_rows(file, number, wanted) if path.suffix == ".txt" else _file_rows(file, number, wanted):
                number = row.number
                yield row
        except DataError as error:
            number += 1
            yield Row(number, file.name, error, file=file.name)


def _file_rows(file: DataFile, before: int, wanted: Wanted) -> Iterator[Row]:
    for row in file_type(file).read(file, before, wanted):
        data = row.data
        if isinstance(data, str):  # a list of strings is a data set with one column, `text`
            data = {"text": data}
        if row.alone:
            data = DataError(
                f"{row.where} is one JSON value; LLaMA-Factory reads a list of rows, or a row on every line."
            )
        elif data is not SKIPPED and not isinstance(data, dict | DataError):
            data = DataError(f"{row.where}: expected an object, got {type(data).__name__}.")
        yield row._replace(data=data)


def _text_rows(file: DataFile, before: int, wanted: Wanted) -> Iterator[Row]:
    with file.open() as stream:
        for line_number, line in enumerate(stream, 1):
            number, where = before + line_number, f"{file.name}:{line_number}"
            data: Any = SKIPPED
            if wanted(number):
                try:
                    data = {"text": line.decode("utf-8").removesuffix("\n").removesuffix("\r")}
                except UnicodeDecodeError as error:
                    data = DataError(f"{where} is not UTF-8 text (byte {error.start + 1} of the line).")
            yield Row(number, where, data, file=file.name, line=line_number)


def _read_with_datasets(type_: str, files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    try:
        from datasets import load_dataset
    except ImportError:
        raise UsageError(
            f"{files[0].name}: reading {type_} files needs the package `datasets`; "
            "install it, or convert the file to JSON lines."
        ) from None
    for row in load_dataset(type_, data_files=[str(path) for path in files], split="train"):
        yield dict(row)


def map_batches(items: Iterable[T], size: int, workers: int = 1, count: int | None = None) -> Iterator[Iterator[T]]:
    """The batches that ``Dataset.map`` hands to a function, in order; exhaust each before the next.

    With several `workers` each gets a contiguous part of the rows, and batches end where a part ends.
    The parts depend on the number of rows: without `count` all items are held.
    """
    if workers > 1 and count is None:
        items = list(items)
        count = len(items)
    stream = iter(items)
    if workers == 1 or count is None:
        for first in stream:
            yield chain([first], islice(stream, size - 1))
        return
    workers = min(workers, max(count, 1))
    for worker in range(workers):
        left = count // workers + (worker < count % workers)
        while left > 0:
            yield islice(stream, min(left, size))
            left -= size
