"""Tokens as styled text: visible whitespace, special tokens and split markers that cannot be overlooked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from template_audit.report.sanitize import visible
from template_audit.report.terminal.rows import RowKind, Run
from template_audit.report.terminal.screen import STYLES, Screen
from template_audit.stream import EncodedStream

if TYPE_CHECKING:
    from template_audit.frameworks.interface import TokenizerEffects
    from template_audit.model import Model

SHORT_EQUAL = 18
SHORT_CHANGED = 400


@dataclass(frozen=True, slots=True)
class Side:
    """One stream and the ids that are special tokens to the tokenizer that made it."""

    stream: EncodedStream
    special: frozenset[int]


def special_ids(model: Model, effects: TokenizerEffects | None = None) -> frozenset[int]:
    """Ids that stand for a marker and not for a piece of text: special and other added tokens.

    Added tokens that are nothing but blanks (indentation, mostly) are text. With `effects`, also the
    tokens that an encoder made special, or added beyond the vocabulary.
    """
    tokenizer = model.tokenizer
    ids = {int(id) for id, token in tokenizer.added_tokens_decoder.items() if str(token.content).strip()}
    ids.update(int(id) for id in tokenizer.all_special_ids if id is not None)
    if effects is not None:
        known = [tokenizer.convert_tokens_to_ids(text) for text in effects.made_special]
        ids.update(int(id) for id in known if id is not None)
        size = len(tokenizer)
        ids.update(range(size, size + len(effects.added_tokens)))
    return frozenset(ids)


class _Char(NamedTuple):
    char: str
    token: int
    first: bool  # the first character that this token adds
    stand_in: bool  # for a token that adds no character


_MORE_BYTES = "…"
# <|im_start|>, <｜User｜>, [|user|], [/INST]: a token boundary in there means that the marker is split.
_MARKER = re.compile(r"<[^\s<>]{1,60}>|\[\|?[^\s\[\]]{1,60}\|?\]")


def run_lines(screen: Screen, side: Side, run: Run, kind: RowKind, style: str, *, full: bool = False) -> list[Text]:
    """The tokens of a run as lines, broken after line breaks in the text but not yet wrapped to a width.

    Long runs lose their middle unless `full`; equal ones sooner than changed ones.
    """
    length = run.end - run.start
    most = SHORT_EQUAL if kind in ("equal", "labels") else SHORT_CHANGED
    if full or length <= most:
        return _lines(screen, side, [(run.start, run.end)], kind, style)
    head, tail = most * 4 // 9, most * 3 // 9
    return _lines(screen, side, [(run.start, run.start + head), (run.end - tail, run.end)], kind, style)


def token_label(screen: Screen, side: Side, index: int, style: str = "") -> Text:
    """One token on its own, every space visible; the column of a token table."""
    parts = _lines(screen, side, [(index, index + 1)], "whitespace", style, trained=False)
    return Text().join(parts)


def _lines(
    screen: Screen, side: Side, stretches: list[tuple[int, int]], kind: RowKind, style: str, *, trained: bool = True
) -> list[Text]:
    writer = _Writer(screen, side, kind, STYLES.get(style, style), trained)
    for k, (start, end) in enumerate(stretches):
        if k:
            left_out = start - stretches[k - 1][1]
            dots = screen.glyphs.dots
            writer.add(f" {dots} {left_out:,} tokens {dots} ", STYLES["quiet"])
        writer.stretch(start, end)
    return writer.finish()


class _Writer:
    """Builds the lines of one run."""

    def __init__(self, screen: Screen, side: Side, kind: RowKind, style: str, trained: bool) -> None:
        self.screen, self.side, self.kind, self.style, self.trained = screen, side, kind, style, trained
        self.done: list[Text] = []
        self.line = Text()
        self.pending, self.pending_style = "", ""

    def add(self, text: str, style: str) -> None:
        """Append to the line; neighbours of one style become one span."""
        if style != self.pending_style:
            self._flush()
            self.pending_style = style
        self.pending += text

    def _flush(self) -> None:
        if self.pending:
            self.line.append(self.pending, self.pending_style)
        self.pending = ""

    def _break(self) -> None:
        self._flush()
        self.done.append(self.line)
        self.line = Text()

    def finish(self) -> list[Text]:
        """All lines; at least one."""
        if self.pending or self.line.plain or not self.done:
            self._break()
        return self.done

    def stretch(self, start: int, end: int) -> None:
        chars = list(_characters(self.side.stream, start, end))
        inside = _inside_markers(chars)
        for k, (char, token, first, _) in enumerate(chars):
            before = chars[k - 1] if k else None
            after = chars[k + 1] if k + 1 < len(chars) else None
            special = self.side.stream.input_ids[token] in self.side.special
            if first:
                self._boundary(before, special, k in inside)
            self._character(chars[k], before, after, special)
            if special and not self.screen.ansi and (after is None or after.first):
                self.add(self.screen.glyphs.close, "")
            if char == "\n" and after is not None and after.char != "\n":
                self._break()

    def _boundary(self, before: _Char | None, special: bool, in_marker: bool) -> None:
        if before is not None and (self.kind == "segmentation" or (in_marker and self.kind not in ("equal", "labels"))):
            self.add(self.screen.glyphs.split, STYLES["quiet"])
        if special and not self.screen.ansi:
            self.add(self.screen.glyphs.open, "")

    def _character(self, shown: _Char, before: _Char | None, after: _Char | None, special: bool) -> None:
        char, token, _, stand_in = shown
        style = self.style
        if special:
            style += " " + STYLES["special"]
        if self.trained and self.side.stream.labels[token] >= 0:
            style += " " + STYLES["trained"]
        glyphs = self.screen.glyphs
        symbol = {"\n": glyphs.newline, "\t": glyphs.tab}.get(char)
        if char == " " and (
            self.kind == "whitespace" or before is None or after is None or before.char in " \n" or after.char in " \n"
        ):
            symbol = glyphs.space
        if symbol is not None:
            self.add(symbol, f"{style} {STYLES['quiet']}")
        elif stand_in:
            if char == _MORE_BYTES and self.kind in ("equal", "labels"):
                return
            self.add(glyphs.dots if char == _MORE_BYTES else char, f"{style} {STYLES['quiet']}")
        else:
            self.add(visible(char, encoding=self.screen.encoding), style)


def _inside_markers(chars: list[_Char]) -> set[int]:
    """Indices of characters that stand inside something written like a control token, its first one excepted."""
    text = "".join("\0" if char.stand_in else char.char for char in chars)
    return {k for match in _MARKER.finditer(text) for k in range(match.start() + 1, match.end())}


def _characters(stream: EncodedStream, start: int, end: int) -> Iterator[_Char]:
    """The characters that tokens add, in order; a token that adds none gets a stand-in."""
    shown = stream.spans[start][0] if start < end else 0
    for token in range(start, end):
        begin, stop = stream.spans[token]
        if stop <= begin:
            yield _Char(f"<id {stream.input_ids[token]}>", token, True, True)
        elif stop <= shown:  # further bytes of a character that is already there
            yield _Char(_MORE_BYTES, token, True, True)
        else:
            for k, char in enumerate(stream.text[max(begin, shown) : stop]):
                yield _Char(char, token, k == 0, False)
            shown = stop
