"""The plug point for file types: how the rows of one file are read.

A file type is a module beside this file that defines ``FILE_TYPE``, an object with the shape of
`FileType`. `template_audit.datasets.filetypes` finds it by its folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from template_audit.datasets.rows import DataFile, Row, Wanted


class FileType(Protocol):
    """One way of storing rows in a file."""

    name: str
    suffixes: tuple[str, ...]
    """Suffixes in small letters, with the dot; those of compressions are taken off before."""
    magic: bytes
    """How every such file begins, up to 8 bytes; empty when nothing tells it."""

    def read(self, file: DataFile, before: int, wanted: Wanted) -> Iterator[Row]:
        """All rows, in order, numbered from ``before + 1``; those not `wanted` have SKIPPED for data.

        A row that cannot be read has its DataError for data. Raises DataError for a file that cannot
        be read from its beginning, or not further, and UsageError for a package that is missing.
        """
        ...
