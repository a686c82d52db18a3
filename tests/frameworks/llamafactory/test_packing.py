"""Packed SFT: the knapsack, what is dropped, and how sequences are put together."""

from __future__ import annotations

from typing import Any

import pytest

from template_audit.errors import EncodingError
from template_audit.frameworks import load_encoder
from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
from template_audit.frameworks.llamafactory.messages import Example, ExampleMessage
from template_audit.frameworks.llamafactory.packing import DroppedExample, PackedSequence, greedy_knapsack, pack
from template_audit.stream import IGNORE
from tests.frameworks.llamafactory.data_vectors import model


def load(version: str = "0.9.5", **options: Any) -> LlamaFactoryEncoder:
    encoder = load_encoder(f"llamafactory@{version}:llama3", model("llama3-like"), **options)
    assert isinstance(encoder, LlamaFactoryEncoder)
    return encoder


def example(*texts: str) -> Example:
    messages = [ExampleMessage("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]
    return Example(tuple(messages[:-1]), tuple(messages[-1:]))


EXAMPLES = [
    example("hi", "Hello!"),
    example("a question", "an answer " * 5),
    example("a", "b", "c", "d"),
    example("alone"),
]


class TestKnapsack:
    @pytest.mark.parametrize(
        ("lengths", "capacity", "bags"),
        [
            ([], 10, []),
            ([3, 9, 1, 5, 4], 10, [[9, 1], [5, 4], [3]]),
            ([5, 5, 5], 10, [[5, 5], [5]]),
            ([10, 0], 10, [[10, 0]]),
        ],
    )
    def test_bags(self, lengths: list[int], capacity: int, bags: list[list[int]]) -> None:
        assert greedy_knapsack(lengths, capacity) == bags

    def test_what_fits_into_no_bag_would_never_end(self) -> None:
        with pytest.raises(EncodingError, match="never ends packing an example of 11 tokens into 10"):
            greedy_knapsack([3, 11], 10)


class TestSequences:
    def test_parts_tile_the_sequence_up_to_the_padding(self) -> None:
        encoder = load(cutoff_len=256, neat_packing=True)
        packed = [one for one in pack(encoder, EXAMPLES) if isinstance(one, PackedSequence)]
        assert len(packed) == 1
        one = packed[0]
        assert len(one.input_ids) == len(one.labels) == len(one.attention_mask) == 256
        assert one.position_ids is not None
        plain = {i: encoder.encode_ids([EXAMPLES[i]])[0] for i in range(3)}
        assert [part.example for part in one.parts] == sorted(plain, key=lambda i: -_length(plain[i]))
        for number, part in enumerate(one.parts, 1):
            alone = plain[part.example]
            assert not isinstance(alone, EncodingError)
            assert one.input_ids[part.start : part.end] == alone.input_ids
            assert one.labels[part.start : part.end] == alone.labels
            assert set(one.attention_mask[part.start : part.end]) == {number}
            assert one.position_ids[part.start : part.end] == list(range(part.end - part.start))
        end = one.parts[-1].end
        assert one.padding == 256 - end
        assert set(one.input_ids[end:]) == {encoder.tokenizer.pad_token_id}
        assert set(one.labels[end:]) == {IGNORE}
        assert set(one.attention_mask[end:]) == {0}
        assert one.params is not None
        assert one.params["sequence_boundaries"] == [0, *(part.end for part in one.parts), 256]

    def test_without_neat_packing_everything_attends_to_everything(self) -> None:
        (one,) = (p for p in pack(load(cutoff_len=256, packing=True), EXAMPLES) if isinstance(p, PackedSequence))
        assert set(one.attention_mask) == {1}
        assert one.params is None

    def test_rows_that_the_framework_drops_are_reported(self) -> None:
        dropped = [one for one in pack(load(packing=True), EXAMPLES) if isinstance(one, DroppedExample)]
        assert [one.example for one in dropped] == [3]
        assert "Dropped invalid example" in dropped[0].reason

    def test_map_batches_are_packed_by_themselves(self) -> None:
        packed = list(pack(load(cutoff_len=256, packing=True), EXAMPLES[:3], batch_size=1))
        assert [[part.example for part in one.parts] for one in packed if isinstance(one, PackedSequence)] == [
            [0],
            [1],
            [2],
        ]

    @pytest.mark.parametrize(
        ("version", "length"), [("0.9.0", 64), ("0.9.1", 64), ("0.9.2", 65), ("0.9.3", 64), ("0.9.5", 64)]
    )
    def test_the_length_of_a_sequence_is_the_releases(self, version: str, length: int) -> None:
        packed = [
            one for one in pack(load(version, cutoff_len=64, packing=True), EXAMPLES) if isinstance(one, PackedSequence)
        ]
        assert {len(one.input_ids) for one in packed} == {length}
        assert all(one.padding >= 1 for one in packed)
        assert all((one.position_ids is None) == (version < "0.9.3") for one in packed)

    def test_an_error_of_the_framework_ends_the_run(self) -> None:
        broken = Example((ExampleMessage("user", None),), (ExampleMessage("assistant", "a"),))
        with pytest.raises(EncodingError, match="stops with"):
            list(pack(load(packing=True), [broken]))


def _length(encoded: Any) -> int:
    return len(encoded.input_ids)
