"""One conversation as a diff: side by side where there is room, else one column."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

from rich.text import Text

from template_audit.alignment import Alignment
from template_audit.report.terminal.rows import Gap, Row, Run, collapsed, rows
from template_audit.report.terminal.screen import Screen, pad, wrap
from template_audit.report.terminal.tokens import Side, run_lines

SIDE_BY_SIDE = 100
"""The narrowest width with two columns."""
ROLE = 13
"""Columns of the role gutter: message index and role."""

EQUAL_LINES, CHANGED_LINES = 3, 9
"""How many lines of a long cell are drawn."""

SIGNS = {"equal": " ", "missing": "-", "extra": "+", "labels": "!"}
"""The sign of a row by its kind; every other kind is ``~``."""


@dataclass(frozen=True, slots=True)
class Pair:
    """An alignment with what is needed to draw it: both sides and their names."""

    alignment: Alignment
    left: Side
    right: Side
    left_name: str
    right_name: str


def draw(screen: Screen, pair: Pair, *, full: bool = False) -> Iterator[Text]:
    """The lines of the diff. `full` leaves nothing out."""
    every = rows(pair.alignment)
    items: Iterable[Row | Gap] = every if full else collapsed(every)
    body = _two_columns if screen.width >= SIDE_BY_SIDE else _one_column
    yield from body(screen, pair, items, full)


def legend(screen: Screen) -> Iterator[Text]:
    """What the signs of `draw` mean."""
    glyphs = screen.glyphs
    special = "special" if screen.ansi else f"{glyphs.open}special{glyphs.close}"
    items = [
        screen.text((sign, "quiet"))
        for sign in ("- expected only", "+ fed only", "~ differs", "! other labels", f"{glyphs.split} token boundary")
    ]
    items.append(screen.text(glyphs.trained, (" trained", "trained" if screen.ansi else "")))
    items.append(screen.text((special, "special" if screen.ansi else "")))
    line = Text()
    for item in items:
        if line.cell_len and line.cell_len + 2 + item.cell_len > screen.width:
            yield line
            line = Text()
        line = screen.text(line, "  " if line.plain else "", item)
    yield line


def sign_of(row: Row) -> str:
    """The sign of a row in the gutter."""
    return SIGNS.get(row.kind, "~")


def row_styles(row: Row) -> tuple[str, str]:
    """Style names of the left and the right side of a row."""
    if row.kind == "equal":
        return "", ""
    if row.kind in ("whitespace", "segmentation", "labels"):
        return row.kind, row.kind
    return "missing", "extra"


class Gutter:
    """Sign and role in front of every line, the role only where it changes."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.last: tuple[int | None, str] | None = None

    def row(self, row: Row, sign: str, style: str) -> Text:
        """The gutter of a line of `row`."""
        now = (row.message, row.role)
        name = ""
        if now != self.last:
            name = "" if row.message is None else f"{row.message} {row.role}"
        self.last = now
        return self.screen.text((sign + " ", f"{style} bold" if sign.strip() else ""), (f"{name:<{ROLE}}", "quiet"))

    def blank(self, sign: str = " ", style: str = "") -> Text:
        """The gutter of a line that continues, or of a title."""
        return self.screen.text((sign + " ", f"{style} bold" if sign.strip() else ""), " " * ROLE)

    def gap(self, gap: Gap) -> Text:
        """A whole line that stands for equal tokens."""
        dots = self.screen.glyphs.dots
        where = ""
        if gap.messages:
            where = f" in message{'s' if len(gap.messages) > 1 else ''} {_ranges(self.screen, gap.messages)}"
        self.last = None
        return self.screen.text(self.blank(), (f"  {dots} {gap.tokens:,} equal tokens{where} {dots}", "quiet"))


def _ranges(screen: Screen, numbers: tuple[int, ...]) -> str:
    if len(numbers) > 2 and numbers == tuple(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]}{screen.glyphs.dash}{numbers[-1]}"
    return ", ".join(map(str, numbers))


