"""`framework_source`: a release, checkout or wheel of the user's own in place of the built-in registries."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from pathlib import Path

import pytest

from template_audit.audit import audit
from template_audit.conversation import Conversation
from template_audit.errors import UsageError
from template_audit.frameworks import get_framework, load_encoder
from template_audit.frameworks.interface import TrainingRun
from template_audit.frameworks.llamafactory import FRAMEWORK
from template_audit.matching import best_match, choose_encoder
from template_audit.model import Model
from template_audit.pretraining import load_pretrain_encoder
from tests.frameworks.llamafactory.mini_release import write
from tests.frameworks.llamafactory.vectors import model_of

HI = Conversation.from_openai(
    [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
)
TOOLS = dataclasses.replace(HI, tools=({"name": "f", "description": "", "parameters": {}},))
MINE = "register_template(name='mine', format_user=StringFormatter(slots=['<u>{{content}}</u>']), efficient_eos=True)"


@pytest.fixture
def model() -> Model:
    return model_of("llama3-like")


@pytest.fixture
def checkout(tmp_path: Path) -> str:
    """A checkout whose user registered a template of his own."""
    write(tmp_path / "src", append=MINE)
    return str(tmp_path)


class TestTheUsersOwnTemplate:
    def test_it_encodes(self, model: Model, checkout: str) -> None:
        encoder = load_encoder("llamafactory:mine", model, framework_source=checkout)
        assert encoder.spec == "llamafactory@1.2.3:mine"
        tokenizer = model.tokenizer
        prompt, answer = (tokenizer.encode(text, add_special_tokens=False) for text in ("<u>hi</u>", "hello"))
        stream = encoder.encode(HI)
        assert stream.input_ids == [*prompt, *answer, tokenizer.eos_token_id]
        assert stream.labels == [-100] * len(prompt) + [*answer, tokenizer.eos_token_id]

    def test_it_is_not_built_in(self, model: Model) -> None:
        with pytest.raises(UsageError, match="has no template `mine`"):
            load_encoder("llamafactory:mine", model)

    def test_what_is_not_certain_is_said(self, model: Model, checkout: str) -> None:
        read, uncertain = load_encoder("llamafactory:mine", model, framework_source=checkout).notes
        assert read == f"LLaMA-Factory 1.2.3 was read from {checkout}."
        assert uncertain.startswith("Not certain: ")
        assert "data/" in uncertain
        assert load_encoder("llamafactory:llama3", model).notes == ()

    def test_the_report_says_it(self, model: Model, checkout: str) -> None:
        report = audit(model, subject="llamafactory:mine", conversations=[HI], framework_source=checkout)
        assert report.to_dict()["subject"]["notes"] == list(report.subject.notes)
        assert len(report.subject.notes) == 2

    def test_rules_that_ask_the_encoder_again(self, model: Model, checkout: str) -> None:
        report = audit(model, subject="llamafactory:mine", conversations=[TOOLS], framework_source=checkout)
        assert report.comparisons[0].evaluated

    def test_pre_training_takes_it_too(self, model: Model, checkout: str) -> None:
        encoder = load_pretrain_encoder("llamafactory:mine", model, framework_source=checkout)
        assert encoder.spec == "llamafactory@1.2.3:mine"
        assert len(encoder.notes) == 2


class TestOneRegistryForAll:
    def test_listing(self, checkout: str) -> None:
        framework = get_framework("llamafactory", checkout)
        assert list(framework.versions()) == ["1.2.3"]
        assert list(framework.templates()) == list(framework.templates("1.2.3")) == ["bare", "thinker", "mine"]

    def test_the_default_template(self, model: Model, checkout: str) -> None:
        named = dataclasses.replace(model, id="bare/bare-1b-chat")
        encoder, why = choose_encoder("llamafactory", named, framework_source=checkout)
        assert encoder.spec == "llamafactory@1.2.3:bare"
        assert why == "LLaMA-Factory 1.2.3 proposes `bare` for bare/bare-1b-chat."

    def test_the_best_match(self, model: Model, checkout: str) -> None:
        matches = best_match(model, framework_source=checkout)
        assert {match.template for match in matches} == {"bare", "thinker", "mine"}
        encoder, _ = choose_encoder("llamafactory", model, framework_source=checkout)
        assert encoder.spec == f"llamafactory@1.2.3:{matches[0].template}"

    def test_the_first_rows_of_a_run(self, model: Model, tmp_path: Path) -> None:
        """The converters of the mini release: one that does not know the `openai` format of later ones."""
        write(tmp_path, data__converter=OLD_CONVERTER)
        (tmp_path / "rows.json").write_text('[{"messages": [{"role": "user", "content": "a"}]}]')
        info = {"rows": {"file_name": "rows.json", "formatting": "openai", "columns": {"messages": "messages"}}}
        run = TrainingRun(
            "llamafactory", "sft", "m", "bare", tmp_path / "c.yaml", datasets=("rows",), dataset_dir=str(tmp_path)
        )
        (tmp_path / "dataset_info.json").write_text(json.dumps(info))
        ours = load_encoder("llamafactory:bare", model, framework_source=str(tmp_path))
        with pytest.raises(UsageError):
            FRAMEWORK.first_rows(run, ours, 5)
        assert len(FRAMEWORK.first_rows(run, load_encoder("llamafactory:default", model), 5)) == 1


OLD_CONVERTER = """\
class SharegptDatasetConverter:
    def __call__(self, example):
        for one in example:
            if one:
                broken_data = True
                break
        if broken_data:
            prompt, response = [], []
        elif example:
            pass


