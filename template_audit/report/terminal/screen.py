"""What can be drawn here: width, colours and symbols of one output stream."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TextIO

from rich.cells import cell_len, get_character_cell_size
from rich.console import Console
from rich.text import Text

from template_audit.report.interface import ReportOptions
from template_audit.report.sanitize import LOG_COMMAND, code_point, encodable, visible

Part = str | tuple[str, str] | Text
"""A piece of a line: trusted text, (text, style), or finished Text."""

_LINE_COMMAND = re.compile(r"(\s*):(?=:[^:]+::)")  # what GitHub Actions takes for a command, at the start of a line

MIN_WIDTH = 40
PIPE_WIDTH = 100


@dataclass(frozen=True, slots=True)
class Glyphs:
    """The symbols of the report; `ASCII` stands in where the stream's encoding lacks one of `UNICODE`."""

    newline: str = "↵"
    tab: str = "⇥"
    space: str = "␣"
    split: str = "·"
    open: str = "⟦"
    close: str = "⟧"
    trained: str = "▌"
    bar: str = "│"
    rule: str = "─"
    dots: str = "…"
    ok: str = "✓"
    bad: str = "✗"
    dash: str = "–"


UNICODE = Glyphs()
ASCII = Glyphs("\\n", "\\t", "_", "^", "{", "}", "T", "|", "-", "...", "ok", "x", "-")

_PLAIN = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'", "–": "-", "—": "-", "…": "...", "−": "-", "→": "->"})

STYLES = {
    "special": "bold reverse",
    "trained": "underline",
    "missing": "red",
    "extra": "green",
    "whitespace": "yellow",
    "segmentation": "cyan",
    "labels": "magenta",
    "quiet": "dim",
    "strong": "bold",
    "error": "bold red",
    "warning": "bold yellow",
    "info": "bold blue",
    "ok": "bold green",
}
"""Style names that the report uses, in rich's notation."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # rich would exit with 1, which means findings here


class Screen:
    """A text stream with its width, colour support and symbols.

    A pipe gets no escape codes and a width of COLUMNS or 100; NO_COLOR keeps bold, reverse and
    underline; FORCE_COLOR is honoured by rich. `ansi` False means that nothing but characters can
    mark a special token.
    """

    def __init__(self, stream: TextIO, options: ReportOptions) -> None:
        self.encoding = getattr(stream, "encoding", None) or "utf-8"
        self.glyphs = UNICODE if all(encodable(c, self.encoding) for c in _symbols(UNICODE)) else ASCII
        self.width = max(MIN_WIDTH, options.width or _width(stream))
        self._console = _Console(
            file=stream,
            width=self.width,
            force_terminal=options.colour,
            no_color=None if options.colour is None else not options.colour,
            highlight=False,
            markup=False,
            emoji=False,
            legacy_windows=False,
        )
        self.ansi = self._console.is_terminal and not self._console.is_dumb_terminal

    def clean(self, text: str) -> str:
        """Foreign text on one line, safe to print here; a line break is shown as its symbol."""
        text = text.replace("\r\n", "\n").replace("\n", "\x00")
        return visible(text, keep="\x00", encoding=self.encoding).replace("\x00", self.glyphs.newline)

    def prose(self, text: str) -> str:
        """Sentences on one line, safe to print here; typographic characters become plain ones where they must."""
        if self.glyphs is ASCII:
            text = text.translate(_PLAIN)
        return self.clean(text)

    def text(self, *parts: Part) -> Text:
        """One Text of several parts; style names are those of `STYLES` or rich's own."""
        out = Text()
        for part in parts:
            if isinstance(part, Text):
                out.append_text(part)
            elif isinstance(part, str):
                out.append(part)
            else:
                out.append(part[0], style(part[1]))
        return out

    def line(self, *parts: Part) -> None:
        """Print one line, as it is."""
        text = self.text(*parts)
        if command := _LINE_COMMAND.match(text.plain):
            text = Text(command[1] + code_point(":")) + text[command.end() :]
        for found in reversed(list(LOG_COMMAND.finditer(text.plain)) if "##" in text.plain else []):
            text = text[: found.end() - 1] + Text(code_point("#")) + text[found.end() :]
        if self.glyphs is ASCII and not text.plain.isascii():
            text = Text(visible(text.plain, encoding=self.encoding))
        self._console.print(text, soft_wrap=True)

    def lines(self, rows: Iterable[Text]) -> None:
        """Print finished lines."""
        for row in rows:
            self.line(row)

    def paragraph(self, label: Part, body: str, *, indent: int, style: str = "") -> None:
        """Print prose, foreign or our own, wrapped, after a label that takes `indent` columns."""
        head = self.text(label)
        for i, row in enumerate(wrap(self.text((self.prose(body), style)), self.width - indent, hang=True)):
            lead = pad(head, indent) if i == 0 else Text(" " * indent)
            row.rstrip()
            self.line(lead, row)

    def heading(self, title: str, remark: str = "") -> None:
        """Print a blank line and a ruled title; both are cleaned here."""
        self.line()
        head = self.text((self.glyphs.rule * 2 + " ", "quiet"), (self.clean(title), "strong"))
        if remark:
            head.append("  " + self.clean(remark), style("quiet"))
        rest = self.width - head.cell_len - 1
        self.line(head, (" " + self.glyphs.rule * rest if rest > 2 else "", "quiet"))


def style(names: str) -> str:
    """Style names of `STYLES`, and rich's own, as one style in rich's notation."""
    return " ".join(STYLES.get(name, name) for name in names.split())


def _symbols(glyphs: Glyphs) -> Iterator[str]:
    for name in glyphs.__slots__:
        yield from getattr(glyphs, name)


def _width(stream: TextIO) -> int:
    columns = os.environ.get("COLUMNS", "")
    if columns.isdigit() and int(columns) > 0:
        return int(columns)
    if stream.isatty():
        return shutil.get_terminal_size((PIPE_WIDTH, 24)).columns
    return PIPE_WIDTH


def pad(text: Text, width: int) -> Text:
    """`text` filled with plain spaces to `width` cells."""
    out = text.copy()
    out.append(" " * max(0, width - text.cell_len))
    return out


_BREAKS = frozenset(" " + UNICODE.split + UNICODE.close)


def wrap(text: Text, width: int, *, hang: bool = False) -> list[Text]:
    """Break one line into lines of at most `width` cells, after a space or token boundary when one is near.

    Every character is kept; wide characters count as two cells. With `hang` a space that only just does
    not fit ends the line, to be stripped. Returns at least one line.
    """
    if text.cell_len <= width:
        return [text]
    plain = text.plain
    offsets: list[int] = []
    used = start = candidate = 0  # `candidate`: a line may end before this character
    for i, char in enumerate(plain):
        size = get_character_cell_size(char)
        if used + size > width and i > start and not (hang and char == " "):
            near = candidate > start and cell_len(plain[candidate:i]) <= width // 2
            start = candidate if near else i
            offsets.append(start)
            used = cell_len(plain[start:i])
        used += size
        if char in _BREAKS:
            candidate = i + 1
    return list(text.divide(offsets))
