"""Text that remembers where each of its characters came from.

`Traced` is a ``str`` whose characters carry an Origin, run-length encoded. It survives what Jinja
templates and slot substitution do to strings; where an operation really does lose the Origin
(upper-casing, serialising) the result is marked *derived from* it, never guessed. Every method
returns the text that ``str`` itself computes: only the bookkeeping is done here.

A plain ``str`` counts as the template's own literal. ``str`` methods of a *plain* receiver know
nothing of traced arguments (``", ".join(parts)``), so make the receiver traced first:
``literal(slot).replace("{{content}}", text, 1)``, or use `join`.

Nothing here is public by attribute name: templates can see attributes, and must see no new ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Self, SupportsIndex, TypeVar

from template_audit.stream import LITERAL, Origin, Piece

Run = tuple[int, Origin]
"""A number of characters, and where they came from."""

_T = TypeVar("_T", bound="Traced")


class Traced(str):
    """A ``str`` that remembers the Origin of each of its characters."""

    __slots__ = ("_runs",)
    _runs: tuple[Run, ...]

    def __new__(cls, text: str = "", origin: Origin = LITERAL) -> Self:
        """All of `text` from `origin`; text that is traced already keeps its own Origins."""
        if isinstance(text, Traced):
            return _make(cls, str.__getitem__(text, slice(None)), text._runs)
        return _make(cls, text, ((len(text), origin),) if text else ())

    def __str__(self) -> str:
        return self

    # Concatenation ---------------------------------------------------------------------------

    def __add__(self, other: str) -> Self:
        if not isinstance(other, str):
            return NotImplemented
        return _make(type(self), str.__add__(self, other), _glue(self._runs, runs_of(other)))

    def __radd__(self, other: str) -> Self:
        if not isinstance(other, str):
            return NotImplemented
        return _make(type(self), str.__add__(other, self), _glue(runs_of(other), self._runs))

    def __mul__(self, times: SupportsIndex) -> Self:
        return _make(type(self), str.__mul__(self, times), _merge(self._runs * max(0, times.__index__())))

    __rmul__ = __mul__

    def join(self, iterable: Iterable[str], /) -> Self:
        return self._of(join(iterable, self))

    # Cutting ---------------------------------------------------------------------------------

    def __getitem__(self, key: SupportsIndex | slice, /) -> Self:
        text = str.__getitem__(self, key)
        if not isinstance(key, slice):
            start = key.__index__() % len(self)
            return _make(type(self), text, _cut(self._runs, start, start + 1))
        start, stop, step = key.indices(len(self))
        if step == 1:
            return _make(type(self), text, _cut(self._runs, start, stop))
        origins = [origin for length, origin in self._runs for _ in range(length)]
        return _make(type(self), text, _merge((1, origin) for origin in origins[key]))

    def __iter__(self) -> Iterator[str]:
        kind, chars = type(self), str.__iter__(self)
        for length, origin in self._runs:
            for _ in range(length):
                yield _make(kind, next(chars), ((1, origin),))

    def strip(self, chars: str | None = None, /) -> Self:
        return self._at(len(self) - len(str.lstrip(self, chars)), str.strip(self, chars))

    def lstrip(self, chars: str | None = None, /) -> Self:
        text = str.lstrip(self, chars)
        return self._at(len(self) - len(text), text)

    def rstrip(self, chars: str | None = None, /) -> Self:
        return self._at(0, str.rstrip(self, chars))

    def removeprefix(self, prefix: str, /) -> Self:
        text = str.removeprefix(self, prefix)
        return self._at(len(self) - len(text), text)

    def removesuffix(self, suffix: str, /) -> Self:
        return self._at(0, str.removesuffix(self, suffix))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Self]:  # type: ignore[override]
        return self._located(str.split(self, sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Self]:  # type: ignore[override]
        return self._located(str.rsplit(self, sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[Self]:  # type: ignore[override]
        lines, pos = [], 0
        for whole, line in zip(str.splitlines(self, True), str.splitlines(self, keepends), strict=True):
            lines.append(self._at(pos, line))
            pos += len(whole)
        return lines

    def partition(self, sep: str, /) -> tuple[Self, Self, Self]:
        return self._tiles(str.partition(self, sep))

    def rpartition(self, sep: str, /) -> tuple[Self, Self, Self]:
        return self._tiles(str.rpartition(self, sep))

    # Putting in ------------------------------------------------------------------------------

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> Self:
        text = str.replace(self, old, new, count)
        if not str.__contains__(self, old):
            return self
        inserted, runs, pos = runs_of(new), list[Run](), 0
        for at in _matches(self, old, count.__index__()):
            runs += _cut(self._runs, pos, at)
            runs += inserted
            pos = at + len(old)
        runs += _cut(self._runs, pos, len(self))
        return _make(type(self), text, _merge(runs))

    def center(self, width: SupportsIndex, fillchar: str = " ", /) -> Self:
        text = str.center(self, width, fillchar)
        missing = len(text) - len(self)
        return self._padded(text, missing // 2 + (missing & width.__index__() & 1))

    def ljust(self, width: SupportsIndex, fillchar: str = " ", /) -> Self:
        return self._padded(str.ljust(self, width, fillchar), 0)

    def rjust(self, width: SupportsIndex, fillchar: str = " ", /) -> Self:
        text = str.rjust(self, width, fillchar)
        return self._padded(text, len(text) - len(self))

    def zfill(self, width: SupportsIndex, /) -> Self:
        text = str.zfill(self, width)
        sign = str.__getitem__(self, slice(0, 1)) in ("+", "-") and len(text) > len(self)
        return self._of(derive(text, self)) if sign else self._padded(text, len(text) - len(self))

    def __mod__(self, values: Any) -> Self:
        from template_audit.trace_format import percent

        return self._of(percent(self, values))

    def __rmod__(self, template: str) -> Traced:
        if not isinstance(template, str):
            return NotImplemented
        from template_audit.trace_format import percent

        return percent(template, self)

    def format(self, *args: Any, **kwargs: Any) -> Self:
        from template_audit.trace_format import filled

        return self._of(filled(self, str.format(self, *args, **kwargs), args, kwargs))

    def format_map(self, mapping: Mapping[str, Any], /) -> Self:  # type: ignore[override]
        from template_audit.trace_format import filled

        return self._of(filled(self, str.format_map(self, mapping), (), mapping))

    def __format__(self, spec: str) -> str:
        return derive(str.__format__(self, spec), self) if spec else self

    # Changing: the result is computed from the text, not copied ----------------------------------

    def upper(self) -> Self:
        return self._changed(str.upper)

    def lower(self) -> Self:
        return self._changed(str.lower)

    def title(self) -> Self:
        return self._changed(str.title)

    def capitalize(self) -> Self:
        return self._changed(str.capitalize)

    def swapcase(self) -> Self:
        return self._changed(str.swapcase)

    def casefold(self) -> Self:
        return self._changed(str.casefold)

    def translate(self, table: Any, /) -> Self:
        return self._of(derive(str.translate(self, table), self))

    def expandtabs(self, tabsize: SupportsIndex = 8) -> Self:
        return self._of(derive(str.expandtabs(self, tabsize), self))

    # Helpers ---------------------------------------------------------------------------------

    def _of(self, text: Traced) -> Self:
        """`text` as an instance of this very class."""
        return text if type(text) is type(self) else _make(type(self), text, text._runs)

    def _at(self, start: int, text: str) -> Self:
        """The part `text` of this text, which begins at `start`."""
        if len(text) == len(self):
            return self
        return _make(type(self), text, _cut(self._runs, start, start + len(text)))

    def _located(self, parts: list[str], sep: str | None) -> list[Self]:
        """Parts in their order, with `sep` (None: any whitespace) between them."""
        found, pos = [], 0
        for part in parts:
            start = pos if sep is not None else str.find(self, part, pos)
            found.append(self._at(start, part))
            pos = start + len(part) + len(sep or "")
        return found

    def _tiles(self, parts: tuple[str, str, str]) -> tuple[Self, Self, Self]:
        head, sep, tail = parts
        return (
            self._at(0, head),
            self._at(len(head), sep),
            self._at(len(head) + len(sep), tail),
        )

    def _padded(self, text: str, left: int) -> Self:
        """This text with `left` fill characters before it and the rest after it."""
        right = len(text) - len(self) - left
        return _make(type(self), text, _merge(((left, LITERAL), *self._runs, (right, LITERAL))))

    def _changed(self, method: Callable[[str], str]) -> Self:
        """`method` changes characters one by one, so runs stay where they are if no length changes."""
        text = method(self)
        if text == self:
            return self
        if len(text) != len(self):
            return self._of(derive(text, self))
        runs, pos = [], 0
        for length, origin in self._runs:
            span = slice(pos, pos + length)
            same = text[span] == str.__getitem__(self, span)
            runs.append((length, origin if same else as_derived(origin)))
            pos += length
        return _make(type(self), text, tuple(runs))


def traced(text: str, origin: Origin) -> Traced:
    """`text`, all of it from `origin`."""
    return Traced(text, origin)


def literal(text: str) -> Traced:
    """`text` as the template's own, ready to have traced text put into it."""
    return Traced(text)


