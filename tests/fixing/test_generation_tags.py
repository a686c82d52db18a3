"""`generation-tags`: the same text, and transformers' own mask is the traced one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from template_audit.conversation import Conversation
from template_audit.errors import EncodingError
from template_audit.fixing import Fix, FixRequest, fix
from template_audit.fixing.jinja_source import parse
from template_audit.fixing.marking import announcing, segments
from template_audit.frameworks import load_encoder
from template_audit.model import Model, load_model
from template_audit.model.chat_template import Renderer
from template_audit.probes import load_probes
from template_audit.stream import IGNORE
from tests.rendering import FIXTURES, SHARED_MODELS

PROVEN = ("chatml-plain", "exaone35-like", "gemma-like", "hermes-like", "llama3-like", "mistral-like", "qwen25-like")


def tagged(model: Model) -> Fix:
    return fix(FixRequest(model, "chat-template"), "generation-tags")


def by_transformers(model: Model, template: str, conversation: Conversation) -> tuple[list[int], list[int]]:
    """Ids and mask as transformers itself gives them."""
    tokenizer: Any = model.tokenizer
    found = tokenizer.apply_chat_template(
        conversation.openai_messages(),
        tools=list(conversation.tools) if conversation.tools else None,
        chat_template=template,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    return list(found["input_ids"]), list(found["assistant_masks"])


def assert_masks_are_the_traced_ones(model: Model, template: str) -> int:
    compared = 0
    probes = load_probes(model)
    for conversation, stream in zip(
        probes, load_encoder("chat-template", model).encode_batch(probes, keep_errors=True), strict=True
    ):
        dated = "Today Date" in getattr(stream, "text", "")
        other = bool(conversation.tools) and "tool_use" in model.chat_templates  # a template of its own
        if isinstance(stream, EncodingError) or dated or other or "{{name}}" in stream.text:
            continue
        ids, mask = by_transformers(model, template, conversation)
        assert ids == stream.input_ids
        assert mask == [int(label != IGNORE) for label in stream.labels]
        compared += 1
    return compared


@pytest.mark.parametrize("name", PROVEN)
def test_the_tags_are_proven(name: str) -> None:
    made = tagged(load_model(FIXTURES / "models" / name))
    assert made.exit_code == 0
    assert made.text is not None
    assert "generation -%}" in made.text
    assert not made.failures


@pytest.mark.parametrize("name", [name for name in PROVEN if name != "llama3-like"])
def test_the_mask_of_transformers_is_the_traced_one(name: str) -> None:
    model = load_model(FIXTURES / "models" / name)
    text = tagged(model).text
    assert text is not None
    assert assert_masks_are_the_traced_ones(model, text) >= 10


@pytest.mark.shared
@pytest.mark.parametrize("name", ["qwen2.5-instruct", "yi-6b-chat"])
def test_real_models(name: str) -> None:
    if not (SHARED_MODELS / name).is_dir():
        pytest.skip(f"{SHARED_MODELS / name} is not there")
    model = load_model(SHARED_MODELS / name)
    made = tagged(model)
    assert made.exit_code == 0
    assert made.text is not None
    if model.tokenizer.is_fast:
        assert assert_masks_are_the_traced_ones(model, made.text) >= 10


def test_right_tags_are_left_alone() -> None:
    model = load_model(FIXTURES / "models" / "chatml-generation")
    made = tagged(model)
    assert (made.exit_code, made.text) == (0, model.chat_template)


def test_wrong_tags_are_moved() -> None:
    plain = load_model(FIXTURES / "models" / "chatml-plain")
    right = tagged(plain).text
    assert right is not None
    wrong = "{%- generation -%}" + (plain.chat_template or "") + "{%- endgeneration -%}"
    made = tagged(replace(plain, chat_templates={"default": wrong}))
    assert made.exit_code == 0
    assert made.text not in (None, wrong)


def test_an_answer_beside_the_tags_reach_is_said() -> None:
    made = tagged(load_model(FIXTURES / "models" / "phi-like"))
    assert made.exit_code == 1
    assert made.failures == (
        "With the tags it marks other tokens of edge-whitespace than those that the template trains.",
    )


def test_what_cannot_be_proven_is_not_printed() -> None:
    # inference shows a thought that the history never has: no tag can mark that
    made = tagged(load_model(FIXTURES / "models" / "deepseek-like"))
    assert (made.exit_code, made.text) == (2, None)
    assert made.summary.startswith("No placement of tags was proven")


def test_a_model_without_a_template() -> None:
    assert tagged(load_model(FIXTURES / "models" / "base-no-template")).exit_code == 2


def test_every_part_announces_itself_and_the_text_stays() -> None:
    model = load_model(FIXTURES / "models" / "llama3-like")
    assert model.chat_template is not None
    source = parse(model.chat_template)
    assert source is not None
    talk = load_probes(model)[1]
    announced = Renderer(replace(model, chat_templates={"default": announcing(source)})).render(talk).text
    text, written, entries = segments(announced)
    assert text == Renderer(model).render(talk).text
    assert "".join(text[s.start : s.end] for s in written) == text
    assert entries


@pytest.mark.parametrize("template", ["{% raw %}{{ x }}{% endraw %}", "{% if x %}", "{{ x", "{% endif %}"])
def test_a_source_that_cannot_be_taken_apart(template: str) -> None:
    assert parse(template) is None
