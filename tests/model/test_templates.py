"""Every place of a chat template is found, and the winner is the one that transformers uses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from template_audit import load_model
from template_audit.errors import ModelError
from template_audit.model import Model
from tests.gguf_writer import write_gguf

SOURCE = Path(__file__).parents[2] / "fixtures/models/base-no-template"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder without a chat template."""
    return Path(shutil.copytree(SOURCE, tmp_path / "model"))


def config(folder: Path, **changes: Any) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def jinja(folder: Path, text: str) -> None:
    (folder / "chat_template.jinja").write_bytes(text.encode())


def extra(folder: Path, name: str, text: str) -> None:
    (folder / "additional_chat_templates").mkdir(exist_ok=True)
    (folder / "additional_chat_templates" / f"{name}.jinja").write_bytes(text.encode())


def sources(model: Model) -> list[tuple[str, str, str, bool]]:
    return [(s.place, s.name, s.template, s.wins) for s in model.template_sources]


def used(folder: Path) -> dict[str, str]:
    """What a plain AutoTokenizer has: the judge of all tests here."""
    from transformers import AutoTokenizer

    template = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False).chat_template
    return template if isinstance(template, dict) else {} if template is None else {"default": template}


def load(folder: Path) -> Model:
    model = load_model(folder)
    assert model.chat_templates == used(folder)
    assert {s.name: s.template for s in model.template_sources if s.wins} == used(folder)
    return model


CONFIG = "tokenizer_config.json#chat_template"


def test_no_template(folder: Path) -> None:
    model = load(folder)
    assert (model.chat_templates, model.template_sources, model.chat_template) == ({}, (), None)


def test_text_in_tokenizer_config(folder: Path) -> None:
    config(folder, chat_template="A")
    assert sources(load(folder)) == [(CONFIG, "default", "A", True)]


def test_named_list_in_tokenizer_config(folder: Path) -> None:
    config(folder, chat_template=[{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}])
    model = load(folder)
    assert sources(model) == [(CONFIG, "default", "A", True), (CONFIG, "tool_use", "B", True)]
    assert (model.template_for(False), model.template_for(True)) == ("A", "B")


def test_jinja_file_wins_over_tokenizer_config(folder: Path) -> None:
    jinja(folder, "A\r\nline\n")
    config(folder, chat_template="B")
    model = load(folder)
    assert sources(model) == [("chat_template.jinja", "default", "A\nline\n", True), (CONFIG, "default", "B", False)]
    assert [(a.place, b and b.place) for a, b in model.template_conflicts] == [(CONFIG, "chat_template.jinja")]
    (note,) = model.notes
    assert note.startswith(f"{CONFIG} holds another `default` template than chat_template.jinja; transformers")


def test_equal_templates_are_no_conflict(folder: Path) -> None:
    jinja(folder, "A")
    config(folder, chat_template="A")
    model = load(folder)
    assert [wins for *_, wins in sources(model)] == [True, False]
    assert (model.template_conflicts, model.notes) == ((), ())


def test_additional_templates(folder: Path) -> None:
    jinja(folder, "A")
    extra(folder, "tool_use", "B")
    extra(folder, "rag", "C")
    config(folder, chat_template=[{"name": "default", "template": "A"}, {"name": "tool_use", "template": "D"}])
    model = load(folder)
    assert model.chat_templates == {"default": "A", "tool_use": "B", "rag": "C"}
    assert [(a.name, a.template, b and b.template) for a, b in model.template_conflicts] == [("tool_use", "D", "B")]


def test_additional_templates_alone_shut_out_the_default(folder: Path) -> None:
    extra(folder, "tool_use", "B")
    config(folder, chat_template="A")
    model = load(folder)
    assert model.chat_templates == {"tool_use": "B"}
    assert model.chat_template is None
    assert [(a.place, b) for a, b in model.template_conflicts] == [(CONFIG, None)]
    assert "does not use the `default` template in tokenizer_config.json#chat_template" in model.notes[0]


