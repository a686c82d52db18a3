"""Where entries are looked for and where drift is shown: other working directories, other ways to type a name."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from template_audit.cli import main
from template_audit.lock.store import Request, read_lock
from tests.lock.edits import json_edit, text_edit, write_project

FILE = "template-audit.lock"
LLAMA, CHATML, TEMPLATE = "llama3-like", "chatml-generation", "mine.jinja"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def locked_places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, the same one with a template of the project's own, and a training config; and their lock file."""
    folder = tmp_path_factory.mktemp("places")
    write_project(folder)
    shutil.copy(folder / CHATML / "chat_template.jinja", folder / TEMPLATE)
    short = ("--conversation", "single", "--no-config")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["lock", LLAMA, "--encoder", "llamafactory:llama3", *short]) == 0
        assert main(["lock", CHATML, "--encoder", "llamafactory:chatml", "--chat-template", TEMPLATE, *short]) == 0
        assert main(["lock", "train.yaml", "--no-config"]) == 0
    return folder


@pytest.fixture
def places(locked_places: Path, tmp_path: Path) -> Path:
    """A copy of it that is the working directory; `sub` in it is an empty folder."""
    shutil.copytree(locked_places, tmp_path, dirs_exist_ok=True)
    (tmp_path / "sub").mkdir()
    return tmp_path


