"""Every release against what the real LLaMA-Factory of that release was recorded to make.

Recorded by scripts/record_llamafactory_releases.py with transformers 5.6.0: ids and labels, what happens
to the tokenizer, the chat template and the Ollama Modelfile that are left beside the weights, and
``template: null``. By default one option set is replayed for every template, on real tokenizers for every
third one; TEMPLATE_AUDIT_ALL_VECTORS=1 replays all of them.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from functools import cache
from types import ModuleType
from typing import Any

import pytest

from template_audit.conversation import Conversation
from template_audit.errors import EncodingError, UsageError
from template_audit.frameworks import check_options
from template_audit.frameworks.interface import EncoderRequest
from template_audit.frameworks.llamafactory import FRAMEWORK
from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
from template_audit.frameworks.llamafactory.registry import builtin_versions, load_registry
from template_audit.model import Model
from tests.frameworks.llamafactory.vectors import FIXTURES, ROOT, model_of, recorder

ALL = os.environ.get("TEMPLATE_AUDIT_ALL_VECTORS") == "1"
VERSIONS = builtin_versions()
FIXTURE, REAL = "qwen3-like", ("llama-3.2-instruct", "mistral-7b-instruct-v0.2")
"""Recorded with every template, and with none."""
NULL = "null"
NULL_FIXTURES = (
    *("base-no-template", "exaone35-like", "exaone4-like", "gemma-like", "deepseek-like", "phi-like", "hermes-like"),
    *("chatml-plain", "mistral-like", "llama3-like"),
)
NULL_REAL = ("exaone-3.5-2.4b-instruct", "phi-3-mini", "qwen2.5-instruct", "qwen3", "yi-6b-chat")


@cache
def script() -> ModuleType:
    """The recording script, whose digests are the ones to compare with."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import record_llamafactory_releases
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    return record_llamafactory_releases


@cache
def cases() -> Any:
    return script().release_cases()


@cache
def conversations() -> list[Conversation]:
    return [Conversation.from_openai(data, id=name) for name, data in cases()["conversations"].items()]


@cache
def recorded(version: str) -> Any:
    return json.loads((FIXTURES / "releases" / f"{version}.json").read_text(encoding="utf-8"))


@cache
def size_of(name: str) -> int:
    """The number of tokens, which a large tokenizer takes a while to count."""
    return len(model_of(name).tokenizer)


@cache
def model_as_recorded(name: str) -> Model:
    """The model, if this transformers gives it the tokenizer that was recorded; skips otherwise."""
    import transformers

    model = model_of(name)
    entry = recorded("0.9.2")["tokenizers"][name]
    if recorder().fingerprint(model.tokenizer) != entry["fingerprint"]:
        wanted = recorded("0.9.2")["versions"]["transformers"]
        if transformers.__version__ == wanted:
            pytest.fail(f"the tokenizer of {name} is not the recorded one; record again")
        pytest.skip(f"transformers {transformers.__version__} gives {name} another tokenizer than {wanted}")
    return model