def test_processor_template_is_listed_and_not_used(folder: Path) -> None:
    (folder / "chat_template.json").write_text('{"chat_template": "P"}', encoding="utf-8")
    model = load(folder)
    assert sources(model) == [("chat_template.json#chat_template", "default", "P", False)]
    assert "does not use the `default` template in chat_template.json" in model.notes[0]


def test_gguf_beside_the_tokenizer(folder: Path) -> None:
    config(folder, chat_template="A")
    write_gguf(folder / "m.gguf", {"tokenizer.chat_template": "G", "tokenizer.chat_template.tool_use": "H"})
    model = load(folder)
    assert sources(model)[1:] == [
        ("m.gguf#tokenizer.chat_template", "default", "G", False),
        ("m.gguf#tokenizer.chat_template.tool_use", "tool_use", "H", False),
    ]
    assert len(model.template_conflicts) == 2
    assert "m.gguf#metadata" in {file.path for file in model.files}


def test_unreadable_gguf_beside_the_tokenizer_is_a_remark(folder: Path) -> None:
    (folder / "m.gguf").write_text("version https://git-lfs.github.com/spec/v1", encoding="utf-8")
    model = load(folder)
    (note,) = model.notes
    assert note.startswith(f"{folder / 'm.gguf'} is not a GGUF file")
    assert "m.gguf#metadata" not in {file.path for file in model.files}


# --- --chat-template --------------------------------------------------------------------------------


def test_replacement_by_a_jinja_file(folder: Path, tmp_path: Path) -> None:
    config(folder, chat_template=[{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}])
    file = tmp_path / "mine.jinja"
    file.write_text("M", encoding="utf-8")
    model = load_model(folder, chat_template=file)
    assert model.chat_templates == {"default": "M"}
    assert model.tokenizer.chat_template == "M"
    assert model.template_for(True) == "M"
    assert [s.place for s in model.template_sources if s.wins] == [f"--chat-template {file}"]
    assert len(model.template_sources) == 3
    assert (model.template_conflicts, model.notes) == ((), ())


@pytest.mark.parametrize(
    ("template", "expected"),
    [("M", "M"), ([{"name": "default", "template": "M"}, {"name": "tool_use", "template": "N"}], None)],
)
def test_replacement_by_json(folder: Path, tmp_path: Path, template: Any, expected: str | None) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    model = load_model(folder, chat_template=str(file))
    assert model.chat_templates["default"] == "M"
    assert model.tokenizer.chat_template == (expected or {"default": "M", "tool_use": "N"})


def test_replacement_by_gguf(folder: Path, tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "m.gguf", {"general.architecture": "x", "tokenizer.chat_template": "G"})
    assert load_model(folder, chat_template=file).chat_template == "G"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("missing.jinja", None, "is not a file"),
        ("empty.json", b"{}", "holds no chat template"),
        ("list.json", b'{"chat_template": [{"name": "a"}]}', "a list of objects with `name` and `template`"),
        ("number.json", b'{"chat_template": 3}', "must be a text, or named texts"),
        ("broken.json", b"{", "is not valid JSON (line 1, column 2"),
        ("bytes.jinja", b"\xff\xfe", "cannot be read"),
        ("none.gguf", b"GGUF\x03\0\0\0" + b"\0" * 16, "holds no chat template"),
    ],
)
def test_bad_replacements(folder: Path, tmp_path: Path, name: str, content: bytes | None, sentence: str) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ModelError) as error:
        load_model(folder, chat_template=file)
    assert sentence in str(error.value)
    assert str(file) in str(error.value)


@pytest.mark.parametrize("value", [7, ["A"], [{"name": "default"}], {"default": 3}])
def test_template_of_the_wrong_kind(folder: Path, value: Any) -> None:
    config(folder, chat_template=value)
    with pytest.raises(ModelError, match=r"tokenizer_config\.json#chat_template must be a text"):
        load_model(folder)
