"""The steps of the GitHub Action (action.yml): ``action.py install`` and ``action.py run``.

Inputs come by the environment (INPUT_MODELS, …) and leave as arguments of processes: no shell reads them. Needs
the standard library alone, for it runs before anything is installed; `python -I` keeps the repository that is
checked from being imported.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WRONG_REQUEST = 2
_RELEASE = re.compile(r"[0-9][0-9A-Za-z.!+]*")


def given(name: str) -> str:
    """An input, without blanks around it."""
    return os.environ.get(f"INPUT_{name}", "").strip()


def lines(name: str) -> list[str]:
    """The lines of an input, without blanks around them and without empty ones."""
    return [line for line in map(str.strip, given(name).splitlines()) if line]


def problem(sentence: str) -> None:
    """An annotation in our own words: no input is repeated in it."""
    print(f"::error title=template-audit::{sentence}", flush=True)


def install() -> int:
    """Install the release that is asked for, by default this checkout, and further requirements beside it."""
    version = given("VERSION")
    wanted = lines("PACKAGES")
    if not version:
        wanted.insert(0, os.environ["GITHUB_ACTION_PATH"])
    elif _RELEASE.fullmatch(version):
        wanted.insert(0, f"template-audit=={version}")
    elif version != "installed":
        problem("The input `version` is no release such as 1.2.3, and not `installed`.")
        return WRONG_REQUEST
    if not wanted:
        return 0
    pip = [sys.executable, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return subprocess.run([*pip, "--", *wanted]).returncode


def run() -> int:
    """Audit the models, or check the lock file; write the step's outputs; return the gravest exit code."""
    program = shutil.which("template-audit")
    if program is None:
        problem("There is no `template-audit` on the PATH.")
        return WRONG_REQUEST
    folder = Path(os.environ["RUNNER_TEMP"]) / "template-audit"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    calls = _calls(folder)
    codes = [_call([program, *arguments], log) for log, arguments in calls.items()]
    worst = max(codes, default=WRONG_REQUEST)
    outputs = [f"exit-code={worst}"]
    if merge(list(calls), folder / "template-audit.sarif"):
        outputs.append(f"sarif={folder / 'template-audit.sarif'}")
    with open(os.environ["GITHUB_OUTPUT"], "a", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in outputs)
    return worst


def _calls(folder: Path) -> dict[Path, list[str]]:
    """The arguments of every call by the file that its findings go into; none for a wrong request."""
    models, further, lock = lines("MODELS"), lines("ARGS"), given("LOCK")
    if any(model.startswith("-") for model in models):
        problem("A line of the input `models` begins with a dash; further arguments are for the input `args`.")
        return {}
    options = [f"--{name}={given(key)}" for key, name in (("CONFIG", "config"), ("FAIL_ON", "fail-on")) if given(key)]
    of_audits = [f"--{key.lower()}={given(key)}" for key in ("ENCODER", "BASELINE") if given(key)]
    if models and not lock:
        commands = [["audit", model, *options, *of_audits] for model in models]
    elif of_audits:
        problem("The inputs `encoder` and `baseline` are for audits of `models`, without `lock`.")
        return {}
    else:
        options += [f"--lock={lock or 'template-audit.lock'}", *(["--locked"] if models else [])]
        commands = [["check", *models, *options]]
    logs = [folder / f"{number}.sarif" for number in range(len(commands))]
    return {
        log: [*command, "--format=github", f"--output=sarif={log}", *further]
        for log, command in zip(logs, commands, strict=True)
    }


def _call(command: Sequence[str], log: Path) -> int:
    code = subprocess.run(command).returncode
    if code and not log.is_file():
        problem("Nothing could be audited; the log of this step says why.")
    return code if code >= 0 else 128 - code  # ended by a signal: what a shell makes of it


def merge(logs: Sequence[Path], output: Path) -> bool:
    """Put the SARIF logs that are there into one run, as code scanning wants it; False when there are none."""
    found = [json.loads(log.read_text(encoding="utf-8")) for log in logs if log.is_file()]
    if not found:
        return False
    merged = {**found[0], "runs": [one_run([run for log in found for run in log["runs"]])]}
    output.write_text(json.dumps(merged, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return True


def one_run(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One run with the rules, results and invocations of all; results point at their rules anew."""
    rules: dict[str, dict[str, Any]] = {}
    for run in runs:
        for rule in run["tool"]["driver"].get("rules", []):
            rules.setdefault(rule["id"], rule)
    index = {name: place for place, name in enumerate(rules)}
    results = [{**result, "ruleIndex": index[result["ruleId"]]} for run in runs for result in run["results"]]
    if any("suppressions" in result for result in results):
        results = [{**result, "suppressions": result.get("suppressions", [])} for result in results]
    audits = [audit for run in runs for audit in run.get("properties", {}).get("audits", [])]
    return {
        **runs[0],
        "tool": {"driver": {**runs[0]["tool"]["driver"], "rules": list(rules.values())}},
        "invocations": [invocation for run in runs for invocation in run.get("invocations", [])],
        "results": results,
        "properties": {"audits": audits},
    }


if __name__ == "__main__":
    sys.exit({"install": install, "run": run}[sys.argv[1]]())
