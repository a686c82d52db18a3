"""Operators that break one thing in a text of a template, in a chat template, a framework template, or labels.

Every operator yields its mutants as (site, what changed) and says by zone which rules are right for it.
`scripts/mutations.py` applies them to pairs that agree. Nothing here looks at what the rules do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["chat template", "framework template", "labels"]
Rules = frozenset[str]

MARKER = re.compile(
    r"<\|[\w▁]+\|>|<｜[\w▁]+｜>|\[\|\w+\|\]|\[/?INST\]|</?(?:start|end)_of_turn>|</?think>|</?tool_\w+>"
)
_FOREIGN = ("<|im_end|>", "<end_of_turn>", "<|eot_id|>")


@dataclass(frozen=True, slots=True)
class Words:
    """What operators need to know of a model: its own tokens, a marker that it lacks, its system block."""

    tokens: tuple[str, ...]
    foreign: str
    system_block: str
    """What the model's chat template writes for the system text ``Answer in verse.``, without BOS."""
    has_bos: bool

    @classmethod
    def of(cls, tokenizer: Any, system_block: str) -> Words:
        """From a tokenizer and the rendered block."""
        tokens = tuple(str(token.content) for token in tokenizer.added_tokens_decoder.values())
        return cls(tokens, next(f for f in _FOREIGN if f not in tokens), system_block, bool(tokenizer.bos_token))

    def another(self, marker: str) -> str:
        """A token of this model that is not `marker`."""
        own = [t for t in self.tokens if t != marker and MARKER.fullmatch(t)]
        return own[(own.index(marker) + 1) % len(own)] if marker in own else (own or list(self.tokens))[0]


Edit = tuple[str, Any]
"""A site in words, and the mutated text, template, spec or labels."""


@dataclass(frozen=True, slots=True)
class Operator:
    """One way to break something. `rules` maps zones (see `mutations.zones`) to the rules that are right there.

    A zone is looked up as ``reference end:assistant`` (the broken side first), ``end:assistant``, ``end``, ``*``.
    """

    name: str
    does: str
    kind: Kind
    rules: Mapping[str, Rules]
    mutate: Callable[..., Any] = field(repr=False)
    """Of a template or spec and `Words`: Edits. Of a stream and its conversation: its new labels."""
    quotes: str = ""
    """What a finding without a position has to quote to be at the right place."""
    severity: Literal["info", "warning"] = "warning"

    def right(self, zones: Iterable[str], side: str) -> Rules:
        """The union of the rules that are right for these zones, when this side is the broken one."""
        found: set[str] = set()
        for zone in zones:
            names = (f"{side} {zone}", zone, zone.partition(":")[0], "*")
            found |= next((self.rules[name] for name in names if name in self.rules), frozenset())
        return frozenset(found)


def _set(names: str) -> Rules:
    return frozenset(names.split())


def zones(**by_zone: str) -> dict[str, Rules]:
    """Keyword ``end_assistant`` is the zone ``end:assistant``, ``rest`` is ``*``."""
    return {"*" if k == "rest" else k.replace("_", ":"): _set(v) for k, v in by_zone.items()}


# --- text: the same edits on a chat template's literals and on a framework's slots -------------------------


def _markers(text: str) -> Iterator[re.Match[str]]:
    return MARKER.finditer(text)


def _at_markers(change: Callable[[str, Words], str]) -> Callable[[str, Words], Iterator[Edit]]:
    def edits(text: str, words: Words) -> Iterator[Edit]:
        for match in _markers(text):
            marker = match.group()
            yield f"`{marker}`", text[: match.start()] + change(marker, words) + text[match.end() :]

    return edits


def _at(pattern: str, change: str) -> Callable[[str, Words], Iterator[Edit]]:
    def edits(text: str, words: Words) -> Iterator[Edit]:
        for match in re.finditer(pattern, text):
            new = text[: match.start()] + match.expand(change) + text[match.end() :]
            yield f"{match.group()!r}", new

    return edits


