"""Reading conversations from files: one module of this folder for each row format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from template_audit.conversation import Conversation
from template_audit.datasets.files import Row, read_rows
from template_audit.datasets.interface import RowFormat
from template_audit.errors import DataError, UsageError

__all__ = ["formats", "iter_conversations", "read_conversations", "scan_conversations"]

_HEAD = 100  # rows looked at to tell the format


@cache
def formats() -> dict[str, RowFormat]:
    """Every row format of this folder by name."""
    found: dict[str, RowFormat] = {}
    for module in iter_modules(__path__):
        row_format = getattr(import_module(f"{__name__}.{module.name}"), "FORMAT", None)
        if row_format is not None:
            found[row_format.name] = row_format
    return found


def read_conversations(path: str | Path, format: str | None = None, *, limit: int | None = None) -> list[Conversation]:
    """All conversations of a file, or its first `limit` ones; see `iter_conversations`."""
    return list(islice(iter_conversations(path, format), limit))


def iter_conversations(path: str | Path, format: str | None = None) -> Iterator[Conversation]:
    """The conversations of a JSON or JSON lines file, one at a time.

    `format` is ``openai``, ``sharegpt`` or ``alpaca``; None tells it from the first rows. A file may
    also be one conversation: an object with `messages`, or a bare list of messages.

    Row n (from 1) of ``name.json`` has the id ``name#n``; its `row` is ``{"format": …, "data": the
    row as it stands}``. A file that is one conversation has the id in the file, or the file's stem,
    and no `row`: no framework's converter reads such files.

    Raises DataError naming file, line or row, and field; UsageError for an unknown format.
    """
    for result in scan_conversations(path, format):
        if isinstance(result, DataError):
            raise result
        yield result


def scan_conversations(path: str | Path, format: str | None = None) -> Iterator[Conversation | DataError]:
    """As `iter_conversations`, but a row that cannot be read gives its DataError and the scan goes on.

    What makes the whole file unreadable (it is missing, or its format cannot be told) is raised.
    """
    path = Path(path)
    rows = read_rows(path)
    head = list(islice(rows, 1 if format is not None else _HEAD))
    if not head:
        raise DataError(f"{path} holds no conversations.")
    row_format = _named(format) if format is not None else _detect(head)
    for row in chain(head, rows):
        try:
            yield _conversation(path, row, row_format)
        except DataError as error:
            yield error


def _named(name: str) -> RowFormat:
    from template_audit.frameworks import nearest

    known = formats()
    if name not in known:
        raise UsageError(f"Unknown row format `{name}`; known are {', '.join(known)}.{nearest(name, list(known))}")
    return known[name]


def _detect(rows: Sequence[Row]) -> RowFormat:
    """The format of the first row that any format recognises; broken rows are passed over."""
    for row in rows:
        if isinstance(row.data, (list, Mapping)):
            for row_format in formats().values():
                if row_format.recognises(_as_object(row)):
                    return row_format
    if isinstance(rows[0].data, DataError):
        raise rows[0].data
    fields = ", ".join(f"`{key}`" for key in list(_as_object(rows[0]))[:8]) or "no fields"
    expected = "; ".join(f"{row_format.name} ({row_format.fields})" for row_format in formats().values())
    raise DataError(f"{rows[0].where}: cannot tell the format of a row with {fields}; known are {expected}.")


def _as_object(row: Row) -> Mapping[str, Any]:
    if isinstance(row.data, list):
        return {"messages": row.data}
    if not isinstance(row.data, Mapping):
        raise DataError(f"{row.where}: expected an object, got {type(row.data).__name__}.")
    return row.data


def _conversation(path: Path, row: Row, row_format: RowFormat) -> Conversation:
    if isinstance(row.data, DataError):
        raise row.data
    data = _as_object(row)
    conversation = row_format.read(data, row.where)
    if row.alone:
        given = data.get("id")
        return replace(conversation, id=given if isinstance(given, str) and given else path.stem)
    return replace(conversation, id=f"{path.stem}#{row.number}", row={"format": row_format.name, "data": data})
