"""tokenizer.json against the tokenizer that AutoTokenizer made; what the file gives is what `tokenizers` says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import transformers

from template_audit.audit import audit
from template_audit.conversation import Conversation
from template_audit.findings import Finding
from template_audit.model import Model
from template_audit.model.filetokenizer import encode, file_tokenizer
from template_audit.probes import load_probes, probe
from template_audit.rules.tokenizer_files import _SAMPLES
from tests.test_audit import ROOT, SHARED, loaded

V5 = int(transformers.__version__.split(".")[0]) >= 5
FIXTURES = sorted(path.name for path in (ROOT / "fixtures" / "models").iterdir())
REAL = ["exaone-3.5-2.4b-instruct", "llama-3.2-instruct", "mistral-7b-instruct-v0.2", "phi-3-mini", "qwen2.5-instruct"]
SHARED_ONES = [pytest.param(name, marks=pytest.mark.shared) for name in (*REAL, "qwen3")]


def changed(model: Model, folder: Path, change: Callable[[dict[str, Any]], None]) -> Model:
    """`model` with a changed tokenizer.json stored beside it."""
    data = json.loads((model.path / "tokenizer.json").read_text(encoding="utf-8"))
    change(data)
    (folder / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return replace(model, path=folder)


def found(model: Model, *conversations: Conversation, template: str = "qwen") -> list[Finding]:
    report = audit(model, subject=f"llamafactory:{template}", conversations=list(conversations) or [probe("single")])
    return [finding for finding in report.findings if finding.rule == "tokenizer-files-disagree"]


def nfkc(data: dict[str, Any]) -> None:
    data["normalizer"] = {"type": "NFKC"}


def split_letters(data: dict[str, Any]) -> None:
    split = {"type": "Split", "pattern": {"String": "p"}, "behavior": "Isolated", "invert": False}
    data["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, data["pre_tokenizer"]]}


def no_turn_end(data: dict[str, Any]) -> None:
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] != "<|im_end|>"]


def other_vocabulary(data: dict[str, Any]) -> None:
    vocabulary = data["model"]["vocab"]
    ids = sorted(vocabulary.values())
    data["model"]["vocab"] = dict(zip(vocabulary, reversed(ids), strict=True))


def asked(text: str) -> Conversation:
    return Conversation.from_openai([{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}])


def test_a_normaliser_that_was_lost(tmp_path: Path) -> None:
    model = changed(loaded("chatml-plain"), tmp_path, nfkc)
    (finding,) = found(model, asked("What is ① ?"))
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("①", add_special_tokens=False).ids
    ours = model.tokenizer.encode("①", add_special_tokens=False)
    assert finding.severity == "error"
    assert "`①` is " in finding.message
    for ids in (theirs, ours):
        assert f"{', '.join(map(str, ids))}" in finding.message
    assert "the two differ in 1 conversation." in finding.message


def test_what_no_conversation_shows_is_a_warning(tmp_path: Path) -> None:
    (finding,) = found(changed(loaded("chatml-plain"), tmp_path, nfkc), asked("What is one?"))
    assert finding.severity == "warning"
    assert "in none of the conversations here" in finding.message


@pytest.mark.parametrize("change", [split_letters, no_turn_end, other_vocabulary])
def test_other_parts(change: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    (finding,) = found(changed(loaded("chatml-plain"), tmp_path, change), asked("What happened in 2023?"))
    assert finding.severity == "error"


def test_parts_that_differ_without_effect(tmp_path: Path) -> None:
    def unused(data: dict[str, Any]) -> None:
        data["added_tokens"].append({**data["added_tokens"][-1], "id": 1_000_000, "content": "<|never|>"})

    assert found(changed(loaded("chatml-plain"), tmp_path, unused)) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"model": 3}', '{"model": {"type": "BPE"}}', '{"added_tokens": [{}]}']
)
def test_files_that_say_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    assert found(replace(loaded("chatml-plain"), path=tmp_path)) == []
    assert found(replace(loaded("chatml-plain"), path=tmp_path / "none")) == []


@pytest.mark.parametrize("name", FIXTURES)
def test_fixtures_agree(name: str) -> None:
    model = loaded(name)
    assert file_tokenizer(model.path / "tokenizer.json", model.tokenizer) is None


@pytest.mark.parametrize("name", SHARED_ONES)
def test_the_file_s_ids_are_those_of_tokenizers(name: str) -> None:
    """Whatever is left out of reading: what is found is what reading the whole file finds."""
    model = loaded(name)
    whole = tokenizers.Tokenizer.from_file(str(model.path / "tokenizer.json"))
    made = file_tokenizer(model.path / "tokenizer.json", model.tokenizer)
    for text in _SAMPLES:
        ids = whole.encode(text, add_special_tokens=False).ids
        assert ids == (model.tokenizer.encode(text, add_special_tokens=False) if made is None else encode(made, text))


@pytest.mark.shared
def test_exaone_loses_its_normaliser() -> None:
    """transformers 5 makes a GPT2Tokenizer of EXAONE-3.5 and drops NFKC; 4.57 keeps it."""
    model = loaded("exaone-3.5-2.4b-instruct")
    findings = found(model, *load_probes(model), template="exaone")
    assert [finding.severity for finding in findings] == (["error"] if V5 else [])


@pytest.mark.shared
@pytest.mark.parametrize("name", ["qwen2.5-instruct", "qwen3", "llama-3.2-instruct"])
def test_models_that_agree(name: str) -> None:
    assert (SHARED / name).is_dir() or pytest.skip(f"../shared/models/{name} is absent")
    assert found(loaded(name), *load_probes(loaded(name))) == []
