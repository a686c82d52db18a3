"""Reading rows and conversations: one module of this folder for each row format.

File types (JSON, Parquet, …) are modules of `filetypes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

from template_audit.conversation import Conversation
from template_audit.datasets.compression import plain_path
from template_audit.datasets.interface import RowFormat
from template_audit.datasets.rows import Row
from template_audit.datasets.source import DataSource, open_source, stream_rows
from template_audit.errors import DataError, UsageError
from template_audit.plugins import plugged

__all__ = [
    "DataSource",
    "Row",
    "formats",
    "iter_conversations",
    "open_source",
    "read_conversations",
    "read_row",
    "row_format",
    "scan_conversations",
    "stream_rows",
]

_HEAD = 100  # rows looked at to tell the format


@cache
def formats() -> dict[str, RowFormat]:
    """Every row format of this folder by name."""
    return plugged(__name__, "FORMAT")


def read_conversations(
    source: str | Path | DataSource, format: str | None = None, *, limit: int | None = None
) -> list[Conversation]:
    """All conversations of a data set, or its first `limit` ones; see `iter_conversations`."""
    return list(islice(iter_conversations(source, format), limit))


def iter_conversations(source: str | Path | DataSource, format: str | None = None) -> Iterator[Conversation]:
    """The conversations of a file, a folder or a data set of the hub, one at a time.

    `source` is what `open_source` takes: JSON, JSON lines (also .gz and .zst) or Parquet. `format` is
    ``openai``, ``sharegpt`` or ``alpaca``; None tells it from the first rows. A file may also be one
    conversation: an object with `messages`, or a bare list of messages.

    Row n (from 1) of ``name.json`` has the id ``name#n``; its `row` is ``{"format": …, "data": the
    row as it stands}``. A file that is one conversation has the id in the file, or the file's stem,
    and no `row`: no framework's converter reads such files.

    Raises DataError naming file, line or row, and field; UsageError for an unknown format.
    """
    for result in scan_conversations(source, format):
        if isinstance(result, DataError):
            raise result
        yield result


def scan_conversations(
    source: str | Path | DataSource, format: str | None = None
) -> Iterator[Conversation | DataError]:
    """As `iter_conversations`, but a row that cannot be read gives its DataError and the scan goes on.

    What makes all of it unreadable (it is missing, or its format cannot be told) is raised.
    """
    opened = source if isinstance(source, DataSource) else open_source(source)
    rows = opened.rows()
    head = list(islice(rows, 1 if format is not None else _HEAD))
    chosen = row_format(opened, head, format)
    for row in chain(head, rows):
        try:
            yield read_row(row, chosen, opened.stem)
        except DataError as error:
            yield error


def row_format(source: DataSource, head: Sequence[Row], name: str | None = None) -> RowFormat:
    """The row format called `name`, or the one that the first rows tell.

    Raises DataError when there are no rows or they tell none, UsageError for an unknown name.
    """
    if name is not None:
        chosen = _named(name)
    if not head:
        raise DataError(f"{source.name} holds no conversations.")
    return chosen if name is not None else _detect(head)


def read_row(row: Row, row_format: RowFormat, stem: str) -> Conversation:
    """The conversation in a row of `source.stem`. Raises DataError that names place and field."""
    if isinstance(row.data, DataError):
        raise row.data
    data = _as_object(row)
    conversation = row_format.read(data, row.where)
    if row.alone:
        given = data.get("id")
        return replace(conversation, id=given if isinstance(given, str) and given else plain_path(Path(row.file)).stem)
    return replace(conversation, id=f"{stem}#{row.number}", row={"format": row_format.name, "data": data})


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
    for row in rows:
        if isinstance(row.data, DataError):
            raise row.data
    fields = ", ".join(f"`{key}`" for key in list(_as_object(rows[0]))[:8]) or "no fields"
    expected = "; ".join(f"{row_format.name} ({row_format.fields})" for row_format in formats().values())
    raise DataError(f"{rows[0].where}: cannot tell the format of a row with {fields}; known are {expected}.")


def _as_object(row: Row) -> Mapping[str, Any]:
    if isinstance(row.data, list):
        return {"messages": row.data}
    if not isinstance(row.data, Mapping):
        raise DataError(f"{row.where}: expected an object, got {type(row.data).__name__}.")
    return row.data
