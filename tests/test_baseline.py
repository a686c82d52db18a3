"""Baselines: what they accept, what they miss, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from template_audit.baseline import read_baseline
from template_audit.cli import main
from template_audit.errors import UsageError
from template_audit.results import Report
from tests.report.reports import EQUAL, FED, comparison, finding, report

ROOT = Path(__file__).parents[1]
EXAONE = str(ROOT / "fixtures" / "models" / "exaone35-like")
LLAMA = str(ROOT / "fixtures" / "models" / "llama3-like")
DOCUMENTS = str(ROOT / "fixtures" / "llamafactory" / "data" / "documents.jsonl")
LLAMA3 = ("--encoder", "llamafactory:llama3", "--conversation", "single")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def written(path: Path, *reports: Report, **changes: Any) -> Path:
    dicts = [one.to_dict() for one in reports]
    whole = dicts[0] if len(dicts) == 1 else {"schema_version": 1, "reports": dicts}
    path.write_text(json.dumps({**whole, **changes}), encoding="utf-8")
    return path


def made(*rules: str, where: str | None = "single", **fields: Any) -> Report:
    findings = [finding(rule, "error", where, f"{rule} was found.") for rule in rules]
    return report([comparison("single", EQUAL, FED), comparison("equal", EQUAL, EQUAL)], findings, **fields)


def rules(findings: Any) -> list[str]:
    return [one.rule for one in findings]


def test_known_findings_do_not_count(tmp_path: Path) -> None:
    baseline = read_baseline(written(tmp_path / "base.json", made("double-bos", "token-drift")))
    now = baseline.apply(made("double-bos", "token-drift", "missing-bos"))
    assert rules(now.findings) == ["missing-bos"]
    assert rules(now.known) == ["double-bos", "token-drift"]
    assert (now.gone, now.exit_code) == ((), 1)
    again = baseline.apply(made("double-bos"))
    assert (again.findings, again.exit_code, again.summary.error) == ((), 0, 0)
    assert rules(again.gone) == ["token-drift"]
    record = again.record()
    assert (rules(record.known), rules(record.gone)) == (["double-bos"], ["token-drift"])


def test_what_was_known_stays_known(tmp_path: Path) -> None:
    first = read_baseline(written(tmp_path / "base.json", made("double-bos")))
    second = read_baseline(written(tmp_path / "next.json", first.apply(made("double-bos", "missing-bos"))))
    now = second.apply(made("double-bos", "missing-bos"))
    assert (now.findings, rules(now.known)) == ((), ["double-bos", "missing-bos"])


def test_words_severities_and_positions_may_change(tmp_path: Path) -> None:
    data = made("double-bos").to_dict()
    data["findings"][0] |= {"message": "Said otherwise.", "severity": "info", "location": {"path": "x", "line": 3}}
    (tmp_path / "base.json").write_text(json.dumps(data))
    assert read_baseline(tmp_path / "base.json").apply(made("double-bos")).exit_code == 0


def test_only_what_was_looked_for_is_missed(tmp_path: Path) -> None:
    elsewhere = made("double-bos", where="not asked for this time")
    baseline = read_baseline(written(tmp_path / "base.json", elsewhere))
    assert baseline.apply(made()).gone == ()


def test_a_baseline_of_several_reports_is_missed_model_by_model(tmp_path: Path) -> None:
    from tests.builders import model

    other = made("missing-bos", model=model(id="org/other"))
    baseline = read_baseline(written(tmp_path / "base.json", made("double-bos"), other))
    assert rules(baseline.apply(made()).gone) == ["double-bos"]
    assert rules(baseline.apply(made("missing-bos")).known) == ["missing-bos"]


BROKEN = [
    ("", "not valid JSON (line 1, column 1"),
    ("[]", "no JSON report of template-audit"),
    ("{}", "no JSON report of template-audit"),
    ('{"version": "2.1.0", "runs": []}', "no JSON report of template-audit"),
    ('{"findings": [], "schema_version": 99}', "schema_version 99"),
    ('{"findings": [1], "schema_version": 1}', "broken report"),
    ('{"findings": [{"rule": "x"}], "schema_version": 1, "model": {"id": "a"}, "subject": {"spec": "b"}}', "broken"),
    ('{"findings": [], "schema_version": 1, "model": {"id": 1}, "subject": {"spec": "b"}}', "broken report"),
    ('{"reports": [[]], "schema_version": 1}', "broken report"),
    ("[" * 100_000, "cannot be read as JSON"),
    ("\xff\xfe", "not UTF-8"),
]


@pytest.mark.parametrize(("text", "said"), BROKEN)
def test_what_is_no_baseline(text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "base.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match="make one with") as error:
        read_baseline(path)
    assert said in str(error.value)
    assert main([EXAONE, "--baseline", str(path)]) == 2
    assert len(capsys.readouterr().err.rstrip("\n").split("\n")) == 1


def test_a_baseline_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(UsageError, match="Cannot read the baseline"):
            read_baseline(path)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = str(tmp_path / "base.json")
    assert main([EXAONE, *LLAMA3, "--format", "json", "--output", base]) == 1
    assert main([EXAONE, *LLAMA3, "--baseline", base]) == 0
    out = capsys.readouterr().out
    assert "known  foreign-special-token, 2 findings: in the baseline." in out
    assert "Nothing new in 1 conversation." in out
    assert main([EXAONE, "--encoder", "llamafactory:exaone", "--conversation", "single", "--baseline", base]) == 0
    out = capsys.readouterr().out
    assert "no more there  foreign-special-token" in out
    assert main([EXAONE, "--encoder", "llamafactory@0.9.4:llama3", "--conversation", "single", "--baseline", base]) == 0


def test_of_a_pretraining_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = str(tmp_path / "base.json")
    arguments = ["pretrain", LLAMA, "--encoder", "llamafactory:llama3", "--dataset", DOCUMENTS, "-o", "cutoff_len=64"]
    arguments += ["--fail-on", "info"]
    assert main([*arguments, "--output", f"json={base}", "-q"]) == 1
    assert main([*arguments, "--baseline", base, "--output", f"json={tmp_path / 'now.json'}"]) == 0
    assert "in the baseline." in capsys.readouterr().out
    now = json.loads((tmp_path / "now.json").read_text())
    assert (now["findings"], now["exit_code"]) == ([], 0)
    assert now["known"]
