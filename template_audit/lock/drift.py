"""Drift: one thing that is different from what was locked, and the place where it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from template_audit.stream import common_prefix

Level = Literal["settings", "template", "framework", "option", "data", "special-tokens", "tokens", "labels"]
_VERBS = ("changed ", "changed.", "changed:", "is ", "was ", "says ")
_CONTEXT = 24
_VALUE = 100


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference. `place` names where it is and `what` says what it is; together they are a sentence.

    `key` identifies it across runs and holds no line number. `file` is a path inside the model (or the
    training config), `line` counts from 1, and `entry` is the key of that file's object under which it
    stands. `details` are further lines for a reader. `conversation` is
    the first one that shows it, None for what concerns them all.
    """

    level: Level
    place: str
    what: str
    key: str
    details: tuple[str, ...] = ()
    file: str | None = None
    line: int | None = None
    entry: str | None = None
    conversation: str | None = None

    @property
    def headline(self) -> str:
        """Place and difference in one sentence."""
        return f"{self.place}{' ' if self.what.startswith(_VERBS) else ': '}{self.what}"


def shown(value: Any, limit: int = _VALUE) -> str:
    """A value as a report shows it: as JSON on one line, cut in the middle when it is long."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]} … {text[-limit // 3 :]}"


def text_change(old: str, new: str) -> tuple[str, str, int]:
    """The stretch in which two texts differ, with a little around it, as it is quoted; and where it begins.

    Only one stretch is shown: from the first character that differs to the last.
    """
    start = common_prefix(old, new)
    end = common_prefix(old[start:][::-1], new[start:][::-1])
    before = old[max(0, start - _CONTEXT) : start]
    dots = "…" if start > _CONTEXT else ""
    out = []
    for text in (old, new):
        stop = len(text) - end
        after = text[stop : stop + _CONTEXT]
        middle = text[start:stop]
        if len(middle) > _VALUE:
            middle = f"{middle[: _VALUE // 2]} … {middle[-_VALUE // 4 :]}"
        out.append(json.dumps(f"{before}{middle}{after}", ensure_ascii=False)[1:-1])
        out[-1] = f'"{dots}{out[-1]}{"…" if stop + _CONTEXT < len(text) else ""}"'
    return out[0], out[1], start


def moved(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Versions that are others than before, as ``transformers 5.6.0 → 5.23.0``."""
    names = sorted({*old, *new}, key=lambda name: (name != "transformers", name))
    return [f"{name} {old.get(name, '–')} → {new.get(name, '–')}" for name in names if old.get(name) != new.get(name)]
