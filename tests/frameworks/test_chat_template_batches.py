"""Filling a watched template in gives what tracing it gives; templates that look into texts are caught."""

from __future__ import annotations

import random

import numpy as np
import pytest

from template_audit.conversation import Conversation, Message, ToolCall
from template_audit.errors import EncodingError
from template_audit.frameworks import load_encoder
from template_audit.frameworks.chat_template import ChatTemplateEncoder
from template_audit.ids import IdsEncoder
from tests.frameworks.batches import hold_against
from tests.rendering import FIXTURES, conversations, load, with_template

MODELS = sorted(path.name for path in (FIXTURES / "models").iterdir() if path.name != "base-no-template")
SNIPPETS = (
    *(
        "Hello",
        "How are you?",
        " leading",
        "trailing  ",
        "\n\nnewlines\n",
        "안녕 👋🏽",
        "x",
        "yes",
        "No.",
        "abc abc",
        " ",
    ),
    *("<think>", "</think>", "<think>\nSo.\n</think>\n\nYes.", "<tool_response>x</tool_response>", "{{ name }}"),
    *(
        "<|im_end|>",
        "<|im_",
        "end|>",
        "</s>",
        "<|eot_id|>",
        "[INST]",
        "[|endofturn|]",
        "<",
        "[",
        "é\u0301",
        "12345",
        "",
    ),
)
SIMPLE = "{% for m in messages %}<|im_start|>{{ m.role }}\n@<|im_end|>\n{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
PROVABLE = (
    "{{ m.content }}",
    "{{ m['content'] | trim }}",
    "{{ m.get('content').strip() }}",
    "{{ 'a' ~ m.content ~ 'b' }}",
    "{{ ['x', m.content, 'y'] | join('-') }}",
    "{% set x %} {{ m.content }} {% endset %}{{ x | trim }}",
    "{% set ns = namespace(t='') %}{% set ns.t = ns.t + m.content %}{{ ns.t }}",
    "{% macro show(t) %}({{ t }}){% endmacro %}{{ show(m.content) }}",
    "{% if m.content %}{{ m.content }}{% else %}none{% endif %}",
    "{% if m.content is string %}{{ m.content }}{% endif %}",
    "{% if 'yes' in m.content %}+{% endif %}{{ m.content }}",
    "{% if m.content.startswith(('H', 'x')) or m.content == 'yes' %}!{% endif %}{{ m.content.rstrip() }}",
    "{{ m.content.replace('NEVER', '') }}{{ m.content.split('NEVER')[-1] }}",
    "{% filter trim %}{{ m.content }} {% endfilter %}",
    "{% if m.content.find('zzz') >= 0 %}z{% endif %}{{ m.content | default('') }}",
    "{{ (messages | selectattr('role', 'equalto', 'user') | list | length) }}{{ m.content }}",
    "{{ (' ' + m.content + '\n') | trim }}|",
    "{% if m.content in ['yes', 'No.'] %}?{% endif %}{{ m.content }}",
    "{{ dict(t=m.content).t }}",
)
NOT_PROVABLE = (
    "{{ m.content | length }}",
    "{% if m.content | length > 5 %}long{% endif %}{{ m.content }}",
    "{{ m.content[0] }}",
    "{{ m.content[:3] }}",
    "{{ m.content | upper }}",
    "{{ m.content.lower() }}",
    "{{ m.content | tojson }}",
    "{{ m | tojson }}",
    "{% for c in m.content %}{{ c }}.{% endfor %}",
    "{% if m.content in 'yes or no' %}in{% endif %}{{ m.content }}",
    "{{ m.content | int }}{{ m.content }}",
    "{{ m.content | wordcount }}",
    "{{ '%s' | format(m.content) }}",
    "{{ '%s' % m.content }}",
    "{{ '{}'.format(m.content) }}",
    "{{ m.content % () if '%' not in m.content else '' }}",
    "{{ m.content * 2 }}",
    "{{ m.content.split() | join('_') }}",
    "{{ 'yes no'.replace(m.content, '!') }}{{ m.content }}",
    "{{ 'Hello there'.startswith(m.content) }}{{ m.content }}",
    "{{ {'yes': 1}[m.content] | default('d') }}{{ m.content }}",
    "{{ {'yes': 1}.get(m.content, 2) }}{{ m.content }}",
    "{% if m.content < 'a' %}<{% endif %}{{ m.content }}",
    "{{ m.content == messages[0].content }}{{ m.content }}",
    "{{ messages | map(attribute='content') | sort | first }}{{ m.content }}",
    "{{ messages | map(attribute='content') | unique | list | length }}{{ m.content }}",
    "{% if loop.changed(m.content) %}c{% endif %}{{ m.content }}",
    "{{ [m.content] }}",
    "{{ m.content | reverse }}",
    "{{ m.content | first }}",
    "{{ m.content is lower }}{{ m.content }}",
    "{{ m.content ~ '' | e }}{{ m.content | e }}",
    "{{ m.content | replace('e', 'E') if 'e' in m.content else m.content | title }}",
    "{{ (m.content ~ 'x') | length }}",
    "{{ m.content.join(['a', 'b']) }}",
    "{{ range(m.content.count('a')) | length }}{{ m.content | truncate(4) }}",
)