def join(parts: Iterable[str], separator: str = "") -> Traced:
    """``separator.join(parts)``, keeping the Origins of both."""
    parts = list(parts)
    between = runs_of(separator)
    runs: list[Run] = []
    for index, part in enumerate(parts):
        if index and between:
            runs += between
        runs += runs_of(part)
    return _make(Traced, str.join(separator, parts), _merge(runs))


def pieces_of(text: str) -> list[Piece]:
    """The runs of `text` as Pieces, which tile it; a plain ``str`` is one literal."""
    pieces, pos = [], 0
    for length, origin in runs_of(text):
        pieces.append(Piece(pos, pos + length, origin))
        pos += length
    return pieces


def is_traced(value: Any) -> bool:
    """True when `value` is traced, or is a list, tuple or dict that holds something traced."""
    return next(_origins(value), None) is not None


def as_derived(origin: Origin) -> Origin:
    """The same Origin, for text computed from it; the template's literal stays what it is."""
    return origin if origin.derived or origin == LITERAL else origin._replace(derived=True)


def derive(text: str, *sources: Any) -> Traced:
    """`text` as derived from all traced text in `sources`.

    One field: derived of that field. Several fields of one message: of its ``other``. Several
    messages: of no message.
    """
    origins = {origin[:2] for source in sources for origin in _origins(source) if origin != LITERAL}
    messages = {message for message, _ in origins}
    if not origins:
        return Traced(text)
    if len(origins) == 1:
        return Traced(text, Origin(*origins.pop(), derived=True))
    return Traced(text, Origin(messages.pop() if len(messages) == 1 else None, "other", derived=True))


