"""The text is transformers' own, and every character of it is traced to where it came from."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from template_audit.conversation import Conversation, Message
from template_audit.errors import EncodingError, UsageError
from template_audit.model import Model
from template_audit.model.chat_template import UNKNOWN, Dialect, Prefix, Renderer, Views, dialect
from template_audit.stream import LITERAL
from tests.rendering import (
    FIXTURES,
    SHARED_MODELS,
    WEATHER,
    assert_traced,
    by_transformers,
    conversations,
    load,
    rendered_alike,
    stopped_clock,
    with_template,
)

CONVERSATIONS = conversations()
FIXTURE_MODELS = sorted(path.name for path in (FIXTURES / "models").iterdir() if path.name != "base-no-template")
REAL_MODELS = sorted(path.name for path in SHARED_MODELS.iterdir()) if SHARED_MODELS.is_dir() else ["absent"]
SAY_HELLO = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "bye"}]


@pytest.fixture(scope="module")
def plain_model() -> Model:
    return load("chatml-plain")


_ABSENT = pytest.mark.skipif(not SHARED_MODELS.is_dir(), reason="../shared/models is absent")
MODELS: list[Any] = [*FIXTURE_MODELS, *(pytest.param(n, marks=[pytest.mark.shared, _ABSENT]) for n in REAL_MODELS)]


@pytest.mark.parametrize("name", MODELS)
def test_the_text_is_that_of_transformers(name: str) -> None:
    model = load(name)
    outcomes: Counter[str] = Counter()
    for kwargs in ({}, {"enable_thinking": False}, {"enable_thinking": True, "custom": "x", "bos_token": "<B>"}):
        renderer = Renderer(model, template_kwargs=kwargs)
        for conversation in CONVERSATIONS:
            for prompt in (False, True):
                expected = by_transformers(model, conversation, add_generation_prompt=prompt, **kwargs)
                if isinstance(expected, Exception):
                    with pytest.raises(EncodingError) as caught:
                        renderer.render(conversation, add_generation_prompt=prompt)
                    assert caught.value.kind == "role-unsupported"
                    outcomes["raise"] += 1
                    continue
                rendered = renderer.render(conversation, add_generation_prompt=prompt)
                assert rendered.text == expected, conversation.id
                assert_traced(conversation, rendered)
                outcomes["equal"] += 1
    assert outcomes["equal"] >= 60, outcomes


@pytest.mark.parametrize("name", MODELS)
def test_prompts_and_prefixes_are_those_of_transformers(name: str) -> None:
    model = load(name)
    for conversation, views in zip(CONVERSATIONS, Renderer(model).render_all(CONVERSATIONS), strict=True):
        if isinstance(views, EncodingError):
            assert isinstance(by_transformers(model, conversation), Exception)
            continue
        assert set(views.prompts) == {k for k, m in enumerate(conversation.messages) if m.role == "assistant" and k}
        assert set(views.prefixes) == set(range(1, len(conversation.messages)))
        for prompted, part in ((True, views.prompts), (False, views.prefixes)):
            for k, prefix in part.items():
                expected = by_transformers(model, conversation, count=k, add_generation_prompt=prompted)
                if isinstance(prefix, EncodingError):
                    assert isinstance(expected, Exception)
                    continue
                assert prefix.text == expected
                assert views.full.text[: prefix.same] == prefix.text[: prefix.same]
                if not prompted and prefix.same < len(prefix.text):
                    assert prefix.pieces[-1].end == len(prefix.text)


@pytest.mark.parametrize("name", ["hermes-like", "chatml-generation"])
def test_named_templates(name: str) -> None:
    model = load(name)
    assert set(model.chat_templates) == {"default", "tool_use"}
    tools = Conversation.from_openai({"messages": SAY_HELLO, "tools": [WEATHER]})
    for conversation in (tools, replace(tools, tools=()), replace(tools, tools=None)):
        text = Renderer(model).render(conversation).text
        assert text == by_transformers(model, conversation)
        assert ("get_weather" in text) == bool(conversation.tools)
    named = Renderer(model, template_name="default").render(tools).text
    assert named == by_transformers(model, tools, template="default")
    assert named != Renderer(model).render(tools).text


def test_a_model_without_a_template() -> None:
    conversation = Conversation.from_openai(SAY_HELLO)
    with pytest.raises(EncodingError, match="has no chat template; give one") as caught:
        Renderer(load("base-no-template")).render(conversation)
    assert caught.value.kind == "template-missing"
    several = replace(load("chatml-plain"), chat_templates={"rag": "x", "tool_use": "y"})
    with pytest.raises(EncodingError, match="none of them the default") as caught:
        Renderer(several).render(conversation)
    assert caught.value.kind == "template-missing"
    assert Renderer(several).render(replace(conversation, tools=(WEATHER,))).text == "y"


def test_the_fields_of_a_conversation(plain_model: Model) -> None:
    template = (
        "{{ tools[0].function.name }}|{{ custom }}|{{ eos_token }}|{% for m in messages %}{{ m.role }}:{{ m.content }}:"
        "{{ m.reasoning_content }}:{% for c in m.tool_calls %}{{ c.function.name }}"
        "{% for k, v in c.function.arguments|items %},{{ k }}={{ v }}{% endfor %}{% endfor %}:{{ m.name }};{% endfor %}"
    )
    call = {"function": {"name": "look", "arguments": {"n": 3, "x": 1.5, "s": "t", "b": True}}}
    conversation = Conversation.from_openai(
        {
            "messages": [
                {"role": "system", "content": "sys"},
                {"role": "user", "content": "usr"},
                {"role": "assistant", "content": "ans", "reasoning": "why", "tool_calls": [call]},
                {"role": "tool", "content": "res", "name": "look"},
            ],
            "tools": [WEATHER],
        }
    )
    rendered = rendered_alike(plain_model, template, conversation, custom="value")
    assert [(rendered.text[start:end], *origin) for start, end, origin in rendered.pieces if origin != LITERAL] == [
        ("get_weather", None, "tools", False),
        ("value", None, "other", False),
        ("system", 0, "role", False),
        ("sys", 0, "system", False),
        ("user", 1, "role", False),
        ("usr", 1, "content", False),
        ("assistant", 2, "role", False),
        ("ans", 2, "content", False),
        ("why", 2, "reasoning", False),
        ("look", 2, "tool_call", False),
        ("n", 2, "tool_call", False),
        ("3", 2, "tool_call", True),
        ("x", 2, "tool_call", False),
        ("1.5", 2, "tool_call", True),
        ("s", 2, "tool_call", False),
        ("t", 2, "tool_call", False),
        ("b", 2, "tool_call", False),  # and the True behind it counts as a literal
        ("tool", 3, "role", False),
        ("res", 3, "tool_result", False),
        ("look", 3, "other", False),
    ]


def test_templates_that_roll_dice_are_traced_and_repeatable(plain_model: Model) -> None:
    template = "{{ [1, 2, 3, 4, 5, 6, 7, 8, 9]|random }}{{ lipsum(1) }}{{ messages[0].content }}"
    renderer = Renderer(with_template(plain_model, template))
    conversation = Conversation.from_openai(SAY_HELLO)
    one, two = renderer.render(conversation), renderer.render(conversation)
    assert one == two
    assert one.traced


def test_a_rendering_that_cannot_be_traced_is_still_right(plain_model: Model) -> None:
    template = "{{ messages[0]|string|length if messages[0] is string else (messages|string)[:3] }}{{ namespace }}"
    rendered = Renderer(with_template(plain_model, template)).render(Conversation.from_openai(SAY_HELLO))
    assert rendered.text.startswith("[{'")
    unlike = Renderer(with_template(plain_model, "{{ cycler(1).next }}")).render(Conversation.from_openai(SAY_HELLO))
    assert not unlike.traced  # an address, which is another one each time
    assert [piece.origin for piece in unlike.pieces] == [UNKNOWN]


def test_generation_ranges_are_those_of_transformers() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    model = load("chatml-generation")
    template = model.chat_templates["default"]
    compared = 0
    for conversation in CONVERSATIONS:
        if conversation.tools or isinstance(by_transformers(model, conversation), Exception):
            continue
        text, ranges = render_jinja_template(
            [conversation.openai_messages()],
            chat_template=template,
            return_assistant_tokens_mask=True,
            **model.tokenizer.special_tokens_map,
        )
        rendered = Renderer(model).render(conversation)
        assert ([rendered.text], [rendered.generation_ranges]) == (text, ranges)
        compared += len(ranges[0])
    assert compared > 20


def test_the_clock_stands_still(plain_model: Model) -> None:
    template = "{{ strftime_now('%d %b %Y %H:%M') }}{{ strftime_now(format='%Z') }}"
    conversation = Conversation.from_openai(SAY_HELLO)
    pinned = Renderer(with_template(plain_model, template)).render(conversation).text
    assert pinned == "26 Jul 2024 12:00"
    with stopped_clock():
        assert pinned == by_transformers(plain_model, conversation, template=template)
    other = Renderer(with_template(plain_model, template), clock="2031-01-02").render(conversation).text
    assert other == "02 Jan 2031 00:00"
    with pytest.raises(UsageError, match="`clock` takes an ISO date"):
        Renderer(plain_model, clock="yesterday")


def test_template_variables(plain_model: Model) -> None:
    with pytest.raises(UsageError, match="`messages` cannot be given"):
        Renderer(plain_model, template_kwargs={"messages": []})
    template = "{{ documents }}{{ tools }}{{ add_generation_prompt }}{{ x }}{{ y is defined }}{{ unk_token }}"
    rendered_alike(plain_model, template, Conversation.from_openai(SAY_HELLO), x=[1, {"a": None}])
    rendered_alike(plain_model, template, Conversation.from_openai(SAY_HELLO), documents=[{"title": "t"}], x="é")


def test_no_tools_are_passed_as_none(plain_model: Model) -> None:
    conversation = Conversation.from_openai(SAY_HELLO)
    for tools in (None, ()):
        assert (
            Renderer(with_template(plain_model, "{{ tools }}")).render(replace(conversation, tools=tools)).text
            == "None"
        )


def test_the_dialect_is_that_of_the_installed_transformers(plain_model: Model) -> None:
    import transformers

    modern = tuple(int(part) for part in transformers.__version__.split(".")[:2]) >= (5, 20)
    old = Dialect(drops_none=False, aliases_reasoning=False, restricts_globals=False)
    if modern:
        assert dialect(plain_model.tokenizer) == Dialect(True, True, True)
    elif transformers.__version__ in ("4.57.6", "5.6.0"):
        assert dialect(plain_model.tokenizer) == old
    template = (
        "{% for m in messages %}{{ m }}{% endfor %}{{ dict is mapping }}{{ dict.fromkeys('ab', 1) }}"
        "{{ dict(a=1, **{'b': 2}) }}{{ dict([('a', 2)]) }}"
        "{% set ns = namespace({'a': 1}, self=2) %}{{ ns.a }}{{ ns.self }}"
    )
    rendered_alike(plain_model, template, CONVERSATIONS[-4])
    for conversation in CONVERSATIONS:
        rendered_alike(plain_model, "{{ messages }}{{ messages[-1].thinking }}", conversation)


@pytest.mark.parametrize(
    "template", ["{{ dict.__class__.x }}", "{% set n = namespace(_a=1) %}{{ n._a }}", "{{ dict.pop }}"]
)
def test_the_narrower_globals(plain_model: Model, template: str) -> None:
    conversation = Conversation.from_openai(SAY_HELLO)
    expected = by_transformers(plain_model, conversation, template=template)
    renderer = Renderer(with_template(plain_model, template))
    if isinstance(expected, str):
        assert renderer.render(conversation).text == expected
    else:
        with pytest.raises(EncodingError) as caught:
            renderer.render(conversation)
        assert caught.value.kind in ("unsafe-template-access", "role-unsupported")


def test_what_cannot_be_rendered_is_said_in_one_sentence(plain_model: Model) -> None:
    (empty,) = Renderer(plain_model).render_all([Conversation(messages=())])
    assert isinstance(empty, EncodingError)
    assert str(empty) == "The conversation has no messages."
    call = Message("assistant", tool_calls=())
    odd = Conversation(messages=(Message("user", "x"), call), tools=({"bytes": b"x"},))
    first, second = Renderer(plain_model).render_all([odd, Conversation.from_openai(SAY_HELLO)])
    assert isinstance(first, EncodingError)
    assert "A bytes cannot be given to a chat template" in str(first)
    assert isinstance(second, Views)


def test_the_model_is_left_alone(plain_model: Model) -> None:
    before = (
        plain_model.tokenizer.chat_template,
        dict(plain_model.tokenizer.special_tokens_map),
        len(plain_model.tokenizer),
    )
    views = Renderer(plain_model, template_kwargs={"bos_token": "x"}).render_all(CONVERSATIONS)
    assert any(isinstance(view, Views) and isinstance(view.with_system, Prefix) for view in views)
    after = (
        plain_model.tokenizer.chat_template,
        dict(plain_model.tokenizer.special_tokens_map),
        len(plain_model.tokenizer),
    )
    assert before == after