def some_text(dice: random.Random) -> str:
    return "".join(dice.choices(SNIPPETS, k=dice.choice((1, 1, 2, 3)))) if dice.random() < 0.6 else "Plain text."


def some_conversation(dice: random.Random) -> Conversation:
    messages = [Message("system", some_text(dice))] if dice.random() < 0.3 else []
    for _ in range(dice.choice((1, 1, 2, 3))):
        reasoning = some_text(dice) if dice.random() < 0.05 else None
        calls = (ToolCall("f", {"x": some_text(dice)}),) if dice.random() < 0.05 else ()
        messages += [Message("user", some_text(dice)), Message("assistant", some_text(dice), reasoning, calls)]
        if calls:
            messages += [Message("tool", some_text(dice)), Message("assistant", some_text(dice))]
    if dice.random() < 0.1:
        messages.pop()
    if dice.random() < 0.05 and len(messages) > 1:
        messages.pop(0)
    tools = ({"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}},)
    return Conversation(tuple(messages), tools if dice.random() < 0.1 else None)


def loaded(model: str, template: str | None = None) -> ChatTemplateEncoder:
    encoder = load_encoder("chat-template", load(model) if template is None else with_template(load(model), template))
    assert isinstance(encoder, ChatTemplateEncoder)
    assert isinstance(encoder, IdsEncoder)
    return encoder


@pytest.mark.parametrize("model", MODELS)
def test_random_conversations(model: str) -> None:
    dice = random.Random(model)
    encoder = loaded(model)
    rows = [some_conversation(dice) for _ in range(100)] + list(conversations())
    hold_against(encoder.encode_ids_batch(rows), encoder.encode_in_full(rows, keep_errors=True))
    assert encoder.batches.notes == []


def rows_for(template: str) -> list[Conversation]:
    dice = random.Random(template)
    texts = [text for text in SNIPPETS if "think" not in text and text]
    return [
        Conversation((Message("user", dice.choice(texts)), Message("assistant", dice.choice(texts)))) for _ in range(60)
    ]


@pytest.mark.parametrize("body", PROVABLE)
def test_what_only_copies_and_asks_is_filled_in(body: str) -> None:
    encoder = loaded("chatml-plain", SIMPLE.replace("@", body) + PROMPT)
    rows = rows_for(body)
    hold_against(encoder.encode_ids_batch(rows), encoder.encode_in_full(rows, keep_errors=True))
    assert encoder.batches.notes == []
    (known,) = encoder.batches._known.values()
    assert sum(variant.rows for variant in known.variants) > 20


@pytest.mark.parametrize("body", NOT_PROVABLE)
def test_what_looks_into_texts_is_rendered(body: str) -> None:
    encoder = loaded("chatml-plain", SIMPLE.replace("@", body) + PROMPT)
    rows = rows_for(body)
    hold_against(encoder.encode_ids_batch(rows), encoder.encode_in_full(rows, keep_errors=True))
    assert encoder.batches.notes == []
    assert not [variant for known in encoder.batches._known.values() for variant in known.variants]


def test_a_row_that_is_not_as_expected_ends_it_for_its_like() -> None:
    encoder = loaded("qwen3-like")
    rows = [Conversation((Message("user", f"Number {n}"), Message("assistant", "Yes."))) for n in range(20)]
    encoder.encode_ids_batch(rows[:8])
    (known,) = encoder.batches._known.values()
    known.variants[0].rows = 0
    assert encoder.batches._cutter is not None
    encoder.batches._cutter.constants[1] = [7]
    hold_against(encoder.encode_ids_batch(rows), encoder.encode_in_full(rows, keep_errors=True))
    assert known.variants[0].banned
    assert "rendered one by one" in encoder.batches.notes[0]


def test_no_rows_and_trained_counts() -> None:
    encoder = loaded("chatml-plain")
    assert len(encoder.encode_ids_batch([])) == 0
    made = encoder.encode_ids_batch(rows_for("x"))
    trained = [int((row[1] != -100).sum()) for row in made if not isinstance(row, EncodingError)]
    assert np.array_equal(made.trained, trained)
    assert made.lengths.sum() == len(made.input_ids)


def test_rows_that_come_few_at_a_time_are_filled_in_as_well() -> None:
    encoder = loaded("qwen3-like")
    for n in range(0, 12, 2):
        rows = [Conversation((Message("user", f"Number {k}"), Message("assistant", "Yes."))) for k in (n, n + 1)]
        hold_against(encoder.encode_ids_batch(rows), encoder.encode_in_full(rows))
    (known,) = encoder.batches._known.values()
    assert known.watched == 1
    assert known.variants[0].rows == 10