def _roles(text: str, words: Words) -> Iterator[Edit]:
    if not MARKER.search(text):
        return
    for match in re.finditer(
        r"\b(assistant|user|system|model|ipython)\b", re.sub(MARKER, lambda m: "\x00" * len(m[0]), text)
    ):
        other = {"assistant": "model", "user": "human", "model": "assistant"}.get(match[0], "other")
        yield f"{match[0]} → {other}", text[: match.start()] + other + text[match.end() :]


HEAD = "generation-prompt-drift"
_BOTH = f"{HEAD} token-drift"
TOOL = "tool-layout-drift"
ENDS = "missing-turn-end wrong-turn-end duplicate-turn-end"
START = "system-prompt-drift token-drift"


def _marker_zones(at_end: str, extra: str = "") -> dict[str, Rules]:
    """Where a marker is lost or changed; `extra` are rules that are right everywhere for it."""
    return zones(
        opening=f"{START} {TOOL} {extra}",
        header_system=f"{START} {TOOL} {extra}",
        end_system=f"{START} {TOOL} {extra}",
        header_user=f"token-drift {TOOL} {extra}",
        end_user=f"{_BOTH} {TOOL} {extra}",
        header_assistant=f"{_BOTH} {TOOL} thinking-injected thinking-stripped {extra}",
        body_assistant=f"{TOOL} thinking-injected thinking-stripped field-dropped {extra}",
        end_assistant=f"{at_end} {TOOL} {extra}",
        header_tool=f"{TOOL} {extra}",
        body_tool=f"{TOOL} {extra}",
        end_tool=f"{TOOL} {HEAD} {extra}",
        body=f"{TOOL} {extra}",
    )


def _space_zones() -> dict[str, Rules]:
    space = "whitespace-drift segmentation-drift"
    return zones(
        header_assistant=f"{HEAD} {space}",
        end_user=f"{HEAD} {space}",
        end_tool=f"{HEAD} {space} {TOOL}",
        end_assistant=f"{space} trained-after-turn-end",
        rest=f"{space} {TOOL} system-prompt-drift",
    )


TEXT: tuple[tuple[str, str, Mapping[str, Rules], Callable[[str, Words], Iterator[Edit]]], ...] = (
    (
        "drop-marker",
        "takes one marker out",
        {
            **_marker_zones("missing-turn-end wrong-turn-end"),
            "reference end:assistant": _set("duplicate-turn-end wrong-turn-end token-drift trained-after-turn-end"),
        },
        _at_markers(lambda m, w: ""),
    ),
    (
        "double-marker",
        "writes one marker twice",
        {
            **_marker_zones("duplicate-turn-end"),
            "reference end:assistant": _set("missing-turn-end duplicate-turn-end token-drift"),
        },
        _at_markers(lambda m, w: m + m),
    ),
    (
        "swap-marker",
        "writes another of the model's own markers in its place",
        _marker_zones("wrong-turn-end missing-turn-end"),
        _at_markers(lambda m, w: w.another(m)),
    ),
    (
        "foreign-marker",
        "writes a marker of another family in its place",
        _marker_zones("wrong-turn-end missing-turn-end", "foreign-special-token"),
        _at_markers(lambda m, w: w.foreign),
    ),
    (
        "other-case-marker",
        "writes the marker in the other case, so that it is no token",
        _marker_zones("wrong-turn-end missing-turn-end", "foreign-special-token special-token-split"),
        _at_markers(lambda m, w: m.swapcase()),
    ),
    ("space-after-marker", "adds a space behind one marker", _space_zones(), _at_markers(lambda m, w: m + " ")),
    ("newline-after-marker", "adds a newline behind one marker", _space_zones(), _at_markers(lambda m, w: m + "\n")),
    ("drop-newline", "takes one newline out", _space_zones(), _at(r"\n", "")),
    ("double-newline", "writes one newline twice", _space_zones(), _at(r"\n", "\n\n")),
    (
        "move-newline",
        "moves a newline before the marker that it follows",
        {**_space_zones(), **zones(end_assistant=f"{ENDS} whitespace-drift token-drift")},
        _at(rf"({MARKER.pattern})\n", "\n\\1"),
    ),
    ("role-word", "changes the role word of a header", _marker_zones(_BOTH), _roles),
)
