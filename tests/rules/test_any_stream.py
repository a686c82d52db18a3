"""Rules on streams without any order to them: no crash, and evidence that exists."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from template_audit.audit import audit
from template_audit.stream import IGNORE, LITERAL, EncodedStream, Origin, Piece, Prompt, Turn
from tests.builders import VOCABULARY, StandInEncoder, conversation, model

TOKENS = [
    "<s>",
    "<|im_start|>",
    "<|im_end|>",
    "<think>",
    "</think>",
    "user",
    "\n",
    "\n\n",
    " a",
    "b",
    "<",
    "|",
    ">",
    "",
]
FIELDS = [
    LITERAL,
    Origin(None, "default_system"),
    Origin(None, "tools"),
    Origin(0, "content"),
    Origin(1, "content"),
    Origin(1, "reasoning"),
    Origin(2, "tool_result"),
    Origin(3, "tool_call", derived=True),
]
ROLES = ["user", "assistant", "tool", "assistant"]
CONVERSATION = conversation(
    "{0:a}{1:b}{1.reasoning:user}{2:b}{3:a}{3.tool_call:b}", roles="uata", tools=[{"name": "f"}]
)


@st.composite
def streams(draw: st.DrawFn) -> EncodedStream:
    tokens = draw(st.lists(st.sampled_from(TOKENS), max_size=20))
    ids = [VOCABULARY[token] for token in tokens]
    labels = [draw(st.sampled_from([IGNORE, token, VOCABULARY["<|im_end|>"]])) for token in ids]
    spans, at = [], 0
    for token in tokens:
        spans.append((at, at + len(token)))
        at += len(token)
    text = "".join(tokens)
    cuts = sorted({0, at, *draw(st.lists(st.integers(0, at), max_size=6))})
    pieces = [Piece(a, b, draw(st.sampled_from(FIELDS))) for a, b in pairwise(cuts)]
    turns = []
    starts = sorted(draw(st.lists(st.integers(0, len(tokens)), max_size=5)))
    for place, (a, b) in enumerate(zip(starts, [*starts[1:], len(tokens)], strict=False)):
        message = None if place == 0 else min(place - 1, 3)
        char = [spans[i][0] if i < len(spans) else at for i in (a, b)]
        turns.append(Turn(message, "system" if message is None else ROLES[message], a, b, *char))
    shown = draw(st.integers(0, len(tokens)))
    prompts = [Prompt(m, text[: spans[shown - 1][1] if shown else 0], ids[:shown]) for m in (1, 3)]
    return EncodedStream(
        ids, labels, text, spans, pieces, turns, prompts, draw(st.sampled_from([(), ("cutoff_len 5",)]))
    )


@given(streams(), streams())
@settings(max_examples=300, deadline=None)
def test_no_crash_and_real_evidence(reference: EncodedStream, subject: EncodedStream) -> None:
    toy = model()
    report = audit(
        toy,
        reference=StandInEncoder("chat-template", toy, reference),
        subject=StandInEncoder("stand-in", toy, subject),
        conversations=[CONVERSATION],
    )
    for finding in report.findings:
        for evidence, side in ((finding.reference, reference), (finding.subject, subject)):
            if evidence is not None:
                assert 0 <= evidence.start <= evidence.end <= len(side)
                assert evidence.ids == side.input_ids[evidence.start : evidence.end]
        assert finding.turn is None or 0 <= finding.turn < 4
    assert report.to_dict()["exit_code"] in (0, 1)


@given(streams())
@settings(max_examples=100, deadline=None)
def test_a_stream_against_itself_gives_no_stream_rule(one: EncodedStream) -> None:
    """What is found on equal streams is about the stream itself: its labels, its prompts, its text."""
    toy = model()
    encoder = StandInEncoder("same", toy, one)
    report = audit(toy, reference=encoder, subject=encoder, conversations=[CONVERSATION])
    comparing = {"token-drift", "whitespace-drift", "segmentation-drift", "system-prompt-drift", "message-dropped"}
    comparing |= {
        "field-dropped",
        "thinking-injected",
        "missing-bos",
        "bogus-bos",
        "wrong-turn-end",
        "missing-turn-end",
    }
    assert comparing & {finding.rule for finding in report.findings} == set()
