"""One stream as a table of tokens: position, id, label, text, origin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from template_audit.report.terminal.rows import Run, messages_of
from template_audit.report.terminal.screen import Screen, pad, wrap
from template_audit.report.terminal.tokens import Side, run_lines, special_ids, token_label
from template_audit.stream import IGNORE, EncodedStream, Origin

if TYPE_CHECKING:
    from template_audit.conversation import Conversation
    from template_audit.errors import EncodingError
    from template_audit.frameworks.interface import Encoder

_TOKEN = 34  # columns of the token's text


def list_stream(
    screen: Screen, encoder: Encoder, conversation: Conversation, result: EncodedStream | EncodingError
) -> None:
    """Print what `encoder` made of `conversation`: its text by message, then every token."""
    screen.heading(screen.clean(conversation.id), (screen.clean(encoder.spec), "quiet"))
    if not isinstance(result, EncodedStream):
        screen.paragraph((f"{screen.glyphs.bad} not encoded: ", "error"), str(result), indent=15)
        return
    side = Side(result, special_ids(encoder.model, encoder.effects))
    trained = sum(label != IGNORE for label in result.labels)
    screen.line(f"{len(result):,} tokens, {trained:,} trained")
    for note in result.notes:
        screen.paragraph("note: ", note, indent=6)
    screen.line()
    screen.lines(_text(screen, side))
    screen.line()
    screen.lines(_table(screen, side))


def _text(screen: Screen, side: Side) -> Iterator[Text]:
    """The text by message, trained lines marked."""
    last: int | None = -1
    for run, role in _runs(side.stream):
        mark = (screen.glyphs.trained + " ", "strong") if run.trained else "  "
        for line in run_lines(screen, side, run, "equal", "", full=True):
            for part in wrap(line, screen.width - 15):
                name = f"{run.message} {role}" if run.message is not None and run.message != last else ""
                last = run.message
                yield screen.text((f"{name:<13}", "quiet"), mark, part)


def _runs(stream: EncodedStream) -> Iterator[tuple[Run, str]]:
    owners = messages_of(stream)
    start = 0
    for i in range(1, len(stream) + 1):
        if i == len(stream) or owners[i] != owners[start] or _trained(stream, i) != _trained(stream, start):
            message, role = owners[start]
            yield Run(start, i, message, _trained(stream, start)), role
            start = i


def _trained(stream: EncodedStream, index: int) -> bool:
    return stream.labels[index] != IGNORE


def _table(screen: Screen, side: Side) -> Iterator[Text]:
    stream = side.stream
    yield screen.text((f"{'#':>5} {'id':>8} {'label':>8}   {'token':<{_TOKEN}}  origin", "quiet"))
    for i, (token_id, label, origin) in enumerate(zip(stream.input_ids, stream.labels, stream.origins, strict=True)):
        trained = label != IGNORE
        mark = screen.glyphs.trained if trained else " "
        shown = label if label != IGNORE else screen.glyphs.dash
        text = token_label(screen, side, i)
        for k, part in enumerate(wrap(text, _TOKEN)):
            if k == 0:
                lead = screen.text(f"{i:>5} {token_id:>8} {shown:>8} ", (mark, "strong"), " ")
                yield screen.text(lead, pad(part, _TOKEN), "  ", (origin_name(origin), "quiet"))
            else:
                yield screen.text(" " * 26, part)


def origin_name(origin: Origin) -> str:
    """An Origin in words: ``template``, ``1 content``, ``2 tool_call (derived)``."""
    if origin.message is None:
        name = {"literal": "template", "default_system": "default system prompt", "tools": "tools"}.get(
            origin.field, origin.field
        )
    else:
        name = f"{origin.message} {origin.field}"
    return f"{name} (derived)" if origin.derived else name
