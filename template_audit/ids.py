"""Ids and labels of many rows in flat arrays: what whole data sets are encoded to.

An `EncodedStream` knows for every token where it came from; most rows of a data set are asked for
their ids and labels alone. Here they lie one row after another in two arrays, without a Python
object for each token, and travel cheaply between processes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from template_audit.errors import EncodingError
from template_audit.stream import IGNORE, WRITTEN, EncodedStream, deferred

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from template_audit.conversation import Conversation

    Ids: TypeAlias = NDArray[np.int32]
    Places: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class IdsBatch:
    """The ids and labels of rows, flat.

    Row i is ``[offsets[i]:offsets[i + 1]]`` of `input_ids` and `labels` (int32, the same length);
    a label is a token id or −100. A row that could not be encoded is empty and stands in `errors`.
    `notes` are the remarks of the rows that have any, as `EncodedStream.notes`.
    `tokenized_by` says with what: ``fastokens``, ``tokenizers`` or ``transformers``.
    `regular` says of the rows of an encoder that knows prompts what `is_regular` says of their streams;
    None when it knows none.
    """

    input_ids: Ids
    labels: Ids
    offsets: Places
    errors: Mapping[int, EncodingError] = field(default_factory=dict)
    notes: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    tokenized_by: str = "tokenizers"
    regular: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> tuple[Ids, Ids]:
        """Ids and labels of one row, as views. Raises the row's EncodingError."""
        if index in self.errors:
            raise self.errors[index]
        start, end = self.offsets[index], self.offsets[index + 1]
        return self.input_ids[start:end], self.labels[start:end]

    def __iter__(self) -> Iterator[tuple[Ids, Ids] | EncodingError]:
        """Every row, or its error."""
        bounds = self.offsets.tolist()
        for index, (start, end) in enumerate(pairwise(bounds)):
            error = self.errors.get(index)
            yield (self.input_ids[start:end], self.labels[start:end]) if error is None else error

    @property
    def lengths(self) -> Places:
        """Tokens of every row."""
        return self.offsets[1:] - self.offsets[:-1]

    @property
    def trained(self) -> Places:
        """Trained tokens of every row."""
        import numpy as np

        before = np.zeros(len(self.labels) + 1, dtype=np.int64)
        np.cumsum(self.labels != -100, out=before[1:])
        counted: Places = before[self.offsets[1:]] - before[self.offsets[:-1]]
        return counted


@runtime_checkable
class IdsEncoder(Protocol):
    """What an encoder offers beside `Encoder` when it can give ids and labels alone, fast."""

    def encode_ids_batch(self, conversations: Sequence[Conversation]) -> IdsBatch:
        """Exactly the ids, labels, notes and errors of ``encode_batch(conversations, keep_errors=True)``."""
        ...

    def encode_in_full(
        self, conversations: Sequence[Conversation], *, keep_errors: bool = False
    ) -> list[EncodedStream | EncodingError]:
        """`encode_batch` that never takes the fast way, so that the fast way can be held against it."""
        ...

    def expect_many(self) -> None:
        """Say that a whole data set will come, so that what takes a second to set up is set up now.

        Before worker processes are forked, so that they share it.
        """
        ...


def joined(batches: Sequence[IdsBatch]) -> IdsBatch:
    """Batches one after another as one."""
    import numpy as np

    if len(batches) == 1:
        return batches[0]
    errors: dict[int, EncodingError] = {}
    notes: dict[int, tuple[str, ...]] = {}
    offsets = [np.zeros(1, dtype=np.int64)]
    rows = tokens = 0
    for batch in batches:
        errors.update({rows + index: error for index, error in batch.errors.items()})
        notes.update({rows + index: note for index, note in batch.notes.items()})
        offsets.append(batch.offsets[1:] + tokens)
        rows, tokens = rows + len(batch), tokens + len(batch.input_ids)
    empty = np.zeros(0, dtype=np.int32)
    names = {batch.tokenized_by for batch in batches}
    regular = [batch.regular for batch in batches if batch.regular is not None]
    return IdsBatch(
        np.concatenate([empty, *(batch.input_ids for batch in batches)]),
        np.concatenate([empty, *(batch.labels for batch in batches)]),
        np.concatenate(offsets),
        errors,
        notes,
        "fastokens" if "fastokens" in names else next(iter(names), "tokenizers"),
        np.concatenate(regular) if len(regular) == len(batches) and regular else None,
    )


