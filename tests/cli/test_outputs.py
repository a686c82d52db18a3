"""``--format`` and ``--output``: where reports go, several formats at once, and hostile text on the whole way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from template_audit.cli import main
from template_audit.report import formats
from template_audit.report.sanitize import is_hidden
from tests.report.hostile import STRINGS, obeyed
from tests.report.test_hostile import MACHINE, check

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "fixtures" / "models"
QWEN = str(MODELS / "qwen25-like")
LLAMA = str(MODELS / "llama3-like")
SINGLE = ("--encoder", "llamafactory:qwen", "--conversation", "single")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


def test_several_formats_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [argument for name in MACHINE for argument in ("--output", f"{name}={name}.out")]
    assert main([QWEN, *SINGLE, *files]) == 0
    assert "Exit 0." in capsys.readouterr().out
    for name in MACHINE:
        check(name, (tmp_path / f"{name}.out").read_text(encoding="utf-8"))


def test_the_chosen_format_goes_to_the_plain_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = ["--output", "plain.sarif", "--output", "terminal=page.txt"]
    assert main([QWEN, *SINGLE, "--format", "sarif", *outputs]) == 0
    assert capsys.readouterr().out == ""
    assert json.loads((tmp_path / "plain.sarif").read_text(encoding="utf-8"))["version"] == "2.1.0"
    assert "Exit 0." in (tmp_path / "page.txt").read_text(encoding="utf-8")


def test_a_file_name_with_an_equals_sign(tmp_path: Path) -> None:
    assert main([QWEN, *SINGLE, "-q", "--output", "./a=b"]) == 0
    assert main([QWEN, *SINGLE, "-q", "--output", "json=c=d"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a=b", "c=d"}


WRONG = [
    (["--output", "xml=x"], "no format `xml`; known are github"),
    (["--output", "a", "--output", "b"], "NAME=FILE"),
    (["--output", "json=a", "--output", "./a"], "twice"),
    (["--output", "json="], "folder"),
    (["--output", "."], "folder"),
    (["--output", "sarif=/no/such/folder/x"], "no folder"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG)
def test_wrong_outputs_are_refused_before_anything_is_loaded(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["no/such-model", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(formats()))
def test_pretraining_in_every_format(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    documents = str(ROOT / "fixtures" / "llamafactory" / "data" / "documents.jsonl")
    arguments = ["--encoder", "llamafactory:llama3", "-o", "cutoff_len=64", "--dataset", documents]
    assert main(["pretrain", LLAMA, *arguments, "--format", name]) == 0
    out = capsys.readouterr().out
    if name != "terminal":
        check(name, out)


@pytest.mark.parametrize("kind", STRINGS)
def test_hostile_text_from_end_to_end(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the template, in a conversation, in its name and, as far as the file system takes it, in the model's."""
    text = STRINGS[kind][:100_000]  # ten seconds at a megabyte
    shown = text.encode("utf-8", "ignore").decode()  # no file holds a lone surrogate but escaped, in JSON
    name = shown.replace("/", "|").replace("\0", "")[:60].rstrip() or "x"
    while len(name.encode()) > 200:
        name = name[:-1]
    folder = tmp_path / name
    shutil.copytree(MODELS / "qwen25-like", folder)
    literal = json.dumps(shown[:5_000]).replace("{", "\\u007b")
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ " + literal + " }}{{ m.content }}<|im_end|>\n"
    (folder / "chat_template.jinja").write_text(template + "{% endfor %}", encoding="utf-8")
    row = {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text + "<|im_end|>"}]}
    (tmp_path / f"c{name}.json").write_text(json.dumps([row]), encoding="utf-8")
    files = [argument for form in MACHINE for argument in ("--output", f"{form}=out/{form}")]
    (tmp_path / "out").mkdir()
    arguments = [f"./{name}", "--encoder", "llamafactory:qwen", "--conversation", f"./c{name}.json", *files]
    assert main(arguments) in (0, 1, 2)
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    for form in MACHINE:
        check(form, (tmp_path / "out" / form).read_text(encoding="utf-8"))
    assert not any(is_hidden(char) for char in set(printed.out) - {"\n"})
    assert obeyed(printed.out) == []
