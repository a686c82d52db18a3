"""A data set file's rows as LLaMA-Factory's converters receive them.

The framework reads files with ``datasets.load_dataset``, so its rows have been through an Arrow
table: every row has every column, every object has every key that any object in its place has
(None where it was left out, in order of first appearance), and integers among floats are floats.
It matters wherever the framework prints an object back, as it does with tools and tool calls.
Compared with datasets 4.0.0 (packaged_modules/json/json.py and text/text.py).

Not imitated: strings that are all dates become timestamps there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from template_audit.errors import DataError, UsageError
from template_audit.frameworks.llamafactory.dataset_info import FILE_TYPES

if TYPE_CHECKING:
    from numpy.random import RandomState

T = TypeVar("T")


@dataclass(slots=True)
class Shape:
    """What an Arrow column would know about the values in one place."""

    fields: dict[str, Shape] = field(default_factory=dict)
    item: Shape | None = None
    has_float: bool = False

    def learn(self, value: Any) -> None:
        """Take one value into account."""
        if isinstance(value, dict):
            for key, part in value.items():
                known = self.fields.get(key)
                if known is None:
                    known = self.fields[key] = Shape()
                known.learn(part)
        elif isinstance(value, list):
            if self.item is None:
                self.item = Shape()
            for part in value:
                self.item.learn(part)
        elif isinstance(value, float):
            self.has_float = True

    def apply(self, value: Any) -> Any:
        """The value as the Arrow column gives it back."""
        if isinstance(value, dict):
            return {key: shape.apply(value.get(key)) for key, shape in self.fields.items()}
        if isinstance(value, list) and self.item is not None:
            return [self.item.apply(part) for part in value]
        if self.has_float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        return value


def arrow_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that are in memory already, as the Arrow table of all of them gives them back."""
    rows = list(rows)
    shape = Shape()
    for row in rows:
        shape.learn(row)
    return [shape.apply(row) for row in rows]


def read_rows(files: Sequence[Path], limit: int | None = None, split: str = "train") -> Iterator[dict[str, Any]]:
    """The rows of local files (all of one type), one at a time.

    JSON lines and text are read twice and never held; a JSON array is held. Raises DataError, naming
    file and line, for what is not JSON; UsageError for another split than ``train``, and for a file
    type that needs 🤗 datasets when that is not installed.
    """
    if split != "train":
        raise UsageError(f"Local files have the split `train` only; `{split}` is not supported.")
    type_ = FILE_TYPES.get(files[0].suffix[1:])
    if type_ not in ("json", "text"):
        yield from islice(_read_with_datasets(type_ or files[0].suffix, files), limit)
        return
    shape = Shape()
    for row in _raw_rows(files):
        shape.learn(row)
    for row in islice(_raw_rows(files), limit):
        yield shape.apply(row)


def sampled_rows(
    files: Sequence[Path], split: str, num_samples: int | None, max_samples: int | None, random: RandomState
) -> Iterator[dict[str, Any]]:
    """The rows that a run takes of one data set: `num_samples` drawn at random, then the first `max_samples`.

    `random` is NumPy's generator in the state in which the framework's own is: seeded with the run's
    `seed` (42 by default), and used by the data sets before this one (data/loader.py,
    ``_load_single_dataset``). More samples than rows are drawn with repetition. Drawing holds all rows.
    """
    if num_samples is None:
        yield from read_rows(files, max_samples, split)
        return
    rows = list(read_rows(files, None, split))
    indices = [int(index) for index in random.permutation(len(rows))[:num_samples]]
    if len(indices) < num_samples:
        indices += [int(index) for index in random.choice(len(rows), num_samples - len(indices))]
    for index in indices[:max_samples]:
        yield rows[index]


def count_rows(files: Sequence[Path]) -> int:
    """How many rows the files have."""
    if FILE_TYPES.get(files[0].suffix[1:]) in ("json", "text"):
        return sum(1 for _ in _raw_rows(files))
    return sum(1 for _ in read_rows(files))


def _raw_rows(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for path in files:
        try:
            if path.suffix == ".txt":
                with path.open(encoding="utf-8") as stream:
                    for line in stream:
                        yield {"text": line.rstrip("\n")}
            else:
                yield from _json_rows(path)
        except OSError as error:
            raise DataError(f"Cannot read {path}: {error.strerror}.") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text (byte {error.start}).") from None


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            if number == 1 and line.lstrip().startswith("["):
                yield from _array_rows(path)
                return
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise DataError(f"{path}, line {number}: not valid JSON ({error}).") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: expected an object, got {type(row).__name__}.")
            yield row


def _array_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}.") from None
    for index, row in enumerate(data):
        if isinstance(row, str):  # a list of strings is a data set with one column, `text`
            row = {"text": row}
        if not isinstance(row, dict):
            raise DataError(f"{path}, row {index}: expected an object, got {type(row).__name__}.")
        yield row


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