def option_sets(version: str, template: str, tokenizer: str) -> list[str]:
    """The option sets to replay: all of them, or one (of ``null`` three) that differs from one cell to the next."""
    names: list[str] = recorded(version)["options"]
    if ALL:
        return names
    chance = int(hashlib.sha256(f"{version}{template}{tokenizer}".encode()).hexdigest(), 16)
    if template == NULL:
        return [names[(chance + 3 * k) % len(names)] for k in range(3)]
    return [] if tokenizer in REAL and chance % 3 else [names[chance // 3 % len(names)]]


def load(model: Model, version: str, template: str, option_set: str) -> LlamaFactoryEncoder | None:
    """The encoder, None where it refuses the template or the options."""
    options = check_options(FRAMEWORK, dict(cases()["options"][option_set]))
    try:
        encoder = FRAMEWORK.load(EncoderRequest(model, version, template, options))
    except UsageError:
        return None
    assert isinstance(encoder, LlamaFactoryEncoder)
    return encoder


def results(encoder: LlamaFactoryEncoder | None) -> list[str]:
    """A digest of every conversation's ids and labels, or ``!``."""
    if encoder is None:
        return ["!"] * len(conversations())
    made = encoder.encode_ids(encoder.examples_of(conversations()))
    return ["!" if isinstance(one, EncodingError) else recorder().digest([one.input_ids, one.labels]) for one in made]


def saved(encoder: LlamaFactoryEncoder) -> list[str]:
    """Digests of the tokenizer's changes, its chat template and the Modelfile, as they are recorded."""
    tokenizer, digest = encoder.tokenizer, script().text_digest
    size = size_of(encoder.model.id) + len(encoder.effects.added_tokens)
    changed = digest([tokenizer.eos_token, tokenizer.pad_token, size])
    template = tokenizer.chat_template  # where there are several, the effects are those on the default one
    assert encoder.effects.chat_template[1] == (template["default"] if isinstance(template, dict) else template)
    out = [changed, digest(template)]
    try:
        modelfile = encoder.ollama_modelfile()
    except UsageError:
        return [*out, "!Val"]
    return out if modelfile is None else [*out, digest(modelfile)]


def replay(version: str, name: str) -> None:
    entry, names = recorded(version)["tokenizers"][name], recorded(version)["options"]
    model = model_as_recorded(name)
    counts, wrong = Counter[str](), []
    for template, cell in entry["cells"].items():
        for option_set in option_sets(version, template, name):
            encoder = load(model, version, template, option_set)
            made = results(encoder)
            raised = sum(result == "!" for result in made)
            counts += Counter({"equal": len(made) - raised, "both raise": raised})
            size = script().SHORT
            wanted = cell["sets"][names.index(option_set) * size :][:size]
            if script().combined(made) != wanted:
                wrong.append(f"{template}/{option_set}")
                if option_set == "default":
                    wrong += unlike(made, cell["default"])
            if encoder is not None and "default_system" not in cases()["options"][option_set]:
                counts["saved"] += 1
                if saved(encoder) != cell["saved"]:
                    wrong.append(f"{template}/{option_set}: {saved(encoder)} is saved, not {cell['saved']}")
    print(f"{version} {name}: {dict(counts)}")
    assert not wrong, f"{len(wrong)} differ: {wrong[:20]}"


def unlike(made: list[str], codes: str) -> list[str]:
    """The conversations that are not as recorded, by their short codes."""
    size = recorder().SHORT
    wanted = [codes[i : i + size] for i in range(0, len(codes), size)]
    pairs = zip(conversations(), made, wanted, strict=True)
    return [c.id for c, one, code in pairs if code[0] != one and recorder().short(one) != code]


@pytest.mark.parametrize("version", VERSIONS)
def test_what_was_recorded(version: str) -> None:
    registry = load_registry(version)
    assert recorded(version)["versions"]["llamafactory"] == version
    assert recorded(version)["cases"] == recorder().digest(cases())[:16], "the cases changed; record again"
    for name in (FIXTURE, *REAL):
        assert list(recorded(version)["tokenizers"][name]["cells"]) == [*registry.templates, NULL]


@pytest.mark.parametrize("version", VERSIONS)
def test_fixture_model(version: str) -> None:
    replay(version, FIXTURE)


@pytest.mark.shared
@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("version", VERSIONS)
def test_real_tokenizers(version: str, name: str) -> None:
    replay(version, name)


@pytest.mark.parametrize("name", NULL_FIXTURES)
def test_template_null(name: str) -> None:
    for version in VERSIONS:
        replay(version, name)


@pytest.mark.shared
@pytest.mark.parametrize("name", NULL_REAL)
def test_template_null_of_real_models(name: str) -> None:
    for version in VERSIONS:
        replay(version, name)
