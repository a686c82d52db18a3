"""One stream as a table of tokens: position, id, label, text, origin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from template_audit.report.terminal.rows import Run, messages_of
from template_audit.report.terminal.screen import Screen, wrap
from template_audit.report.terminal.table import stream_table
from template_audit.report.terminal.tokens import Side, run_lines, special_ids
from template_audit.stream import IGNORE, EncodedStream

if TYPE_CHECKING:
    from template_audit.conversation import Conversation
    from template_audit.errors import EncodingError
    from template_audit.frameworks.interface import Encoder


def list_stream(
    screen: Screen, encoder: Encoder, conversation: Conversation, result: EncodedStream | EncodingError
) -> None:
    """Print what `encoder` made of `conversation`: its text by message, then every token."""
    screen.heading(conversation.id, encoder.spec)
    if not isinstance(result, EncodedStream):
        screen.paragraph((f"{screen.glyphs.bad} not encoded: ", "error"), str(result), indent=15)
        return
    side = Side(result, special_ids(encoder.model, encoder.effects))
    trained = sum(label != IGNORE for label in result.labels)
    screen.line(f"{len(result):,} tokens, {trained:,} trained")
    for note in (*encoder.notes, *result.notes):
        screen.paragraph("note: ", note, indent=6)
    screen.line()
    screen.lines(_text(screen, side))
    screen.line()
    screen.lines(stream_table(screen, side))


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
