"""Pre-training: acceptance numbers, blocks and their documents, options, and memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from template_audit.blocks import Block, Totals
from template_audit.errors import EncodingError, UsageError
from template_audit.frameworks.llamafactory.behaviours import Behaviours
from template_audit.frameworks.llamafactory.converters import Converted, convert
from template_audit.frameworks.llamafactory.dataset_info import DatasetAttributes
from template_audit.frameworks.llamafactory.pretrain import LlamaFactoryPretrainEncoder, document_text
from template_audit.pretraining import load_pretrain_encoder
from template_audit.stream import IGNORE
from tests.frameworks.llamafactory.data_vectors import OWN, SHARED, model

DOCUMENTS = [json.loads(line)["text"] for line in (OWN / "documents.jsonl").read_text(encoding="utf-8").splitlines()]


def load(template: str = "llama3", name: str = "llama3-like", **options: Any) -> LlamaFactoryPretrainEncoder:
    encoder = load_pretrain_encoder(f"llamafactory:{template}", model(name), **options)
    assert isinstance(encoder, LlamaFactoryPretrainEncoder)
    return encoder


def encode(encoder: LlamaFactoryPretrainEncoder, documents: list[str] = DOCUMENTS) -> tuple[list[Block], Totals]:
    totals = Totals()
    return list(encoder.blocks(documents, totals)), totals


@pytest.mark.shared
class TestAcceptance:
    """The PT case of LLaMA-Factory's c4_demo with Llama 3.2, template llama3, cutoff_len 1024."""

    @pytest.fixture(autouse=True)
    def _shared(self) -> None:
        if not SHARED.is_dir():
            pytest.skip("needs the real tokenizers and data in ../shared")

    def _encoded(self, **options: Any) -> tuple[LlamaFactoryPretrainEncoder, list[Block], Totals]:
        encoder = load(name="llama-3.2-instruct", cutoff_len=1024, **options)
        totals = Totals()
        documents = encoder.open_documents([str(SHARED / "data" / "c4_demo.jsonl")])
        return encoder, list(encoder.blocks(documents, totals)), totals

    def test_packed(self) -> None:
        encoder, blocks, totals = self._encoded()
        assert (totals.blocks, len(blocks), totals.documents) == (153, 153, 300)
        assert {len(block.input_ids) for block in blocks} == {1024}
        assert blocks[0].input_ids[:3] == [8161, 1431, 1781]
        assert blocks[0].input_ids[-3:] == [19994, 304, 832]
        assert blocks[0].input_ids.count(128001) == 2
        assert len(blocks[0].spans) == 3
        assert encoder.separator.ids == (128001,)

    def test_not_packed(self) -> None:
        _, blocks, totals = self._encoded(packing=False)
        assert (totals.blocks, len(blocks)) == (300, 300)
        assert len(blocks[0].input_ids) == 243
        assert blocks[0].input_ids[-3:] == [20669, 13, 128001]


