"""One stream with the places of its messages. No rule is defined here."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator

from template_audit.stream import IGNORE, EncodedStream, Origin

Span = tuple[int, int]
"""A half-open range of tokens."""

BODY_FIELDS = ("content", "reasoning", "tool_call", "tool_result", "system")
OWN_TEXT = ("content", "tool_result", "system")
"""Three names for what a message says itself."""
TEMPLATE_FIELDS = ("literal", "role", "other")
"""Fields whose text is the template's own doing; everything else is what somebody wrote."""


class Side:
    """One stream with the places of its messages."""

    def __init__(self, stream: EncodedStream) -> None:
        self.stream = stream
        self.origins: list[Origin] = stream.origins
        self._starts = [start for start, _ in stream.spans]
        self._chars: dict[int, tuple[int, int]] = {}
        self._bodies = self._find_bodies()
        self._order = sorted((span, message) for message, span in self._bodies.items())
        self.turns = {turn.message: turn for turn in stream.turns if turn.message is not None}

    def _find_bodies(self) -> dict[int, Span]:
        chars = self._chars
        for start, end, origin in self.stream.pieces:
            if origin.message is not None and origin.field in BODY_FIELDS and end > start:
                known = chars.get(origin.message, (start, end))
                chars[origin.message] = (min(known[0], start), max(known[1], end))
        bodies = {message: self.tokens(*span) for message, span in chars.items()}
        for turn in self.stream.turns:  # an empty answer has no text, but a place: before what is trained
            if turn.message is not None and turn.message not in bodies and turn.role == "assistant":
                place = next(self.trained(turn.start, turn.end), None)
                if place is not None:
                    bodies[turn.message] = (place, place)
        return bodies

    def tokens(self, start: int, end: int) -> Span:
        """The tokens that hold the characters ``text[start:end]``, cut ones at the edges included."""
        first = bisect_right(self._starts, start) - 1
        while first > 0 and self.stream.spans[first - 1][1] > start:
            first -= 1  # bytes of one character
        return max(first, 0), bisect_left(self._starts, end)

    def text(self, span: Span) -> str:
        """The characters that these tokens cover."""
        start, end = span
        if start >= end:
            return ""
        return self.stream.text[self._starts[start] : max(stop for _, stop in self.stream.spans[start:end])]

    def trained(self, start: int, end: int) -> Iterator[int]:
        """Indices of trained tokens in a range."""
        return (i for i in range(start, min(end, len(self.stream))) if self.stream.labels[i] != IGNORE)

    def is_trained(self, index: int) -> bool:
        """True when the label of this token counts."""
        return self.stream.labels[index] != IGNORE

    def messages(self) -> Iterable[int]:
        """Messages that have a body here."""
        return self._bodies.keys()

    def body(self, message: int) -> Span | None:
        """Tokens from the first to the last that hold text of this message; None when there are none."""
        return self._bodies.get(message)

    def before(self, message: int) -> Span:
        """Tokens between the body before and the body of this message: an end marker and a header."""
        start = self._bodies[message][0]
        ends = [span[1] for span, other in self._order if other != message and span[0] <= start and span[1] <= start]
        return max(ends, default=0), start

    def after(self, message: int) -> Span:
        """Tokens between the body of this message and the next body, or the end of the stream."""
        span = self._bodies[message]
        starts = [other[0] for other, m in self._order if m != message and other[0] >= span[1]]
        return span[1], min(starts, default=len(self.stream))

    def text_before(self, message: int) -> int:
        """The character at which the text before this message's body ends: where its header begins."""
        start = self._chars[message][0] if message in self._chars else self.char(self._bodies[message][0])
        return max((end for m, (_, end) in self._chars.items() if m != message and end <= start), default=0)

    def char(self, token: int) -> int:
        """The character at which a token begins; the end of the text for the index after the last one."""
        return self._starts[token] if token < len(self._starts) else len(self.stream.text)

    def has(self, message: int, field: str) -> bool:
        """True when the stream holds text of this field of the message."""
        return any(p.origin.message == message and p.origin.field == field for p in self.stream.pieces)

    def written(self, message: int, fields: Collection[str]) -> str:
        """The text of these fields of a message, wherever it stands."""
        text = self.stream.text
        return "".join(
            text[p.start : p.end]
            for p in self.stream.pieces
            if p.origin.message == message and p.origin.field in fields
        )

    def fields(self, span: Span) -> set[Origin]:
        """Origins of all characters of these tokens."""
        start, end = span
        if start >= end:
            return set()
        a, b = self._starts[start], max(stop for _, stop in self.stream.spans[start:end])
        return {p.origin for p in self.stream.pieces if p.start < b and a < p.end}

    def said(self, span: Span, fields: Collection[str] = BODY_FIELDS) -> str:
        """The text in these tokens that came from messages, from these fields of theirs."""
        if span[0] >= span[1]:
            return ""
        start, end = self.char(span[0]), max(stop for _, stop in self.stream.spans[span[0] : span[1]])
        return "".join(
            self.stream.text[max(piece.start, start) : min(piece.end, end)]
            for piece in self.stream.pieces
            if piece.origin.field in fields and piece.start < end and start < piece.end
        )

    def header(self, message: int) -> int | None:
        """The token with which the header of this message begins; None when its turn has none."""
        turn, body = self.turns.get(message), self.body(message)
        return turn.start if turn and body and turn.start < body[0] else None
