"""Ids and labels against those that the real LLaMA-Factory 0.9.5 was recorded to make.

By default a share of the option sets is replayed for every template; TEMPLATE_AUDIT_ALL_VECTORS=1
replays all of them.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from typing import Any

import pytest

from template_audit.errors import EncodingError, UsageError
from template_audit.frameworks import check_options
from template_audit.frameworks.llamafactory import FRAMEWORK
from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
from template_audit.frameworks.llamafactory.messages import Example, example_of
from template_audit.frameworks.llamafactory.options import DEFAULT_CLOCK
from template_audit.frameworks.llamafactory.parsed_template import NULL, null_template
from template_audit.frameworks.llamafactory.registry import load_registry
from template_audit.model import Model
from tests.frameworks.llamafactory.vectors import cases, conversations, model_of, recorded, recorder

REGISTRY = load_registry("0.9.5")
ALL = os.environ.get("TEMPLATE_AUDIT_ALL_VECTORS") == "1"
FIXTURE_MODELS = ("exaone35-like", "llama3-like", "qwen3-like", "mistral-like")
SHARED_MODELS = (
    "exaone-3.5-2.4b-instruct",
    "qwen2.5-instruct",
    "llama-3.2-instruct",
    "mistral-7b-instruct-v0.2",
    "phi-3-mini",
    "qwen3",
    "yi-6b-chat",
)


def model_as_recorded(name: str, entry: Any) -> Model:
    """The model, if this transformers gives it the tokenizer that was recorded; skips otherwise."""
    import transformers

    model = model_of(name)
    if recorder().fingerprint(model.tokenizer) != entry["fingerprint"]:
        wanted = recorded("vectors_fixtures.json")["versions"]["transformers"]
        if transformers.__version__ == wanted:
            pytest.fail(f"the tokenizer of {name} is not the recorded one; run scripts/record_llamafactory_vectors.py")
        pytest.skip(f"transformers {transformers.__version__} gives {name} another tokenizer than {wanted}")
    return model


def option_sets(template: str, tokenizer: str, few: int) -> list[str]:
    """The option sets to replay: all of them, or a few that differ from one cell to the next."""
    names = list(cases()["options"])
    if ALL or template == NULL:
        return names
    start = int(hashlib.sha256(f"{template}{tokenizer}".encode()).hexdigest(), 16)
    return [names[(start + 5 * k) % len(names)] for k in range(few)]


def codes(cell: Any, option_set: str) -> list[str]:
    """What was recorded for every conversation, in order."""
    text = cell["cases"][option_set]
    if text.startswith("="):
        text = cell["cases"][text[1:]]
    size = recorder().SHORT
    return [text[i : i + size] for i in range(0, len(text), size)]


def results(model: Model, template: str, option_set: str) -> tuple[LlamaFactoryEncoder | None, list[str]]:
    """What our encoder makes of every conversation: a digest, or ``!`` for an error."""
    options = check_options(FRAMEWORK, dict(cases()["options"][option_set]))
    try:
        spec = null_template(model, REGISTRY, DEFAULT_CLOCK) if template == NULL else REGISTRY.templates[template]
        encoder = LlamaFactoryEncoder(model, REGISTRY, spec, options)
    except UsageError:
        return None, ["!"] * len(conversations())
    examples: list[Example | EncodingError] = []
    for conversation in conversations().values():
        try:
            examples.append(example_of(conversation, encoder.template.thought_words))
        except EncodingError as error:
            examples.append(error)
    made = encoder.encode_ids(examples)
    for one, row in zip(made, encoder.encode_ids_batch(list(conversations().values())), strict=True):
        if isinstance(one, EncodingError) or None in one.input_ids or len(one.input_ids) != len(one.labels):
            assert isinstance(row, EncodingError)
        else:
            assert not isinstance(row, EncodingError)
            assert (row[0].tolist(), row[1].tolist()) == (one.input_ids, one.labels)
    return encoder, [
        "!" if isinstance(one, EncodingError) else recorder().digest([one.input_ids, one.labels]) for one in made
    ]


def replay(name: str, file: str, few: int) -> None:
    entry = recorded(file)["tokenizers"][name]
    model = model_as_recorded(name, entry)
    assert list(entry["cells"]) == [*REGISTRY.templates, NULL]
    assert recorded(file)["cases"] == recorder().digest(cases())[:16], "the cases changed; record again"
    counts = Counter[str]()
    wrong: list[str] = []
    for template, cell in entry["cells"].items():
        for option_set in option_sets(template, name, few):
            encoder, made = results(model, template, option_set)
            for conversation, wanted, got in zip(conversations(), codes(cell, option_set), made, strict=True):
                both_raise = wanted[0] == got[0] == "!"
                counts["both raise" if both_raise else "equal"] += 1
                if not both_raise and recorder().short(got) != wanted:
                    wrong.append(f"{template}/{option_set}/{conversation}: {wanted} was recorded, {got[:8]} came out")
            if option_set == "default" and encoder is not None:
                tokenizer = encoder.tokenizer
                effects = recorder().effects_digest(
                    tokenizer.eos_token, tokenizer.pad_token, len(tokenizer), tokenizer.chat_template
                )
                assert effects == cell["effects"], f"{template}: the tokenizer is changed in another way"
    print(f"{name}: {len(entry['cells'])} templates, {dict(counts)}")
    assert not wrong, f"{len(wrong)} differ: {wrong[:10]}"


@pytest.mark.parametrize("name", FIXTURE_MODELS)
def test_fixture_models(name: str) -> None:
    replay(name, "vectors_fixtures.json", few=1)


@pytest.mark.shared
@pytest.mark.parametrize("name", SHARED_MODELS)
def test_real_tokenizers(name: str) -> None:
    replay(name, "vectors_shared.json", few=1)


def test_a_wrong_id_would_be_noticed() -> None:
    ids = [1, 2, 3]
    right, wrong = (recorder().digest([some, ids]) for some in (ids, [1, 2, 4]))
    assert recorder().short(right) != recorder().short(wrong)
