"""``template-audit pretrain`` on fixture models: totals, blocks, JSON, and wrong requests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from template_audit.cli import main

ROOT = Path(__file__).resolve().parents[2]
LLAMA = str(ROOT / "fixtures" / "models" / "llama3-like")
EXAONE = str(ROOT / "fixtures" / "models" / "exaone35-like")
DATA = ROOT / "fixtures" / "llamafactory" / "data"
DOCUMENTS = str(DATA / "documents.jsonl")
ARGUMENTS = ("--encoder", "llamafactory:llama3", "-o", "cutoff_len=64", "--dataset", DOCUMENTS)


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def read_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    main(["pretrain", LLAMA, *ARGUMENTS, "--format", "json", *arguments])
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


def test_totals_on_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", LLAMA, *ARGUMENTS]) == 0
    out = capsys.readouterr().out
    for label in ("documents", "tokens", "blocks", "tokens dropped", "documents split", "attention across"):
        assert label in out
    assert "<|end_of_text|>" in out
    assert "packed into blocks of 64" in out
    assert "remainder-dropped" in out
    assert "\x1b" not in out


def test_json_has_the_totals(capsys: pytest.CaptureFixture[str]) -> None:
    data = read_json(capsys)
    assert data["schema_version"] == 1
    assert data["documents"] == 12
    assert data["blocks"] * 64 + data["tokens_dropped"] == data["tokens"]
    assert 0 < data["documents_split"] <= 12
    assert data["separator"]["special"] is True
    assert "input_ids" not in data
    assert {finding["rule"] for finding in data["findings"]} >= {"document-split", "cross-document-attention"}


def test_json_of_a_block(capsys: pytest.CaptureFixture[str]) -> None:
    data = read_json(capsys, "--block", "1")
    assert data["block"] == 1
    assert len(data["input_ids"]) == len(data["labels"]) == 64
    assert data["spans"][0]["start"] == 0
    assert data["spans"][-1]["end"] == 64
    assert {"name", "document", "start", "end", "offset", "length", "cut_before", "cut_after"} == set(data["spans"][0])


def test_output_is_deterministic(capsys: pytest.CaptureFixture[str]) -> None:
    assert read_json(capsys, "--block", "0") == read_json(capsys, "--block", "0")


def test_a_block_shows_its_documents_and_where_they_are_cut(capsys: pytest.CaptureFixture[str]) -> None:
    main(["pretrain", LLAMA, *ARGUMENTS, "--block", "0"])
    out = capsys.readouterr().out
    assert "block 0  64 tokens" in out
    assert "A │ documents#1: tokens 0 to" in out
    assert "B │ documents#2: " in out
    assert "whole (" in out
    assert "cut here, " in out
    assert "⟦<|end_of_text|>⟧" in out


def test_colour_is_not_all_that_tells_documents_apart(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    main(["pretrain", LLAMA, *ARGUMENTS, "--block", "0"])
    out = capsys.readouterr().out
    assert "\x1b[" in out
    assert "  A " in out


def test_findings_decide_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", EXAONE, *ARGUMENTS]) == 1
    assert "missing-document-separator" in capsys.readouterr().out
    assert main(["pretrain", EXAONE, *ARGUMENTS, "--fail-on", "never"]) == 0


def test_quiet_prints_the_totals_alone(capsys: pytest.CaptureFixture[str]) -> None:
    main(["pretrain", LLAMA, *ARGUMENTS, "-q"])
    out = capsys.readouterr().out
    assert "separator" not in out
    assert "documents" in out


def test_the_template_for_the_model_is_chosen_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    main(["pretrain", LLAMA, "--dataset", DOCUMENTS, "-o", "cutoff_len=64"])
    out = " ".join(capsys.readouterr().out.split())
    assert "llamafactory@0.9.5:llama3" in out
    assert "fits its chat template best" in out


def test_data_sets_by_name_and_several_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("--dataset", "documents_txt", "--dataset-dir", str(DATA), "--max-samples", "3")
    assert read_json(capsys, *names)["documents"] == 6


def test_output_goes_to_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out.json"
    main(["pretrain", LLAMA, *ARGUMENTS, "--format", "json", "--output", str(target)])
    assert capsys.readouterr().out == ""
    assert json.loads(target.read_text(encoding="utf-8"))["documents"] == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--encoder", "chat-template", "--dataset", DOCUMENTS), "does not pre-train"),
        (("--encoder", "llamafactory:lama3", "--dataset", DOCUMENTS), "no template `lama3`"),
        (("--dataset", DOCUMENTS, "-o", "cutof_len=1"), "Did you mean `cutoff_len`?"),
        (("--encoder", "llamafactory:llama3", "--dataset", "nothing.jsonl"), "There is no file `nothing.jsonl`"),
        (("--encoder", "llamafactory:llama3", "--dataset", DOCUMENTS, "--block", "9999"), "There is no block 9999"),
        ((), "Missing option '--dataset'"),
    ],
)
def test_wrong_requests_exit_with_2_and_one_sentence(
    arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", LLAMA, *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1


def test_a_training_config_of_stage_pt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {
        "model_name_or_path": LLAMA,
        "stage": "pt",
        "template": "llama3",
        "dataset": "documents",
        "dataset_dir": str(DATA),
        "cutoff_len": 64,
        "preprocessing_num_workers": 7,
        "train_on_prompt": False,
    }
    path = tmp_path / "train.json"
    path.write_text(json.dumps(config))
    main([str(path), "--format", "json"])
    run = json.loads(capsys.readouterr().out)
    by_hand = read_json(capsys, "-o", "preprocessing_num_workers=7")
    assert run["tokens_dropped"] == by_hand["tokens_dropped"] != read_json(capsys)["tokens_dropped"]
