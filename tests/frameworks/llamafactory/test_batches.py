"""The short way to ids and labels gives what the encoder's own way gives, whatever the rows hold."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from template_audit.conversation import Conversation, Message, ToolCall
from template_audit.errors import EncodingError
from template_audit.frameworks import load_encoder
from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
from template_audit.frameworks.llamafactory.messages import ROW_KEY, Example, ExampleMessage, ExampleRole
from template_audit.frameworks.llamafactory.registry import load_registry
from template_audit.ids import IdsEncoder
from template_audit.model.fast import IdTokenizer
from template_audit.stream import EncodedStream
from tests.frameworks.batches import hold_against
from tests.frameworks.llamafactory.vectors import conversations, model_of

MODELS = ("llama3-like", "qwen3-like", "mistral-like", "gemma-like")
SNIPPETS = (
    *(
        "",
        " ",
        "\n",
        "\n\nHello",
        "Hello",
        "How are you?",
        "안녕 👋🏽",
        "a  b\t\tc",
        "x" * 70,
        "Numbers 12345 and 3.14",
    ),
    *("{{content}}", "{{idx}}", "Hello {{name}}", "{{image}}", "<image>", "<video> here", "<think>", "</think>"),
    *("<think>\nSo.\n</think>\n\nYes.", "<think></think>Yes", "\nYes", "<|im_end|>", "</s>", "<|eot_id|>x", "[INST]"),
    *(
        '[{"name": "f", "arguments": {}}]',
        "<tool_call>",
        "\ufdd0",
        "é\u0301",
        "one two three four five six seven",
    ),
)
OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"cutoff_len": 24},
    {"cutoff_len": 40, "mask_history": True},
    {"mask_history": True},
    {"cutoff_len": 9},
    {"train_on_prompt": True, "cutoff_len": 30},
    {"enable_thinking": False},
    {"enable_thinking": None, "mask_history": True},
    {"default_system": "Be brief."},
    {"mask_history": True, "preserve_thinking": True},
)


def some_text(dice: random.Random) -> str:
    return "".join(dice.choices(SNIPPETS, k=dice.choice((1, 1, 1, 2, 3)))) if dice.random() < 0.5 else "Plain text."


def some_conversation(dice: random.Random) -> Conversation:
    messages = [Message("system", some_text(dice))] if dice.random() < 0.3 else []
    for _ in range(dice.choice((1, 1, 2, 3))):
        messages.append(Message("user", some_text(dice)))
        reasoning = some_text(dice) if dice.random() < 0.1 else None
        calls = (ToolCall("f", {"x": some_text(dice)}),) if dice.random() < 0.1 else ()
        messages.append(Message("assistant", some_text(dice), reasoning, calls))
        if calls:
            messages += [Message("tool", some_text(dice)), Message("assistant", some_text(dice))]
    if dice.random() < 0.1:
        messages.insert(dice.randrange(len(messages)), Message(dice.choice(("user", "assistant", "system")), "odd"))
    tools = dice.choice((None, (), ({"name": "f", "description": "d", "parameters": {"properties": {}}},)))
    return Conversation(tuple(messages), tools if dice.random() < 0.2 else None)


def some_example(dice: random.Random) -> Conversation:
    """A row whose example is there already, as rows of a training run have it."""
    roles: list[ExampleRole] = []
    for _ in range(dice.choice((1, 2, 3))):
        roles += [dice.choice(("user", "user", "observation")), dice.choice(("assistant", "assistant", "function"))]
    messages = [ExampleMessage(role, some_text(dice), i) for i, role in enumerate(roles)]
    if dice.random() < 0.05:
        messages[0] = ExampleMessage("user", None, 0)
    answers = messages[-1:] * dice.choice((1, 1, 1, 0, 2))
    notes = ("A remark.",) if dice.random() < 0.2 else ()
    example = Example(tuple(messages[:-1]), tuple(answers), dice.choice(("", None, some_text(dice))), notes=notes)
    return Conversation((), row={ROW_KEY: example})


def one_by_one(encoder: LlamaFactoryEncoder, rows: list[Conversation]) -> list[EncodedStream | EncodingError]:
    """The encoder's own way."""
    return encoder.encode_examples(encoder.examples_of(rows), keep_errors=True)


