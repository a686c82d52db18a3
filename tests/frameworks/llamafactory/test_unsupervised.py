"""Prompts for generation and PPO."""

from __future__ import annotations

from typing import Any

from template_audit.errors import EncodingError
from template_audit.frameworks import load_encoder
from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
from template_audit.frameworks.llamafactory.messages import Example, ExampleMessage
from template_audit.frameworks.llamafactory.unsupervised import PromptExample, encode_prompts
from tests.frameworks.llamafactory.data_vectors import model

USER = ExampleMessage("user", "a question")
ANSWER = ExampleMessage("assistant", "an answer")


def encoded(example: Example, **options: Any) -> PromptExample:
    encoder = load_encoder("llamafactory:llama3", model("llama3-like"), **options)
    assert isinstance(encoder, LlamaFactoryEncoder)
    (found,) = encode_prompts(encoder, [example])
    assert isinstance(found, PromptExample)
    return found


def test_prompt_and_answer_together_are_the_sft_example() -> None:
    example = Example((USER,), (ANSWER,))
    encoder = load_encoder("llamafactory:llama3", model("llama3-like"))
    assert isinstance(encoder, LlamaFactoryEncoder)
    (alone,) = encoder.encode_ids([example])
    assert not isinstance(alone, EncodingError)
    found = encoded(example)
    assert found.input_ids + found.labels == alone.input_ids


def test_without_exactly_one_answer_there_is_an_empty_one() -> None:
    empty = encoded(Example((USER,), (ExampleMessage("assistant", ""),)))
    assert encoded(Example((USER,), ())) == empty
    assert encoded(Example((USER,), (ANSWER, ANSWER))) == empty


def test_cutoff_len_cuts_both() -> None:
    found = encoded(
        Example((ExampleMessage("user", "word " * 50),), (ExampleMessage("assistant", "word " * 50),)), cutoff_len=20
    )
    assert len(found.input_ids) + len(found.labels) == 20


def test_dropped() -> None:
    encoder = load_encoder("llamafactory:llama3", model("llama3-like"))
    assert isinstance(encoder, LlamaFactoryEncoder)
    (found,) = encode_prompts(encoder, [Example((USER, ANSWER), ())])
    assert isinstance(found, EncodingError)
    assert found.kind == "example-dropped"
