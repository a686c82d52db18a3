"""`saved-template`: rendered by transformers, it is what the trainer wrote."""

from __future__ import annotations

from typing import Any

import pytest

from template_audit.errors import EncodingError, UsageError
from template_audit.fixing import FixRequest, fix
from template_audit.fixing.saved_template import trained_model
from template_audit.frameworks import load_encoder
from template_audit.frameworks.llamafactory.jinja_template import jinja_template
from template_audit.frameworks.llamafactory.registry import load_registry
from template_audit.model import load_model
from template_audit.probes import load_probes
from tests.rendering import FIXTURES

_CUT = ("no-answer", "over-long")  # the framework drops the one, and cuts the other
_PINNED = "26 Jul 2024"


def assert_transformers_writes_what_was_trained(spec: str, options: dict[str, Any], name: str = "qwen25-like") -> int:
    """Compares the text of every probe; returns how many were compared."""
    encoder: Any = load_encoder(spec, load_model(FIXTURES / "models" / name), **options)
    text, missing = jinja_template(encoder)
    trained = trained_model(encoder, text)
    compared = 0
    for conversation in load_probes(trained):
        if conversation.id in _CUT or (missing and conversation.tools):
            continue
        try:
            wanted = encoder.encode(conversation).text
        except EncodingError:
            continue
        if _PINNED in wanted:
            continue
        tokenizer: Any = trained.tokenizer
        tools = list(conversation.tools) if conversation.tools else None
        assert tokenizer.apply_chat_template(conversation.openai_messages(), tools=tools, tokenize=False) == wanted
        compared += 1
    if not compared:
        pytest.skip(f"{spec} looks tokens up that {name} does not have, so nothing can be trained with it")
    return compared


@pytest.mark.parametrize("name", sorted(load_registry("0.9.5").templates))
def test_every_template_of_the_newest_release(name: str) -> None:
    assert assert_transformers_writes_what_was_trained(f"llamafactory@0.9.5:{name}", {}) >= 11


@pytest.mark.parametrize(
    "options", [{"enable_thinking": False}, {"enable_thinking": None}, {"mask_history": True}], ids=str
)
@pytest.mark.parametrize("name", ["qwen3", "deepseekr1", "glm4_5", "hunyuan"])
def test_thinking(name: str, options: dict[str, Any]) -> None:
    if name not in load_registry("0.9.5").templates:
        pytest.skip(f"no template {name}")
    assert assert_transformers_writes_what_was_trained(f"llamafactory@0.9.5:{name}", options) >= 13


@pytest.mark.parametrize("version", ["0.9.2", "0.9.3", "0.9.4"])
@pytest.mark.parametrize("name", ["llama3", "qwen", "mistral", "gemma", "chatglm2"])
def test_older_releases(version: str, name: str) -> None:
    assert assert_transformers_writes_what_was_trained(f"llamafactory@{version}:{name}", {}) >= 11


def test_it_is_audited() -> None:
    made = fix(FixRequest(load_model(FIXTURES / "models" / "qwen25-like"), "llamafactory:qwen"), "saved-template")
    assert made.exit_code == 0
    assert made.report is not None
    assert made.report.summary.agree == 15
    assert {left.finding.conversation for left in made.remaining if left.finding.severity != "info"} == set()


def test_a_vocabulary_that_grew_is_said() -> None:
    made = fix(FixRequest(load_model(FIXTURES / "models" / "exaone35-like"), "llamafactory:llama3"), "saved-template")
    assert made.exit_code == 1
    grows = [left for left in made.remaining if left.finding.rule == "vocabulary-grows"]
    assert grows
    assert all(left.because is not None for left in grows)
    assert any("eos token is <|eot_id|>" in sentence for sentence in made.advice)


def test_only_a_trainer_saves() -> None:
    with pytest.raises(UsageError, match="LLaMA-Factory"):
        fix(FixRequest(load_model(FIXTURES / "models" / "chatml-plain"), "chat-template"), "saved-template")
