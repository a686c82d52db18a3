"""File types: one module of this folder for each way of storing rows."""

from __future__ import annotations

from functools import cache

from template_audit.datasets.filetypes.interface import FileType
from template_audit.datasets.rows import DataFile
from template_audit.errors import DataError
from template_audit.plugins import plugged

DEFAULT = "json"
NOT_READ = (".arrow", ".csv", ".tsv", ".txt", ".xlsx", ".yaml", ".yml", ".zip", ".tar", ".bz2", ".xz", ".feather")
"""Suffixes of data that no file type here reads."""


@cache
def file_types() -> dict[str, FileType]:
    """Every file type of this folder by name."""
    return plugged(__name__, "FILE_TYPE")


def is_data(suffix: str) -> bool:
    """True for the suffix of a file type, in small letters."""
    return any(suffix in file_type.suffixes for file_type in file_types().values())


def file_type(file: DataFile) -> FileType:
    """The type that the content of a file tells, else its suffix; JSON when neither does.

    Raises DataError when the file cannot be opened, or is of a type that is not read.
    """
    head = file.head()
    for known in file_types().values():
        if known.magic and head.startswith(known.magic):
            return known
    if file.suffix in NOT_READ:
        raise DataError(
            f"{file.name}: rows are read from JSON, JSON lines and Parquet files; convert it to one of them."
        )
    for known in file_types().values():
        if file.suffix in known.suffixes:
            return known
    return file_types()[DEFAULT]
