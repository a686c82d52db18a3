"""Ranking a framework's templates for a model."""

from __future__ import annotations

import pytest

from template_audit.errors import UsageError
from template_audit.frameworks import get_framework
from template_audit.frameworks.interface import Encoder
from template_audit.matching import Match, best_match, choose_encoder
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


@pytest.mark.shared
def test_where_another_template_fits_better_than_the_family_s_name_says() -> None:
    """Mistral v0.2 has a blank before `[/INST]` and none after, as `llama2` writes it; `mistral` is for v0.3.

    Phi-3's markers swallow the newline behind them, so `phi4_mini`, which has none, gives its ids.
    """
    assert best("mistral-7b-instruct-v0.2")[1][0].template == "llama2"
    assert best("phi-3-mini")[1][0].template == "phi4_mini"


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
