"""GGUF metadata: read as ggml's format says, refused in one sentence when it is broken."""

from __future__ import annotations

import random
import struct
import tracemalloc
from pathlib import Path

import pytest

from template_audit.errors import ModelError
from template_audit.model.gguf import read_metadata, read_templates
from tests.gguf_writer import write_gguf

TEMPLATE = "{% for m in messages %}{{ m.content }}é{% endfor %}"
METADATA = {
    "general.architecture": "llama",
    "general.alignment": 32,
    "tokenizer.ggml.add_bos_token": True,
    "tokenizer.ggml.tokens": ["<s>", "▁a", "b"] * 50,
    "tokenizer.ggml.token_type": [3, 1, 1] * 50,
    "tokenizer.chat_template": TEMPLATE,
    "tokenizer.chat_template.tool_use": "T",
    "tokenizer.chat_templates": ["default", "tool_use"],
}


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("order", ["<", ">"])
def test_templates(tmp_path: Path, version: int, order: str) -> None:
    path = write_gguf(tmp_path / "m.gguf", METADATA, version=version, order=order)
    assert read_templates(path)[0] == {"default": TEMPLATE, "tool_use": "T"}


def test_only_what_is_wanted(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", METADATA)
    wanted = read_metadata(path, lambda key: key.startswith("general."))
    assert wanted.values == {"general.architecture": "llama", "general.alignment": 32}
    assert read_metadata(path, lambda key: True).values["tokenizer.ggml.add_bos_token"] is True


def test_digest_covers_the_metadata_and_not_the_weights(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", METADATA)
    digest = read_templates(path)[1]
    path.write_bytes(path.read_bytes() + b"weights" * 1000)
    assert read_templates(path)[1] == digest
    other = write_gguf(tmp_path / "n.gguf", {**METADATA, "general.alignment": 64})
    assert read_templates(other)[1] != digest


def head(entries: int, rest: bytes = b"") -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, entries) + rest


def entry(key: str, kind: int, rest: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + rest


HUGE = struct.pack("<Q", 1 << 62)
DEEP = b"".join(struct.pack("<IQ", 9, 1) for _ in range(50))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "cannot be read as GGUF"),
        (b"GG", "does not begin with `GGUF`"),
        (b"GGML" + b"\0" * 20, "does not begin with `GGUF`"),
        (b"GGUF", "ends in the middle"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "GGUF version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "claims 1,152,921,504,606,846,976 metadata entries"),
        (head(2), "ends in the middle"),
        (head(1, HUGE), "gives a key a length of 4,611,686,018,427,387,904 bytes"),
        (head(1, struct.pack("<Q", 60_000)), "ends in the middle"),
        (head(1, entry("tokenizer.chat_template", 8, HUGE)), "gives `tokenizer.chat_template` a length"),
        (head(1, entry("tokenizer.chat_template", 8, struct.pack("<Q", 1 << 20))), "ends in the middle"),
        (head(1, entry("tokenizer.chat_template", 8, struct.pack("<Q", 1) + b"\xff")), "that is not UTF-8"),
        (head(1, entry("tokenizer.chat_template", 4, b"\0" * 4)), "is not text"),
        (head(1, entry("a", 8, HUGE)), "ends in the middle"),
        (head(1, entry("a", 99, b"")), "unknown type 99"),
        (head(1, entry("a", 9, struct.pack("<I", 4) + HUGE)), "ends in the middle"),
        (head(1, entry("a", 9, struct.pack("<I", 8) + HUGE)), "claims an array of"),
        (head(1, entry("a", 9, DEEP)), "unknown type 9"),
    ],
)
def test_broken_files(tmp_path: Path, data: bytes, sentence: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(ModelError) as error:
            read_templates(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert sentence in str(error.value)
    assert str(path) in str(error.value)


def test_any_damage_is_a_sentence(tmp_path: Path) -> None:
    sound = write_gguf(tmp_path / "m.gguf", METADATA).read_bytes()
    chance = random.Random(7)
    path, sentences = tmp_path / "damaged.gguf", []
    for _ in range(400):
        data = bytearray(sound[: chance.randrange(len(sound) + 1)] if chance.random() < 0.3 else sound)
        for _ in range(chance.randrange(1, 6)):
            if data:
                data[chance.randrange(len(data))] = chance.randrange(256)
        path.write_bytes(data)
        try:
            read_templates(path)
        except ModelError as error:
            sentences.append(str(error))
    assert sentences
    assert not any("\n" in sentence for sentence in sentences)
