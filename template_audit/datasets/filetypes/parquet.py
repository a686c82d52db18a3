"""Parquet files, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from template_audit.datasets.filetypes.interface import FileType
from template_audit.datasets.rows import SKIPPED, DataFile, Row, Wanted
from template_audit.errors import DataError, UsageError

_BATCH = 500  # rows that are Python objects at a time


class Parquet:
    """Rows of columns; nested columns become objects and lists."""

    name = "parquet"
    suffixes: tuple[str, ...] = (".parquet", ".pq")
    magic = b"PAR1"

    def read(self, file: DataFile, before: int, wanted: Wanted) -> Iterator[Row]:
        """See `FileType.read`. A row group that is damaged costs its own rows only."""
        try:
            import pyarrow
            from pyarrow.parquet import ParquetFile
        except ImportError:
            raise UsageError(
                f"{file.name}: reading Parquet needs the package `pyarrow`: pip install 'template-audit[data]'."
            ) from None
        if not file.head().startswith(self.magic):
            raise DataError(f"{file.name} is no Parquet file, though it is called one.")
        failures = (pyarrow.ArrowException, OSError, ValueError, UnicodeDecodeError)
        try:
            table = ParquetFile(file.fetch())
        except failures as error:
            raise DataError(f"{file.name} is a damaged Parquet file ({_reason(error)}).") from None
        with table:
            number = 0
            for group in range(table.num_row_groups):
                ends = number + table.metadata.row_group(group).num_rows
                try:
                    for batch in table.iter_batches(_BATCH, row_groups=[group]):
                        yield from _rows(file, batch, before, number, wanted)
                        number += batch.num_rows
                except failures as error:
                    for lost in range(number + 1, ends + 1):
                        where = f"{file.name}: row {lost}"
                        data = DataError(f"{where}: its part of the Parquet file is damaged ({_reason(error)}).")
                        yield Row(before + lost, where, data, file=file.name)
                number = ends
                file.position = file.size * (group + 1) // table.num_row_groups


def _rows(file: DataFile, batch: Any, before: int, number: int, wanted: Wanted) -> Iterator[Row]:
    keep = [i for i in range(batch.num_rows) if wanted(before + number + i + 1)]
    values: Iterator[Any] = iter(_values(batch if len(keep) == batch.num_rows else batch.take(_array(keep))))
    kept = set(keep)
    for i in range(batch.num_rows):
        where = f"{file.name}: row {number + i + 1}"
        data = next(values) if i in kept else SKIPPED
        if isinstance(data, ValueError):
            data = DataError(f"{where} holds what is no value of its column ({_reason(data)}).")
        yield Row(before + number + i + 1, where, data, file=file.name)


def _array(items: list[int]) -> Any:
    import pyarrow

    return pyarrow.array(items, pyarrow.int64())


def _values(batch: Any) -> list[Any]:
    """The rows as objects; one that cannot become one (text that is not UTF-8, say) is its ValueError."""
    try:
        values: list[Any] = batch.to_pylist()
        return values
    except ValueError as error:
        if batch.num_rows == 1:
            return [error]
        return [_values(batch.slice(i, 1))[0] for i in range(batch.num_rows)]


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:150].rstrip(".") or type(error).__name__


FILE_TYPE: FileType = Parquet()
