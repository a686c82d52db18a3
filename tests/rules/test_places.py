"""Which rule answers for half a thought, and in whose turn a difference is said to be."""

from __future__ import annotations

import pytest

from tests.builders import conversation
from tests.rules.cases import HEAD, USER, Pair

THOUGHT = USER + HEAD + "«<think>\n\n</think>\n\n{1:hello}<|im_end|>»\n"


@pytest.mark.parametrize("changed", ["</think>", "<think>"])
def test_a_thought_of_which_one_marker_is_gone_is_not_a_thought_stripped(changed: str) -> None:
    """Found by mutation: it was info, as if the template merely showed a thought that training leaves out."""
    assert Pair(THOUGHT, THOUGHT.replace(changed, "")).rules()


def test_a_whole_thought_less_is_stripped() -> None:
    pair = Pair(THOUGHT, THOUGHT.replace("<think>\n\n</think>\n\n", ""))
    assert not pair.rules()
    assert "thinking-stripped" in pair.rules("info")


def test_what_only_the_subject_has_inside_a_header_is_in_that_header_s_turn() -> None:
    """Found by mutation: frameworks count the header of an answer to the question before it."""
    reference = USER + "<|im_start|>assistant«{1:hello}<|im_end|>»\n"
    found = Pair(reference, USER + HEAD + "«{1:hello}<|im_end|>»\n").findings()
    assert {finding.turn for finding in found if finding.rule in ("whitespace-drift", "generation-prompt-drift")} == {1}
    assert conversation(reference).messages[1].role == "assistant"


def test_two_bos_tokens_of_the_chat_template_are_seen_too() -> None:
    """Found by mutation: the difference was owned by the BOS rules, and none of them spoke."""
    found = Pair("<s><s>" + USER + HEAD + "«{1:hello}<|im_end|>»\n", "<s>" + USER + HEAD + "«{1:hello}<|im_end|>»\n")
    assert found.rules() == {"double-bos"}
