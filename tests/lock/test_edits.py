"""One edit at a time: `check` exits with 1, and its first line names exactly the place."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from template_audit.cli import main
from tests.lock.edits import EDITS, LOCKS, Edit, write_project


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with four entries in its lock file."""
    folder = tmp_path_factory.mktemp("project")
    write_project(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for number, arguments in enumerate(LOCKS):
            name = arguments[0] if "--framework-source" not in arguments else "release"
            assert main(["lock", *arguments, "--lock", f"{name}.lock", "--no-config"]) == 0, number
    return folder


@pytest.mark.parametrize("edit", EDITS, ids=[edit.name for edit in EDITS])
def test_the_first_line_names_the_place(
    edit: Edit,
    locked: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project = tmp_path / "project"
    shutil.copytree(locked, project)
    monkeypatch.chdir(project)
    monkeypatch.setenv("COLUMNS", "400")
    arguments = ["check", "--lock", f"{edit.target}.lock", "--no-config"]
    assert main(arguments) == 0
    capsys.readouterr()
    edit.what(project)
    code = main(arguments)
    out = capsys.readouterr().out
    first = out.splitlines()[0]
    print(f"| {edit.name} | `{first}` |")
    assert re.match(edit.first, first), out
    assert code == 1, out


@pytest.mark.parametrize("target", ["llama3-like", "chatml-generation", "release", "train.yaml"])
def test_update_accepts_and_the_next_check_is_answered_from_digests(
    target: str, locked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tmp_path / "project"
    shutil.copytree(locked, project)
    monkeypatch.chdir(project)
    edit = next(edit for edit in EDITS if edit.target == target)
    edit.what(project)
    arguments = ["check", "--lock", f"{target}.lock", "--no-config"]
    assert main([*arguments, "--update"]) == 0
    assert "Today's state was recorded." in capsys.readouterr().out
    assert main(arguments) == 0
    assert "1 unchanged" in capsys.readouterr().out
