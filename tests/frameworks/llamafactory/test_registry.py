"""The recorded registries against what the real releases showed at run time (fixtures/llamafactory)."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from template_audit.errors import UsageError
from template_audit.frameworks.llamafactory.registry import (
    Formatter,
    Special,
    Token,
    builtin_versions,
    dump_registry,
    load_registry,
    registry_from_json,
    unfamiliar_code,
)

ROOT = Path(__file__).parents[3]
VERSIONS = ("0.9.5", "0.9.4", "0.9.3", "0.9.2", "0.9.1", "0.9.0")
TEMPLATES = {"0.9.5": 121, "0.9.4": 124, "0.9.3": 99, "0.9.2": 83, "0.9.1": 69, "0.9.0": 54}


def fixture(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((ROOT / "fixtures" / "llamafactory" / name).read_text(encoding="utf-8"))
    return data


@pytest.fixture(scope="module")
def dump() -> ModuleType:
    """The script that made the digests; it says what a dump's canonical form is."""
    file = ROOT / "scripts" / "dump_llamafactory_runtime.py"
    spec = importlib.util.spec_from_file_location("dump_llamafactory_runtime", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_built_in_releases() -> None:
    assert builtin_versions() == VERSIONS
    assert load_registry().version == "0.9.5"
    assert load_registry("0.9.2") is load_registry("0.9.2")


def test_an_unknown_release_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no built-in LLaMA-Factory 0\.8\.3; built in are 0\.9\.5, 0\.9\.4"):
        load_registry("0.8.3")


@pytest.mark.parametrize("version", VERSIONS)
class TestAgainstTheRealReleases:
    def test_every_template_equals_the_runtime(self, version: str, dump: ModuleType) -> None:
        runtime = fixture("runtime_dump_digests.json")[version]
        ours = dump.comparable(load_registry(version), runtime["fields"])["templates"]
        assert len(ours) == TEMPLATES[version]
        assert {name: dump.digest(template) for name, template in ours.items()} == runtime["templates"]
        assert dump.digest(list(ours)) == runtime["order"]

    @pytest.mark.parametrize("section", ["tool_formats", "tool_prompts", "data_args", "models", "model_names"])
    def test_everything_else_equals_the_runtime(self, version: str, section: str, dump: ModuleType) -> None:
        runtime = fixture("runtime_dump_digests.json")[version]
        assert dump.digest(dump.comparable(load_registry(version), runtime["fields"])[section]) == runtime[section]

    def test_behaviours_equal_what_was_observed(self, version: str) -> None:
        observed = fixture("runtime_behaviours.json")[version]
        recorded = load_registry(version).behaviours.to_json()
        assert len(observed) >= 21
        assert {name: recorded[name] for name in observed} == observed

    def test_behaviours_equal_the_documentation(self, version: str) -> None:
        recorded = load_registry(version).behaviours.to_json()
        observed = fixture("runtime_behaviours.json")[version]
        documented = {
            cells[0].strip("` "): cells[1 + VERSIONS[::-1].index(version)].strip("` ")
            for line in (ROOT / "docs" / "llamafactory-releases.md").read_text(encoding="utf-8").splitlines()
            if line.startswith("| `") and len(cells := line.strip("|").split("|")) == 1 + len(VERSIONS)
        }
        assert documented.keys() == recorded.keys()
        for name, value in recorded.items():
            word = {True: "yes", False: "no"}.get(value, str(value)) if isinstance(value, bool) else str(value)
            assert documented[name] == word or (documented[name] == "–" and name not in observed), name

    def test_its_code_is_known(self, version: str) -> None:
        assert unfamiliar_code(load_registry(version)) == ()

    def test_the_record_round_trips(self, version: str) -> None:
        registry = load_registry(version)
        text = dump_registry(registry)
        assert registry_from_json(json.loads(text)) == registry
        file = ROOT / "template_audit" / "frameworks" / "llamafactory" / "registries" / f"{version}.json"
        assert file.read_text(encoding="utf-8") == text


class TestFacts:
    """Single facts of the releases, read in their source by hand."""

    def test_llama3_changed_what_ends_an_answer(self) -> None:
        old, middle, new = (load_registry(version).templates["llama3"] for version in ("0.9.1", "0.9.2", "0.9.3"))
        assert old.format_assistant.slots == ("{{content}}", Special("eos_token"))
        assert middle.format_assistant.slots == new.format_assistant.slots == ("{{content}}<|eot_id|>",)
        assert (old.replace_eos, middle.replace_eos, new.replace_eos) == (True, False, True)
        assert old.stop_words == ("<|eot_id|>",)
        assert new.stop_words == ("<|eot_id|>", "<|eom_id|>")

    def test_a_set_slot_with_another_name_is_kept_as_it_is(self) -> None:
        assert load_registry().templates["phi_small"].format_prefix.slots == (Special("<|endoftext|>"),)

    def test_token_slots(self) -> None:
        prefix = load_registry().templates["chatglm3"].format_prefix
        assert prefix == Formatter("empty", (Token("[gMASK]"), Token("sop")))

    def test_function_formatters_of_old_releases_begin_with_their_tool_formats_slots(self) -> None:
        registry = load_registry("0.9.1")
        assert registry.function_slots["default"] == ("Action: {{name}}\nAction Input: {{arguments}}\n",)
        slots = registry.templates["qwen"].format_function.slots
        assert slots == (*registry.function_slots["default"], Special("eos_token"))
        assert load_registry("0.9.2").function_slots == {}

    def test_separators_are_of_old_releases(self) -> None:
        assert load_registry("0.9.1").templates["chatml"].format_separator == Formatter("empty", ("\n",))
        assert load_registry("0.9.2").templates["chatml"].format_separator == Formatter("empty")

    def test_the_first_release_always_replaced_the_chat_template(self) -> None:
        assert all(spec.replace_jinja_template for spec in load_registry("0.9.0").templates.values())
        assert not all(spec.replace_jinja_template for spec in load_registry("0.9.1").templates.values())

    @pytest.mark.parametrize(
        ("version", "model", "template"),
        [
            ("0.9.5", "Qwen/Qwen2.5-7B-Instruct", "qwen"),
            ("0.9.5", "qwen/qwen2.5-7b-instruct", "qwen"),
            ("0.9.5", "LLM-Research/Meta-Llama-3-8B-Instruct", "llama3"),
            ("0.9.5", "Llama-3-8B-Instruct", "llama3"),
            ("0.9.5", "meta-llama/Meta-Llama-3-8B", None),
            ("0.9.0", "meta-llama/Meta-Llama-3-8B-Instruct", "llama3"),
            ("0.9.0", "Qwen/Qwen2-7B-Instruct", "qwen"),
            ("0.9.5", "LGAI-EXAONE/EXAONE-3.0-7.8B-Instruct", "exaone"),
            ("0.9.5", "no/such-model", None),
        ],
    )
    def test_default_templates(self, version: str, model: str, template: str | None) -> None:
        assert load_registry(version).default_template(model) == template
