"""``template-audit fix``: what goes where, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from template_audit.cli import main
from tests.rendering import FIXTURES

QWEN = str(FIXTURES / "models" / "qwen25-like")


def test_the_snippet_alone_is_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fix", QWEN, "--no-config"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("register_template(\n")
    assert out.endswith(")\n")
    assert "use `template: qwen`" in err
    assert "Cannot be expressed" in err
    assert "Findings that remain" in err


def test_output_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "chat_template.jinja"
    assert main(["fix", QWEN, "--kind", "generation-tags", "--output", str(file), "--no-config"]) == 0
    assert "{%- generation -%}" in file.read_text("utf-8")
    assert capsys.readouterr().out == ""


def test_json_has_all(capsys: pytest.CaptureFixture[str]) -> None:
    model = str(FIXTURES / "models" / "llama3-like")
    assert main(["fix", model, "--format", "json", "--no-config"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "register-template"
    assert found["exit_code"] == 1
    assert found["text"].startswith("register_template(")
    assert found["audit"]["subject"]["spec"].startswith("llamafactory@0.9.5:")
    assert {left["inherent"] for left in found["remaining"] if left["finding"]["severity"] == "error"} == {True}


def test_nothing_to_print(capsys: pytest.CaptureFixture[str]) -> None:
    model = str(FIXTURES / "models" / "base-no-template")
    assert main(["fix", model, "--no-config"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "has no chat template" in " ".join(err.split())  # lines end where the folder's name lets them


def test_fail_on_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fix", QWEN, "--fail-on", "warning", "--no-config"]) == 1


def test_saved_template(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fix", QWEN, "--kind", "saved-template", "--encoder", "llamafactory:qwen", "--no-config"]) == 0
    assert "{%- for message in rows -%}" in capsys.readouterr().out


def test_a_wrong_encoder_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fix", QWEN, "--encoder", "chat-template"]) == 2
    assert "writes LLaMA-Factory templates" in capsys.readouterr().err
