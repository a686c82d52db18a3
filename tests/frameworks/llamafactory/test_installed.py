"""The installed LLaMA-Factory beside the built-in encoder.

Needs an environment in which LLaMA-Factory is installed: TEMPLATE_AUDIT_LF_PYTHON names its
interpreter, and CONTRIBUTING.md says how to make one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from template_audit.blocks import Totals
from template_audit.conversation import Conversation
from template_audit.errors import EncodingError, UsageError
from template_audit.frameworks import load_encoder
from template_audit.frameworks.external import Worker
from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
from template_audit.frameworks.llamafactory.installed import InstalledEncoder, start
from template_audit.frameworks.llamafactory.installed_pretrain import InstalledPretrainEncoder
from template_audit.frameworks.llamafactory.pretrain import LlamaFactoryPretrainEncoder
from template_audit.probes import load_probes
from template_audit.stream import EncodedStream
from tests.frameworks.llamafactory.vectors import model_of

PYTHON = os.environ.get("TEMPLATE_AUDIT_LF_PYTHON")
TEMPLATES = ("llama3", "qwen", "qwen3", "exaone", "alpaca", "gemma", "mistral", "llama2", "deepseekr1", "chatml")
HELLO = Conversation.from_openai([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello!"}])


def test_an_environment_without_the_package_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="LLaMA-Factory is not installed in this environment"):
        start(sys.executable)


class FakeWorker:
    """Answers with what it was given."""

    def __init__(self, *replies: dict[str, Any]) -> None:
        self.versions = {"llamafactory": "0.9.5"}
        self.replies = list(replies)

    def request(self, message: dict[str, Any]) -> dict[str, Any]:
        return {}

    def encode(self, examples: list[Any]) -> list[dict[str, Any]]:
        assert len(examples) == len(self.replies)
        return self.replies


def installed(*replies: dict[str, Any]) -> InstalledEncoder:
    built_in = load_encoder("llamafactory@0.9.5:chatml", model_of("chatml-plain"))
    assert isinstance(built_in, LlamaFactoryEncoder)
    return InstalledEncoder(built_in, FakeWorker(*replies))  # type: ignore[arg-type]


def test_where_both_agree_the_stream_keeps_its_origins() -> None:
    own = load_encoder("llamafactory@0.9.5:chatml", model_of("chatml-plain")).encode(HELLO)
    encoder = installed({"input_ids": own.input_ids, "labels": own.labels})
    assert encoder.encode(HELLO) == own
    assert encoder.mismatches == []


def test_where_they_part_the_installed_package_counts() -> None:
    own = load_encoder("llamafactory@0.9.5:chatml", model_of("chatml-plain")).encode(HELLO)
    ids = [*own.input_ids[:-1], own.input_ids[0]]
    encoder = installed({"input_ids": ids, "labels": own.labels})
    stream = encoder.encode(HELLO)
    assert stream.input_ids == ids
    assert [m.position for m in encoder.mismatches] == [len(ids) - 1]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [({"dropped": True}, "example-dropped"), ({"error": "boom", "type": "ValueError"}, "encoding-failed")],
)
def test_a_refusal_of_the_installed_package_counts(reply: dict[str, Any], kind: str) -> None:
    encoder = installed(reply)
    with pytest.raises(EncodingError) as caught:
        encoder.encode(HELLO)
    assert caught.value.kind == kind
    assert len(encoder.mismatches) == 1


DOCUMENTS = ["One short document.", "두 번째 문서입니다. " * 9, "A third one, somewhat longer than the first."]


class BlockWorker(FakeWorker):
    """Answers `pretrain` with the blocks it was given."""

    def __init__(self, blocks: list[list[int]]) -> None:
        super().__init__()
        self.blocks = blocks

    def request(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"blocks": self.blocks} if message["op"] == "pretrain" else {}


def pretrain_encoder() -> LlamaFactoryEncoder:
    encoder = load_encoder("llamafactory@0.9.5:llama3", model_of("llama3-like"))
    assert isinstance(encoder, LlamaFactoryEncoder)
    return encoder


def test_blocks_that_agree_and_blocks_that_do_not() -> None:
    options = {"cutoff_len": 16}
    own = [b.input_ids for b in LlamaFactoryPretrainEncoder(pretrain_encoder(), options).blocks(DOCUMENTS, Totals())]
    other = [list(ids) for ids in own]
    other[1][3] += 1
    for theirs, places in ((own, []), (other, [("block 1", 3)]), (own[:-1], [(f"block {len(own) - 1}", None)])):
        encoder = InstalledPretrainEncoder(pretrain_encoder(), options, BlockWorker(theirs))  # type: ignore[arg-type]
        made = [block.input_ids for block in encoder.blocks(DOCUMENTS, Totals())]
        assert [(m.conversation, m.position) for m in encoder.mismatches] == places
        assert made[: len(theirs)] == theirs
        assert ("Verified" in encoder.remark) is not bool(places)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    if not PYTHON:
        pytest.skip("TEMPLATE_AUDIT_LF_PYTHON names no environment with LLaMA-Factory")
    with start(PYTHON) as made:
        yield made


@pytest.mark.parametrize("template", TEMPLATES)
def test_equal_on_all_probes(worker: Worker, template: str) -> None:
    model = model_of("llama3-like")
    built_in = load_encoder(f"llamafactory@0.9.5:{template}", model)
    assert isinstance(built_in, LlamaFactoryEncoder)
    encoder = InstalledEncoder(built_in, worker)
    results = encoder.encode_batch(load_probes(model), keep_errors=True)
    assert encoder.mismatches == []
    assert sum(isinstance(result, EncodedStream) for result in results) >= 10


@pytest.mark.parametrize("packing", [True, False])
def test_equal_blocks(worker: Worker, packing: bool) -> None:
    encoder = InstalledPretrainEncoder(pretrain_encoder(), {"cutoff_len": 16, "packing": packing}, worker)
    assert list(encoder.blocks(DOCUMENTS, Totals()))
    assert encoder.mismatches == []
