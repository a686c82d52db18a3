"""Streams of many conversations: ids at once, the rest when it is asked for, and equal to the whole ones."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from template_audit.conversation import Conversation, Message
from template_audit.errors import EncodingError
from template_audit.frameworks import load_encoder
from template_audit.stream import EncodedStream, deferred
from tests.rendering import load

ROWS = [
    Conversation((Message("user", f"Number {n}"), *([] if n == 9 else [Message("assistant", "Yes. " * (n % 4))])))
    for n in range(70)
]


@pytest.mark.parametrize("spec", ["chat-template", "llamafactory@0.9.5:qwen"])
def test_they_are_the_streams_that_one_gets_one_by_one(spec: str) -> None:
    encoder = load_encoder(spec, load("qwen25-like"))
    one_by_one = []
    for row in ROWS:
        one_by_one += encoder.encode_batch([row], keep_errors=True)
    many = encoder.encode_batch(ROWS, keep_errors=True)
    for one, other in zip(one_by_one, many, strict=True):
        if isinstance(one, EncodingError) or isinstance(other, EncodingError):
            assert (str(one), type(one)) == (str(other), type(other))
        else:
            assert one == other
            assert len(one) == len(other)
    assert isinstance(many[3], EncodedStream)
    assert pickle.loads(pickle.dumps(many[3])) == one_by_one[3]
    assert replace(many[3], notes=("x",)).text == many[3].text
    if spec != "chat-template":
        with pytest.raises(EncodingError, match="does not end with an answer"):
            encoder.encode_batch(ROWS)


def test_no_more_is_made_than_is_asked_for() -> None:
    made = []

    def make() -> EncodedStream:
        made.append(1)
        return EncodedStream([1], [-100], "a", [(0, 1)], [])

    stream = deferred([1], [-100], (), make)
    assert (stream.input_ids, stream.labels, stream.notes, len(stream), made) == ([1], [-100], (), 1, [])
    assert (stream.text, stream.spans, stream.turns, made) == ("a", [(0, 1)], [], [1])
    assert not hasattr(stream, "nothing")
    with pytest.raises(AssertionError, match="do not fit"):
        _ = deferred([2], [-100], (), make).text