def _cell(screen: Screen, side: Side, run: Run | None, row: Row, style: str, width: int, full: bool) -> list[Text]:
    """A run wrapped to `width` cells with its training mark in front of every line."""
    if run is None:
        return []
    mark = screen.text((screen.glyphs.trained + " ", "strong")) if run.trained else Text("  ")
    most = EQUAL_LINES if row.kind in ("equal", "labels") else CHANGED_LINES
    whole = full or row.tokens <= most * width  # more tokens than that need more lines in any case
    parts = _wrapped(screen, side, run, row, style, width - 2, whole)
    if len(parts) > most and not full and most == EQUAL_LINES:
        parts = _wrapped(screen, side, run, row, style, width - 2, False)
    elif len(parts) > most + 1 and not full:
        dots = screen.glyphs.dots
        middle = screen.text((f"{dots} {len(parts) - most} lines {dots}", "quiet"))
        parts = [*parts[: most * 2 // 3], middle, *parts[len(parts) - most // 3 :]]
    return [screen.text(mark, part) for part in parts]


def _wrapped(screen: Screen, side: Side, run: Run, row: Row, style: str, width: int, whole: bool) -> list[Text]:
    return [part for line in run_lines(screen, side, run, row.kind, style, full=whole) for part in wrap(line, width)]


def _two_columns(screen: Screen, pair: Pair, items: Iterable[Row | Gap], full: bool) -> Iterator[Text]:
    width = (screen.width - ROLE - 2 - 3) // 2
    bar = screen.text((f" {screen.glyphs.bar} ", "quiet"))
    gutter = Gutter(screen)
    for a, b in zip_longest(*(_title(screen, name, width) for name in _titles(pair)), fillvalue=Text()):
        yield screen.text(gutter.blank(), pad(a, width), bar, b)
    for item in items:
        if isinstance(item, Gap):
            yield gutter.gap(item)
            continue
        left_style, right_style = row_styles(item)
        left = _cell(screen, pair.left, item.left, item, left_style, width, full)
        right = _cell(screen, pair.right, item.right, item, right_style, width, full)
        sign, style = sign_of(item), left_style if item.left else right_style
        for k, (a, b) in enumerate(zip_longest(left, right, fillvalue=Text())):
            lead = gutter.row(item, sign, style) if k == 0 else gutter.blank(sign, style)
            line = screen.text(lead, pad(a, width), bar, b)
            line.rstrip()
            yield line


def _one_column(screen: Screen, pair: Pair, items: Iterable[Row | Gap], full: bool) -> Iterator[Text]:
    width = screen.width - ROLE - 2
    gutter = Gutter(screen)
    for sign, name, style in zip("-+", _titles(pair), ("missing", "extra"), strict=True):
        for line in _title(screen, name, width):
            yield screen.text(gutter.blank(sign, style), line)
    for item in items:
        if isinstance(item, Gap):
            yield gutter.gap(item)
            continue
        for run, side, sign, style in _unified(pair, item):
            for k, line in enumerate(_cell(screen, side, run, item, style, width, full)):
                lead = gutter.row(item, sign, style) if k == 0 else gutter.blank(sign, style)
                yield screen.text(lead, line)


def _unified(pair: Pair, row: Row) -> Iterator[tuple[Run, Side, str, str]]:
    left_style, right_style = row_styles(row)
    if row.same and row.left:
        yield row.left, pair.left, " ", ""
        return
    if row.left:
        yield row.left, pair.left, "-", left_style
    if row.right:
        yield row.right, pair.right, "+", right_style


def _title(screen: Screen, name: str, width: int) -> list[Text]:
    return [screen.text("  ", part) for part in wrap(screen.text((screen.clean(name), "quiet")), width - 2, hang=True)]


def _titles(pair: Pair) -> tuple[str, str]:
    return f"expected: {pair.left_name}", f"fed: {pair.right_name}"
