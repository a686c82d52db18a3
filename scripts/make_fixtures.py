"""Make the model folders of `fixtures/models`: `python scripts/make_fixtures.py [--out FOLDER]`.

Each folder has a small BPE tokenizer, trained on the text in `scripts/fixture_sources/text`, with the real
added tokens of a family (`fixture_families.py`) and a chat template from `scripts/fixture_sources/templates`.
The same inputs give the same bytes; nothing is fetched.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fixture_families import FAMILIES, Family, Json, Tok

SCRIPTS = Path(__file__).resolve().parent
SOURCES = SCRIPTS / "fixture_sources"
DEFAULT_OUT = SCRIPTS.parent / "fixtures" / "models"
BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]


def training_lines() -> list[str]:
    """The lines of all training texts, in the order of the file names."""
    return [
        line
        for path in sorted((SOURCES / "text").glob("*.txt"))
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True)
    ]


def train(lines: Iterable[str], normalizer: Json | None, pre_tokenizer: Json, size: int) -> tuple[list[str], list[str]]:
    """Learn BPE: (pieces in the order of their ids, merges as ``left right``).

    `size` counts the alphabet too. Pieces that occur once are not learnt.
    """
    from tokenizers import Tokenizer, pre_tokenizers, trainers

    parts = {
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    tokenizer = Tokenizer.from_str(json.dumps({"version": "1.0", "added_tokens": [], **parts}))
    byte_level = pre_tokenizer["type"] != "Metaspace"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet()) if byte_level else []
    tokenizer.train_from_iterator(
        lines,
        trainers.BpeTrainer(vocab_size=size, min_frequency=2, initial_alphabet=alphabet, show_progress=False),
    )
    model = json.loads(tokenizer.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return pieces, [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]


def byte_level_pieces(family: Family, lines: list[str]) -> tuple[list[str], list[str]]:
    """Pieces and merges of a byte-level vocabulary: the 256 bytes, then what was learnt."""
    cut = family.tokenization
    assert cut.pre_tokenizer is not None
    return train(lines, cut.normalizer, cut.pre_tokenizer, 256 + family.pieces)


def sentencepiece_pieces(family: Family, lines: list[str]) -> tuple[list[str], list[str]]:
    """Pieces and merges as SentencePiece lays them out: bytes, learnt pieces, single characters by frequency.

    Characters that occur once are left to the byte pieces, and so are line ends.
    """
    counts = Counter("".join(lines))
    known = {char for char, count in counts.items() if count > 1 and char not in "\n\t "} | {"▁"}
    cleaned = ["".join(char if char in known else " " for char in line) for line in lines]
    scheme = "always" if "normalizers" in (family.tokenization.normalizer or {}) else "never"
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": True}
    trained, merges = train(cleaned, None, metaspace, family.pieces)
    learnt = [piece for piece in trained if len(piece) > 1]
    single = sorted((piece for piece in trained if len(piece) == 1), key=lambda char: (-counts[char], char))
    return [*BYTE_PIECES, *learnt, *single], merges


def bos_template(family: Family, ids: dict[str, int]) -> Json:
    """A post-processor that puts BOS before a text, where the family does so."""
    first: list[Json] = []
    second: list[Json] = []
    known: Json = {}
    if family.prepends_bos:
        assert family.bos is not None
        first = [{"SpecialToken": {"id": family.bos, "type_id": 0}}]
        second = [{"SpecialToken": {"id": family.bos, "type_id": 1}}]
        known = {family.bos: {"id": family.bos, "ids": [ids[family.bos]], "tokens": [family.bos]}}
    one = [*first, {"Sequence": {"id": "A", "type_id": 0}}]
    two = [*second, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": one, "pair": [*one, *two], "special_tokens": known}


def post_processor(family: Family, ids: dict[str, int]) -> Json | None:
    """The post-processor of the family; EXAONE has none."""
    if family.model_type.startswith("exaone"):
        return None
    if family.tokenization.sentencepiece:
        return bos_template(family, ids)
    bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return (
        {"type": "Sequence", "processors": [bytes_only, bos_template(family, ids)]}
        if family.prepends_bos
        else bytes_only
    )


def added_token(token: Tok) -> Json:
    """The flags of an added token as both tokenizer.json and tokenizer_config.json write them."""
    return {
        "content": token.content,
        "single_word": False,
        "lstrip": False,
        "rstrip": token.rstrip,
        "normalized": False,
        "special": token.special,
    }


def tokenizer_json(family: Family, lines: list[str]) -> tuple[Json, dict[str, int]]:
    """The content of tokenizer.json, and the ids of all tokens."""
    learn = sentencepiece_pieces if family.tokenization.sentencepiece else byte_level_pieces
    pieces, merges = learn(family, lines)
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*(t.content for t in family.head), *pieces]))}
    ids = dict(vocabulary)
    for token in family.tail:
        ids[token.content] = len(ids)
    content: Json = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": ids[t.content], **added_token(t)} for t in (*family.head, *family.tail)],
        "normalizer": family.tokenization.normalizer,
        "pre_tokenizer": family.tokenization.pre_tokenizer,
        "post_processor": post_processor(family, ids),
        "decoder": family.tokenization.decoder,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": family.unk if family.tokenization.sentencepiece else None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": family.tokenization.sentencepiece,
            "byte_fallback": family.tokenization.sentencepiece,
            "ignore_merges": family.tokenization.ignore_merges,
            "vocab": vocabulary,
            "merges": merges,
        },
    }
    return content, ids


def special_tokens(family: Family) -> dict[str, str]:
    """The named special tokens that the family has."""
    named = {"bos_token": family.bos, "eos_token": family.eos, "pad_token": family.pad, "unk_token": family.unk}
    return {name: token for name, token in named.items() if token is not None}


def chat_templates(family: Family) -> dict[str, str]:
    """The chat templates by name; empty for a base model."""
    if family.template == "none":
        return {}
    folder = SOURCES / "templates"
    found = {"default": (folder / f"{family.name}.jinja").read_text(encoding="utf-8")}
    for path in sorted(folder.glob(f"{family.name}.*.jinja")):
        found[path.name.split(".")[1]] = path.read_text(encoding="utf-8")
    return found


def model_files(family: Family, lines: list[str]) -> dict[str, str]:
    """Every file of a model folder: path inside the folder to content."""
    tokenizer, ids = tokenizer_json(family, lines)
    templates = chat_templates(family)
    named = special_tokens(family)
    stops = [ids[token] for token in family.stops]
    token_ids: Json = {
        name.replace("_token", "_token_id"): ids[token] for name, token in named.items() if name != "unk_token"
    }
    token_ids["eos_token_id"] = stops if len(stops) > 1 else stops[0]
    config: Json = {
        "added_tokens_decoder": {
            str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in tokenizer["added_tokens"]
        },
        "bos_token": None,
        **named,
        "model_max_length": 1000000000000000019884624838656,
        **family.tokenizer_config,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    files: dict[str, str] = {}
    if family.template == "config":
        config["chat_template"] = templates["default"]
    elif family.template == "list":
        config["chat_template"] = [{"name": name, "template": text} for name, text in templates.items()]
    elif family.template in ("jinja", "folder"):
        files["chat_template.jinja"] = templates.pop("default")
        files.update({f"additional_chat_templates/{name}.jinja": text for name, text in templates.items()})
    size = -(-len(ids) // family.embedding) * family.embedding
    files["tokenizer.json"] = json.dumps(tokenizer, ensure_ascii=False, indent=0, separators=(",", ":")) + "\n"
    files["tokenizer_config.json"] = pretty(config)
    files["special_tokens_map.json"] = pretty(named)
    files["generation_config.json"] = pretty(token_ids)
    files["config.json"] = pretty(
        {"architectures": [family.architecture], "model_type": family.model_type, **token_ids, "vocab_size": size}
    )
    return files


def pretty(value: Any) -> str:
    """JSON as people read it."""
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def make(out: Path) -> None:
    """Write every family's folder below `out`."""
    lines = training_lines()
    for family in FAMILIES:
        for name, content in model_files(family, lines).items():
            path = out / family.name / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode("utf-8"))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make the model folders of fixtures/models.")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="where the folders go (default: fixtures/models)")
    out: Path = parser.parse_args().out
    make(out)
    print(f"{len(FAMILIES)} model folders in {out}")


if __name__ == "__main__":
    main()
