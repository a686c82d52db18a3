"""Ids and labels against those that LLaMA-Factory's own v1 was recorded to make."""

from __future__ import annotations

import importlib.util
import json
from collections import Counter
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from template_audit.conversation import Conversation
from template_audit.errors import EncodingError
from template_audit.frameworks import load_encoder
from template_audit.frameworks.llamafactory_v1 import TEMPLATES
from template_audit.frameworks.llamafactory_v1.encoder import RendererEncoder
from template_audit.model import Model
from template_audit.stream import EncodedStream

ROOT = Path(__file__).resolve().parents[3]
FIXTURES = ROOT / "fixtures" / "llamafactory_v1"
SHARED = ROOT.parent / "shared" / "models"
RECORDED = {
    kind: json.loads((FIXTURES / f"vectors_{kind}.json").read_text(encoding="utf-8")) for kind in ("fixtures", "shared")
}
CASES = json.loads((FIXTURES / "cases.json").read_text(encoding="utf-8"))
CONVERSATIONS = {name: Conversation.from_openai(data, id=name) for name, data in CASES["conversations"].items()}
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "cutoff": {"cutoff_len": CASES["cutoff_len"]},
    "custom": {"custom_chat_template": CASES["custom_chat_template"]},
}
SAID = {
    "!ValueError:special-token": "breaks special tokens",
    "!ValueError:prompt": "tokens of the prompt",
    "!ValueError:training": "no assistant message",
    "!ValueError:Unsupported": "takes nothing but text",
    "!IndexError:list": "no message comes before",
}
"""What our sentence says for each of the framework's errors; those of templates are told by the worker."""


@cache
def recorder() -> ModuleType:
    """The recording script: its digests are the ones to compare with. It imports nothing heavy."""
    spec = importlib.util.spec_from_file_location("v1_recorder", ROOT / "scripts" / "record_llamafactory_v1_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model_of(name: str, kind: str) -> Model:
    """The model as it was recorded; skips where it is not there or this transformers reads it in another way."""
    import transformers
    from transformers import AutoTokenizer

    folder = (SHARED if kind == "shared" else ROOT / "fixtures" / "models") / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    recorded = RECORDED[kind]
    assert recorded["cases"] == recorder().digest(CASES), "the cases changed; record again"
    if recorder().fingerprint(tokenizer, CASES) != recorded["tokenizers"][name]["fingerprint"]:
        if transformers.__version__ == recorded["transformers"]:
            pytest.fail(f"the tokenizer of {name} is not the recorded one; record again")
        pytest.skip(f"transformers {transformers.__version__} gives {name} another tokenizer than it was recorded with")
    template = tokenizer.chat_template
    templates = template if isinstance(template, dict) else {"default": template} if template else {}
    return Model(name, None, folder, (), tokenizer, templates, ())


def differences(wanted: str, results: list[EncodedStream | EncodingError], counts: Counter[str]) -> list[str]:
    codes = wanted.split()
    if len(codes) != len(results):
        return [f"{len(codes)} results were recorded, {len(results)} came out"]
    wrong = []
    for code, result in zip(codes, results, strict=True):
        if isinstance(result, EncodingError):
            said = SAID.get(code)
            right = said in str(result) if said else code.startswith("!TemplateError")
        else:
            right = recorder().digest([result.input_ids, result.labels]) == code
            assert "".join(result.text[p.start : p.end] for p in result.pieces) == result.text
            assert all(0 <= start <= end <= len(result.text) for start, end in result.spans)
            assert [turn.end for turn in result.turns][-1:] == [len(result)]
        counts["both raise" if isinstance(result, EncodingError) else "equal"] += right
        if not right:
            wrong.append(f"{code} was recorded, {str(result)[:120]} came out")
    return wrong


def replay(name: str, kind: str) -> None:
    model = model_of(name, kind)
    recorded = RECORDED[kind]["tokenizers"][name]
    counts = Counter[str]()
    wrong: list[str] = []
    for mode, options in OPTIONS.items():
        encoder = load_encoder("llamafactory-v1", model, **options)
        assert isinstance(encoder, RendererEncoder)
        for conversation, codes in recorded["0.9.6.dev0"][mode].items():
            ours = encoder.samples(CONVERSATIONS[conversation]) or encoder.encode_batch(
                [CONVERSATIONS[conversation]], keep_errors=True
            )
            wrong += [f"{mode}/{conversation}: {one}" for one in differences(codes, ours, counts)]
    for template in TEMPLATES:
        named = load_encoder(f"llamafactory-v1:{template}", model, cutoff_len=10**6)
        made = named.encode_batch(list(CONVERSATIONS.values()), keep_errors=True)
        for conversation, one in zip(CONVERSATIONS, made, strict=True):
            found = differences(recorded["0.9.5"][template][conversation], [one], counts)
            wrong += [f"{template}/{conversation}: {difference}" for difference in found]
    print(f"{name}: {dict(counts)}")
    assert not wrong, f"{len(wrong)} differ: {wrong[:10]}"


@pytest.mark.parametrize("name", RECORDED["fixtures"]["tokenizers"])
def test_fixture_models(name: str) -> None:
    replay(name, "fixtures")


@pytest.mark.shared
@pytest.mark.parametrize("name", RECORDED["shared"]["tokenizers"])
def test_real_tokenizers(name: str) -> None:
    replay(name, "shared")
