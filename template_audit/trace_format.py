"""Formatting traced text: ``%`` and ``str.format``, which know nothing of Origins by themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import count
from string import Formatter
from typing import Any

from template_audit.stream import LITERAL, Origin
from template_audit.trace import Traced, derive, join, runs_of

_PERCENT = re.compile(r"%(?:\((?P<key>[^()]*)\))?(?P<how>[#0\- +]*\d*(?:\.\d*)?)[hlL]?(?P<type>[a-zA-Z%])")


def percent(template: str, values: Any) -> Traced:
    """``template % values``. Raises what ``str`` raises."""
    text = str.__mod__(template, values)
    args = list(values) if isinstance(values, tuple) else [values]
    parts: list[str] = []
    pos, used = 0, 0
    for match in _PERCENT.finditer(template):
        parts.append(template[pos : match.start()])
        pos = match.end()
        how, kind = match["how"], match["type"]
        if kind == "%":
            parts.append("%")
            continue
        if match["key"] is not None:
            value = values[match["key"]]
        elif used < len(args):
            value, used = args[used], used + 1
        else:
            return derive(text, template, values)
        parts.append(value if kind == "s" and not how and isinstance(value, str) else _formatted(how, kind, value))
    parts.append(template[pos:])
    result = join(parts)
    return result if result == text else derive(text, template, values)


def _formatted(how: str, kind: str, value: Any) -> Traced:
    return derive(str.__mod__(f"%{how}{kind}", (value,)), value)


def format_text(template: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], formatter: Formatter) -> Traced:
    """``formatter.vformat(template, args, kwargs)``; the formatter may be a sandbox's own."""
    return filled(template, formatter.vformat(template, args, kwargs), args, kwargs, formatter)


def filled(
    template: str, text: str, args: tuple[Any, ...], kwargs: Mapping[str, Any], formatter: Formatter | None = None
) -> Traced:
    """`text`, which is `template` filled in, with its Origins."""
    origins = [origin for _, origin in runs_of(template)]
    result = None
    if len(origins) <= 1:
        with suppress(ValueError, LookupError):  # a form that only ``str.format`` knows
            result = _fill(
                template, origins[0] if origins else LITERAL, args, kwargs, formatter or Formatter(), count()
            )
    return result if result == text and result is not None else derive(text, template, args, dict(kwargs))


def _fill(
    template: str,
    origin: Origin,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    formatter: Formatter,
    numbers: Iterator[int],
) -> Traced:
    parts: list[str] = []
    for before, name, spec, conversion in formatter.parse(template):
        parts.append(Traced(before, origin))
        if name is None:
            continue
        value, _ = formatter.get_field(name or str(next(numbers)), args, kwargs)
        how = str(_fill(spec or "", origin, args, kwargs, formatter, numbers))
        if isinstance(value, str) and conversion in (None, "s") and not how:
            parts.append(str(value))
        else:
            parts.append(derive(format(formatter.convert_field(value, conversion), how), value))
    return join(parts)
