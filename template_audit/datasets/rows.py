"""Rows and the files that they come from: what every file type reads and gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Final, NamedTuple, final

from template_audit.datasets import compression

MOST = 1 << 28
"""The most bytes or characters that one row may have (256 MiB): what does not fit is not held."""


@final
class _Skipped:
    def __repr__(self) -> str:
        return "SKIPPED"


SKIPPED: Final = _Skipped()
"""Stands for the data of a row that was counted and not wanted."""


class Row(NamedTuple):
    """One row: its number from 1 over the whole source, its place, and its JSON value.

    `where` is ``file:line`` or ``file: row n``, for messages; `line` is the line on which the row
    begins, from 1, None where a file has no lines. `data` is a DataError when the row cannot be read.
    `alone` marks a file that is one conversation.
    """

    number: int
    where: str
    data: Any
    alone: bool = False
    file: str = ""
    line: int | None = None


Wanted = Callable[[int], bool]
"""Whether a row, by its number from 1 over the whole source, is to be read."""


def every(number: int) -> bool:
    """All rows are wanted."""
    return True


@dataclass(slots=True)
class DataFile:
    """One file of a data set.

    `name` is what messages call it. `fetch` brings a file that is elsewhere here, when its first row is
    asked for. `position` counts the bytes that were read, of `size` bytes in the file.
    """

    name: str
    size: int
    fetch: Callable[[], Path]
    position: int = 0

    @classmethod
    def local(cls, path: Path) -> DataFile:
        """A file that is here."""
        try:
            size = path.stat().st_size
        except OSError:
            size = 0
        return cls(str(path), size, lambda: path)

    def open(self) -> BufferedReader:
        """The content, decompressed when it is gzip or zstd, whatever the file is called.

        Raises DataError when there is no such file, and the stream raises it where the file is broken.
        """
        self.position = 0
        return compression.open_binary(self.fetch(), self.name, self._advance)

    def head(self) -> bytes:
        """The first bytes as they are stored."""
        return compression.first_bytes(self.fetch(), self.name)

    def _advance(self, count: int) -> None:
        self.position += count

    @property
    def suffix(self) -> str:
        """The suffix in small letters, without that of a compression."""
        return compression.plain_path(Path(self.name)).suffix.lower()


def unreadable(error: Exception) -> str:
    """Why valid JSON is not read: it is nested too deeply, or a number in it is longer than Python takes."""
    return "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"