def is_regular(conversation: Conversation, stream: EncodedStream) -> bool:
    """True when a stream's ids and labels tell its prompts and its texts.

    The prompts are the ids before each run of trained tokens, and there is no other run; what a
    message says is copied whole, but for whitespace around it. A template may look into a text to write its generation
    prompt, and a tokenizer may give texts that differ (in their Unicode form) the same ids.
    """
    ids, labels = stream.input_ids, stream.labels
    begins = [i for i, label in enumerate(labels) if label != IGNORE and (i == 0 or labels[i - 1] == IGNORE)]
    if any(prompt.error is not None for prompt in stream.prompts):
        return False
    if begins != [len(prompt.input_ids) for prompt in stream.prompts]:
        return False
    if any(ids[: len(prompt.input_ids)] != prompt.input_ids for prompt in stream.prompts):
        return False
    written: dict[tuple[int, str], str] = {}
    for start, end, origin in stream.pieces:
        if origin.message is not None and origin.field in WRITTEN:
            key = origin.message, WRITTEN[origin.field]
            written[key] = written.get(key, "") + stream.text[start:end]
    return all(
        (text or "").strip() == written.get((index, name), "").strip()
        for index, message in enumerate(conversation.messages)
        for name, text in (("content", message.content), ("reasoning", message.reasoning))
    )


TEXT = -1
"""A segment that is no constant: the next text of the row."""


def lay_segments(
    segments: Sequence[int], constants: Sequence[Sequence[int]], texts: tuple[Ids, Places]
) -> tuple[Ids, Places, Places]:
    """All tokens that there are, and where in them those of each segment begin and how many they are.

    A segment is the number of a constant, or `TEXT`. `texts` are the ids of all texts in order, and
    where each begins (one more than texts).
    """
    import numpy as np

    ids, places = texts
    numbers = np.array(segments, dtype=np.int64)
    constant_lengths = np.array([len(part) for part in constants], dtype=np.int64)
    constant_ids = np.array([id for part in constants for id in part], dtype=np.int32)
    is_text = numbers == TEXT
    lengths = constant_lengths[numbers]
    lengths[is_text] = places[1:] - places[:-1]
    starts = (np.cumsum(constant_lengths) - constant_lengths)[numbers]
    starts[is_text] = places[:-1] + len(constant_ids)
    return np.concatenate([constant_ids, ids]), starts, lengths


def gather(pool: NDArray[Any], starts: Places, lengths: Places) -> NDArray[Any]:
    """``pool[starts[i] : starts[i] + lengths[i]]`` for every i, one after another."""
    import numpy as np

    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    found: NDArray[Any] = pool[np.arange(total) + np.repeat(starts - (ends - lengths), lengths)]
    return found


FullEncoder: TypeAlias = "Callable[[Sequence[Conversation]], list[EncodedStream | EncodingError]]"
PAYS_FROM = 64
"""Conversations from which it pays to encode ids first, and the rest of a stream when it is asked for."""
_BLOCK, _SINGLY = 32, 2


def deferred_streams(
    conversations: Sequence[Conversation], batch: IdsBatch, encode: FullEncoder, keep_errors: bool
) -> list[EncodedStream | EncodingError]:
    """Streams of which the ids are there; `encode` gives what else is asked for.

    Raises the first error unless `keep_errors`.
    """
    if batch.errors and not keep_errors:
        raise batch.errors[min(batch.errors)]
    ids, labels, bounds = batch.input_ids.tolist(), batch.labels.tolist(), batch.offsets.tolist()
    out: list[EncodedStream | EncodingError] = []
    block = _Details(encode, ())
    for index in range(len(batch)):
        if index % _BLOCK == 0:
            block = _Details(encode, conversations[index : index + _BLOCK])
        error = batch.errors.get(index)
        if error is not None:
            out.append(error)
            continue
        own = slice(bounds[index], bounds[index + 1])
        make = partial(block.stream, index % _BLOCK)
        out.append(deferred(ids[own], labels[own], batch.notes.get(index, ()), make))
    return out


class _Details:
    """The full streams of neighbouring rows: the first that are asked for one by one, then all that are left."""

    def __init__(self, encode: FullEncoder, conversations: Sequence[Conversation]) -> None:
        self._encode, self._conversations = encode, conversations
        self._asked: set[int] = set()
        self._made: dict[int, EncodedStream | EncodingError] = {}

    def stream(self, index: int) -> EncodedStream:
        """One of the streams in full."""
        if index not in self._made:
            wanted = [index]
            if len(self._asked) >= _SINGLY:
                wanted = [i for i in range(len(self._conversations)) if i not in self._asked]
            streams = self._encode([self._conversations[i] for i in wanted])
            self._made.update(zip(wanted, streams, strict=True))
        self._asked.add(index)
        made = self._made.pop(index)
        if isinstance(made, EncodingError):
            raise made
        return made
