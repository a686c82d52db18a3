"""JSON files: a row on every line, an array of rows, or one conversation.

Which of them a file is its content says; its name decides only what the content leaves open.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from io import BufferedReader
from typing import Any, Literal

from template_audit.datasets.filetypes.interface import FileType
from template_audit.datasets.filetypes.json_array import ArrayReader, not_json
from template_audit.datasets.rows import MOST, SKIPPED, DataFile, Row, Wanted, unreadable
from template_audit.errors import DataError

_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_HEAD = 1 << 20  # the longest first line that is looked at as a whole to tell what the file is

Layout = Literal["empty", "lines", "array", "one"]


class JsonFile:
    """Rows of JSON text, read one at a time with Python's own decoder, so that every number is as it stands."""

    name = "json"
    suffixes: tuple[str, ...] = (".json", ".jsonl", ".ndjson")
    magic = b""

    def read(self, file: DataFile, before: int, wanted: Wanted) -> Iterator[Row]:
        """See `FileType.read`. Where an array is broken off, its last row is the DataError that says so."""
        named = file.suffix in (".jsonl", ".ndjson")
        layout = _layout(file, named)
        if layout == "lines":
            yield from _lines(file, before, wanted)
        elif layout == "array":
            with _text(file) as stream:
                reader = ArrayReader(stream, file.name, before, wanted)
                if not are_messages(reader.first()):
                    yield from reader
                    return
            yield from _lines(file, before, wanted) if named else _one(file, before, wanted)
        elif layout == "one":
            yield from _one(file, before, wanted)


def are_messages(item: Any) -> bool:
    """True for the first item of a list of messages, as against a list of rows."""
    return isinstance(item, dict) and ("role" in item or "from" in item)


def _text(file: DataFile) -> BufferedReader:
    stream = file.open()
    try:
        start = stream.peek(3)
        if start.startswith(_UTF16):
            raise DataError(f"{file.name} is UTF-16 text; save it as UTF-8.")
        if start.startswith(_BOM):
            stream.read(3)
    except BaseException:
        stream.close()
        raise
    return stream


def _layout(file: DataFile, named: bool) -> Layout:
    """What the file is. `named` says that its name is one of JSON lines."""
    with _text(file) as stream:
        pieces = _until_broken(iter(partial(stream.readline, _HEAD), b""))
        first = next((piece for piece in pieces if piece.strip()), None)
        if first is None:
            stream.read(1)  # raises where the file is broken
            return "empty"
        start = first.lstrip()[:1]
        long = len(first) == _HEAD and not first.endswith(b"\n")
        if long:
            if start == b"[":
                return "array"
            if named:
                return "lines"
            next((piece for piece in pieces if piece.endswith(b"\n")), None)
        second = next((piece for piece in pieces if piece.strip()), None)
    if long:
        return "lines" if second is not None else "one"
    if second is None and not named:
        return "array" if start == b"[" else "one"
    try:
        value = json.loads(first.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        alike = second is not None and second.lstrip()[:1] == start
        if start == b"[":
            return "lines" if named and alike and first.strip() != b"[" else "array"
        return "lines" if (named or alike) and first.strip() != b"{" else "one"
    rows_in_it = isinstance(value, list) and not are_messages(next(iter(value), None))
    return "array" if rows_in_it and second is None else "lines"


def _until_broken(pieces: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from pieces
    except DataError:
        return  # reading the rows says so


def _lines(file: DataFile, before: int, wanted: Wanted) -> Iterator[Row]:
    number = before
    with _text(file) as stream:
        for line_number, line in enumerate(iter(partial(stream.readline, MOST), b""), 1):
            if not line.strip():
                continue
            number += 1
            where = f"{file.name}:{line_number}"
            if len(line) == MOST and not line.endswith(b"\n"):
                while line and not line.endswith(b"\n"):
                    line = stream.readline(_HEAD)
                data: Any = DataError(f"{where}: the line is longer than {MOST >> 20} MiB; it is not read.")
            else:
                data = _line(line, where) if wanted(number) else SKIPPED
            yield Row(number, where, data, file=file.name, line=line_number)


def _line(line: bytes, where: str) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return DataError(f"{where} is not UTF-8 text (byte {error.start + 1} of the line); save the file as UTF-8.")
    except json.JSONDecodeError as error:
        return DataError(not_json(where, error.pos + 1, error.msg))
    except (RecursionError, ValueError) as error:
        return DataError(f"{where}: {unreadable(error)}.")


def _one(file: DataFile, before: int, wanted: Wanted) -> Iterator[Row]:
    """The only row: an object, or a list of messages."""
    with _text(file) as stream:
        data = stream.read(MOST)
        if stream.read(1):  # raises where the file is broken
            raise DataError(f"{file.name} is one value of more than {MOST >> 20} MiB; it is not read.")
    if not wanted(before + 1):
        yield Row(before + 1, file.name, SKIPPED, alone=True, file=file.name)
        return
    try:
        value = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{file.name} is not UTF-8 text (byte {error.start + 1}); save it as UTF-8.") from None
    except json.JSONDecodeError as error:
        raise DataError(not_json(f"{file.name}:{error.lineno}", error.colno, error.msg)) from None
    except (RecursionError, ValueError) as error:
        raise DataError(f"{file.name}: {unreadable(error)}.") from None
    yield Row(before + 1, file.name, value, alone=True, file=file.name, line=1)


FILE_TYPE: FileType = JsonFile()
