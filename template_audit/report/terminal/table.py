"""Every token on a line of its own, with position, id and label: of one stream, or of two side by side."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest

from rich.text import Text

from template_audit.report.terminal.diff import ROLE, SIDE_BY_SIDE, Gutter, Pair, row_styles, sign_of
from template_audit.report.terminal.rows import Run, rows
from template_audit.report.terminal.screen import Screen, pad, wrap
from template_audit.report.terminal.tokens import Side, token_label
from template_audit.stream import IGNORE, Origin

_NUMBERS = 26  # columns of position, id, label and training mark
_TOKEN = 34  # columns of the token's text in the table of one stream


def stream_table(screen: Screen, side: Side) -> Iterator[Text]:
    """All tokens of one stream with their Origin."""
    yield screen.text((f"{_head()}{'token':<{_TOKEN}}  origin", "quiet"))
    for i, origin in enumerate(side.stream.origins):
        for k, cell in enumerate(_token(screen, side, i, _NUMBERS + _TOKEN, "")):
            yield screen.text(pad(cell, _NUMBERS + _TOKEN), "  ", (origin_name(origin), "quiet")) if k == 0 else cell


def pair_table(screen: Screen, pair: Pair) -> Iterator[Text]:
    """All tokens of both streams, row by row of their alignment; under each other on narrow screens."""
    wide = screen.width >= SIDE_BY_SIDE
    width = (screen.width - ROLE - 2 - 3) // 2 if wide else screen.width - ROLE - 2
    bar = screen.text((f" {screen.glyphs.bar} ", "quiet"))
    gutter = Gutter(screen)
    head = screen.text((_head() + "token", "quiet"))
    yield screen.text(gutter.blank(), pad(head, width), bar, head) if wide else screen.text(gutter.blank(), head)
    for row in rows(pair.alignment):
        left_style, right_style = row_styles(row)
        left = _run(screen, pair.left, row.left, width, left_style)
        right = _run(screen, pair.right, row.right, width, right_style)
        sign = sign_of(row)
        if wide:
            for a, b in zip_longest(left, right, fillvalue=Text()):
                line = screen.text(gutter.row(row, sign, left_style or right_style), pad(a, width), bar, b)
                line.rstrip()
                yield line
            continue
        for cell in left:
            yield screen.text(gutter.row(row, " " if row.same else "-", left_style), cell)
        for cell in [] if row.same else right:
            yield screen.text(gutter.row(row, "+", right_style), cell)


def _head() -> str:
    return f"{'#':>5} {'id':>8} {'label':>8}   "


def _run(screen: Screen, side: Side, run: Run | None, width: int, style: str) -> list[Text]:
    if run is None:
        return []
    return [cell for i in range(run.start, run.end) for cell in _token(screen, side, i, width, style)]


def _token(screen: Screen, side: Side, index: int, width: int, style: str) -> Iterator[Text]:
    token_id, label = side.stream.input_ids[index], side.stream.labels[index]
    trained = label != IGNORE
    shown = label if trained else screen.glyphs.dash
    mark = screen.glyphs.trained if trained else " "
    lead = screen.text(f"{index:>5} {token_id:>8} {shown:>8} ", (mark, "strong"), " ")
    for part in wrap(token_label(screen, side, index, style), width - _NUMBERS):
        yield screen.text(lead, part)
        lead = Text(" " * _NUMBERS)


def origin_name(origin: Origin) -> str:
    """An Origin in words: ``template``, ``1 content``, ``2 tool_call (derived)``."""
    names = {"literal": "template", "default_system": "default system prompt"}
    name = names.get(origin.field, origin.field) if origin.message is None else f"{origin.message} {origin.field}"
    return f"{name} (derived)" if origin.derived else name
