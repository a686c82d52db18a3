"""Tokens at the border between the prompt and the answer, and headers that the model has to write itself.

Found with chat templates from the wild, each audited against itself.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from template_audit.audit import audit
from template_audit.conversation import Conversation
from template_audit.findings import Finding
from template_audit.probes import probe
from template_audit.results import Report
from tests.rules.cases import HEAD, PLAIN, USER, Pair
from tests.test_audit import heard, loaded


def against_itself(template: str, talk: str = "single", name: str = "qwen3-like", **options: object) -> Report:
    model = replace(loaded(name), chat_templates={"default": template})
    return audit(model, subject="chat-template", conversations=[probe(talk)], options=options)


def drifts(report: Report) -> list[Finding]:
    return [finding for finding in report.findings if finding.rule == "generation-prompt-drift"]


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
BLANK = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def test_a_blank_at_the_end_of_the_prompt_is_one_token_with_the_answer() -> None:
    """The same text, so a warning; and true: ` The` was trained, and ` ` is what inference ends with."""
    (found,) = drifts(against_itself(BLANK))
    assert found.severity == "warning"
    assert "is one token with the beginning of the answer: training has ` The` (id " in found.message
    assert found.subject is not None
    assert found.subject.text == " The"


def test_whitespace_of_the_answer_that_merges_with_the_header_is_the_data_s_doing() -> None:
    pair = Pair(USER + HEAD + "{1:\n¦«hello}<|im_end|>»\n", prompts={1: USER + HEAD})
    (found,) = (finding for finding in pair.findings() if finding.rule == "generation-prompt-drift")
    assert found.severity == "info"
    assert found.subject is not None
    assert found.subject.text == "\n\n"
    assert pair.rules() == set()


def test_a_newline_more_in_the_header_is_no_border() -> None:
    found = Pair(PLAIN, PLAIN.replace("assistant\n", "assistant\n\n"))
    assert found.rules("error") == {"generation-prompt-drift"}


NO_PROMPT = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"


@pytest.mark.parametrize("talk", ["single", "multi-turn", "empty-answer"])
def test_a_header_that_no_generation_prompt_writes_is_the_model_s(talk: str) -> None:
    """The template has none, so the model writes `<|im_start|>assistant` by itself; and an empty answer ends, too."""
    report = against_itself(NO_PROMPT, talk)
    assert not set(heard(report)) & {"header-trained", "eos-mismatch", "trained-after-turn-end", "wrong-turn-end"}


OPENED = HEAD + "<think>\n"


def test_a_thought_s_marker_that_the_prompt_gives_is_a_header() -> None:
    """hiyouga/LlamaFactory#10773."""
    reference = USER + OPENED + "«{1.reasoning:hm}\n</think>\n\n{1:hello}<|im_end|>»\n"
    subject = USER + HEAD + "«<think>\n{1.reasoning:hm}\n</think>\n\n{1:hello}<|im_end|>»\n"
    assert Pair(reference, subject).rules() == {"header-trained"}


def test_a_thought_s_marker_that_the_model_writes_is_none() -> None:
    both = USER + HEAD + "«<think>\n{1.reasoning:hm}\n</think>\n\n{1:hello}<|im_end|>»\n"
    assert Pair(both).rules() == set()


def test_half_of_an_empty_thought_in_the_header_is_trained() -> None:
    reference = USER + HEAD + "<think>\n\n</think>\n\n«{1:hello}<|im_end|>»\n"
    subject = USER + HEAD + "<think>\n\n«</think>\n\n{1:hello}<|im_end|>»\n"
    assert "header-trained" in Pair(reference, subject).rules()


def test_a_placeholder_of_the_chat_template_s_own_is_no_unfilled_one() -> None:
    own = "{{ 'Call {{params}} so. ' }}" + CHATML
    assert "unfilled-placeholder" not in heard(against_itself(own))
    given = Conversation.from_openai(
        [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "{{name}}."}], id="own"
    )
    model = replace(loaded("qwen3-like"), chat_templates={"default": CHATML})
    assert "unfilled-placeholder" in heard(audit(model, subject="chat-template", conversations=[given]))


WITHOUT_ANSWERS = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"


def test_nothing_is_trained_where_nothing_was_said() -> None:
    """A template that leaves an empty answer out: the probe's doing. One that leaves answers out is another matter."""
    assert "no-trained-tokens" not in heard(against_itself(WITHOUT_ANSWERS, "empty-answer"))
    report = against_itself(WITHOUT_ANSWERS)
    assert "no-trained-tokens" in heard(report, "error")
    (said,) = (f.message for f in report.findings if f.rule == "no-trained-tokens")
    assert said.endswith("is trained; nor does the mask of the chat template train any.")


TAGS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% generation %}{{ '<|im_start|>assistant\\n' + m.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def test_tags_around_the_generation_prompt_are_a_warning() -> None:
    found = [f for f in against_itself(TAGS).findings if f.rule == "generation-mask-wrong"]
    assert [(f.severity, f.message) for f in found] == [
        ("warning", "The tags mark 2 tokens of the generation prompt, first `<|im_start|>`.")
    ]


def test_a_template_that_throws_dice() -> None:
    dice = "{{ ['Hi!', 'Hello!', 'Good day!']|random }}" + CHATML
    (found,) = (f for f in against_itself(dice).findings if f.rule == "nondeterministic-template")
    assert found.message.startswith("The chat template draws at random: it writes `")
    assert "nondeterministic-template" not in heard(against_itself("{{ ['Hi!']|random }}" + CHATML))


def test_a_cut_header_is_the_length_limit_s_doing() -> None:
    """LLaMA-Factory cuts the prompt's end first: the question is whole, the answer's header gone."""
    model, talk = loaded("qwen25-like"), probe("single")
    whole = audit(model, subject="llamafactory:qwen", conversations=[talk]).comparisons[0].subject
    size = len(whole)  # type: ignore[arg-type]
    for less in (1, 2, 3, 4, 5):
        report = audit(model, subject="llamafactory:qwen", conversations=[talk], options={"cutoff_len": size - less})
        assert set(heard(report)) == {"truncated-supervision"}, less
    (found,) = (f for f in report.findings if f.rule == "truncated-supervision")
    assert found.message == (
        "The length limit cut what stands before 1 answer: before message 1 `<|im_end|>\\n<|im_start|>assistant\\n` "
        "became nothing."
    )
    report = audit(model, subject="llamafactory:qwen", conversations=[talk], options={"cutoff_len": size})
    assert heard(report) == {}


def test_messages_name_a_reference_that_is_no_chat_template() -> None:
    model = loaded("exaone35-like")
    report = audit(
        model, subject="llamafactory:llama3", reference="llamafactory:exaone", conversations=[probe("single")]
    )
    said = " ".join(f.message for f in report.findings if f.rule != "missing-generation-tags")
    assert report.findings
    assert "hat template" not in said
    assert "the reference (llamafactory@" in said


def test_deeply_nested_tools_are_nobody_s_fault() -> None:
    """Neither a finding nor clean: it is not evaluated, and the reason does not blame the template."""
    schema: dict[str, object] = {"type": "string"}
    for _ in range(200):
        schema = {"type": "object", "properties": {"a": schema}}
    tools = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}]
    rows = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    talk = Conversation.from_openai({"messages": rows, "tools": tools}, id="deep")
    report = audit(loaded("qwen25-like"), subject="llamafactory:qwen", conversations=[talk])
    assert report.exit_code == 2
    assert not heard(report)
    assert report.comparisons[0].reason == "The conversation's tools or tool calls are nested too deeply."
