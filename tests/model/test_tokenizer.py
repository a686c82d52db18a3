"""Ids equal those of `tokenizer.encode`; spans cover the text; token texts are what stands in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from template_audit import load_model
from template_audit.errors import EncodingError
from template_audit.model.tokenizer import encode_texts, spans_by_decoding, token_text

ROOT = Path(__file__).parents[2]
FIXTURES = sorted(path for path in (ROOT / "fixtures" / "models").iterdir() if path.is_dir())
SHARED = ROOT.parent / "shared" / "models"

TEXTS = [
    "",
    " ",
    "\n\n",
    "Hello, world!",
    "  two  spaces \t\n\n and\r\nlines ",
    "def f(x):\n    return x ** 2  # squared",
    "안녕하세요, 세계! 어떻게 지내세요?",
    "早上好。請問火車站在哪裡？",
    "naïve café — “quoted” … ½ ﬁ Å",
    "e\u0301 a\u0308 \u1112\u1161\u11ab",  # combining marks and conjoining jamo: NFC and NFKC fold them
    "😀 👩‍👩‍👧 🇰🇷 🤷🏽‍♀️",
    "a\u200bb\u00adc\ufeffd\x00e",
    "1234567890 3.14159 -42",
    "<|im_start|>user\nhi<|im_end|>\n[|user|]hi[|endofturn|]<s>[INST] hi [/INST]</s><think>\n\n</think>",
    "<|user|>\n  hi <|end|>\n<|assistant|>",
    "مرحبا بالعالم שלום हिन्दी ไทย",
    "�",
    "x" * 300,
]
TEXTS.append("".join(TEXTS))


@pytest.fixture(scope="module", params=FIXTURES, ids=lambda path: path.name)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return load_model(request.param).tokenizer


def check(tokenizer: Any) -> None:
    encoded = encode_texts(tokenizer, TEXTS)
    assert len(encoded) == len(TEXTS)
    for text, (ids, spans) in zip(TEXTS, encoded, strict=True):
        assert ids == tokenizer.encode(text, add_special_tokens=False)
        assert len(spans) == len(ids)
        check_spans(text, spans)


def check_spans(text: str, spans: list[tuple[int, int]]) -> None:
    end = 0
    for start, stop in spans:
        assert 0 <= start <= end, "a character is in no token"
        assert start <= stop <= len(text)
        end = max(end, stop)
    assert [start for start, _ in spans] == sorted(start for start, _ in spans)
    assert end == len(text) or not spans


def test_ids_and_spans(tokenizer: Any) -> None:
    check(tokenizer)


@pytest.mark.shared
@pytest.mark.parametrize("name", [
    "exaone-3.5-2.4b-instruct", "llama-3.2-instruct", "mistral-7b-instruct-v0.2", "phi-3-mini", "qwen2.5-instruct",
    "qwen3", "yi-6b-chat",
])  # fmt: skip
def test_ids_and_spans_of_real_tokenizers(name: str) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"../shared/models/{name} is not there")
    check(load_model(SHARED / name).tokenizer)


def test_nothing_to_encode(tokenizer: Any) -> None:
    assert encode_texts(tokenizer, []) == []


def test_spans_of_plain_words_are_exact() -> None:
    tokenizer = load_model(ROOT / "fixtures/models/qwen25-like").tokenizer
    text = "Good morning<|im_end|>\n안녕"
    ((ids, spans),) = encode_texts(tokenizer, [text])
    marker = tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert text[slice(*spans[ids.index(marker)])] == "<|im_end|>"
    for token_id, (start, stop) in zip(ids, spans, strict=True):
        assert token_text(tokenizer, token_id) == text[start:stop] or "<0x" in token_text(tokenizer, token_id)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Any]:
    """A tokenizer folder that a test may change before it is loaded."""
    folder = tmp_path / "model"
    shutil.copytree(ROOT / "fixtures/models/chatml-plain", folder)
    return folder


def edit(folder: Path, **changes: Any) -> Any:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
    return load_model(folder).tokenizer


def test_truncation_and_padding_in_the_file_do_not_matter(fresh: Path) -> None:
    plain = encode_texts(load_model(fresh).tokenizer, TEXTS)
    padding = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
               "pad_type_id": 0, "pad_token": "<pad>"}  # fmt: skip
    truncation = {"direction": "Right", "max_length": 5, "strategy": "LongestFirst", "stride": 0}
    assert encode_texts(edit(fresh, truncation=truncation, padding=padding), TEXTS) == plain


def test_split_special_tokens_is_honoured(fresh: Path) -> None:
    tokenizer = load_model(fresh).tokenizer
    whole = encode_texts(tokenizer, ["a<|im_end|>b"])[0][0]
    tokenizer.split_special_tokens = True
    ids = encode_texts(tokenizer, ["a<|im_end|>b"])[0][0]
    assert ids == tokenizer.encode("a<|im_end|>b", add_special_tokens=False)
    assert len(ids) > len(whole)


def test_trimming_post_processor_does_not_cut_the_spans(fresh: Path) -> None:
    trimming = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer = edit(fresh, post_processor=trimming)
    text = "one two   three\n"
    cut = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ((ids, spans),) = encode_texts(tokenizer, [text])
    assert ids == cut["input_ids"]
    assert spans != cut["offset_mapping"]  # the post-processor does trim
    assert "".join(text[start:stop] for start, stop in spans) == text
    after = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert after["offset_mapping"] == cut["offset_mapping"]  # and is back in its place


def test_folded_characters_belong_to_the_token_before(fresh: Path) -> None:
    tokenizer = edit(fresh, normalizer={"type": "NFC"})
    text = "a\u0308b"  # ä by NFC, then b
    ((_, spans),) = encode_texts(tokenizer, [text])
    assert spans[-1] == (2, 3)
    assert set(spans[:-1]) == {(0, 2)}


def test_lone_surrogate_is_refused(tokenizer: Any) -> None:
    with pytest.raises(EncodingError, match=r"lone surrogate U\+D83D at character 3"):
        encode_texts(tokenizer, ["fine", "abc\ud83d"])


def test_backtracking_pattern_is_an_error_not_a_panic(fresh: Path) -> None:
    pattern = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    tokenizer = edit(fresh, pre_tokenizer=pattern)
    with pytest.raises(EncodingError, match=r"tokenizer broke on this text \(.*retry-limit"):
        encode_texts(tokenizer, ["a" * 5000 + "b"])
    assert encode_texts(tokenizer, ["b"])[0][0] == tokenizer.encode("b", add_special_tokens=False)


# --- slow tokenizers --------------------------------------------------------------------------------


def test_python_tokenizer_without_offsets() -> None:
    from transformers import ByT5Tokenizer

    tokenizer = ByT5Tokenizer()
    assert not tokenizer.is_fast
    for text, (ids, spans) in zip(TEXTS, encode_texts(tokenizer, TEXTS), strict=True):
        assert ids == tokenizer.encode(text, add_special_tokens=False)
        check_spans(text, spans)
    ((ids, spans),) = encode_texts(tokenizer, ["aé😀"])
    assert spans == [(0, 1), (1, 2), (1, 2), (2, 3), (2, 3), (2, 3), (2, 3)]  # one per byte


@pytest.mark.shared
def test_slow_sentencepiece_tokenizer() -> None:
    if not (SHARED / "yi-6b-chat").is_dir():
        pytest.skip("../shared/models/yi-6b-chat is not there")
    from transformers import LlamaTokenizer

    tokenizer = LlamaTokenizer.from_pretrained(str(SHARED / "yi-6b-chat"))
    if tokenizer.is_fast:
        pytest.skip("transformers 5 has no slow Llama tokenizer")
    check(tokenizer)
    assert encode_texts(tokenizer, ["Hello there"])[0][1] == [(0, 5), (5, 11)]


def test_spans_by_decoding_agree_with_offsets(tokenizer: Any) -> None:
    def decode(ids: list[int]) -> str:
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        return str(tokenizer.decode(ids, **options))

    for text in ["Hello, world!", "  two  spaces", "def f(x):\n    return x", "plain ascii text, 123"]:
        ((ids, spans),) = encode_texts(tokenizer, [text])
        decoded = spans_by_decoding(decode, ids, text)
        check_spans(text, decoded)
        if spans[0][1] > 1:  # not where a token of its own stands for SentencePiece's leading space
            assert decoded == spans


# --- single tokens ----------------------------------------------------------------------------------


def test_token_text_of_added_tokens(tokenizer: Any) -> None:
    for token_id, token in tokenizer.added_tokens_decoder.items():
        assert token_text(tokenizer, token_id) == token.content


def test_token_texts_add_up_to_the_text(tokenizer: Any) -> None:
    text = "The train leaves at nine, doesn't it?"
    ((ids, _),) = encode_texts(tokenizer, [text])
    assert "".join(token_text(tokenizer, i) for i in ids).removeprefix(" ") == text  # SentencePiece adds a space


def test_token_text_of_bytes_and_of_no_token(tokenizer: Any) -> None:
    ((ids, _),) = encode_texts(tokenizer, ["\U0001f9ed"])  # in no fixture's training text
    assert "".join(token_text(tokenizer, i) for i in ids).removeprefix(" ") == "<0xF0><0x9F><0xA7><0xAD>"
    for missing in (-1, len(tokenizer), 10**7):
        assert token_text(tokenizer, missing) == f"<no token {missing}>"
