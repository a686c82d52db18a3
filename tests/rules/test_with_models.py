"""Rules that ask an encoder again: the clock and the `{% generation %}` tags."""

from __future__ import annotations

from dataclasses import replace

from template_audit import load_encoder
from template_audit.audit import audit
from template_audit.probes import probe
from tests.test_audit import heard, loaded


def test_a_template_with_a_date_is_not_deterministic() -> None:
    report = audit(loaded("llama3-like"), subject="llamafactory:llama3", conversations=[probe("single")])
    assert [f.message for f in report.findings if f.rule == "nondeterministic-template"] == [
        "The chat template writes `Today Date: 26 Jul 2024\\n\\n<|eot_i` one day and "
        "`Today Date: 09 Mar 2031\\n\\n<|eot_i` another."
    ]


def test_a_framework_s_tool_prompt_with_a_date() -> None:
    report = audit(loaded("qwen25-like"), subject="llamafactory:llama3", conversations=[probe("tool-call")])
    (text,) = (f.message for f in report.findings if f.rule == "nondeterministic-template")
    assert text.startswith("The framework's template writes `")


def test_a_text_that_only_goes_on_on_one_day() -> None:
    model = loaded("qwen25-like")
    dated = model.chat_templates["default"] + "{% if strftime_now('%Y') == '2024' %}!{% endif %}"
    changed = replace(model, chat_templates={"default": dated})
    report = audit(changed, subject="llamafactory:qwen", conversations=[probe("single")])
    assert "nondeterministic-template" in heard(report)


def test_a_template_without_a_clock_is_deterministic() -> None:
    report = audit(loaded("qwen25-like"), subject="llamafactory:qwen", conversations=[probe("tool-call")])
    assert "nondeterministic-template" not in heard(report, "info", "warning", "error")


def tagged(old: str = "", new: str = "") -> set[str]:
    """What is found in the template with tags against itself, after a change to it."""
    model = loaded("chatml-generation")
    template = model.chat_templates["default"]
    assert old in template
    changed = replace(model, chat_templates={"default": template.replace(old, new)})
    report = audit(changed, subject=load_encoder("chat-template", changed), conversations=[probe("multi-turn")])
    return set(heard(report))


def test_tags_around_whole_answers() -> None:
    assert tagged() == set()


def test_tags_that_leave_out_the_end_marker() -> None:
    inside = """{{- turn.content + '<|im_end|>' -}}
        {%- endgeneration -%}"""
    outside = "{{- turn.content -}}{%- endgeneration -%}{{- '<|im_end|>' -}}"
    assert tagged(inside, outside) == {"generation-mask-wrong"}


def test_tags_around_the_user_s_turns() -> None:
    assert tagged("turn.role == 'assistant'", "turn.role == 'user'") == {"generation-mask-wrong"}


def test_a_trained_prompt_is_not_another_prompt() -> None:
    options = {"train_on_prompt": True}
    report = audit(loaded("llama3-like"), subject="llamafactory:llama3", options=options)
    found = heard(report)
    assert "system-prompt-drift" in found
    assert "all-tokens-trained" in found
    assert "generation-prompt-drift" not in found


def test_a_system_prompt_is_no_tool_definition() -> None:
    report = audit(
        loaded("qwen25-like"),
        subject="llamafactory:qwen",
        options={"default_system": "Be X."},
        conversations=[probe("tool-call")],
    )
    assert "system-prompt-drift" in heard(report)
    assert "tool-layout-drift" not in heard(report)


def test_an_answer_cut_behind_its_reasoning() -> None:
    model, talk = loaded("qwen3-like"), probe("reasoning-history")
    whole = load_encoder("llamafactory:qwen3", model).encode(talk)
    end = next(i for i in range(len(whole)) if "</think>" in whole.token_text(i))
    report = audit(model, subject="llamafactory:qwen3", options={"cutoff_len": end + 2}, conversations=[talk])
    found = set(heard(report))
    assert "truncated-supervision" in found
    assert not found & {"field-dropped", "wrong-turn-end", "missing-turn-end"}


def test_a_system_block_and_what_stands_in_one_are_two_findings() -> None:
    """Llama 3.2 writes a date into the system turn, and a turn for the date where there is no system prompt."""
    probes = [probe(name) for name in ("single", "system", "padded-system")]
    report = audit(loaded("llama3-like"), subject="llamafactory:llama3", conversations=probes)
    found = {f.conversation: f for f in report.findings if f.rule == "system-prompt-drift"}
    assert found["single"].record().cause != found["system"].record().cause
    assert "before the first turn" in found["single"].message
    assert "in the system turn" in found["system"].message
