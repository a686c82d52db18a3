"""Traced values that are not text: numbers, lists and dicts, and what becomes of them as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from json.encoder import encode_basestring, encode_basestring_ascii
from typing import Any, NamedTuple

from template_audit.stream import LITERAL, Origin
from template_audit.trace import Traced, as_derived, derive, is_traced, join, pieces_of


class TracedInt(int):
    """An ``int`` that prints as text derived from its Origin."""

    _origin: Origin

    def __str__(self) -> str:
        return Traced(int.__repr__(self), self._origin)


class TracedFloat(float):
    """A ``float`` that prints as text derived from its Origin."""

    _origin: Origin

    def __str__(self) -> str:
        return Traced(float.__repr__(self), self._origin)


class TracedList(list[Any]):
    """A ``list`` whose brackets and commas, when it is printed, derive from its Origin."""

    _origin: Origin

    def __str__(self) -> str:
        return derive(list.__repr__(self), self)


class TracedDict(dict[Any, Any]):
    """A ``dict`` whose braces, colons and commas, when it is printed, derive from its Origin."""

    _origin: Origin

    def __str__(self) -> str:
        return derive(dict.__repr__(self), self)


def trace(value: Any, origin: Origin) -> Any:
    """JSON-like `value` with everything in it traced to `origin`, dict keys included.

    ``True``, ``False`` and ``None`` have no subclasses, so they stay as they are: printed on their
    own they count as the template's literal. Mappings and tuples become dicts and lists.
    """
    if isinstance(value, str):
        return Traced(value, origin)
    made: Any
    if isinstance(value, Mapping):
        made = TracedDict((trace(key, origin), trace(item, origin)) for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        made = TracedList(trace(item, origin) for item in value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        made = TracedInt(value) if isinstance(value, int) else TracedFloat(value)
    else:
        return value
    made._origin = as_derived(origin)
    return made


def text_of(value: Any) -> str:
    """``str(value)``; lists and dicts that hold something traced give text derived from it."""
    text = str(value)
    if type(text) is str and isinstance(value, (list, tuple, dict)) and is_traced(value):
        return derive(text, value)
    return text


class _Style(NamedTuple):
    ascii: bool
    indent: str | None
    comma: str
    colon: str
    sort_keys: bool


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """``json.dumps``, keeping the Origin of every character that it copies; the rest is derived.

    Brackets, commas and quotes derive from the field that the list, dict or string came from, and
    are literal when the template made the container itself. Raises what ``json.dumps`` raises.
    """
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    if not is_traced(value):
        return text
    comma, colon = separators or ("," if indent is not None else ", ", ": ")
    step = " " * indent if isinstance(indent, int) else indent
    result = join(_parts(value, LITERAL, 1, _Style(ensure_ascii, step, comma, colon, sort_keys)))
    return result if result == text else derive(text, value)


def _parts(value: Any, around: Origin, level: int, style: _Style) -> Iterator[str]:
    """The JSON text of `value`, which lies in a container from `around`."""
    origin = getattr(value, "_origin", around)
    if isinstance(value, str):
        yield from _string_parts(value, around, style)
    elif isinstance(value, dict):
        items = sorted(value.items()) if style.sort_keys else list(value.items())
        yield from _container("{}", [(_key(key), item) for key, item in items], origin, level, style)
    elif isinstance(value, (list, tuple)):
        yield from _container("[]", [(None, item) for item in value], origin, level, style)
    else:
        yield Traced(json.dumps(value), origin)


def _container(
    brackets: str, items: list[tuple[str | None, Any]], origin: Origin, level: int, style: _Style
) -> Iterator[str]:
    if not items:
        yield Traced(brackets, origin)
        return
    newline = "" if style.indent is None else "\n" + style.indent * level
    before = brackets[0] + newline
    for key, item in items:
        yield Traced(before, origin)
        before = style.comma + newline
        if key is not None:
            yield from _string_parts(key, origin, style)
            yield Traced(style.colon, origin)
        yield from _parts(item, origin, level + 1, style)
    yield Traced(("" if style.indent is None else "\n" + style.indent * (level - 1)) + brackets[1], origin)


def _key(key: Any) -> str:
    """A key as ``json.dumps`` writes it: numbers, booleans and null become strings."""
    return key if isinstance(key, str) else json.dumps(key)


_ESCAPED = re.compile(r'(["\\\x00-\x1f]+)')
_ESCAPED_ASCII = re.compile(r'(["\\\x00-\x1f]+|[^ -~]+)')


def _string_parts(text: str, around: Origin, style: _Style) -> Iterator[str]:
    pieces = pieces_of(text) if isinstance(text, Traced) else []
    quote = Traced('"', as_derived(pieces[0].origin) if pieces else around)
    escape = encode_basestring_ascii if style.ascii else encode_basestring
    yield quote
    if not pieces:
        yield Traced(escape(text)[1:-1], around if isinstance(text, Traced) else LITERAL)
    for start, end, origin in pieces:
        parts = (_ESCAPED_ASCII if style.ascii else _ESCAPED).split(text[start:end])
        for index, part in enumerate(parts):  # every second one needs escaping
            yield Traced(escape(part)[1:-1], as_derived(origin)) if index % 2 else Traced(part, origin)
    yield quote
