"""``scan`` and ``merge`` as commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from template_audit.cli import main

ROOT = Path(__file__).parents[2]
QWEN = str(ROOT / "fixtures" / "models" / "qwen25-like")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"instruction": f"Count to {n}.", "input": "", "output": "1 2 3 {{name}}"}) for n in range(12)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_scan_on_the_terminal(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["scan", QWEN, "--encoder", "llamafactory:llama3", "--dataset", str(rows), "--jobs", "1"])
    out = capsys.readouterr().out
    assert code == 1
    assert "12 read = 12 compared + 0 dropped + 0 refused + 0 not evaluated + 0 unreadable" in " ".join(out.split())
    assert "unfilled-placeholder  12 rows (100.0%)" in out
    assert out.rstrip().endswith("Exit 1.")


def test_quiet_is_one_line(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["scan", QWEN, "--encoder", "llamafactory:qwen", "--dataset", str(rows), "--jobs", "1", "-q"])
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1
    assert captured.err == ""


def test_shards_are_merged_to_the_byte(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = [
        "scan",
        QWEN,
        "--encoder",
        "llamafactory:llama3",
        "--dataset",
        str(rows),
        "--format",
        "json",
        "--jobs",
        "1",
    ]
    for name, more in (("whole", []), ("a", ["--shard", "1/2"]), ("b", ["--shard", "2/2"])):
        assert main([*common, *more, "--output", str(tmp_path / f"{name}.json")]) == 1
    merged = tmp_path / "merged.json"
    assert (
        main(["merge", str(tmp_path / "b.json"), str(tmp_path / "a.json"), "--format", "json", "--output", str(merged)])
        == 1
    )
    assert merged.read_bytes() == (tmp_path / "whole.json").read_bytes()
    assert main(["merge", str(tmp_path / "whole.json")]) == 2
    assert "whole data set" in capsys.readouterr().err
    (tmp_path / "no.json").write_text("{}", encoding="utf-8")
    assert main(["merge", str(tmp_path / "no.json")]) == 2


def test_one_row_in_full(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = ["scan", QWEN, "--encoder", "llamafactory:llama3", "--dataset", str(rows), "--show"]
    assert main([*request, "5"]) == 1
    out = capsys.readouterr().out
    assert "rows#5" in out
    assert "Count to 4." in out
    assert main([*request, "13"]) == 2
    assert "the data has 12" in capsys.readouterr().err


def test_formats_for_machines(rows: Path, tmp_path: Path) -> None:
    sarif = tmp_path / "scan.sarif"
    request = ["scan", QWEN, "--encoder", "llamafactory:llama3", "--dataset", str(rows), "--jobs", "1", "-q"]
    main([*request, "--output", f"sarif={sarif}"])
    results = json.loads(sarif.read_text(encoding="utf-8"))["runs"][0]["results"]
    assert "unfilled-placeholder" in {result["ruleId"] for result in results}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "nothing to scan"),
        (["--dataset", "missing.jsonl"], "missing.jsonl"),
        (["--dataset", "ROWS", "--shard", "3/2"], "one part of N"),
        (["--dataset", "ROWS", "--dataset-format", "parrot"], "Unknown row format"),
        (["--dataset", "ROWS", "-o", "cutof_len=3"], "cutof_len"),
        (["--dataset", "name", "--dataset-info", "nowhere.json"], "dataset_info.json"),
        (["--dataset", "ROWS", "cutoff_len=3"], "training config"),
    ],
)
def test_mistakes_are_one_sentence(
    rows: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(rows) if one == "ROWS" else one for one in arguments]
    assert main(["scan", QWEN, "--encoder", "llamafactory:qwen", *given]) == 2
    err = capsys.readouterr().err
    assert says in err
    assert len(err.splitlines()) == 1


def test_a_training_config_and_its_data_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = [{"prompt": f"What is {n}?", "answer": "" if n == 3 else f"{n}."} for n in range(9)]
    (tmp_path / "mine.json").write_text(json.dumps(data), encoding="utf-8")
    info = {"mine": {"file_name": "mine.json", "columns": {"prompt": "prompt", "response": "answer"}}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info), encoding="utf-8")
    config = tmp_path / "train.yaml"
    config.write_text(
        f"model_name_or_path: {QWEN}\nstage: sft\ntemplate: qwen\ndataset: mine\ndataset_dir: {tmp_path}\n"
        "cutoff_len: 512\noutput_dir: out\n",
        encoding="utf-8",
    )
    main(["scan", str(config), "--format", "json", "--jobs", "1"])
    of_config = json.loads(capsys.readouterr().out)
    assert of_config["rows"]["read"] == 9
    assert of_config["subject"]["options"]["cutoff_len"] == 512
    assert "empty-response" in {one["rule"] for one in of_config["rules"]}
    request = ["--dataset", "mine", "--dataset-info", str(tmp_path), "--format", "json", "--jobs", "1"]
    main(["scan", QWEN, "--encoder", "llamafactory:qwen", "-o", "cutoff_len=512", *request])
    of_names = json.loads(capsys.readouterr().out)
    assert of_names["rules"] == of_config["rules"]
    assert of_names["tokens"] == of_config["tokens"]


@pytest.mark.skipif(not hasattr(signal, "SIGINT") or sys.platform == "win32", reason="needs POSIX signals")
def test_an_interrupt_prints_the_report_so_far(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(400_000):
            file.write(json.dumps({"instruction": f"Count to {number}.", "output": "1 2 3 " * 40}) + "\n")
    command = [
        sys.executable,
        "-m",
        "template_audit",
        "scan",
        QWEN,
        "--encoder",
        "llamafactory:qwen",
        "--format",
        "json",
    ]
    output = tmp_path / "report.json"
    process = subprocess.Popen(
        [*command, "--dataset", str(path), "--jobs", "2", "--output", str(output)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    time.sleep(12)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err.decode()[-2000:]
    report = json.loads(output.read_text(encoding="utf-8"))
    assert report["partial"] is True
    assert report["exit_code"] == 2
    assert report["rows"]["read"] == report["rows"]["compared"]
