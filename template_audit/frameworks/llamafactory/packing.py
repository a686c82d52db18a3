"""LLaMA-Factory's packed SFT: short examples side by side in sequences of one length.

Source: data/processor/supervised.py (``PackedSupervisedDatasetProcessor``) and
data/processor/processor_utils.py (``greedy_knapsack``) of 0.9.2 to 0.9.5, data/processors/ of 0.9.0
and 0.9.1.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from template_audit.errors import EncodingError
from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
from template_audit.frameworks.llamafactory.messages import Example
from template_audit.frameworks.llamafactory.rows import map_batches
from template_audit.frameworks.llamafactory.sft import TokenId
from template_audit.stream import IGNORE

_NO_MEDIUM = 2**32  # the framework's index of a sub-sequence that no image belongs to (MAX_SU_SEQ_IDX)


class PackedPart(NamedTuple):
    """One example inside a packed sequence: its number in the data set and its half-open token range."""

    example: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class PackedSequence:
    """One packed training example. The lists have one length, unless the framework's own labels are longer.

    `attention_mask` numbers the parts from 1, padding 0, under `neat_packing`, else it is 1 throughout.
    `position_ids` is None in releases without them. `params` is what `neat_packing` passes on about
    the parts since 0.9.5, else None. The last `padding` tokens are padding.
    """

    input_ids: list[TokenId]
    labels: list[TokenId]
    attention_mask: list[int]
    position_ids: list[int] | None
    params: dict[str, Any] | None
    parts: tuple[PackedPart, ...]
    padding: int


@dataclass(frozen=True, slots=True)
class DroppedExample:
    """An example that is in no sequence, and why."""

    example: int
    reason: str


def pack(
    encoder: LlamaFactoryEncoder,
    examples: Iterable[Example],
    *,
    batch_size: int = 1000,
    workers: int = 1,
    count: int | None = None,
) -> Iterator[PackedSequence | DroppedExample]:
    """The packed sequences of `examples` in the framework's order, and what it drops.

    Each map batch of `batch_size` examples is packed by itself. Raises EncodingError where the
    framework raises, and where a release would pack for ever.
    """
    number = 0
    for batch in map_batches(examples, batch_size, workers, count):
        rows = list(batch)
        yield from _pack_batch(encoder, rows, number)
        number += len(rows)


def greedy_knapsack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Lengths in bags of at most `capacity`: always the longest that still fits, until none does.

    Raises EncodingError for a length that fits into no bag; the framework would not end.
    """
    left = sorted(lengths)
    if left and left[-1] > capacity:
        raise EncodingError(f"LLaMA-Factory never ends packing an example of {left[-1]} tokens into {capacity}.")
    bags: list[list[int]] = []
    while left:
        bag: list[int] = []
        room = capacity
        while at := bisect_right(left, room):
            bag.append(left.pop(at - 1))
            room -= bag[-1]
        bags.append(bag)
    return bags


def _pack_batch(
    encoder: LlamaFactoryEncoder, rows: Sequence[Example], first: int
) -> Iterator[PackedSequence | DroppedExample]:
    # `settings.cutoff_len` has given up its one token for padding already, in releases that do so
    limit = encoder.settings.cutoff_len
    whole = limit + 1 if encoder.registry.behaviours.packing_reserves_padding else limit
    kept: dict[int, tuple[list[TokenId], list[TokenId]]] = {}
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, encoded in enumerate(encoder.encode_ids(rows), first):
        if isinstance(encoded, EncodingError):
            if encoded.kind != "example-dropped":
                raise encoded
            yield DroppedExample(number, str(encoded))
        elif len(encoded.input_ids) > limit:
            yield DroppedExample(number, f"it has {len(encoded.input_ids)} tokens, more than {limit}")
        else:
            kept[number] = encoded.input_ids, encoded.labels
            by_length[len(encoded.input_ids)].append(number)
    lengths = [length for length, numbers in by_length.items() for _ in numbers]
    for bag in greedy_knapsack(lengths, limit):
        yield _sequence(encoder, [(by_length[length].pop(), length) for length in bag], kept, whole)


def _sequence(
    encoder: LlamaFactoryEncoder,
    members: Sequence[tuple[int, int]],
    kept: dict[int, tuple[list[TokenId], list[TokenId]]],
    whole: int,
) -> PackedSequence:
    behaviours, neat = encoder.registry.behaviours, encoder.settings.neat_packing
    ids: list[TokenId] = []
    labels: list[TokenId] = []
    mask: list[int] = []
    positions: list[int] = []
    parts: list[PackedPart] = []
    for place, (number, length) in enumerate(members, 1):
        parts.append(PackedPart(number, len(ids), len(ids) + length))
        ids += kept[number][0]
        labels += kept[number][1]
        mask += [place if neat else 1] * length
        positions += range(length)
    padding = whole - len(ids)
    ids += [encoder.tokenizer.pad_token_id] * padding
    labels += [IGNORE] * padding
    mask += [0 if neat else 1] * padding
    positions += [0] * padding
    return PackedSequence(
        input_ids=ids,
        labels=labels,
        attention_mask=mask,
        position_ids=positions if behaviours.packing_position_ids else None,
        params=_params(parts, whole, padding) if neat and behaviours.packing_params else None,
        parts=tuple(parts),
        padding=padding,
    )


def _params(parts: Sequence[PackedPart], whole: int, padding: int) -> dict[str, Any]:
    boundaries = [0, *(part.end for part in parts), *([whole] if padding else [])]
    media = {f"{kind}_subseq_ids": [_NO_MEDIUM] for kind in ("image", "video", "audio")}
    return {"sequence_boundaries": boundaries, **media, "right_padding_length": padding}
