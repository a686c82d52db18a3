"""Rows of JSON and JSON lines files, with the place of each for error messages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from template_audit.errors import DataError

_LINES = (".jsonl", ".ndjson")
_OTHER = (".parquet", ".arrow", ".csv", ".tsv", ".txt", ".xlsx", ".yaml", ".yml")


class Row(NamedTuple):
    """One row: its number from 1, its place (``file:line`` or ``file: row n``) and its JSON value.

    `data` is a DataError when a line is not JSON. `alone` marks a file that is one conversation.
    """

    number: int
    where: str
    data: Any
    alone: bool = False


def unreadable(error: Exception) -> str:
    """Why valid JSON is not read: it is nested too deeply, or a number in it is longer than Python takes."""
    return "nested too deeply" if isinstance(error, RecursionError) else "a number has too many digits"


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file. JSON lines are read one at a time; a JSON array is held in memory.

    Raises DataError when the file cannot be opened, is no text, or is neither JSON nor JSON lines.
    """
    if path.suffix.lower() in _OTHER:
        raise DataError(f"{path}: rows are read from JSON and JSON lines files; convert it to one of them.")
    if path.is_dir():
        raise DataError(f"{path} is a folder; name a JSON or JSON lines file in it.")
    try:
        if _is_lines(path):
            yield from _lines(path)
        else:
            yield from _whole(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save it as UTF-8.") from None


def _is_lines(path: Path) -> bool:
    """True when each line is a row: by the file's name, or because the first of several is a JSON value."""
    named = path.suffix.lower() in _LINES
    with path.open(encoding="utf-8-sig") as file:
        filled = (line for line in file if line.strip())
        first, second = next(filled, ""), next(filled, None)
    if second is None and not named:
        return False
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return named and first.strip() not in ("[", "{")  # an indented document under the wrong name
    return second is not None or not isinstance(value, list) or _are_messages(value)


def _are_messages(items: list[Any]) -> bool:
    return bool(items) and isinstance(items[0], dict) and ("role" in items[0] or "from" in items[0])


def _lines(path: Path) -> Iterator[Row]:
    number = 0
    with path.open(encoding="utf-8-sig") as file:
        for line_number, line in enumerate(file, 1):
            if not line.strip():
                continue
            number += 1
            where = f"{path}:{line_number}"
            try:
                data = json.loads(line)
            except json.JSONDecodeError as error:
                data = DataError(f"{where}: not valid JSON (column {error.colno}: {error.msg}).")
            except (RecursionError, ValueError) as error:
                data = DataError(f"{where}: {unreadable(error)}.")
            yield Row(number, where, data)


def _whole(path: Path) -> Iterator[Row]:
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        return
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not valid JSON (column {error.colno}: {error.msg}).") from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path}: {unreadable(error)}.") from None
    if not isinstance(data, list) or _are_messages(data):
        yield Row(1, str(path), data, alone=True)
        return
    for number, item in enumerate(data, 1):
        yield Row(number, f"{path}: row {number}", item)