@pytest.fixture
def run(places: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs a command: its exit code and what it printed."""

    def call(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main(list(arguments))
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return call


Run = Callable[..., tuple[int, str]]


class TestWorkingDirectory:
    def test_every_entry_is_unchanged_from_any_folder(
        self, run: Run, places: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for folder, lock in (("sub", f"../{FILE}"), ("/", str(places / FILE))):
            monkeypatch.chdir(places / folder)
            code, out = run("check", "--lock", lock, "--no-config")
            assert code == 0, out
            assert "3 unchanged" in out

    def test_what_is_accepted_from_another_folder_names_no_place_of_this_machine(
        self, run: Run, places: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        text_edit("train.yaml", "train_on_prompt: false", "train_on_prompt: true")(places)
        monkeypatch.chdir(places / "sub")
        code, out = run("check", "--lock", f"../{FILE}", "--no-config", "--update")
        assert code == 0, out
        assert out.startswith("train.yaml: option train_on_prompt changed from false to true.\n")
        assert str(places) not in (places / FILE).read_text()
        monkeypatch.chdir(places)
        code, out = run("check", "--no-config")
        assert code == 0, out
        assert "3 unchanged" in out

    def test_drift_points_at_files_as_they_are_from_here(
        self, run: Run, places: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        json_edit(f"{LLAMA}/generation_config.json", lambda data: data.update(eos_token_id=5))(places)
        text_edit(TEMPLATE, "<|im_start|>", "<|im_start|> ")(places)
        text_edit("train.yaml", "train_on_prompt: false", "train_on_prompt: true")(places)
        monkeypatch.chdir(places.parent)
        code, out = run("check", "--lock", f"{places.name}/{FILE}", "--no-config", "--format", "json-lines")
        assert code == 1
        found = [json.loads(line) for line in out.splitlines()]
        named = {one["location"]["path"] for one in found if one["rule"] == "lock-drift"}
        files = ("train.yaml", TEMPLATE, f"{LLAMA}/generation_config.json", FILE)
        assert named == {f"{places.name}/{file}" for file in files}
        lines = {one["location"]["path"]: one["location"]["line"] for one in found if "changed from" in one["message"]}
        assert lines[f"{places.name}/train.yaml"] == 7
        assert lines[f"{places.name}/{TEMPLATE}"] is not None


class TestNames:
    def test_one_model_is_one_entry_however_it_is_typed(self, run: Run) -> None:
        before = Path(FILE).read_text().count('"request"')
        for name in (f"./{LLAMA}", f"{LLAMA}/"):
            assert (
                run("lock", name, "--encoder", "llamafactory:llama3", "--conversation", "single", "--no-config")[0] == 0
            )
        assert run("lock", "./train.yaml", "--no-config")[0] == 0
        lock = read_lock(FILE)
        assert lock is not None
        assert len(lock.entries) == before
        for choice in (("--only", f"./{LLAMA}/"), ("--only", LLAMA), (LLAMA,), (f"./{LLAMA}",), ("train.yaml",)):
            code, out = run("check", "--locked", "--no-config", *choice)
            assert code == 0, out

    @pytest.mark.parametrize(
        ("one", "other", "same"),
        [
            ({"model": "hf://org/chat"}, {"model": "org/chat"}, True),
            ({"model": "org/chat@v1"}, {"model": "org/chat", "revision": "v1"}, True),
            ({"model": "org/chat@v1"}, {"model": "org/chat"}, False),
            ({"model": "../chat"}, {"model": "chat"}, False),
            ({"model": "/chat"}, {"model": "chat"}, False),
            ({"model": "/"}, {"model": ""}, False),
        ],
    )
    def test_names_of_one_model_have_one_key(self, one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
        keys = {Request(encoder="llamafactory:qwen", **names).key for names in (one, other)}
        assert len(keys) == (1 if same else 2)

    def test_an_absolute_path_is_remarked_on(self, run: Run, places: Path) -> None:
        short = ("--encoder", "llamafactory:llama3", "--conversation", "single", "--no-config")
        assert "absolute path" in run("lock", str(places / LLAMA), *short)[1]
        assert "absolute path" not in run("lock", LLAMA, *short)[1]


class TestFirstLines:
    def test_drift_that_is_ignored_comes_after_drift_that_fails(self, run: Run) -> None:
        Path("template-audit.toml").write_text(
            f'[[ignore]]\nrule = "lock-drift"\nreason = "Known."\nmodel = "{CHATML}"\n'
        )
        for model in (CHATML, LLAMA):
            json_edit(f"{model}/tokenizer_config.json", lambda data: data.update(padding_side="left"))(Path())
        code, out = run("check", "--only", CHATML, "--only", LLAMA)
        assert code == 1
        lines = out.splitlines()
        assert lines[0].startswith("tokenizer_config.json: padding_side ")
        titles = [line.split()[0] for i, line in enumerate(lines[1:]) if lines[i].startswith("tokenizer_config.json")]
        assert titles == [LLAMA, "train.yaml", CHATML]
        assert run("check", "--only", CHATML)[0] == 0

    def test_an_entry_that_is_lost_to_a_file_says_which_one_it_is(self, run: Run) -> None:
        (Path(LLAMA) / "tokenizer.json").unlink()
        code, out = run("check", "--only", LLAMA, "--no-config")
        assert code == 2
        assert out.splitlines()[0] == "tokenizer.json is no longer there."
        assert out.splitlines()[1] == f"  {LLAMA}  llamafactory:llama3"
        assert "not evaluated: " in out

    def test_a_folder_of_a_config_that_is_gone_is_not_asked_for_at_the_hub(self, run: Run) -> None:
        shutil.rmtree(LLAMA)
        code, out = run("check", "train.yaml", "--no-config")
        assert code == 2
        assert f"There is no folder or file {LLAMA} here; it was one when it was locked." in out

    def test_two_entries_of_one_config_are_told_apart(self, run: Run) -> None:
        assert run("lock", "train.yaml", "train_on_prompt=true", "--rows", "0", "--no-config")[0] == 0
        out = run("check", "train.yaml", "-v", "--no-config")[1]
        assert "train.yaml  llamafactory  unchanged" in out
        assert "train.yaml  llamafactory  train_on_prompt=true  unchanged" in out

    def test_a_model_without_a_template_is_said_to_have_none(self, run: Run) -> None:
        assert (
            run("lock", CHATML, "--encoder", "llamafactory:chatml", "--conversation", "single", "--no-config")[0] == 0
        )
        (Path(CHATML) / "chat_template.jinja").unlink()
        shutil.rmtree(Path(CHATML) / "additional_chat_templates", ignore_errors=True)
        out = run("check", "--no-config", "--only", CHATML)[1]
        assert "chat_template.jinja is no longer there; the model has no chat template now." in out

    def test_options_are_shown_as_they_are_typed(self, run: Run) -> None:
        option = ("-o", "train_on_prompt=true")
        arguments = ("lock", LLAMA, "--encoder", "llamafactory:llama3", "--conversation", "single", "--no-config")
        assert run(*arguments, *option)[0] == 0
        assert f"{LLAMA}  llamafactory:llama3  train_on_prompt=true  unchanged" in run("check", "-v", "--no-config")[1]


class TestMissingEntries:
    def test_machine_formats_say_what_the_exit_code_says(self, run: Run) -> None:
        for chosen, expected in ((("gone",), 2), ((LLAMA, "gone"), 0), ((LLAMA, "gone", "--locked"), 2)):
            code, out = run("check", *chosen, "--no-config", "--format", "json")
            assert code == expected, out
            said = json.loads(out)
            assert said["exit_code"] == expected
            assert "gone" in [one["model"]["id"] for one in said["reports"]]
            lost = [one for report in said["reports"] for one in report["conversations"] if not one["evaluated"]]
            assert bool(lost) == (expected == 2)


def test_a_closed_standard_output_changes_no_exit_code(places: Path) -> None:
    call = [sys.executable, "-m", "template_audit", "check", "--no-config", "--output", "json=report.json"]
    done = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *call], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(Path("report.json").read_text())["exit_code"] == 0


def test_a_conversation_that_was_edited_in_the_lock_file_is_drift(run: Run) -> None:
    text_edit(FILE, "capital of France?", "capital of Spain?")(Path())
    code, out = run("check", "--no-config", "--only", LLAMA)
    assert code == 1, out
    assert "`single` says something else than before." in out