def runs_of(text: str) -> tuple[Run, ...]:
    """The runs of `text`; a plain ``str`` is one literal."""
    if isinstance(text, Traced):
        return text._runs
    return ((len(text), LITERAL),) if text else ()


def _make(kind: type[_T], text: str, runs: tuple[Run, ...]) -> _T:
    made = str.__new__(kind, text)
    made._runs = runs
    return made


def _matches(text: str, old: str, limit: int) -> Iterator[int]:
    """Where ``str.replace`` replaces: at most `limit` places (below 0: all), left to right."""
    places = range(len(text) + 1) if not old else (match.start() for match in re.finditer(re.escape(old), text))
    return islice(iter(places), None if limit < 0 else limit)


def _origins(value: Any) -> Iterator[Origin]:
    if isinstance(value, Traced):
        yield from (origin for _, origin in value._runs)
    elif isinstance(value, (int, float, list, tuple, dict)):
        origin = getattr(value, "_origin", None)  # of the classes in trace_data
        if origin is not None:
            yield origin
        elif isinstance(value, dict):
            for pair in value.items():
                yield from _origins(pair)
        elif isinstance(value, (list, tuple)):
            for item in value:
                yield from _origins(item)


def _merge(runs: Iterable[Run]) -> tuple[Run, ...]:
    """No empty runs, no two neighbours of one Origin."""
    merged: list[Run] = []
    size, last = 0, None
    for length, origin in runs:
        if not length:
            continue
        if origin == last:
            size += length
            continue
        if last is not None:
            merged.append((size, last))
        size, last = length, origin
    if last is not None:
        merged.append((size, last))
    return tuple(merged)


def _glue(left: tuple[Run, ...], right: tuple[Run, ...]) -> tuple[Run, ...]:
    if left and right and left[-1][1] == right[0][1]:
        return (*left[:-1], (left[-1][0] + right[0][0], right[0][1]), *right[1:])
    return left + right


def _cut(runs: tuple[Run, ...], start: int, stop: int) -> tuple[Run, ...]:
    if start >= stop:
        return ()
    if len(runs) == 1:
        return ((stop - start, runs[0][1]),)
    kept, pos = [], 0
    for length, origin in runs:
        end = pos + length
        if end > start:
            kept.append((min(end, stop) - max(pos, start), origin))
            if end >= stop:
                break
        pos = end
    return tuple(kept)
