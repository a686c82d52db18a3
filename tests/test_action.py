"""action.yml: its structure, and its shell steps run by bash with the environment that GitHub gives them."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
MODELS = ROOT / "fixtures" / "models"
BASH = shutil.which("bash")
EXPRESSION = re.compile(r"\$\{\{\s*inputs\.([\w-]+)\s*\}\}")
INSTALLED = "TEMPLATE_AUDIT_ACTION"
"""Set: the installation step is also run for real, in an environment of its own."""


def step(name: str) -> dict[str, Any]:
    return next(one for one in STEPS if name in one["name"])


class TestStructure:
    def test_it_is_a_composite_action(self) -> None:
        assert set(ACTION) <= {"name", "description", "author", "branding", "inputs", "outputs", "runs"}
        assert {"name", "description", "runs"} <= set(ACTION)
        assert len(ACTION["description"]) < 125  # the marketplace's limit
        assert ACTION["runs"]["using"] == "composite"

    def test_inputs_are_texts_with_a_description(self) -> None:
        for name, given in ACTION["inputs"].items():
            assert set(given) <= {"description", "required", "default"}, name
            assert given["description"].endswith("."), name
            assert isinstance(given["default"], str), name  # `false` would arrive as a text, too

    def test_steps_have_what_composite_actions_allow(self) -> None:
        for one in STEPS:
            assert ("run" in one) != ("uses" in one)
            if "run" in one:
                assert one["shell"] == "bash"
                assert set(one) <= {"name", "id", "if", "shell", "env", "run", "working-directory", "continue-on-error"}
            else:
                assert set(one) <= {"name", "id", "if", "uses", "with", "env", "continue-on-error"}
                assert re.fullmatch(r"[\w-]+(/[\w-]+)+@v\d+", one["uses"])

    def test_no_expression_stands_in_the_text_of_a_script(self) -> None:
        for one in STEPS:
            assert "${{" not in one.get("run", "")

    def test_every_input_is_used_and_every_name_is_there(self) -> None:
        used = set(re.findall(r"inputs\.([\w-]+)", json.dumps(STEPS)))
        assert used == set(ACTION["inputs"])
        ids = {one["id"] for one in STEPS if "id" in one}
        for output in ACTION["outputs"].values():
            (named,) = re.findall(r"\$\{\{ steps\.([\w-]+)\.outputs\.[\w-]+ \}\}", output["value"])
            assert named in ids

    def test_the_findings_are_uploaded_also_after_a_failure(self) -> None:
        assert "!cancelled()" in step("Upload")["if"]


@dataclass
class Ran:
    code: int
    out: str
    err: str
    outputs: dict[str, str]
    summary: str
    folder: Path


@dataclass
class Runner:
    """What GitHub does for a step: inputs into its environment, its script into a file, files for what it says."""

    folder: Path

    def run(self, name: str, path: str = "", **inputs: str) -> Ran:
        one = step(name)
        for file in ("output", "summary"):
            (self.folder / file).write_text("")
        (self.folder / "script.sh").write_text(one["run"])
        work = self.folder / "work"
        work.mkdir(exist_ok=True)
        values = {key: given["default"] for key, given in ACTION["inputs"].items()}
        values |= {key.replace("_", "-"): value for key, value in inputs.items()}
        assert set(values) == set(ACTION["inputs"])
        environment = {
            "PATH": os.pathsep.join(filter(None, [path, str(Path(sys.executable).parent), os.environ["PATH"]])),
            "HOME": str(self.folder),
            "RUNNER_TEMP": str(self.folder / "temp"),
            "GITHUB_OUTPUT": str(self.folder / "output"),
            "GITHUB_STEP_SUMMARY": str(self.folder / "summary"),
            "GITHUB_ACTION_PATH": str(ROOT),
            "HF_HUB_OFFLINE": "1",
            **{key: os.environ[key] for key in os.environ if key.startswith(("PIP_", "SSL_"))},
            **{key: EXPRESSION.sub(lambda m: values[m[1]], text) for key, text in one["env"].items()},
        }
        assert BASH is not None
        command = [BASH, "--noprofile", "--norc", "-e", "-o", "pipefail", str(self.folder / "script.sh")]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
        said = (self.folder / "output").read_text().splitlines()
        assert all(re.fullmatch(r"[a-z-]+=[^=]+", line) for line in said)
        return Ran(
            done.returncode,
            done.stdout,
            done.stderr,
            dict(line.split("=", 1) for line in said),
            (self.folder / "summary").read_text(),
            work,
        )


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    if BASH is None:
        pytest.skip("bash is not installed")
    return Runner(tmp_path)


@pytest.fixture
def with_models(runner: Runner) -> Runner:
    """The repository that is checked holds two models, and modules that must not be imported."""
    if not (Path(sys.executable).parent / "template-audit").exists():
        pytest.skip("the command `template-audit` is not installed beside this Python")
    for name in ("qwen25-like", "exaone35-like"):
        shutil.copytree(MODELS / name, runner.folder / "work" / "models" / name)
    for name in ("yaml", "json", "template_audit", "click"):
        (runner.folder / "work" / f"{name}.py").write_text("raise SystemExit('imported')\n")
    return runner


def sarif(ran: Ran) -> dict[str, Any]:
    log: dict[str, Any] = json.loads(Path(ran.outputs["sarif"]).read_text(encoding="utf-8"))
    schema = json.loads((ROOT / "tests/report/schemas/sarif-2.1.0-rtm.5.json").read_text(encoding="utf-8"))
    jsonschema.Draft4Validator(schema).validate(log)
    return log


QUICK = "--conversation\nsingle\n"


class TestRun:
    def test_a_model_that_agrees(self, with_models: Runner) -> None:
        ran = with_models.run("Run", models="models/qwen25-like", encoder="llamafactory:qwen", args=QUICK)
        assert (ran.code, ran.outputs["exit-code"]) == (0, "0")
        assert not re.search("^::error", ran.out, re.M)
        assert sarif(ran)["runs"][0]["invocations"][0]["exitCode"] == 0
        assert "passed" in ran.summary

    def test_several_models_and_findings(self, with_models: Runner) -> None:
        models = "\n  models/qwen25-like\r\n\n  models/exaone35-like  \n"
        ran = with_models.run("Run", models=models, encoder="llamafactory:llama3", args=QUICK, fail_on="error")
        assert (ran.code, ran.outputs["exit-code"]) == (1, "1")
        assert re.search("^::error file=models/exaone35-like/.*foreign-special-token", ran.out, re.M)
        assert ran.summary.count("with `llamafactory@0.9.5:llama3`") == 2
        (run,) = sarif(ran)["runs"]
        ids = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
        assert len(ids) == len(set(ids))
        assert all(ids[result["ruleIndex"]] == result["ruleId"] for result in run["results"])
        assert {result["properties"]["model"] for result in run["results"]} == {
            "models/qwen25-like",
            "models/exaone35-like",
        }
        assert [one["exitCode"] for one in run["invocations"]] == [1, 1]

    def test_the_gravest_code_of_several(self, with_models: Runner) -> None:
        models = "models/missing\nmodels/exaone35-like"
        ran = with_models.run("Run", models=models, args=f"{QUICK}--encoder\nllamafactory:qwen")
        assert (ran.code, ran.outputs["exit-code"]) == (2, "2")
        assert "models/missing" in ran.err
        assert "Nothing could be audited" in ran.out
        audits = sarif(ran)["runs"][0]["properties"]["audits"]
        assert [one["model"] for one in audits] == ["models/exaone35-like"], ran.err

    def test_config_and_baseline(self, with_models: Runner) -> None:
        pair = {"models": "models/exaone35-like", "encoder": "llamafactory:llama3"}
        (with_models.folder / "work" / "ci.toml").write_text('fail-on = "never"\n')
        made = with_models.run("Run", **pair, args=f"{QUICK}--output=json=baseline.json", config="ci.toml")
        assert made.code == 0, made.err
        known = with_models.run("Run", **pair, args=QUICK, baseline="baseline.json")
        assert known.code == 0, known.err
        assert "known from the baseline" in known.summary.lower()

    def test_a_training_config_and_what_overrides_it(self, with_models: Runner) -> None:
        work = with_models.folder / "work"
        (work / "train.yaml").write_text(
            "model_name_or_path: models/qwen25-like\nstage: pt\ndataset: d\ndataset_dir: data\ntemplate: llama3\n"
        )
        (work / "data").mkdir()
        (work / "data/dataset_info.json").write_text('{"d": {"file_name": "d.json", "columns": {"prompt": "text"}}}')
        (work / "data/d.json").write_text('[{"text": "A document."}]')
        ran = with_models.run("Run", models="train.yaml", args="cutoff_len=8\ntemplate=qwen", fail_on="never")
        assert ran.code == 0, ran.err
        assert "llamafactory@0.9.5:qwen" in ran.out

    def test_the_lock_file(self, with_models: Runner) -> None:
        work = with_models.folder / "work"
        command = [
            sys.executable,
            "-P",
            "-m",
            "template_audit",
            "lock",
            "models/qwen25-like",
            "--conversation",
            "single",
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        subprocess.run(command, cwd=work, env=environment, check=True, capture_output=True)
        assert with_models.run("Run").outputs["exit-code"] == "0"
        settings = work / "models/qwen25-like/tokenizer_config.json"
        settings.write_text(settings.read_text(encoding="utf-8").replace("You are", "You were"), encoding="utf-8")
        (work / "template-audit.lock").rename(work / "other.lock")
        drifted = with_models.run("Run", lock="other.lock")
        assert (drifted.code, drifted.outputs["exit-code"]) == (1, "1")
        assert "lock-drift" in drifted.out
        assert sarif(drifted)["runs"][0]["results"]
        absent = with_models.run("Run", lock="other.lock", models="models/exaone35-like")
        assert absent.code == 2
        assert with_models.run("Run").code == 2  # there is no template-audit.lock any more

    def test_inputs_that_do_not_go_together(self, with_models: Runner) -> None:
        ran = with_models.run("Run", encoder="llamafactory:qwen")
        assert ran.code == 2
        assert ran.outputs == {"exit-code": "2"}
        assert "::error title=template-audit::The inputs `encoder` and `baseline` are for" in ran.out
        assert with_models.run("Run", models="--help").code == 2

    @pytest.mark.parametrize(
        "hostile", ["$(touch x)", "`touch x`", "a; touch x", "a\ntouch x", "' || touch x #", '"&touch x&"', "-e\nx"]
    )
    def test_hostile_inputs_are_arguments(self, hostile: str, runner: Runner) -> None:
        recorded = runner.folder / "recorded"
        fake(runner.folder / "bin" / "template-audit", recorded)
        of_checks = ("lock", "config", "fail-on")
        of_audits = ("encoder", "config", "baseline", "fail-on")
        for names, models in ((of_checks, ""), (of_audits, "m")):
            recorded.unlink(missing_ok=True)
            inputs = {name.replace("-", "_"): hostile for name in (*names, "args")}
            ran = runner.run("Run", path=str(runner.folder / "bin"), models=models, **inputs)
            assert ran.code == 0, ran.err
            assert ran.outputs == {"exit-code": "0"}
            assert not list(ran.folder.iterdir())
            (seen,) = json.loads(recorded.read_text())
            assert {*hostile.splitlines(), *(f"--{name}={hostile}" for name in names)} <= set(seen)
        ran = runner.run("Run", path=str(runner.folder / "bin"), models=hostile.lstrip("-"))
        assert ran.code == 0
        assert not list(ran.folder.iterdir())

    def test_a_hostile_name_reaches_no_workflow_command(self, with_models: Runner) -> None:
        ran = with_models.run("Run", models="::error::x##[error]y", args="::set-output name=z::z")
        assert ran.code == 2
        said = [line for line in (ran.out + ran.err).splitlines() if line.lstrip().startswith("::")]
        assert {line.split("::")[1] for line in said} == {"error title=template-audit"}
        assert "##[error]" not in ran.out + ran.err


def fake(path: Path, recorded: Path, code: int = 0) -> None:
    """A program that notes its arguments and does nothing."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f"#!{sys.executable}\nimport json, pathlib, sys\nfile = pathlib.Path({str(recorded)!r})\n"
        "seen = json.loads(file.read_text()) if file.exists() else []\n"
        f"file.write_text(json.dumps([*seen, sys.argv[1:]]))\nsys.exit({code})\n"
    )
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


