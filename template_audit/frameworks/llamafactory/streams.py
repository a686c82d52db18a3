"""From the framework's ids and labels to the stream that is compared."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

from template_audit.errors import EncodingError
from template_audit.frameworks.llamafactory.sft import Encoded, TokenizedSide
from template_audit.stream import EncodedStream, Origin, Piece, Turn


def checked(encoded: Encoded | EncodingError, lost_tokens: Sequence[str]) -> tuple[list[int], list[int]]:
    """Ids and labels of one example.

    Raises EncodingError where the framework goes on with lists that no training step can take.
    """
    if isinstance(encoded, EncodingError):
        raise encoded
    if None in encoded.input_ids:
        raise EncodingError(
            f"The template looks up {', '.join(f'`{token}`' for token in lost_tokens)} and the tokenizer has no such "
            "token: LLaMA-Factory puts None in place of the id and stops when the batch is built.",
            kind="unknown-special-token",
        )
    ids, labels = cast(list[int], encoded.input_ids), cast(list[int], encoded.labels)
    if len(labels) != len(ids):
        raise EncodingError(
            f"LLaMA-Factory makes {len(labels)} labels for {len(ids)} tokens: a turn's prompt is empty and its "
            "template has efficient_eos. The batch can't be built."
        )
    return ids, labels


def stream_of(encoded: Encoded, notes: Sequence[str], lost_tokens: Sequence[str]) -> EncodedStream:
    """The stream of one example; `lost_tokens` are the look-ups of the template that find nothing.

    Raises EncodingError where the framework goes on with lists that no training step can take.
    """
    ids, labels = checked(encoded, lost_tokens)
    spans: list[tuple[int, int]] = []
    at = 0
    for side in encoded.sides:
        for place, chunk in side.chunks:
            place += at
            spans += [(start + place, end + place) for start, end in chunk] if place else chunk
        at += len(side.text)
    return EncodedStream(
        input_ids=ids,
        labels=labels,
        text="".join(side.text for side in encoded.sides),
        spans=spans,
        pieces=_pieces(run for side in encoded.sides for run in side.runs),
        turns=_turns(encoded.sides, len(ids), at),
        notes=(*notes, *encoded.notes),
    )


def _pieces(runs: Iterable[tuple[int, Origin]]) -> list[Piece]:
    """The runs as pieces, neighbours of one Origin merged."""
    pieces: list[Piece] = []
    at = 0
    for size, origin in runs:
        if pieces and pieces[-1].origin == origin:
            pieces[-1] = Piece(pieces[-1].start, at + size, origin)
        elif size:
            pieces.append(Piece(at, at + size, origin))
        at += size
    return pieces


def _turns(sides: Sequence[TokenizedSide], tokens: int, chars: int) -> list[Turn]:
    """One turn per message: from its first slot to the next message's; what follows belongs to the last."""
    starts: list[tuple[int | None, str, int, int]] = []
    token = char = 0
    for side in sides:
        for mark in side.marks:
            if not starts or starts[-1][:2] != mark[:2]:
                starts.append((mark.message, mark.role, token + mark.token, char + mark.char))
        token += len(side.ids)
        char += len(side.text)
    ends = [*((start[2], start[3]) for start in starts[1:]), (tokens, chars)] if starts else []
    return [
        Turn(message, role, first, end, first_char, end_char)
        for (message, role, first, first_char), (end, end_char) in zip(starts, ends, strict=True)
        if end > first or end_char > first_char
    ]
