"""`register-template`: derived, read back, audited; and in the real package where there is one."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from template_audit.errors import UsageError
from template_audit.fixing import Fix, FixRequest, fix
from template_audit.fixing.register_template import RegisterTemplate
from template_audit.fixing.shown import shown
from template_audit.frameworks import load_encoder
from template_audit.frameworks.llamafactory.options import DEFAULT_CLOCK
from template_audit.model import Model, load_model
from template_audit.probes import probe
from tests.rendering import FIXTURES, SHARED_MODELS

PYTHON = os.environ.get("TEMPLATE_AUDIT_LF_PYTHON")


def model(name: str) -> Model:
    return load_model(FIXTURES / "models" / name)


def made(name: str, **options: object) -> Fix:
    return fix(FixRequest(model(name), "llamafactory", options=options))


@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("mistral-like", ['slots=["[INST] {{content}} [/INST]"]', 'slots=["{{content}}</s>"]', '{"bos_token"}']),
        ("gemma-like", ["<start_of_turn>user\\n{{content}}<end_of_turn>\\n<start_of_turn>model\\n"]),
        ("qwen25-like", ['default_system="You are Qwen, created by Alibaba Cloud.', 'tool_format="qwen"']),
        ("exaone35-like", ["[|user|]{{content}}\\n[|assistant|]", "[|system|]{{content}}[|endofturn|]\\n"]),
        ("qwen3-like", ["template_class=ReasoningTemplate", 'stop_words=["<|im_end|>"]', "replace_eos=True"]),
    ],
)
def test_slots(name: str, slots: list[str]) -> None:
    fixed = made(name)
    assert fixed.text is not None
    assert fixed.text.startswith("register_template(\n    name=")
    for slot in slots:
        assert slot in fixed.text
    assert fixed.exit_code == 0
    assert fixed.failures == ()


def test_a_template_that_is_there_is_named() -> None:
    fixed = made("qwen25-like")
    assert "use `template: qwen`" in fixed.summary
    assert fixed.text is not None


def test_where_no_template_fits_the_derived_one_is_better() -> None:
    # the release's own nearest template writes BOS before every turn
    llama2 = load_encoder("llamafactory@0.9.5:llama2", model("mistral-like")).encode(probe("multi-turn"))
    bos = model("mistral-like").tokenizer.bos_token_id
    assert llama2.input_ids.count(bos) == 3
    assert "use `template" not in made("mistral-like").summary


def test_what_cannot_be_expressed_is_said_and_explains_what_remains() -> None:
    fixed = made("exaone35-like")
    grave = [left for left in fixed.remaining if left.finding.severity != "info"]
    assert {left.finding.rule for left in grave} == {"system-prompt-drift"}
    assert all(left.because in fixed.inexpressible for left in grave)
    assert any("even without a system text" in sentence for sentence in fixed.inexpressible)


def test_dates_and_tools_are_said() -> None:
    fixed = made("llama3-like")
    assert fixed.exit_code == 1
    assert any("fixed one: that of the audit's clock, 2024-07-26" in sentence for sentence in fixed.inexpressible)
    assert any(sentence.startswith("Tool definitions") for sentence in fixed.inexpressible)
    assert all(left.because for left in fixed.remaining if left.finding.severity == "error")


def test_whitespace_is_put_down_to_trimming() -> None:
    fixed = made("llama3-like")
    reasons = [
        left.because
        for left in fixed.remaining
        if left.finding.rule == "whitespace-drift" and left.finding.conversation in ("padded-system", "edge-whitespace")
    ]
    assert reasons
    assert all(because is not None and "trims the text" in because for because in reasons)


CHATML = (
    "{%% for m in messages %%}<|im_start|>{{ m.role }}\n{{ m.content }}%s{%% endfor %%}"
    "{%% if add_generation_prompt %%}%s<|im_start|>assistant\n{%% endif %%}"
)


def derived(template: str) -> Fix:
    return fix(FixRequest(replace(model("qwen25-like"), chat_templates={"default": template}), "llamafactory"))


def test_a_default_system_text_that_ends_in_another_way() -> None:
    """A blank stands behind every message that is given, and none behind the default system text."""
    default = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    fixed = derived(default + CHATML % (" <|im_end|>\n", ""))
    assert fixed.text is not None
    assert 'default_system="Be kind."' in fixed.text
    assert 'slots=["<|im_start|>system\\n{{content}} <|im_end|>\\n"]' in fixed.text


def test_turns_whose_end_belongs_to_the_next_one() -> None:
    fixed = derived(CHATML % ("{% if not loop.last %}<|im_end|>\n{% endif %}", "<|im_end|>\n"))
    assert fixed.text is not None
    assert 'format_observation=StringFormatter(slots=["<|im_end|>\\n<|im_start|>tool\\n{{content}}' in fixed.text


def test_a_model_without_a_template() -> None:
    fixed = made("base-no-template")
    assert (fixed.exit_code, fixed.text) == (2, None)


@pytest.mark.parametrize("spec", ["chat-template", "llamafactory:qwen", "llamafactory@0.9.0"])
def test_encoders_that_it_is_not_made_for(spec: str) -> None:
    with pytest.raises(UsageError):
        fix(FixRequest(model("chatml-plain"), spec))


def test_an_unknown_kind_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="Did you mean `saved-template`"):
        fix(FixRequest(model("chatml-plain"), "llamafactory"), "save-template")


def test_ids_of_calls_are_never_baked_in() -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}[R {{ m.tool_call_id }}]{{ m.content }}[/R]"
        "{% elif m.tool_calls %}[C]{{ m.tool_calls[0].function.name }}{{ eos_token }}"
        "{% elif m.role == 'user' %}[I]{{ m.content }}[/I]{% else %}{{ m.content }}{{ eos_token }}{% endif %}"
        "{% endfor %}"
    )
    seen = shown(replace(model("mistral-like"), chat_templates={"default": template}), DEFAULT_CLOCK)
    assert seen is not None
    assert seen.identified
    assert seen.call is not None
    assert "call00001" not in seen.call


def test_hidden_characters_are_written_as_escapes() -> None:
    template = "{% for m in messages %}\u202e{{ m.role }}:{{ m.content }}{{ eos_token }}\x1b[31m\n{% endfor %}"
    template += "{% if add_generation_prompt %}\u202eassistant:{% endif %}"
    fixed = fix(FixRequest(replace(model("chatml-plain"), chat_templates={"default": template}), "llamafactory"))
    assert fixed.text is not None
    assert "\\u202e" in fixed.text
    assert "\\u001b" in fixed.text
    assert "\u202e" not in fixed.text
    assert "\x1b" not in fixed.text


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "slot"),
    [
        ("mistral-7b-instruct-v0.2", "[INST] {{content}} [/INST]"),
        ("qwen2.5-instruct", 'tool_format="qwen"'),
        ("yi-6b-chat", "<|im_start|>user\\n{{content}}<|im_end|>\\n<|im_start|>assistant\\n"),
    ],
)
def test_real_models(name: str, slot: str) -> None:
    if not (SHARED_MODELS / name).is_dir():
        pytest.skip(f"{SHARED_MODELS / name} is not there")
    fixed = fix(FixRequest(load_model(SHARED_MODELS / name), "llamafactory"))
    assert fixed.text is not None
    assert slot in fixed.text
    errors = {left.finding.rule for left in fixed.remaining if left.finding.severity == "error"}
    assert errors <= {"tokenizer-files-disagree"}  # of the model's files, on some transformers releases


@pytest.mark.skipif(PYTHON is None, reason="TEMPLATE_AUDIT_LF_PYTHON names no environment with LLaMA-Factory")
@pytest.mark.parametrize("name", ["mistral-like", "qwen3-like", "gemma-like"])
def test_in_the_real_package(name: str) -> None:
    fixed = fix(FixRequest(model(name), "llamafactory", python=PYTHON))
    assert fixed.exit_code == 0
    assert not fixed.failures
    assert any("gave the same ids and labels on all 17 probes" in check for check in fixed.checks)


def test_the_kind_says_what_it_is() -> None:
    assert RegisterTemplate.name == "register-template"
