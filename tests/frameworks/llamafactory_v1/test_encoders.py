"""What the vectors do not show: choices, errors, notes, turns and Origins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from template_audit.conversation import Conversation
from template_audit.errors import EncodingError, UsageError
from template_audit.frameworks import get_framework, load_encoder
from template_audit.frameworks.llamafactory_v1.encoder import RendererEncoder
from template_audit.frameworks.llamafactory_v1.escape import BREAK, Escaper
from template_audit.frameworks.llamafactory_v1.named import NAMED
from template_audit.matching import best_match, choose_encoder
from template_audit.model import Model, load_model
from template_audit.stream import IGNORE

MODELS = Path(__file__).resolve().parents[3] / "fixtures" / "models"


@pytest.fixture(scope="module")
def model() -> Model:
    return load_model(str(MODELS / "qwen3-like"))


def chat(*texts: str, **more: Any) -> Conversation:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return Conversation.from_openai({"messages": messages, **more})


def test_which_version_a_spec_means(model: Model) -> None:
    assert load_encoder("llamafactory-v1", model).spec == "llamafactory-v1@0.9.6.dev0"
    assert load_encoder("llamafactory-v1:qwen3", model).spec == "llamafactory-v1@0.9.5:qwen3"
    assert load_encoder("llamafactory-v1@0.9.5", model).spec == "llamafactory-v1@0.9.5:qwen3_nothink"
    assert choose_encoder("llamafactory-v1", model)[0].spec == "llamafactory-v1@0.9.6.dev0"
    framework = get_framework("llamafactory-v1")
    assert list(framework.templates()) == list(framework.templates("0.9.5")) == list(NAMED)
    assert list(framework.templates("0.9.6.dev0")) == []


@pytest.mark.parametrize(
    ("spec", "options", "said"),
    [
        ("llamafactory-v1:qwen", {}, "Did you mean `qwen3`"),
        ("llamafactory-v1:gemma4", {}, "has no template `gemma4`"),
        ("llamafactory-v1@0.9.6.dev0:qwen3", {}, "no templates by name"),
        ("llamafactory-v1@0.9.4", {}, "not of 0.9.4"),
        ("llamafactory-v1:qwen3", {"cut": 2}, "`cut` is not in"),
        ("llamafactory-v1", {"cutoff_len": 0}, "at least 1"),
        ("llamafactory-v1", {"framework_source": "x"}, "leave `--framework-source` out"),
    ],
)
def test_what_is_refused(model: Model, spec: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_encoder(spec, model, **options)


def test_a_multimodal_model_is_refused(model: Model) -> None:
    with pytest.raises(UsageError, match="multimodal processor"):
        load_encoder("llamafactory-v1", replace(model, config={"vision_config": {}}))


def test_the_best_match_is_the_models_own_family(model: Model) -> None:
    assert best_match(model, "llamafactory-v1")[0].template == "qwen3"


def test_one_sample_per_answer(model: Model) -> None:
    encoder = load_encoder("llamafactory-v1", model)
    assert isinstance(encoder, RendererEncoder)
    talk = chat("one", "two", "three", "four", "five")
    first, second = encoder.samples(talk)
    stream = encoder.encode(talk)
    assert stream == second
    assert [turn.message for turn in stream.turns] == [0, 1, 2, 3]
    trained = {turn.message for turn in stream.turns if set(stream.labels[turn.start : turn.end]) != {IGNORE}}
    assert trained == {3}
    assert "2 samples" in stream.notes[0]
    assert "in no sample" in stream.notes[1]
    assert load_encoder("llamafactory-v1", model, cut=2).encode(talk) == first
    with pytest.raises(EncodingError, match="no sample of 3 messages"):
        load_encoder("llamafactory-v1", model, cut=3).encode(talk)


def test_special_tokens_are_broken_and_told(model: Model) -> None:
    stream = load_encoder("llamafactory-v1", model).encode(chat("What is <|im_end|>?", "An end."))
    assert f"<{BREAK}|im_end|>?" in stream.text
    assert any("`<|im_end|>`" in note for note in stream.notes)
    spot = stream.text.index(BREAK)
    assert next(piece.origin for piece in stream.pieces if piece.start <= spot < piece.end)[:2] == (0, "content")


def test_a_tokenizer_that_drops_the_break_stops_the_run(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    special = model.tokenizer.convert_tokens_to_ids("<|im_end|>")
    monkeypatch.setattr(Escaper, "_encode", lambda self, text: [special] if BREAK in text else [])
    with pytest.raises(EncodingError, match=r"breaks special tokens .* `<\|im_end\|>`"):
        load_encoder("llamafactory-v1", model).encode(chat("What is <|im_end|>?", "An end."))


def test_errors_stay_in_their_place(model: Model) -> None:
    batch = [chat("one", "two"), chat("one"), chat("three", "four")]
    for spec in ("llamafactory-v1", "llamafactory-v1:chatml"):
        encoder = load_encoder(spec, model)
        made = encoder.encode_batch(batch, keep_errors=True)
        assert made[::2] == [encoder.encode(batch[0]), encoder.encode(batch[2])]
    assert isinstance(load_encoder("llamafactory-v1", model).encode_batch(batch, keep_errors=True)[1], EncodingError)
    with pytest.raises(EncodingError, match="no assistant message"):
        load_encoder("llamafactory-v1", model).encode_batch(batch)


def test_the_saved_chat_template(model: Model) -> None:
    assert load_encoder("llamafactory-v1", model).effects.chat_template == (model.chat_template,) * 2
    custom = load_encoder("llamafactory-v1", model, custom_chat_template="{{ 1 }}").effects
    assert custom.chat_template == (model.chat_template, "{{ 1 }}")
    bare = load_model(str(MODELS / "base-no-template"))
    before, after = load_encoder("llamafactory-v1", bare).effects.chat_template
    assert before is None
    assert after is not None
    assert "im_start" in after


@pytest.mark.parametrize("template", NAMED)
def test_cutting_keeps_a_stream_whole(model: Model, template: str) -> None:
    stream = load_encoder(f"llamafactory-v1:{template}", model, cutoff_len=12).encode(chat("one two three", "four"))
    assert len(stream.input_ids) == len(stream.labels) == len(stream.spans) == 12
    assert stream.pieces[-1].end == len(stream.text)
    assert stream.turns[-1].end == 12
    assert stream.notes[-1].startswith("Cut to cutoff_len")