class TestInstall:
    """With a Python in the place of the real one that notes what it is asked for."""

    def asked(self, runner: Runner, **inputs: str) -> tuple[Ran, list[str]]:
        recorded = runner.folder / "recorded"
        recorded.unlink(missing_ok=True)
        python = runner.folder / "bin" / "python"
        python.parent.mkdir(exist_ok=True)
        # runs action.py for real; its subprocesses are noted
        python.write_text(
            f"#!{sys.executable}\nimport json, pathlib, runpy, subprocess, sys\n"
            f"def note(command, **_):\n    pathlib.Path({str(recorded)!r}).write_text(json.dumps(command[1:]))\n"
            "    return subprocess.CompletedProcess(command, 0)\n"
            "subprocess.run = note\nassert sys.argv[1] == '-I'\nsys.argv = sys.argv[2:]\n"
            "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        )
        python.chmod(0o755)
        ran = runner.run("Install", path=str(python.parent), **inputs)
        return ran, json.loads(recorded.read_text()) if recorded.exists() else []

    def test_by_default_the_release_of_the_action(self, runner: Runner) -> None:
        ran, arguments = self.asked(runner)
        assert ran.code == 0, ran.err
        assert arguments[:4] == ["-I", "-m", "pip", "install"]
        assert arguments[arguments.index("--") + 1 :] == [str(ROOT)]

    def test_a_release_and_packages(self, runner: Runner) -> None:
        _, arguments = self.asked(runner, version="1.2.3rc1", packages="transformers==5.6.0\n tokenizers>=0.22 \n")
        assert arguments[arguments.index("--") + 1 :] == [
            "template-audit==1.2.3rc1",
            "transformers==5.6.0",
            "tokenizers>=0.22",
        ]

    def test_what_is_installed_already(self, runner: Runner) -> None:
        assert self.asked(runner, version="installed")[1] == []
        assert self.asked(runner, version="installed", packages="a")[1][-2:] == ["--", "a"]

    @pytest.mark.parametrize(
        "version", ["1.0 --index-url http://x", "$(touch x)", "1.0\ntouch x", "latest", "-r x", "1;x"]
    )
    def test_a_version_that_is_none(self, version: str, runner: Runner) -> None:
        ran, arguments = self.asked(runner, version=version)
        assert (ran.code, arguments) == (2, [])
        assert "::error title=template-audit::The input `version`" in ran.out
        assert not list(ran.folder.iterdir())

    def test_packages_are_no_options(self, runner: Runner) -> None:
        ran, arguments = self.asked(runner, packages="--index-url=http://x\n$(touch x)\na; touch x")
        assert ran.code == 0
        assert arguments[arguments.index("--") + 2 :] == ["--index-url=http://x", "$(touch x)", "a; touch x"]
        assert not list(ran.folder.iterdir())

    @pytest.mark.skipif(INSTALLED not in os.environ, reason=f"installs the package; on demand, by {INSTALLED}=1")
    def test_for_real(self, runner: Runner) -> None:
        venv = runner.folder / "venv"
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        ran = runner.run("Install", path=str(venv / "bin"))
        assert ran.code == 0, ran.err
        shutil.copytree(MODELS / "qwen25-like", runner.folder / "work" / "model")
        audited = runner.run("Run", path=str(venv / "bin"), models="model", encoder="llamafactory:qwen", args=QUICK)
        assert audited.code == 0, audited.err
