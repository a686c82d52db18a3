"""KTO: wanted and unwanted answers, and mismatched ones within a map batch."""

from __future__ import annotations

import pytest

from template_audit.errors import EncodingError
from template_audit.frameworks import load_encoder
from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
from template_audit.frameworks.llamafactory.feedback import FeedbackExample, encode_feedback
from template_audit.frameworks.llamafactory.messages import Example, ExampleMessage
from template_audit.stream import IGNORE
from tests.frameworks.llamafactory.data_vectors import model


def load(version: str = "0.9.5") -> LlamaFactoryEncoder:
    encoder = load_encoder(f"llamafactory@{version}:llama3", model("llama3-like"))
    assert isinstance(encoder, LlamaFactoryEncoder)
    return encoder


def row(question: str, answer: str, wanted: bool) -> Example:
    given, empty = ExampleMessage("assistant", answer), ExampleMessage("assistant", "")
    return Example((ExampleMessage("user", question),), (given, empty) if wanted else (empty, given))


ROWS = [row("q0", "zero", True), row("q1", "one", False), row("q2", "two", True)]


def _alone(encoder: LlamaFactoryEncoder, question: str, answer: str) -> tuple[list[int | None], list[int | None]]:
    (encoded,) = encoder.encode_ids(
        [Example((ExampleMessage("user", question),), (ExampleMessage("assistant", answer),))]
    )
    assert not isinstance(encoded, EncodingError)
    return encoded.input_ids, encoded.labels


@pytest.mark.parametrize(("version", "partners"), [("0.9.5", [2, 0, 1]), ("0.9.3", [2, 0, 1]), ("0.9.2", [2, 1, 0])])
def test_answers_are_mixed_as_the_release_mixes_them(version: str, partners: list[int]) -> None:
    encoder = load(version)
    answers = ["zero", "one", "two"]
    for number, found in enumerate(encode_feedback(encoder, ROWS)):
        assert isinstance(found, FeedbackExample)
        assert (found.kl_example, found.kto_tag) == (partners[number], number != 1)
        assert (found.input_ids, found.labels) == _alone(encoder, f"q{number}", answers[number])
        assert (found.kl_input_ids, found.kl_labels) == _alone(encoder, f"q{number}", answers[partners[number]])
        assert IGNORE in found.labels


def test_a_single_row_is_paired_with_itself() -> None:
    (found,) = encode_feedback(load(), ROWS[:1])
    assert isinstance(found, FeedbackExample)
    assert found.kl_input_ids == found.input_ids


def test_a_dropped_row_takes_its_neighbour_with_it() -> None:
    emptied = Example((), ())
    dropped, failed, fine = encode_feedback(load(), [emptied, *ROWS[:2]])
    assert isinstance(dropped, EncodingError)
    assert dropped.kind == "example-dropped"
    assert isinstance(failed, EncodingError)
    assert failed.kind == "encoding-failed"
    assert "example 0 of the batch has no answer" in str(failed)
    assert isinstance(fine, FeedbackExample)


def test_an_empty_wanted_answer_counts_as_unwanted() -> None:
    (found,) = encode_feedback(load(), [row("q", "", True)])
    assert isinstance(found, FeedbackExample)
    assert not found.kto_tag
