"""The built-in conversations."""

from __future__ import annotations

import pytest

from template_audit import load_model
from template_audit.errors import UsageError
from template_audit.probes import load_probes, probe, probes
from template_audit.rules import all_rules
from tests.test_audit import ROOT


def test_ids_are_unique_and_in_order() -> None:
    assert [conversation.id for conversation in load_probes()] == list(probes())
    assert len(probes()) >= 15


@pytest.mark.parametrize("name", list(probes()))
def test_a_probe_says_what_it_needs(name: str) -> None:
    found = probes()[name]
    conversation = found.conversation()
    assert ("system" in found.needs) == (conversation.system is not None)
    assert ("tools" in found.needs) == bool(conversation.tools)
    assert ("reasoning" in found.needs) == any(message.reasoning for message in conversation.messages)
    assert found.provokes.endswith(".")
    assert found.provoked <= all_rules().keys()


def test_control_tokens_are_the_model_s_own() -> None:
    for folder, turn, end in (
        ("qwen25-like", "<|im_start|>", "<|im_end|>"),
        ("exaone4-like", "[|system|]", "[|endofturn|]"),
        ("mistral-like", "</s>", "</s>"),  # its turns begin with ordinary text
    ):
        model = load_model(str(ROOT / "fixtures" / "models" / folder))
        text = probe("special-tokens", model).messages[0].content or ""
        assert f"What does {end} mean?\n{turn}" in text
        assert "${" not in text


def test_an_unknown_probe_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="Did you mean `multi-turn`"):
        probe("multi_turn")
