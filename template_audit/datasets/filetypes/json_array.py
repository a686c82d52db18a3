"""The items of one JSON array, one at a time, however long the array is.

The text is read in pieces, and every item decoded by Python's own decoder, so that numbers are what
they would be if the whole file were decoded. A broken item is passed over when its brackets and
quotes still say where it ends.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from io import BufferedReader
from typing import Any

from template_audit.datasets.rows import MOST, SKIPPED, Row, Wanted, unreadable
from template_audit.errors import DataError

_PIECE = 1 << 20  # bytes
_NEAR = 32  # an error that close to the end of what was read may be due to the end
_SPACE = re.compile(r"[ \t\n\r]*")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of bytes; valid text holds none
_STRUCTURE = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.S)


def not_json(place: str, column: int, reason: str) -> str:
    """The sentence for a place (``file:line``) that is not valid JSON. `column` counts from 1."""
    return f"{place}: not valid JSON (column {column}: {reason})."


class ArrayReader:
    """Reads the rows of the array with which `stream` begins; they are numbered from ``before + 1``."""

    def __init__(self, stream: BufferedReader, name: str, before: int, wanted: Wanted) -> None:
        self._stream, self._name, self._before, self._wanted = stream, name, before, wanted
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._scan = json.JSONDecoder().raw_decode
        self._text, self._at = "", 0  # what is held, and how far it is taken
        self._known = (0, 1, 1)  # a character that is held, its line and its column
        self._ended = False
        self._broken = False  # some bytes of what is held are not UTF-8
        self._failure: DataError | None = None
        self._space()
        self._at += 1  # the bracket

    def first(self) -> Any:
        """The first item, which is not taken; None when there is none, or it is broken."""
        self._space()
        try:
            return self._value()[0]
        except (ValueError, RecursionError):
            return None

    def __iter__(self) -> Iterator[Row]:
        """The rows. Where the array is broken off, the last of them is the error."""
        number = self._before
        following = self._space()
        if following == "]":
            self._at += 1
        while following != "]":
            number += 1
            if not self._space():
                yield self._error(number, "it ends in the middle of the array")
                return
            row, known = self._row(number)
            yield row
            if not known:
                return
            following = self._space()
            if following not in (",", "]"):
                if following:
                    why = "Expecting ',' delimiter; what follows is not read"
                else:
                    why = "it ends in the middle of the array"
                yield self._error(number + 1, why)
                return
            self._at += 1
        if self._space():
            yield self._error(number + 1, "Extra data; what follows the array is not read")
        elif self._failure:
            yield self._error(number + 1, "")

    def _row(self, number: int) -> tuple[Row, bool]:
        """The row that begins here, and whether it is known where it ends."""
        known = True
        line, column = self._place(self._at)
        self._known = (self._at, line, column)
        where = f"{self._name}: row {number - self._before}"
        try:
            data, end = self._value()
        except json.JSONDecodeError as error:
            place, column = self._place(error.pos)
            data = DataError(not_json(f"{self._name}:{place}", column, error.msg))
            known = self._pass_over()
        except (RecursionError, ValueError) as error:
            why = str(error) if isinstance(error, _TooLong) else unreadable(error)
            data = DataError(f"{where}: {why}.")
            known = self._pass_over()
        else:
            if self._broken and _NOT_UTF8.search(self._text, self._at, end):
                data = DataError(f"{where} (line {line}) is not UTF-8 text; save the file as UTF-8.")
            elif not self._wanted(number):
                data = SKIPPED
            self._at = end
        if self._failure and not known:
            data = self._failure
        return Row(number, where, data, file=self._name, line=line), known

    def _value(self) -> tuple[Any, int]:
        """The value that begins here, and where it ends. Raises ValueError or RecursionError."""
        while True:
            try:
                data, end = self._scan(self._text, self._at)
            except json.JSONDecodeError as error:
                # Text that breaks off, inside a string or elsewhere, may only not have been read yet
                cut = error.pos >= len(self._text) - _NEAR or error.msg.startswith("Unterminated")
                if cut and self._more():
                    continue
                raise
            goes_on = end == len(self._text) or (isinstance(data, int | float) and end >= len(self._text) - 3)
            if not goes_on or not self._more():  # the number may be 1.5e3, and `e3` not read yet
                return data, end

    def _pass_over(self) -> bool:
        """Go to the end of the broken item; False when its brackets and quotes do not tell where that is."""
        while True:
            depth = 0
            for token in _STRUCTURE.finditer(self._text, self._at):
                mark = token.group()[:1] if token.end() - token.start() == 1 else ""
                if depth == 0 and mark in ("]", "}", ","):
                    self._at = token.start()
                    return True
                depth += (mark in ("[", "{")) if mark not in ("]", "}") else -1
                if mark == '"':
                    break
            try:
                if not self._more():
                    return False
            except _TooLong:
                return False

    def _space(self) -> str:
        """Go past whitespace; the character that follows, empty at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            self._at = found.end() if found else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _more(self) -> bool:
        """Let go of what is taken and read on, as much again as is held; False at the end."""
        if self._ended:
            return False
        self._known = (0, *self._place(self._at))
        held = self._text[self._at :]
        if len(held) > MOST:
            raise _TooLong(f"the row is longer than {MOST >> 20} MiB; it is not read")
        parts, size = [held], max(_PIECE, len(held))
        while size > 0 and not self._ended:
            data = self._stream.read1(size)
            parts.append(self._decode(data, not data))
            size -= len(parts[-1])
            self._ended = not data
        if self._ended:
            try:
                self._stream.read(1)
            except DataError as error:
                self._failure = error
        self._text, self._at = "".join(parts), 0
        self._broken = _NOT_UTF8.search(self._text) is not None
        return len(self._text) > len(held)

    def _place(self, position: int) -> tuple[int, int]:
        """Line and column, from 1, of a character that is held, and not before the last one that was asked for."""
        known, line, column = self._known
        lines = self._text.count("\n", known, position)
        if not lines:
            return line, column + position - known
        return line + lines, position - self._text.rfind("\n", 0, position)

    def _error(self, number: int, reason: str) -> Row:
        line, column = self._place(self._at)
        data = self._failure or DataError(not_json(f"{self._name}:{line}", column, reason))
        return Row(number, f"{self._name}: row {number - self._before}", data, file=self._name, line=line)


class _TooLong(ValueError):
    """A row that is not held."""
