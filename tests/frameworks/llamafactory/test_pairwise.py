"""Preference pairs: one prompt, two answers."""

from __future__ import annotations

from typing import Any

import pytest

from template_audit.errors import EncodingError
from template_audit.frameworks import load_encoder
from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
from template_audit.frameworks.llamafactory.messages import Example, ExampleMessage
from template_audit.frameworks.llamafactory.pairwise import PreferencePair, encode_pairs
from template_audit.stream import IGNORE
from tests.frameworks.llamafactory.data_vectors import model


def load(template: str = "llama3", name: str = "llama3-like", **options: Any) -> LlamaFactoryEncoder:
    encoder = load_encoder(f"llamafactory:{template}", model(name), **options)
    assert isinstance(encoder, LlamaFactoryEncoder)
    return encoder


def pair(chosen: str, rejected: str, prompt: tuple[str, ...] = ("Which?",)) -> Example:
    messages = tuple(ExampleMessage("assistant" if i % 2 else "user", text) for i, text in enumerate(prompt))
    return Example(messages, (ExampleMessage("assistant", chosen), ExampleMessage("assistant", rejected)))


def encoded(encoder: LlamaFactoryEncoder, example: Example) -> PreferencePair:
    (found,) = encode_pairs(encoder, [example])
    assert isinstance(found, PreferencePair)
    return found


def test_both_sides_share_the_masked_prompt_and_equal_plain_sft() -> None:
    encoder = load()
    found = encoded(encoder, pair("This.", "That, perhaps."))
    for ids, labels, text in (
        (found.chosen_input_ids, found.chosen_labels, "This."),
        (found.rejected_input_ids, found.rejected_labels, "That, perhaps."),
    ):
        (alone,) = encoder.encode_ids([Example(pair("", "").prompt, (ExampleMessage("assistant", text),))])
        assert not isinstance(alone, EncodingError)
        assert (ids, labels) == (alone.input_ids, alone.labels)
    masked = found.chosen_labels.count(IGNORE)
    assert found.rejected_input_ids[:masked] == found.chosen_input_ids[:masked]


def test_both_answers_are_cut_to_what_the_longer_one_needs() -> None:
    whole = encoded(load(), pair("word " * 60, "no", ("short",)))
    cut = encoded(load(cutoff_len=32), pair("word " * 60, "no", ("short",)))
    prompt = whole.chosen_labels.count(IGNORE)
    assert prompt * 2 < 32
    assert cut.chosen_input_ids == whole.chosen_input_ids[:32]
    assert cut.rejected_input_ids == whole.rejected_input_ids


def test_history_stays_in_the_prompt() -> None:
    found = encoded(load(), pair("x", "y", ("a", "b", "c")))
    assert set(found.chosen_labels[: found.chosen_labels.count(IGNORE)]) == {IGNORE}


def test_the_prompt_is_the_one_that_goes_with_the_chosen_answer() -> None:
    encoder = load("qwen3", "qwen3-like", enable_thinking=False)
    thought = pair("<think>\nhm\n</think>\n\nA", "B")
    empty = encoder.tokenizer.encode("<think>\n\n</think>\n\n", add_special_tokens=False)
    found = encoded(encoder, thought)
    prompt = found.chosen_input_ids[: found.chosen_labels.count(IGNORE)]
    assert prompt[-len(empty) :] == empty  # the thought is taken out, and an empty one stands in the prompt
    assert found.rejected_input_ids[: len(prompt)] == prompt


@pytest.mark.parametrize("example", [Example((ExampleMessage("user", "q"),), ()), pair("a", "b", ("q", "r"))])
def test_dropped(example: Example) -> None:
    (found,) = encode_pairs(load(), [example])
    assert isinstance(found, EncodingError)
    assert found.kind == "example-dropped"


def test_an_error_stands_in_its_place() -> None:
    broken = pair("a", "b")
    broken = Example(broken.prompt, (broken.response[0], ExampleMessage("assistant", None)))
    first, second, third = encode_pairs(load(), [pair("a", "b"), broken, pair("c", "d")])
    assert isinstance(first, PreferencePair)
    assert isinstance(third, PreferencePair)
    assert isinstance(second, EncodingError)
    assert second.kind == "encoding-failed"
