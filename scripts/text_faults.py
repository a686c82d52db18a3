"""Faults of the text, before it is tokenized: part of the described encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from template_audit.model.tokenizer import encode_texts
from template_audit.stream import IGNORE, LITERAL, EncodedStream, Origin, Piece, Turn

Fault = Mapping[str, Any]


@dataclass
class Char:
    """One character of a text before it is tokenized."""

    text: str
    origin: Origin
    trained: bool
    turn: tuple[int | None, str]
    plain: bool = False
    """Control tokens are not looked for here."""
    cut: bool = False
    """The tokenizer starts anew here."""


@dataclass
class Draft:
    """A text that is not tokenized yet, character by character."""

    tokenizer: Any
    chars: list[Char]

    @classmethod
    def of(cls, stream: EncodedStream, tokenizer: Any) -> Draft:
        """The characters of a stream with the labels of their tokens."""
        chars = [Char(text, LITERAL, False, (None, "")) for text in stream.text]
        for piece in stream.pieces:
            for char in chars[piece.start : piece.end]:
                char.origin = piece.origin
        for turn in stream.turns:
            for char in chars[turn.char_start : turn.char_end]:
                char.turn = (turn.message, turn.role)
        for (start, end), label in zip(stream.spans, stream.labels, strict=True):
            for char in chars[start:end]:
                char.trained = label != IGNORE
        return cls(tokenizer, chars)

    @property
    def text(self) -> str:
        """The text as it stands."""
        return "".join(char.text for char in self.chars)

    def put(self, at: int, text: str, trained: bool | None) -> None:
        """Insert literal text; `trained` None: as what stands before it."""
        near = self.chars[max(at - 1, 0)]
        flag = near.trained if trained is None else trained
        self.chars[at:at] = [Char(char, LITERAL, flag, near.turn) for char in text]

    def literals(self, text: str) -> Iterator[int]:
        """Where `text` stands in the template's own text, from the last place to the first."""
        whole = self.text
        at = whole.rfind(text)
        while at >= 0:
            if all(char.origin.field in ("literal", "role", "other") for char in self.chars[at : at + len(text)]):
                yield at
            at = whole.rfind(text, 0, at)

    def stream(self) -> EncodedStream:
        """The text tokenized."""
        groups: list[tuple[bool, int, int]] = []
        for i, char in enumerate(self.chars):
            if not groups or char.cut or char.plain != groups[-1][0]:
                groups.append((char.plain, i, i))
            groups[-1] = (char.plain, groups[-1][1], i + 1)
        text = self.text
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        for plain, start, end in groups:
            more, places = _encode(self.tokenizer, text[start:end], plain)
            ids += more
            spans += [(a + start, b + start) for a, b in places]
        labels = [id if self.chars[a].trained else IGNORE for id, (a, _) in zip(ids, spans, strict=True)]
        pieces = [Piece(a, b, origin) for a, b, origin in _runs([char.origin for char in self.chars])]
        turns = []
        for a, b, (message, role) in _runs([char.turn for char in self.chars]):
            inside = [i for i, span in enumerate(spans) if a <= span[0] < b]
            first, last = (inside[0], inside[-1] + 1) if inside else (len(ids), len(ids))
            turns.append(Turn(message, role, first, last, a, b))
        return EncodedStream(ids, labels, text, spans, pieces, turns)


def _encode(tokenizer: Any, text: str, plain: bool) -> tuple[list[int], list[tuple[int, int]]]:
    if not plain:
        (encoded,) = encode_texts(tokenizer, [text])
        return encoded
    found = tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
    return found["input_ids"], found["offset_mapping"]


def _runs(values: Sequence[Any]) -> Iterator[tuple[int, int, Any]]:
    at = 0
    for value, group in groupby(values):
        size = len(list(group))
        yield at, at + size, value
        at += size


def _append(draft: Draft, fault: Fault) -> None:
    draft.put(len(draft.chars), fault["text"], fault.get("trained"))


def _prepend(draft: Draft, fault: Fault) -> None:
    text = fault["text"]
    draft.put(0, text, False)
    for char in draft.chars[: len(text)]:
        char.turn = (None, "system")


def _replace(draft: Draft, fault: Fault) -> None:
    """`old` of the template becomes `new`: everywhere, or in the last place or in turns of one `role` only."""
    old, new = fault["old"], fault["new"]
    for at in draft.literals(old):
        if draft.chars[at].turn[1] != fault.get("role", draft.chars[at].turn[1]):
            continue
        draft.put(at + len(old), new, draft.chars[at].trained)
        del draft.chars[at : at + len(old)]
        if fault.get("last"):
            return


def _plain(draft: Draft, fault: Fault) -> None:
    """The marker is tokenized as ordinary text; without a marker everything is."""
    marker = fault.get("marker")
    for at in draft.literals(marker) if marker else (0,):
        for char in draft.chars[at : at + len(marker)] if marker else draft.chars:
            char.plain = True


def _piecewise(draft: Draft, fault: Fault) -> None:
    """Template text and messages are tokenized one by one."""
    before: Origin | None = None
    for char in draft.chars:
        char.cut = char.origin != before
        before = char.origin


def _trim(draft: Draft, fault: Fault) -> None:
    """Trailing whitespace is stripped from the whole text."""
    while draft.chars and draft.chars[-1].text.isspace():
        draft.chars.pop()


TEXT_FAULTS: dict[str, Callable[[Draft, Fault], None]] = {
    "append": _append,
    "prepend": _prepend,
    "replace": _replace,
    "plain": _plain,
    "piecewise": _piecewise,
    "trim": _trim,
}
