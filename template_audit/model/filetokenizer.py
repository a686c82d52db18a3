"""The tokenizer that tokenizer.json describes, to be held against the one that AutoTokenizer makes of the folder.

Reading tokenizer.json as a whole takes as long as AutoTokenizer does. The parts that decide about ids
and that releases of transformers change (normaliser, pre-tokenizer, added tokens, the model's settings)
are small, and the vocabulary is there already, in AutoTokenizer's own backend. So the file's parts are
put around that vocabulary; only where it is not the file's own, or cannot be told, is the file read.
"""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from template_audit.model.tokenizer import overrides_encode, panics_told

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SLICES, _WIDTH = 24, 400  # of the file's vocabulary, looked up in the backend
_ENTRY = re.compile(r'("(?:[^"\\]|\\.)+")\s*:\s*(\d+)\s*[,}]')
_SETTINGS = (
    "byte_fallback",
    "fuse_unk",
    "ignore_merges",
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
)
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_NOTHING = msgspec.Raw(b"null")


class _Model(msgspec.Struct):
    type: str | None = None
    vocab: msgspec.Raw = _NOTHING
    dropout: float | None = None
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    fuse_unk: bool = False
    byte_fallback: bool = False
    ignore_merges: bool = False


class _Token(msgspec.Struct):
    id: int
    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = False


class _File(msgspec.Struct):
    model: _Model
    normalizer: msgspec.Raw = _NOTHING
    pre_tokenizer: msgspec.Raw = _NOTHING
    added_tokens: list[_Token] = []


def file_tokenizer(path: Path, tokenizer: PreTrainedTokenizerBase) -> Any | None:
    """A `tokenizers.Tokenizer` that gives the ids of the tokenizer.json at `path`, without special tokens.

    None when `tokenizer`, made from the same folder, is built of the same parts, so that nothing can
    differ; when its class encodes in a way of its own; and when the file cannot be read (loading the
    model has said so, or did not need it).

    Vocabularies are compared by samples. That merges agree where the vocabularies do is taken for granted.
    """
    if overrides_encode(tokenizer):
        return None
    try:
        raw = path.read_bytes()
        file = msgspec.json.decode(raw, type=_File)
    except (OSError, msgspec.DecodeError, RecursionError):
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None) if tokenizer.is_fast else None
    if backend is None or not _same_model(file.model, backend):
        return _whole(path)
    made = _around(file, backend)
    if made is None:
        return _whole(path)
    return None if _parts(made) == _parts(backend) else made


def encode(tokenizer: Any, text: str) -> list[int]:
    """The ids of `text` without special tokens. Raises EncodingError when the tokenizer breaks on it."""
    with panics_told():
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _whole(path: Path) -> Any | None:
    from tokenizers import Tokenizer

    try:
        with panics_told():
            made = Tokenizer.from_file(str(path))
    except Exception:  # the library raises nothing narrower
        return None
    made.no_truncation()
    made.no_padding()
    return made


def _same_model(model: _Model, backend: Any) -> bool:
    """True when the backend's vocabulary and its settings are the file's, as far as samples tell."""
    ours = backend.model
    if model.type not in (None, "BPE") or type(ours).__name__ != "BPE" or model.dropout != ours.dropout:
        return False
    if any((getattr(model, name) or None) != (getattr(ours, name, None) or None) for name in _SETTINGS):
        return False
    vocabulary = bytes(model.vocab)
    step = max(len(vocabulary) // _SLICES, 1)
    seen = 0
    for start in range(0, len(vocabulary), step):
        text = vocabulary[start : start + _WIDTH].decode("utf-8", "ignore")
        for match in _ENTRY.finditer(text, text.find(",") + 1):
            try:
                token = json.loads(match[1])
            except ValueError:
                continue
            seen += 1
            if ours.token_to_id(token) != int(match[2]):
                return False
    return seen > 0


def _around(file: _File, backend: Any) -> Any | None:
    """The file's parts around the backend's vocabulary; None when its added tokens get other ids that way."""
    from tokenizers import AddedToken, Tokenizer

    shell = {
        "version": "1.0",
        "normalizer": file.normalizer,
        "pre_tokenizer": file.pre_tokenizer,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    try:
        with panics_told():
            parts = Tokenizer.from_str(msgspec.json.encode(shell).decode())
    except Exception:  # the library raises nothing narrower
        return None
    made = Tokenizer(backend.model)
    if parts.normalizer is not None:
        made.normalizer = parts.normalizer
    if parts.pre_tokenizer is not None:
        made.pre_tokenizer = parts.pre_tokenizer
    for special, run in groupby(file.added_tokens, key=lambda token: token.special):  # each call rebuilds a trie
        tokens = [AddedToken(t.content, **{name: getattr(t, name) for name in _FLAGS}) for t in run]
        (made.add_special_tokens if special else made.add_tokens)(tokens)
    return made if all(made.token_to_id(token.content) == token.id for token in file.added_tokens) else None


def _parts(tokenizer: Any) -> tuple[Any, ...]:
    """What decides about ids beside the model, in comparable form."""
    parts = [getattr(tokenizer, name) for name in ("normalizer", "pre_tokenizer")]
    added = tokenizer.get_added_tokens_decoder()
    return (
        *(None if part is None else part.__getstate__() for part in parts),
        sorted((id, token.content, *(getattr(token, flag) for flag in _FLAGS)) for id, token in added.items()),
    )
