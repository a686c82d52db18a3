"""Rows of one kind are the same outside their runs, and a run is one message's own text."""

from __future__ import annotations

import random

import numpy as np
import pytest

from template_audit.conversation import Conversation, Message
from template_audit.frameworks import load_encoder
from template_audit.frameworks.chat_template import ChatTemplateEncoder
from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
from template_audit.ids import IdsBatch, IdsEncoder
from template_audit.runs import same_runs
from template_audit.stream import EncodedStream
from tests.rendering import load

PAIRS = (
    ("llama3-like", "llama3"),
    ("qwen25-like", "qwen"),
    ("qwen3-like", "qwen3"),
    ("exaone4-like", "exaone"),
    ("hermes-like", "qwen"),
    ("chatml-plain", "glm4"),
    ("qwen25-like", "gemma2"),
)
WORDS = (
    " Hello",
    "Hello",
    "\nline",
    "word word",
    "안녕 👋🏽",
    "é",
    "\u0301x",
    " ",
    "x ",
    "1234",
    "<|im_end|>",
    "a\n\n",
    "ÀÉ",
)


def rows(seed: str) -> list[Conversation]:
    dice = random.Random(seed)

    def text() -> str:
        return "".join(dice.choices(WORDS, k=dice.choice((1, 2, 3)))) if dice.random() < 0.5 else "Plain text."

    made = []
    for _ in range(150):
        messages = [Message("system", text())] if dice.random() < 0.3 else []
        for _ in range(dice.choice((1, 1, 2))):
            messages += [Message("user", text()), Message("assistant", text())]
        made.append(Conversation(tuple(messages)))
    return made


def outside(stream: EncodedStream, runs: list[tuple[int, int]]) -> list[object]:
    """Everything of a stream but its runs."""
    out: list[object] = []
    at = 0
    for start, end in [*runs, (len(stream), len(stream))]:
        out.append((stream.input_ids[at:start], stream.labels[at:start]))
        out.append(stream.origins[at:start])
        at = end
    out += [(turn.message, turn.role) for turn in stream.turns]
    return [*out, stream.notes]


def check(batch: IdsBatch, streams: list[EncodedStream], conversations: list[Conversation]) -> int:
    assert batch.runs is not None
    kinds, first = batch.runs.kinds.tolist(), batch.runs.first.tolist()
    seen: dict[int, list[object]] = {}
    for index, (kind, stream) in enumerate(zip(kinds, streams, strict=True)):
        if kind < 0:
            continue
        assert (batch.row(index)[0].tolist(), batch.row(index)[1].tolist()) == (stream.input_ids, stream.labels)
        base = int(batch.offsets[index])
        numbers = range(first[index], first[index + 1])
        runs = [(int(batch.runs.starts[n]) - base, int(batch.runs.ends[n]) - base) for n in numbers]
        assert [stream.text[stream.spans[start][0] : stream.spans[end - 1][1]] for start, end in runs] == [
            message.content for message in conversations[index].messages
        ]
        for start, end in runs:
            assert stream.labels[start:end] in (stream.input_ids[start:end], [-100] * (end - start))
        assert seen.setdefault(kind, outside(stream, runs)) == outside(stream, runs)
    return len(seen)


@pytest.mark.parametrize(("model", "template"), PAIRS)
def test_kinds_and_runs(model: str, template: str) -> None:
    conversations = rows(f"{model} {template}")
    reference = load_encoder("chat-template", load(model))
    subject = load_encoder(f"llamafactory@0.9.5:{template}", load(model), cutoff_len=60)
    batches, found = [], 0
    for encoder in (reference, subject):
        assert isinstance(encoder, (ChatTemplateEncoder, LlamaFactoryEncoder))
        batch = encoder.encode_ids_batch(conversations, runs=True)
        streams = encoder.encode_in_full(conversations)
        found += check(batch, [s for s in streams if isinstance(s, EncodedStream)], conversations)
        batches.append((batch, streams))
    assert found
    (theirs, reference_streams), (ours, subject_streams) = batches
    same = same_runs(theirs, ours)
    assert theirs.runs is not None
    assert ours.runs is not None
    for index, equal in enumerate(same.tolist()):
        if theirs.runs.kinds[index] < 0 or ours.runs.kinds[index] < 0:
            assert not equal
            continue
        texts = []
        for batch in (theirs, ours):
            assert batch.runs is not None
            numbers = range(int(batch.runs.first[index]), int(batch.runs.first[index + 1]))
            texts.append([batch.input_ids[batch.runs.starts[n] : batch.runs.ends[n]].tolist() for n in numbers])
        assert equal == (texts[0] == texts[1])
    assert same.any()
    assert len(reference_streams) == len(subject_streams) == len(same)


def test_chunks_are_joined() -> None:
    encoder = load_encoder("llamafactory@0.9.5:qwen", load("qwen25-like"))
    assert isinstance(encoder, IdsEncoder)
    one = [Conversation((Message("user", f"Number {n}"), Message("assistant", "Yes."))) for n in range(4100)]
    batch = encoder.encode_ids_batch(one, runs=True)
    assert batch.runs is not None
    assert set(batch.runs.kinds.tolist()) == {0}
    texts = [batch.input_ids[batch.runs.starts[n] : batch.runs.ends[n]] for n in (1, 8191)]
    assert np.array_equal(*texts)
    assert (batch.runs.starts[2::2] > batch.runs.ends[1:-1:2]).all()
