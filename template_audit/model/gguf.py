"""Reading the metadata of a GGUF file: bounded, whatever the file claims.

Format: ggml's docs/gguf.md, versions 2 and 3, either byte order. Only the entries asked for are
turned into values; everything else, the vocabulary above all, is stepped over.
"""

from __future__ import annotations

import hashlib
import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from template_audit.errors import ModelError

# Far above any model at hand, far below what would hurt.
MAX_ENTRIES = 100_000
MAX_KEY = 65_535  # the format's own limit
MAX_TEXT = 16 << 20
MAX_ARRAY = 4_000_000
MAX_DEPTH = 4

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_TEMPLATE = "tokenizer.chat_template"


@dataclass(frozen=True, slots=True)
class GgufMetadata:
    """`values` of the entries asked for; `sha256` is over the whole header, weights excluded."""

    values: dict[str, Any]
    sha256: str


def read_metadata(path: Path, wanted: Callable[[str], bool]) -> GgufMetadata:
    """Read the metadata entries whose key is `wanted`; arrays are never read, only stepped over.

    Raises ModelError when the file is no GGUF, is cut off, or claims absurd lengths.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            reader = _Reader(path, data)
            values = reader.entries(wanted)
            digest = hashlib.sha256()
            for start in range(0, reader.at, 1 << 20):
                digest.update(data[start : min(start + (1 << 20), reader.at)])
            return GgufMetadata(values, digest.hexdigest())
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise ModelError(f"{path} cannot be read as GGUF: {error}.") from None


def read_templates(path: Path) -> tuple[dict[str, str], str]:
    """Chat templates by name (``default`` for the unnamed one), and the sha256 of the metadata."""
    metadata = read_metadata(path, lambda key: key == _TEMPLATE or key.startswith(f"{_TEMPLATE}."))
    templates = {}
    for key, value in metadata.values.items():
        if not isinstance(value, str):
            raise ModelError(f"{path}: the metadata entry `{key}` is not text.")
        templates[key.removeprefix(_TEMPLATE).removeprefix(".") or "default"] = value
    return templates, metadata.sha256


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data, self.at = path, data, 0
        if data[:4] != b"GGUF":
            raise ModelError(f"{path} is not a GGUF file: it does not begin with `GGUF`.")
        self.order = "<" if data[4:6] != b"\0\0" else ">"  # the version is a small number
        self.at = 4
        version = self.number("I")
        if version not in (2, 3):
            raise ModelError(f"{path} has GGUF version {version}; versions 2 and 3 can be read.")

    def entries(self, wanted: Callable[[str], bool]) -> dict[str, Any]:
        self.number("Q")  # the number of tensors
        count = self.number("Q")
        if count > MAX_ENTRIES:
            raise self.broken(f"claims {count:,} metadata entries")
        values: dict[str, Any] = {}
        for _ in range(count):
            key = self.text(MAX_KEY, "a key")
            kind = self.number("I")
            if kind == _STRING and wanted(key):
                values[key] = self.text(MAX_TEXT, f"`{key}`")
            elif kind in _SCALARS and wanted(key):
                values[key] = self.number(_SCALARS[kind])
            else:
                if wanted(key):
                    values[key] = None
                self.skip(kind)
        return values

    def broken(self, what: str) -> ModelError:
        return ModelError(f"{self.path} is not a sound GGUF file: at byte {self.at:,} it {what}.")

    def number(self, code: str) -> Any:
        try:
            (value,) = struct.unpack_from(self.order + code, self.data, self.at)
        except struct.error:
            raise self.broken("ends in the middle of its metadata") from None
        self.at += struct.calcsize(code)
        return value

    def step(self, size: int) -> None:
        if size > len(self.data) - self.at:
            raise self.broken("ends in the middle of its metadata")
        self.at += size

    def text(self, limit: int, what: str) -> str:
        length = self.number("Q")
        if length > limit:
            raise self.broken(f"gives {what} a length of {length:,} bytes")
        start = self.at
        self.step(length)
        try:
            return self.data[start : self.at].decode("utf-8")
        except UnicodeDecodeError:
            raise self.broken(f"holds {what} that is not UTF-8") from None

    def skip(self, kind: int, depth: int = 0) -> None:
        if kind in _SCALARS:
            self.step(struct.calcsize(_SCALARS[kind]))
        elif kind == _STRING:
            self.step(self.number("Q"))
        elif kind == _ARRAY and depth < MAX_DEPTH:
            inner, count = self.number("I"), self.number("Q")
            if inner in _SCALARS:
                self.step(count * struct.calcsize(_SCALARS[inner]))
                return
            if count > MAX_ARRAY:
                raise self.broken(f"claims an array of {count:,} entries")
            for _ in range(count):
                self.skip(inner, depth + 1)
        else:
            raise self.broken(f"has a value of the unknown type {kind}")