class TestBlocks:
    def test_totals_are_those_of_the_documents_lengths(self) -> None:
        encoder = load(cutoff_len=64, preprocessing_batch_size=5)
        lengths = [
            len(encoder.tokenizer(text + "<|end_of_text|>", add_special_tokens=False)["input_ids"])
            for text in DOCUMENTS
        ]
        batches = [lengths[start : start + 5] for start in range(0, len(lengths), 5)]
        blocks, totals = encode(encoder)
        assert totals.documents == len(DOCUMENTS)
        assert totals.tokens == sum(lengths)
        assert totals.blocks == len(blocks) == sum(sum(batch) // 64 for batch in batches)
        assert totals.tokens_dropped == sum(sum(batch) % 64 for batch in batches)
        assert totals.attention_pairs == len(blocks) * 64 * 65 // 2
        split = dropped = 0
        for batch in batches:
            at, kept = 0, sum(batch) // 64 * 64
            for length in batch:
                split += at < kept and at // 64 != (at + length - 1) // 64
                dropped += at >= kept
                at += length
        assert (totals.documents_split, totals.documents_dropped) == (split, dropped)

    def test_spans_tile_the_blocks_and_the_documents(self) -> None:
        blocks, _ = encode(load(cutoff_len=64))
        seen: dict[int, int] = {}
        for block in blocks:
            assert block.spans[0].start == 0
            assert block.spans[-1].end == 64
            for left, right in zip(block.spans, block.spans[1:], strict=False):
                assert left.end == right.start
                assert not left.cut_after
                assert not right.cut_before
            for span in block.spans:
                assert span.offset == seen.get(span.document, 0)
                seen[span.document] = span.offset + span.end - span.start
                assert span.cut_after == (seen[span.document] < span.length)

    def test_attention_across_documents_is_counted_pair_by_pair(self) -> None:
        blocks, totals = encode(load(cutoff_len=64))
        across = pairs = 0
        for block in blocks:
            owner = [span.document for span in block.spans for _ in range(span.end - span.start)]
            pairs += sum(1 for i in range(64) for _ in range(i + 1))
            across += sum(owner[i] != owner[j] for i in range(64) for j in range(i + 1))
        assert (totals.attention_pairs, totals.cross_document_pairs) == (pairs, across)
        assert totals.cross_document_attention == pytest.approx(across / pairs)

    def test_the_padding_token_is_masked(self) -> None:
        encoder = load("default", cutoff_len=64)  # no padding token: the framework takes eos, its separator
        assert encoder.tokenizer.pad_token_id == encoder.separator.ids[0]
        assert not encoder.separator.trained
        blocks, _ = encode(encoder)
        for block in blocks:
            pad = encoder.tokenizer.pad_token_id
            assert block.labels == [IGNORE if token == pad else token for token in block.input_ids]
        assert any(IGNORE in block.labels for block in blocks)
        assert load("llama3").separator.trained

    def test_bos_over_the_first_token(self) -> None:
        encoder = LlamaFactoryPretrainEncoder(_release("0.9.1", "gemma"), {"cutoff_len": 64})
        blocks, totals = encode(encoder)
        assert totals.tokens_replaced == len(blocks) > 0
        assert {block.input_ids[0] for block in blocks} == {encoder.tokenizer.bos_token_id}
        eos = encoder.tokenizer.eos_token
        ids = encoder.tokenizer([text + eos for text in DOCUMENTS], add_special_tokens=False)["input_ids"]
        stream = [token for document in ids for token in document]
        found = [token for block in blocks for token in (block.replaced, *block.input_ids[1:])]
        assert found == stream[: len(found)]

    def test_nothing_is_made_of_nothing(self) -> None:
        blocks, totals = encode(load(cutoff_len=64), [])
        assert (blocks, totals) == ([], Totals())
        assert totals.cross_document_attention == 0.0


def _release(version: str, template: str) -> Any:
    from template_audit.frameworks import load_encoder

    return load_encoder(f"llamafactory@{version}:{template}", model("llama3-like"))


class TestOptions:
    def test_packing_given_explicitly_makes_blocks_one_shorter(self) -> None:
        assert load(cutoff_len=64).block_size == 64
        explicit = load(cutoff_len=64, packing=True)
        assert explicit.block_size == 63
        assert explicit.notes == ("`packing: true` lowers cutoff_len by one: blocks have 63 tokens.",)
        assert (
            LlamaFactoryPretrainEncoder(_release("0.9.2", "llama3"), {"cutoff_len": 64, "packing": True}).block_size
            == 64
        )

    def test_defaults_are_the_releases(self) -> None:
        assert load().block_size == 2048
        assert LlamaFactoryPretrainEncoder(_release("0.9.0", "llama3"), {}).block_size == 1024

    def test_workers_cut_the_data_set(self) -> None:
        documents = load().open_documents(["documents"], dataset_dir=OWN)
        by_hand = [list(documents)[start:stop] for start, stop in ((0, 4), (4, 8), (8, 12))]
        parts = [encode(load(cutoff_len=64), part)[0] for part in by_hand]
        blocks, _ = encode(load(cutoff_len=64, preprocessing_num_workers=3), list(documents))
        streamed = list(load(cutoff_len=64, preprocessing_num_workers=3).blocks(documents, Totals()))
        assert [block.input_ids for block in blocks] == [block.input_ids for part in parts for block in part]
        assert streamed == blocks

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"cutof_len": 1}, "no option `cutof_len`.*Did you mean `cutoff_len`"),
            ({"cutoff_len": 0}, "`cutoff_len` leaves 0"),
            ({"cutoff_len": 1, "packing": True}, "`cutoff_len` leaves 0"),
            ({"cutoff_len": "long"}, "takes int or null"),
            ({"preprocessing_batch_size": 0}, "`preprocessing_batch_size` leaves 0"),
            ({"preprocessing_num_workers": -1}, "must be at least 1"),
        ],
    )
    def test_wrong_options(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            load(**options)

    def test_an_unknown_template_and_a_framework_that_does_not_pre_train(self) -> None:
        with pytest.raises(UsageError, match=r"no template `lama3`.*`llama3`"):
            load("lama3")
        with pytest.raises(UsageError, match="does not pre-train; frameworks that do are llamafactory"):
            load_pretrain_encoder("chat-template", model("llama3-like"))

    def test_the_model_is_left_as_it_was(self) -> None:
        given = model("exaone35-like")
        before = (
            len(given.tokenizer),
            given.tokenizer.eos_token,
            given.tokenizer.pad_token,
            given.tokenizer.chat_template,
        )
        encode(load("chatml", "exaone35-like", cutoff_len=64))
        after = (
            len(given.tokenizer),
            given.tokenizer.eos_token,
            given.tokenizer.pad_token,
            given.tokenizer.chat_template,
        )
        assert before == after


class TestDocuments:
    def test_a_text_that_is_no_unicode_is_an_error(self) -> None:
        with pytest.raises(EncodingError, match="lone surrogate U\\+D800"):
            encode(load(cutoff_len=64), ["fine", "bad \ud800"])

    def test_only_the_first_message_of_a_row_counts(self) -> None:
        attributes = DatasetAttributes("x", "file", "x", history="history")
        row = {"instruction": "last", "input": "", "output": "", "history": [["first", "answer"]]}
        assert document_text(convert(row, attributes, Behaviours()), "row") == "first"

    def test_rows_on_which_the_framework_stops(self) -> None:
        attributes = DatasetAttributes("x", "file", "x", formatting="sharegpt")
        broken = convert({"conversations": [{"from": "gpt", "value": "a"}]}, attributes, Behaviours())
        with pytest.raises(EncodingError, match=r"row 3: LLaMA-Factory stops on this row .IndexError.*turn 0"):
            document_text(broken, "row 3")
        none = convert(
            {"conversations": [{"from": "human", "value": None}, {"from": "gpt", "value": "a"}]},
            attributes,
            Behaviours(),
        )
        with pytest.raises(EncodingError, match="TypeError"):
            document_text(Converted(none.example), "row")

    def test_files_names_and_columns(self, tmp_path: Path) -> None:
        encoder = load()
        assert list(encoder.open_documents([str(OWN / "documents.jsonl")])) == DOCUMENTS
        named = encoder.open_documents(["documents", "documents_txt"], dataset_dir=OWN, max_samples=2)
        assert list(named) == [*DOCUMENTS[:2], "first line", ""]
        assert named.count() == 4
        assert [named.name(i) for i in range(4)] == ["documents#1", "documents#2", "documents_txt#1", "documents_txt#2"]
        (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b"}\n')
        assert list(encoder.open_documents([str(tmp_path / "a.jsonl")])) == ["a", "b"]
        (tmp_path / "b.jsonl").write_text('{"body": "a"}\n')
        with pytest.raises(UsageError, match="no column `text`; give --column, one of body"):
            encoder.open_documents([str(tmp_path / "b.jsonl")])
        assert list(encoder.open_documents([str(tmp_path / "b.jsonl")], column="body")) == ["a"]
        with pytest.raises(UsageError, match=r"no file `c\.jsonl`"):
            encoder.open_documents(["c.jsonl"])
        with pytest.raises(UsageError, match=r"no data set `documants`.*`documents"):
            encoder.open_documents(["documants"], dataset_dir=OWN)

    def test_memory_does_not_grow_with_the_data_set(self) -> None:
        encoder = load(cutoff_len=128)

        def texts(count: int) -> Iterator[str]:
            for number in range(count):
                yield f"Document {number} about the sea. " * 40

        def peak(count: int) -> int:
            tracemalloc.start()
            for _ in encoder.blocks(texts(count), Totals()):
                pass
            found = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            return found

        peak(4000)  # more text than it takes for fastokens to be loaded
        assert peak(3000) < 1.5 * peak(1000)
