"""Writes small GGUF files (metadata only) for tests, after ggml's docs/gguf.md."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64 = 4, 5, 6, 7, 8, 9, 10


def write_gguf(path: Path, metadata: Mapping[str, Any], *, version: int = 3, order: str = "<") -> Path:
    """Write `metadata` as a GGUF file without tensors: str, bool, int (u32) and lists of str or int."""
    body = b"GGUF" + struct.pack(f"{order}IQQ", version, 0, len(metadata))
    for key, value in metadata.items():
        body += _text(key, order) + _value(value, order)
    path.write_bytes(body)
    return path


def tokenizer_metadata(tokenizer_json: Mapping[str, Any], architecture: str = "qwen2") -> dict[str, Any]:
    """The metadata that llama.cpp's converter writes for a byte-level BPE tokenizer.json."""
    vocab = dict(tokenizer_json["model"]["vocab"])
    special = {token["content"]: token["id"] for token in tokenizer_json["added_tokens"]}
    vocab.update(special)
    tokens = sorted(vocab, key=vocab.__getitem__)
    merges = [m if isinstance(m, str) else " ".join(m) for m in tokenizer_json["model"]["merges"]]
    return {
        "general.architecture": architecture,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.merges": merges,
    }


def _text(value: str, order: str) -> bytes:
    data = value.encode()
    return struct.pack(f"{order}Q", len(data)) + data


def _value(value: Any, order: str) -> bytes:
    if isinstance(value, str):
        return struct.pack(f"{order}I", STRING) + _text(value, order)
    if isinstance(value, bool):
        return struct.pack(f"{order}I?", BOOL, value)
    if isinstance(value, int):
        return struct.pack(f"{order}II", UINT32, value)
    items = list(value)
    kind = STRING if items and isinstance(items[0], str) else INT32
    head = struct.pack(f"{order}IIQ", ARRAY, kind, len(items))
    if kind == STRING:
        return head + b"".join(_text(item, order) for item in items)
    return head + struct.pack(f"{order}{len(items)}i", *items)
