"""A model's files as data: small enough for a lock file, and still able to say which key changed.

What is large (a vocabulary, merges, long tables and strings) becomes a digest for every few entries, so
that a change in it can be narrowed down to these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from template_audit.errors import ModelError
from template_audit.lock.layout import digest
from template_audit.model.templates import PROCESSOR_FILES, find_templates, read_json

TOKEN_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
FLAG_FILES = ("tokenizer.json", "tokenizer_config.json")
_ENTRIES = 1024  # tables up to this size are kept as they are
_CHARACTERS = 2000
_BLOCKS = 256
_DIGITS = 4
_SUMMARY = "~"  # opens a summary; see `summary`
# What a tokenizer, a template or the choice of a framework's template may depend on; the rest describes the network.
_CONFIG_KEYS = (
    "_name_or_path",
    "model_type",
    "architectures",
    "tokenizer_class",
    "vocab_size",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "decoder_start_token_id",
)
_BOOKKEEPING = ("transformers_version",)


def settings_of(folder: Path, files: Iterable[str]) -> dict[str, Any]:
    """Every one of `files` (paths inside `folder`) that can be looked into, as data. Raises ModelError."""
    out: dict[str, Any] = {}
    for name in sorted(files):
        if name.endswith(".json"):
            out[name] = _json(name, read_json(folder / name))
        elif name.endswith((".txt", ".tiktoken")):
            out[name] = summary(_text_lines(folder / name))
    return out


def templates_of(folder: Path) -> dict[str, dict[str, list[str]]]:
    """The chat templates of a model folder by place and name, in lines. Raises ModelError."""
    found: dict[str, dict[str, list[str]]] = {}
    for source in find_templates(folder, read_json(folder / "tokenizer_config.json")):
        found.setdefault(source.place, {})[source.name] = source.template.split("\n")
    return found


class _Summed(str):
    """A summary that was made here, and no text of a file that looks like one."""


def summary(entries: Sequence[Any]) -> str:
    """A long sequence as one line: ``~ENTRIES/BLOCK DIGEST DIGEST …``, a digest for each BLOCK entries."""
    size = max(4, 1 << math.ceil(math.log2(max(len(entries), 1) / _BLOCKS))) if len(entries) > _BLOCKS else 4
    blocks = (entries[start : start + size] for start in range(0, len(entries), size))
    digests = (digest(list(block), _DIGITS) for block in blocks)
    return " ".join([f"{_SUMMARY}{len(entries)}/{size}", *digests])


def is_summary(value: Any) -> bool:
    """True for what `summary` makes."""
    return isinstance(value, str) and value.startswith(_SUMMARY) and "/" in value.partition(" ")[0]


def summary_change(old: str, new: str) -> str:
    """What is different between two summaries, in words: how many entries, and among which the first change lies."""
    (count, size, *was), (now, now_size, *are) = _taken_apart(old), _taken_apart(new)
    if size != now_size:
        return f"{int(count):,} entries became {int(now):,}"
    first = next((i for i, (a, b) in enumerate(zip(was, are, strict=False)) if a != b), min(len(was), len(are)))
    start = first * int(size)
    end = min(start + int(size), max(int(count), int(now))) - 1
    many = f"{int(count):,} entries" if count == now else f"{int(count):,} entries became {int(now):,}"
    return f"{many}, the first difference is among entries {start:,} to {end:,}"


def _taken_apart(text: str) -> list[str]:
    head, *digests = text.split(" ")
    return [*head.removeprefix(_SUMMARY).split("/"), *digests]


def _json(name: str, data: dict[str, Any]) -> Any:
    if name == "config.json":
        data = {key: data[key] for key in _CONFIG_KEYS if key in data}
    elif name == "generation_config.json":
        data = {key: value for key, value in data.items() if key not in _BOOKKEEPING}
    elif name == "tokenizer_config.json" or name in PROCESSOR_FILES:
        data = {key: value for key, value in data.items() if key != "chat_template"}  # a template of its own
    elif name == "vocab.json":
        return summary(_by_id(data))
    elif name == "tokenizer.json":
        data = _tokenizer(data)
    return _short(_with_plain_flags(data))


def _tokenizer(data: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json with its added tokens by their text and its vocabulary and merges summed up."""
    out = dict(data)
    added = data.get("added_tokens")
    if isinstance(added, list) and all(isinstance(token, dict) and "content" in token for token in added):
        out["added_tokens"] = {
            str(token["content"]): {key: value for key, value in token.items() if key != "content"} for token in added
        }
        if len(out["added_tokens"]) != len(added):
            out["added_tokens"] = added
    model = data.get("model")
    if isinstance(model, dict):
        out["model"] = dict(model)
        vocabulary, merges = model.get("vocab"), model.get("merges")
        if isinstance(vocabulary, dict):
            out["model"]["vocab"] = _Summed(summary(_by_id(vocabulary)))
        elif isinstance(vocabulary, list):
            out["model"]["vocab"] = _Summed(summary(vocabulary))
        if isinstance(merges, list):
            out["model"]["merges"] = _Summed(summary([" ".join(m) if _pair(m) else m for m in merges]))
    return out


def _pair(merge: Any) -> bool:
    return isinstance(merge, list) and all(isinstance(part, str) for part in merge)


def _by_id(vocabulary: Mapping[str, Any]) -> list[Any]:
    return sorted(
        ([token, id] for token, id in vocabulary.items()),
        key=lambda pair: (not isinstance(pair[1], int), pair[1] if isinstance(pair[1], int) else 0, pair[0]),
    )


def _with_plain_flags(value: Any) -> Any:
    """Flags of tokens that are false are left out: a file may leave them out as well."""
    if isinstance(value, list):
        return [_with_plain_flags(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {key: _with_plain_flags(item) for key, item in value.items() if not (key in TOKEN_FLAGS and item is False)}


def _short(value: Any) -> Any:
    if isinstance(value, _Summed):
        return str(value)
    if isinstance(value, str):
        return summary(value.split("\n")) if len(value) > _CHARACTERS or value.startswith(_SUMMARY) else value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no such numbers, Python's reader takes them
    if isinstance(value, list):
        return summary(value) if len(value) > _ENTRIES else [_short(item) for item in value]
    if isinstance(value, dict):
        if len(value) > _ENTRIES:
            return summary([[key, value[key]] for key in sorted(value)])
        return {key: _short(item) for key, item in value.items()}
    return value


def _text_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}.") from None
