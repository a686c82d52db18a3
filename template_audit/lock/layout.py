"""How a lock file is laid out: JSON whose lines a reviewer can read and a diff can follow.

Numbers stand on one line however many they are, and whatever is short stands on one line; the same value
gives the same bytes. Hidden characters and lone surrogates are written as escapes,
so that no text of a model can steer the terminal or the web page that a diff is read in.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from template_audit.report.sanitize import json_escaped

WIDTH = 120
_AS_IT_IS = "template_kwargs"


def dumps(value: Any) -> str:
    """`value` (plain JSON data) as the text of a lock file, with a final newline."""
    return "".join(_lines(value, "", 0)) + "\n"


def in_order(value: Any) -> Any:
    """`value` with the keys of its objects sorted, at every depth.

    Variables of a chat template stay as they are: what a template prints of an object follows its order.
    """
    if isinstance(value, dict):
        return {key: value[key] if key == _AS_IT_IS else in_order(value[key]) for key in sorted(value)}
    return [in_order(item) for item in value] if isinstance(value, list) else value


def digest(value: Any, length: int = 16, *, any_order: bool = False) -> str:
    """The first `length` hexadecimal digits of the sha256 of `value` as JSON; with `any_order` of keys in any order."""
    text = json.dumps(value, ensure_ascii=True, sort_keys=any_order, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:length]


def _compact(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, separators=(", ", ": "), allow_nan=False)
    return json_escaped(text)


def _numbers(value: Any) -> bool:
    """True for a list of numbers, or of short lists of them."""
    return isinstance(value, list) and all(
        isinstance(item, (int, float)) or (isinstance(item, list) and len(item) <= 2 and _numbers(item))
        for item in value
    )


def _lines(value: Any, lead: str, used: int) -> list[str]:
    """The pieces of `value`, written `used` characters into a line whose indentation is `lead`."""
    if not isinstance(value, (dict, list)) or not value or _numbers(value):
        return [_compact(value)]
    if _small(value, WIDTH):
        short = _compact(value)
        if len(short) + used <= WIDTH:
            return [short]
    inner = lead + " "
    out: list[str] = []
    if isinstance(value, dict):
        for i, key in enumerate(value):
            head = f"{inner}{_compact(key)}: "
            out += [",\n" if i else "{\n", head, *_lines(value[key], inner, len(head) + 1)]
        return [*out, f"\n{lead}}}"]
    for i, item in enumerate(value):
        out += [",\n" if i else "[\n", inner, *_lines(item, inner, len(inner) + 1)]
    return [*out, f"\n{lead}]"]


def _small(value: Any, limit: int) -> bool:
    """False when `value` cannot fit `limit` characters; spares writing large values at every level."""
    left = limit
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            left -= 2 + sum(len(key) + 4 for key in item)
            stack += item.values()
        elif isinstance(item, list):
            left -= 2 + 2 * len(item)
            stack += item
        else:
            left -= len(item) if isinstance(item, str) else 1
        if left < 0:
            return False
    return True