@pytest.mark.parametrize("version", ["0.9.5", "0.9.3", "0.9.0"])
def test_every_template_on_random_rows(version: str) -> None:
    dice = random.Random(version)
    for number, name in enumerate(load_registry(version).templates):
        known = load_registry(version).data_args
        options = {key: value for key, value in dice.choice(OPTIONS).items() if key in known}
        if load_registry(version).templates[name].efficient_eos:
            options.pop("train_on_prompt", None)
        encoder = load_encoder(f"llamafactory@{version}:{name}", model_of(MODELS[number % len(MODELS)]), **options)
        assert isinstance(encoder, LlamaFactoryEncoder)
        assert isinstance(encoder, IdsEncoder)
        rows = [dice.choice((some_conversation, some_conversation, some_example))(dice) for _ in range(40)]
        hold_against(encoder.encode_ids_batch(rows), one_by_one(encoder, rows))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("template", ["llama3", "qwen3", "chatglm3", "intern2", "falcon", "qwen2_vl", "llama2", "glm4"])
def test_every_option_on_random_rows(template: str, options: dict[str, Any]) -> None:
    if template in ("chatglm3", "falcon", "glm4") and "train_on_prompt" in options:
        pytest.skip("refused with efficient_eos")
    dice = random.Random(f"{template} {options}")
    encoder = load_encoder(f"llamafactory@0.9.5:{template}", model_of("qwen3-like"), **options)
    assert isinstance(encoder, LlamaFactoryEncoder)
    rows = [dice.choice((some_conversation, some_example))(dice) for _ in range(120)] + list(conversations().values())
    hold_against(encoder.encode_ids_batch(rows), one_by_one(encoder, rows))


def test_a_text_that_is_no_unicode_is_its_rows_error_alone() -> None:
    encoder = load_encoder("llamafactory@0.9.5:qwen", model_of("qwen25-like"))
    assert isinstance(encoder, LlamaFactoryEncoder)
    rows = [Conversation((Message("user", text), Message("assistant", "Hi."))) for text in ("Hello", "\ud800", "Bye")]
    made = encoder.encode_ids_batch(rows)
    assert list(made.errors) == [1]
    hold_against(made, one_by_one(encoder, rows))


def test_no_rows() -> None:
    encoder = load_encoder("llamafactory@0.9.5:qwen", model_of("qwen25-like"))
    assert isinstance(encoder, IdsEncoder)
    made = encoder.encode_ids_batch([])
    assert len(made) == 0
    assert list(made) == []


@pytest.mark.parametrize("model", MODELS)
def test_fastokens_gives_the_same_ids(model: str) -> None:
    pytest.importorskip("fastokens")
    tokenizer = model_of(model).tokenizer
    dice = random.Random(model)
    texts = [text for text in (some_text(dice) for _ in range(700)) if text.isprintable()]
    fast, sure = IdTokenizer(tokenizer, use_fastokens=True), IdTokenizer(tokenizer, use_fastokens=False)
    (ids, places), (expected, expected_places) = fast.encode(texts), sure.encode(texts)
    assert fast.note is None
    assert np.array_equal(ids, expected)
    assert np.array_equal(places, expected_places)
    assert expected.tolist() == [id for text in texts for id in tokenizer.encode(text, add_special_tokens=False)]


class Wrong:
    """What stands in for a fastokens that makes a mistake on one word."""

    def __init__(self, right: Any) -> None:
        self._right = right

    def encode_batch_flat(self, texts: list[str], **options: Any) -> tuple[bytes, bytes]:
        flat, places = self._right.encode_batch_flat([text.replace("mistake", "mistakes") for text in texts], **options)
        return flat, places


def test_a_tokenizer_that_differs_is_not_used_again() -> None:
    pytest.importorskip("fastokens")
    tokenizer = IdTokenizer(model_of("qwen3-like").tokenizer, use_fastokens=True)
    tokenizer.encode(["Hello"])
    assert tokenizer.name == "fastokens"
    tokenizer._fast = Wrong(tokenizer._fast)
    texts = ["fine"] * 600 + ["mistake"] * 600
    sure = IdTokenizer(tokenizer.tokenizer, use_fastokens=False)
    assert np.array_equal(tokenizer.encode(texts)[0], sure.encode(texts)[0])
    assert tokenizer.name == "tokenizers"
    assert tokenizer.note is not None
    assert "'mistake'" in tokenizer.note