def get_dataset_converter(name, attr, args):
    if name not in DATASET_CONVERTERS:
        raise ValueError(name)
"""


class TestSources:
    def test_a_change_is_read(self, model: Model, tmp_path: Path) -> None:
        package = write(tmp_path)
        with pytest.raises(UsageError, match="no template `mine`"):
            load_encoder("llamafactory:mine", model, framework_source=str(tmp_path))
        template = package / "data" / "template.py"
        template.write_text(f"{template.read_text()}\n{MINE}\n")
        assert load_encoder("llamafactory:mine", model, framework_source=str(tmp_path)).spec.endswith(":mine")

    def test_a_wheel(self, model: Model, tmp_path: Path) -> None:
        package = write(tmp_path / "unpacked", append=MINE)
        wheel = tmp_path / "llamafactory-1.2.3-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for file in package.rglob("*.py"):
                archive.write(file, file.relative_to(package.parent))
        stream = load_encoder("llamafactory@1.2.3:mine", model, framework_source=str(wheel)).encode(HI)
        unpacked = load_encoder("llamafactory:mine", model, framework_source=str(package)).encode(HI)
        assert stream.input_ids == unpacked.input_ids

    def test_another_version_was_asked_for(self, model: Model, checkout: str) -> None:
        with pytest.raises(UsageError, match=r"is release 1\.2\.3, not 0\.9\.2"):
            load_encoder("llamafactory@0.9.2:bare", model, framework_source=checkout)

    @pytest.mark.parametrize("framework", ["chat-template", "llamafactory-v1"])
    def test_frameworks_without_a_source(self, model: Model, framework: str, checkout: str) -> None:
        with pytest.raises(UsageError, match="--framework-source"):
            load_encoder(framework, model, framework_source=checkout)

    def test_a_release_that_was_never_built_in(self, model: Model) -> None:
        """0.8.3, from its wheel or unpacked: read, with what is not certain about it."""
        place = Path(os.environ.get("TEMPLATE_AUDIT_LF_SOURCES", "/nowhere"))
        found = sorted(place.rglob("llamafactory-0.8.3*.whl")) if place.is_dir() else []
        if not found:
            pytest.skip("TEMPLATE_AUDIT_LF_SOURCES names no folder with the wheel of 0.8.3")
        encoder = load_encoder("llamafactory:llama3", model, framework_source=str(found[0]))
        assert encoder.spec == "llamafactory@0.8.3:llama3"
        assert encoder.notes[1].startswith("Not certain: ")
        stream = encoder.encode(HI)
        assert stream.text.endswith("<|start_header_id|>assistant<|end_header_id|>\n\nhello<|eot_id|>")

    def test_a_release_that_is_built_in_is_certain(self, model: Model) -> None:
        place = Path(os.environ.get("TEMPLATE_AUDIT_LF_SOURCES", "/nowhere"))
        found = sorted(place.rglob("llamafactory-0.9.*.whl")) if place.is_dir() else []
        if not found:
            pytest.skip("TEMPLATE_AUDIT_LF_SOURCES names no folder with wheels")
        for wheel in found:
            encoder = load_encoder("llamafactory:llama3", model, framework_source=str(wheel))
            assert encoder.notes == (f"LLaMA-Factory {encoder.spec[13:18]} was read from {wheel}.",)
            built_in = load_encoder(encoder.spec, model)
            assert encoder.encode(HI).input_ids == built_in.encode(HI).input_ids
