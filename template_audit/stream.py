"""The one stream type that every encoder returns, and where each of its characters came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

IGNORE = -100
"""The label of a token that is not trained (the ignore index of torch's cross entropy)."""

Field = Literal[
    "literal",  # the template's own text
    "content",
    "reasoning",
    "tool_call",
    "tool_result",
    "system",
    "tools",  # the tool definitions
    "default_system",  # a system prompt that the template or the framework adds by itself
    "role",  # the role word, where the template prints message.role
    "other",  # any other value that was handed to the template
]


class Origin(NamedTuple):
    """Where a piece of text came from.

    `message` is the index in `Conversation.messages`, None for text that belongs to no message.
    `derived` marks text computed from the field (serialised, upper-cased) and not copied from it.
    """

    message: int | None
    field: Field
    derived: bool = False


def common_prefix(a: Sequence[object], b: Sequence[object]) -> int:
    """How many leading items two sequences (texts, ids) share. Compares slices, not item by item."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


LITERAL = Origin(None, "literal")
DEFAULT_SYSTEM = Origin(None, "default_system")
WRITTEN = {"content": "content", "system": "content", "tool_result": "content", "reasoning": "reasoning"}
"""Fields of an Origin whose text people wrote and templates copy, by the field of the message that it is."""


class Piece(NamedTuple):
    """A run of characters ``text[start:end]`` of one Origin. Pieces tile the text."""

    start: int
    end: int
    origin: Origin


class Turn(NamedTuple):
    """Which part of the stream belongs to one message, as token and character half-open ranges.

    A turn covers the message's header, body and end marker. `message` None is text before the
    first message (BOS, a default system prompt). `role` is the message's role.
    """

    message: int | None
    role: str
    start: int
    end: int
    char_start: int
    char_end: int


class Prompt(NamedTuple):
    """What inference shows the model before it writes message `message`, or why it cannot be had."""

    message: int
    text: str
    input_ids: list[int]
    error: str | None = None


class _Deferred:
    """Makes the fields of a stream that are not there yet, all at once, when one of them is asked for."""

    __slots__ = ("_make",)
    _make: Callable[[], EncodedStream]

    if not TYPE_CHECKING:  # which would take any name for an attribute

        def __getattr__(self, name):
            if name not in _LATE:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            full = self._make()
            if full.input_ids != self.input_ids or full.labels != self.labels:
                raise AssertionError("the ids of a row and its details do not fit together")
            for field_name in _LATE:
                object.__setattr__(self, field_name, getattr(full, field_name))
            return getattr(self, name)


_LATE = ("text", "spans", "pieces", "turns", "prompts")


@dataclass(frozen=True, slots=True)
class EncodedStream(_Deferred):
    """A conversation as a model would see it.

    `input_ids` and `labels` have the same length; a label is a token id or −100. `spans[i]` is the
    half-open character range of token i in `text` (two tokens may share a character when they hold
    parts of its bytes). `pieces` tile `text`. `prompts` is filled by the encoder that knows what
    inference shows (the chat template). `notes` are remarks such as “cut to cutoff_len”.
    """

    input_ids: list[int]
    labels: list[int]
    text: str
    spans: list[tuple[int, int]]
    pieces: list[Piece]
    turns: list[Turn] = field(default_factory=list)
    prompts: list[Prompt] = field(default_factory=list)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def origins(self) -> list[Origin]:
        """One Origin per token: that of the token's first character."""
        out: list[Origin] = []
        pieces, k = self.pieces, 0
        for start, _ in self.spans:
            if k and pieces and start < pieces[k].start:
                k = 0  # spans of byte pieces may step back by one character
            while k + 1 < len(pieces) and pieces[k].end <= start:
                k += 1
            out.append(pieces[k].origin if pieces else LITERAL)
        return out

    def token_text(self, index: int) -> str:
        """The characters of `text` that token `index` covers."""
        start, end = self.spans[index]
        return self.text[start:end]


def deferred(
    input_ids: list[int], labels: list[int], notes: tuple[str, ...], make: Callable[[], EncodedStream]
) -> EncodedStream:
    """A stream of which ids, labels and notes are there; `make` gives it in full when more is asked for."""
    stream = object.__new__(EncodedStream)
    for name, value in (("input_ids", input_ids), ("labels", labels), ("notes", notes), ("_make", make)):
        object.__setattr__(stream, name, value)
    return stream
