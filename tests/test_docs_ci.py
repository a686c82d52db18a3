"""docs/ci.md: what it tells users to copy is run, in a project like theirs."""

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

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
FILES = {
    "data/dataset_info.json": '{"mine": {"file_name": "mine.json"}}',
    "data/mine.json": '[{"instruction": "What is the capital of France?", "input": "", "output": "It is Paris."}]',
    "train.yaml": "model_name_or_path: Qwen/Qwen2.5-0.5B-Instruct\nstage: sft\ntemplate: qwen\n"
    "dataset: mine\ndataset_dir: data\ncutoff_len: 4096\n",
}


def blocks(language: str, section: str = "") -> list[str]:
    """The blocks of a language, in all of the page or under one heading."""
    text = PAGE if not section else re.split(r"^## ", PAGE, flags=re.M)[[*headings()].index(section) + 1]
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def headings() -> list[str]:
    return re.findall(r"^## (.*)$", PAGE, re.M)


def parsed(section: str) -> list[Any]:
    return [yaml.safe_load(block) for block in blocks("yaml", section)]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the model of the page is a folder, which goes before the hub's; `pip` does nothing."""
    if shutil.which("bash") is None or not (BIN / "template-audit").exists():
        pytest.skip("needs bash, and the command `template-audit` beside this Python")
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "fixtures/models/qwen25-like", folder / "Qwen" / "Qwen2.5-0.5B-Instruct")
    (folder / "bin").mkdir()
    (folder / "bin" / "pip").write_text("#!/bin/sh\n")
    (folder / "bin" / "pip").chmod(0o755)
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def run(project: Path, script: str, **environment: str) -> None:
    path = os.pathsep.join([str(project / "bin"), str(BIN), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", **environment}
    env.pop("GITHUB_STEP_SUMMARY", None)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=project, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_heading_is_in_the_contents() -> None:
    assert re.findall(r"^- \[(.*?)\]\(#", PAGE, re.M) == headings()


def test_the_commands(project: Path) -> None:
    """One after the other, as they stand on the page; then those of the two servers, which check the lock file."""
    commands = blocks("sh")
    assert len(commands) == 5
    for block in commands:
        run(project, block)
    for name in ("template-audit.lock", "junit.xml", "template-audit.sarif", "comment.md", "baseline.json"):
        assert (project / name).stat().st_size

    (gitlab,) = (job["template-audit"] for job in parsed("GitLab"))
    run(project, "\n".join(gitlab["script"]))
    for name in gitlab["artifacts"]["reports"].values():
        assert (project / name).stat().st_size

    steps = parsed("GitHub")[2]["jobs"]["check"]["steps"]
    run(project, "\n".join(step["run"] for step in steps if "run" in step))


def test_the_uses_of_the_action() -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    steps = [*parsed("GitHub")[0]["jobs"]["check"]["steps"], *parsed("GitHub")[1]]
    ours = [step for step in steps if step["uses"].startswith("OWNER/template-audit@")]
    assert len(ours) == 2
    for step in ours:
        assert set(step["with"]) <= set(action["inputs"])
    said = set(re.findall(r"`([\w-]+)`", re.split("describes all inputs: ", PAGE)[1].partition(". The")[0]))
    assert said == set(action["inputs"])


def test_the_pre_commit_configuration(tmp_path: Path) -> None:
    pytest.importorskip("pre_commit")
    (block,) = blocks("yaml", "pre-commit")
    (tmp_path / "config.yaml").write_text(block)
    command = [sys.executable, "-m", "pre_commit", "validate-config", str(tmp_path / "config.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    known = {hook["id"] for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))}
    assert {hook["id"] for hook in yaml.safe_load(block)["repos"][0]["hooks"]} == known


def test_the_tests_for_pytest(project: Path) -> None:
    (block,) = blocks("python", "pytest")
    (project / "template-audit.toml").write_text('[severities]\nsystem-prompt-drift = "info"\n')
    (project / "test_it.py").write_text(block)
    plugin = "-p template_audit.pytest_plugin -p no:cacheprovider"
    environment = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    run(project, f"python -m pytest -q {plugin} --rootdir . test_it.py", **environment)
