"""What both kinds of v1 encoder need: cutting a stream, and encoding many conversations one by one."""

from __future__ import annotations

from dataclasses import replace

from template_audit.stream import EncodedStream, Piece, Turn


def cut_to(stream: EncodedStream, size: int) -> EncodedStream:
    """The first `size` tokens, as the batches of v1 are cut (``pad_and_truncate``); text is cut with them."""
    if len(stream) <= size:
        return stream
    spans = stream.spans[:size]
    end = max((stop for _, stop in spans), default=0)
    turns = [
        Turn(turn.message, turn.role, turn.start, min(turn.end, size), turn.char_start, min(turn.char_end, end))
        for turn in stream.turns
        if turn.start < size and turn.char_start < end
    ]
    return replace(
        stream,
        input_ids=stream.input_ids[:size],
        labels=stream.labels[:size],
        text=stream.text[:end],
        spans=spans,
        pieces=[Piece(piece.start, min(piece.end, end), piece.origin) for piece in stream.pieces if piece.start < end],
        turns=turns,
        notes=(*stream.notes, f"Cut to cutoff_len: {len(stream)} tokens, {size} of them kept."),
    )
