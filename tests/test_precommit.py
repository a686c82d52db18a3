"""The pre-commit hooks: what they are run on, the real pre-commit with them, and the entry for training configs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from template_audit.model.hub import SMALL_FILES
from template_audit.precommit import describes_a_run, main

ROOT = Path(__file__).resolve().parents[1]
HOOKS = ROOT / ".pre-commit-hooks.yaml"
QWEN = ROOT / "fixtures" / "models" / "qwen25-like"
INSTALLED = "TEMPLATE_AUDIT_PRE_COMMIT"
"""Set: the hooks are also run in an environment that pre-commit makes for them from a clone of this repository."""

CONFIG = """\
model_name_or_path: model
stage: sft
template: {template}
finetuning_type: lora
dataset: mine
dataset_dir: data
cutoff_len: 512
"""
DATA = {
    "data/dataset_info.json": '{"mine": {"file_name": "mine.json"}}',
    "data/mine.json": '[{"instruction": "What is the capital of France?", "input": "", "output": "It is Paris."}]',
}


def hooks() -> dict[str, dict[str, Any]]:
    return {hook["id"]: hook for hook in yaml.safe_load(HOOKS.read_text(encoding="utf-8"))}


class TestFiles:
    @pytest.mark.parametrize(
        "name",
        [
            *(pattern.replace("*", "x") for pattern in SMALL_FILES),
            *("template-audit.lock", "template-audit.toml", "pyproject.toml", "train.yaml", "data/dataset_info.json"),
            *("models/a/tokenizer.json", "models/a/tokenizer_config.json", "a/b/chat_template.jinja", "a.gguf"),
        ],
    )
    def test_check_is_run_on(self, name: str) -> None:
        assert re.search(hooks()["template-audit-check"]["files"], name)

    @pytest.mark.parametrize("name", ["README.md", "a.py", "package.json", "tsconfig.json", "x-template-audit.lock2"])
    def test_check_is_not_run_on(self, name: str) -> None:
        assert not re.search(hooks()["template-audit-check"]["files"], name)


class TestConfigs:
    @pytest.mark.parametrize(
        ("text", "ours"),
        [
            (CONFIG.format(template="qwen"), True),
            ('{"model_name_or_path": "x", "stage": "sft"}', True),
            ("model_name_or_path: x\ntemplate: [\n", True),  # broken: audit says where
            ("model_name_or_path: x\n", False),
            ("on: push\njobs: {}\n", False),
            ("a: !Ref b\n---\nc: d\n", False),
            ("- model_name_or_path: x\n  stage: sft\n", False),
            ("", False),
        ],
    )
    def test_which_files_are_training_configs(self, text: str, ours: bool, tmp_path: Path) -> None:
        path = tmp_path / "x.yaml"
        path.write_text(text)
        assert describes_a_run(path) is ours

    def test_files_that_are_none(self, tmp_path: Path) -> None:
        (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
        assert not describes_a_run(tmp_path / "x.yaml")
        assert describes_a_run(tmp_path / "missing.yaml")

    def test_several_files_and_options(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        shutil.copytree(QWEN, tmp_path / "model")
        (tmp_path / "data").mkdir()
        for name, text in DATA.items():
            Path(name).write_text(text)
        for name, template in (("good.yaml", "qwen"), ("lr=1e-4.yaml", "llama3")):
            Path(name).write_text(CONFIG.format(template=template))
        Path("ci.yaml").write_text("on: push\n")
        assert main(["-q", "--fail-on", "error", "cutoff_len=256", "good.yaml", "ci.yaml"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("good.yaml:\n")
        assert "ci.yaml" not in out
        assert main(["-q", "good.yaml", "lr=1e-4.yaml"]) == 1
        assert "lr=1e-4.yaml:\n" in capsys.readouterr().out
        assert main(["-q", "good.yaml", "missing.yaml", "lr=1e-4.yaml"]) == 2
        assert "Cannot read the training config missing.yaml" in capsys.readouterr().err
        assert main(["ci.yaml"]) == 0
        assert main([]) == 0


class Project:
    """A repository that uses the hooks, whose environments and caches are its own."""

    def __init__(self, folder: Path, source: Path, revision: str, **extra: str) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PRE_COMMIT_HOME": str(folder.parent / "cache"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(ROOT) if extra else "",
        }
        used = [{"id": name, **extra} for name in hooks()]
        config = {"repos": [{"repo": str(source), "rev": revision, "hooks": used}]}
        repository(folder)
        self.write(".pre-commit-config.yaml", yaml.safe_dump(config))

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        git(self.folder, "add", "-A")

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pre_commit", "run", "--color=never", *arguments]
        return subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def repository(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q")


def needs_the_real_thing() -> None:
    pytest.importorskip("pre_commit")
    if shutil.which("git") is None:
        pytest.skip("git is not installed")


def play(project: Project) -> None:
    """What a user of both hooks lives through."""
    shutil.copytree(QWEN, project.folder / "model")
    for name, text in DATA.items():
        project.write(name, text)
    project.write("train.yaml", CONFIG.format(template="qwen"))
    project.write("ci.yml", "on: push\n")
    lock = [sys.executable, "-m", "template_audit", "lock", "model", "--encoder", "llamafactory:qwen"]
    environment = {**project.environment, "PYTHONPATH": str(ROOT)}
    subprocess.run(lock, cwd=project.folder, env=environment, check=True, capture_output=True)
    git(project.folder, "add", "-A")

    passed = project.run()
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert passed.stdout.count("Passed") == 2

    git(project.folder, "commit", "-q", "-m", "x", "--no-verify")
    project.write("README.md", "Nothing of this matters to it.\n")
    nothing = project.run()
    assert nothing.returncode == 0
    assert nothing.stdout.count("Skipped") == 2

    settings = project.folder / "model" / "tokenizer_config.json"
    text = settings.read_text(encoding="utf-8")
    project.write("model/tokenizer_config.json", text.replace("You are", "You were"))
    project.write("train.yaml", CONFIG.format(template="llama3"))
    failed = project.run()
    assert failed.returncode == 1
    assert failed.stdout.count("- exit code: 1") == 2
    assert "tokenizer_config.json" in failed.stdout
    assert "foreign-special-token" in failed.stdout


class TestPreCommit:
    def test_the_hooks_in_this_environment(self, tmp_path: Path) -> None:
        """`language` is the one thing that a user's configuration changes here: no environment is made."""
        needs_the_real_thing()
        source = tmp_path / "source"
        repository(source)
        shutil.copy(HOOKS, source)
        git(source, "add", "-A")
        git(source, "commit", "-q", "-m", "x")
        play(Project(tmp_path / "project", source, git(source, "rev-parse", "HEAD"), language="system"))

    @pytest.mark.skipif(INSTALLED not in os.environ, reason=f"installs the package; on demand, by {INSTALLED}=1")
    def test_the_hooks_in_an_environment_that_pre_commit_makes(self, tmp_path: Path) -> None:
        needs_the_real_thing()
        source = tmp_path / "source"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
        play(Project(tmp_path / "project", source, git(source, "rev-parse", "HEAD")))

    def test_the_manifest_is_valid(self) -> None:
        needs_the_real_thing()
        command = [sys.executable, "-m", "pre_commit", "validate-manifest", str(HOOKS)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
