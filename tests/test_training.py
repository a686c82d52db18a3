"""Training configs: which run they describe, and the rows of its data sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from template_audit.errors import EncodingError, TemplateAuditError, UsageError
from template_audit.frameworks import load_encoder
from template_audit.frameworks.interface import TrainingRun
from template_audit.model import load_model
from template_audit.stream import EncodedStream
from template_audit.training import config_readers, is_training_config, read_training_run, run_subject, spec_of

ROOT = Path(__file__).resolve().parent.parent
SFT = ROOT / "fixtures" / "configs" / "llama3_lora_sft.yaml"
MINIMAL = {"model_name_or_path": "some/model", "stage": "sft", "template": "llama3"}


def written(folder: Path, config: Any, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(config if isinstance(config, str) else json.dumps(config), encoding="utf-8")
    return path


def run_of(folder: Path, *overrides: str, **changes: Any) -> TrainingRun:
    return read_training_run(written(folder, {**MINIMAL, **changes}), overrides)


@pytest.fixture
def in_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_a_config_says_what_the_run_feeds() -> None:
    run = read_training_run(SFT)
    assert (run.framework, run.stage, run.template) == ("llamafactory", "sft", "llama3")
    assert run.datasets == ("fixture_alpaca", "fixture_sharegpt")
    assert run.options == {"cutoff_len": 1024}
    assert run.max_samples == 1000
    assert spec_of(run) == "llamafactory:llama3"
    assert spec_of(run, "llamafactory@0.9.2") == "llamafactory@0.9.2:llama3"


def test_overrides_are_yaml_laid_over_the_file(tmp_path: Path) -> None:
    run = run_of(tmp_path, "cutoff_len=77", "mask_history=true", "dataset=a, b", "template=null", "deepspeed.stage=3")
    assert run.options == {"cutoff_len": 77, "mask_history": True}
    assert run.datasets == ("a", "b")
    assert run.template is None
    assert spec_of(run) == "llamafactory:null"


def test_json_configs_and_data_set_lists(tmp_path: Path) -> None:
    path = written(tmp_path, {**MINIMAL, "dataset": ["a", "b"]}, "run.json")
    assert read_training_run(path).datasets == ("a", "b")


def test_keys_that_do_not_touch_the_data_are_passed_over(tmp_path: Path) -> None:
    assert run_of(tmp_path, lora_rank="many", no_such_key=[1]).options == {}


def test_the_seed_of_a_run_is_its_own(tmp_path: Path) -> None:
    assert (run_of(tmp_path).seed, run_of(tmp_path, "seed=7").seed) == (42, 7)


def test_dpo_reads_its_data_as_reward_models_do(tmp_path: Path) -> None:
    assert run_of(tmp_path, stage="dpo").stage == "rm"


def test_paths_are_looked_up_beside_the_config_too(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    run = run_of(tmp_path, dataset_dir="data", model_name_or_path="data")
    assert run.dataset_dir == str(tmp_path / "data")
    assert run.model == str(tmp_path / "data")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({**MINIMAL, "cutoff_len": "long"}, "`cutoff_len` must be int"),
        ({**MINIMAL, "mask_history": 1}, "`mask_history` must be bool"),
        ({**MINIMAL, "dataset": 3}, "`dataset` must be str or list or null"),
        ({**MINIMAL, "stage": "sftt"}, "`stage` must be one of"),
        ({**MINIMAL, "max_samples": -1}, "`max_samples` must be at least 1"),
        ({**MINIMAL, "seed": -1}, "`seed` must be at least 0"),
        ({**MINIMAL, "split_special_tokens": True}, "`split_special_tokens` changes the tokenizer"),
        ({**MINIMAL, "stage": "pt", "mask_history": True}, "refuses `mask_history` in stage pt"),
        ({"base_model": "x"}, "is no training config"),
        ([1, 2], "must hold an object"),
        ("a: [1", "line 1: not valid YAML"),
        ("\x00", "not valid YAML"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path, config: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=None) as caught:
        read_training_run(written(tmp_path, config))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["cutoff_len", "=3", "cutoff_len=[", "template.x=1"])
def test_malformed_overrides(tmp_path: Path, override: str) -> None:
    with pytest.raises(UsageError, match="Override"):
        run_of(tmp_path, override)


def test_a_config_and_a_template_in_the_spec_do_not_go_together(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    with pytest.raises(UsageError, match="may only add a version"):
        spec_of(run, "llamafactory:qwen")
    with pytest.raises(UsageError, match="may only add a version"):
        spec_of(run, "chat-template")


def test_what_is_a_config(tmp_path: Path) -> None:
    assert is_training_config("train.yaml")
    assert is_training_config("train.json")
    (tmp_path / "model.json").mkdir()
    assert not is_training_config(str(tmp_path / "model.json"))
    assert not is_training_config("org/name")


@pytest.mark.usefixtures("in_root")
def test_rows_come_through_the_frameworks_own_converters() -> None:
    run = read_training_run(SFT)
    subject = run_subject(run, load_model(run.model), rows=20)
    rows = {c.id: c for c in subject.conversations if "#" in c.id}
    results = dict(zip(rows, subject.encoder.encode_batch(list(rows.values()), keep_errors=True), strict=True))
    assert len(rows) == 14
    dropped = {name for name, result in results.items() if isinstance(result, EncodingError)}
    assert len(dropped) == 1  # the sharegpt file has one row that breaks the alternation
    (name,) = dropped
    assert name.startswith("fixture_sharegpt#")
    assert results[name].kind == "example-dropped"  # type: ignore[union-attr]
    assert "says `template: llama3`" in subject.why


@pytest.mark.usefixtures("in_root")
def test_every_turn_of_a_row_belongs_to_its_message() -> None:
    """The indices of the framework's example and of the neutral conversation are the same."""
    run = read_training_run(SFT, ["dataset=fixture_alpaca,fixture_sharegpt,fixture_openai"])
    model = load_model(run.model)
    encoder = load_encoder("llamafactory:llama3", model)
    for row in config_readers()["llamafactory"].first_rows(run, encoder, 20):
        stream = encoder.encode_batch([row], keep_errors=True)[0]
        if not isinstance(stream, EncodedStream):
            continue
        for piece in stream.pieces:
            if piece.origin.field == "content" and not piece.origin.derived:
                assert piece.origin.message is not None
                assert stream.text[piece.start : piece.end] in (row.messages[piece.origin.message].content or "")


@pytest.mark.usefixtures("in_root")
def test_what_is_not_followed_is_said() -> None:
    asked = ["mix_strategy=interleave_under", "val_size=0.1", "streaming=false", "eval_dataset=identity"]
    run = read_training_run(SFT, asked)
    assert run.remarks == (
        'Not followed here: `mix_strategy: "interleave_under"` (data sets are read whole, one after another), '
        '`eval_dataset: "identity"` (only the training data is read), `val_size: 0.1` (rows that go to evaluation '
        "count as trained).",
    )
    assert run.remarks[0] in run_subject(run, load_model(run.model), rows=1).why
    assert read_training_run(SFT, ["mix_strategy=concat", "val_size=0"]).remarks == ()


PAIRS = [
    {"instruction": "a", "input": "", "chosen": "yes", "rejected": "a much longer no", "label": True},
    {"instruction": "b", "input": "", "chosen": "yes", "rejected": "no", "label": False},
]


@pytest.mark.usefixtures("in_root")
@pytest.mark.parametrize(
    ("stage", "entry"),
    [
        ("dpo", {"ranking": True, "columns": {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}}),
        ("kto", {"columns": {"prompt": "instruction", "response": "chosen", "kto_tag": "label"}}),
    ],
)
def test_rows_with_two_answers_are_shown_by_one(tmp_path: Path, stage: str, entry: dict[str, Any]) -> None:
    written(tmp_path, PAIRS, "pairs.json")
    written(tmp_path, {"pairs": {"file_name": "pairs.json", **entry}}, "dataset_info.json")
    run = read_training_run(SFT, [f"stage={stage}", "dataset=pairs", f"dataset_dir={tmp_path}"])
    subject = run_subject(run, load_model(run.model))
    rows = [c for c in subject.conversations if "#" in c.id]
    streams = [stream for stream in subject.encoder.encode_batch(rows) if isinstance(stream, EncodedStream)]
    trained = [[i for i, label in zip(s.input_ids, s.labels, strict=True) if label != -100] for s in streams]
    assert len(trained) == 2
    assert trained[0] == trained[1]  # both answers are `yes`
    assert [stream.text.count("yes") for stream in streams] == [1, 1]


@pytest.mark.usefixtures("in_root")
@pytest.mark.parametrize("messages", [None, "text", [1, 2], [{"from": ["x"], "value": "a"}, {"from": ["gpt"]}]])
def test_a_row_of_another_shape_is_an_error_of_its_own(tmp_path: Path, messages: Any) -> None:
    written(tmp_path, [{"conversations": messages}], "odd.json")
    written(tmp_path, {"odd": {"file_name": "odd.json", "formatting": "sharegpt"}}, "dataset_info.json")
    run = read_training_run(SFT, ["dataset=odd", f"dataset_dir={tmp_path}"])
    subject = run_subject(run, load_model(run.model))
    (row,) = [c for c in subject.conversations if "#" in c.id]
    assert isinstance(subject.encoder.encode_batch([row], keep_errors=True)[0], EncodingError)


@pytest.mark.usefixtures("in_root")
def test_a_file_nested_too_deeply_is_said(tmp_path: Path) -> None:
    written(tmp_path, "[" * 100_000, "deep.json")
    written(tmp_path, {"deep": {"file_name": "deep.json"}}, "dataset_info.json")
    run = read_training_run(SFT, ["dataset=deep", f"dataset_dir={tmp_path}"])
    with pytest.raises(TemplateAuditError, match="row 1: nested too deeply"):
        run_subject(run, load_model(run.model))


@pytest.mark.usefixtures("in_root")
def test_an_empty_data_set_is_said(tmp_path: Path) -> None:
    written(tmp_path, [], "none.json")
    written(tmp_path, {"none": {"file_name": "none.json"}}, "dataset_info.json")
    run = read_training_run(SFT, ["dataset=none", f"dataset_dir={tmp_path}"])
    with pytest.raises(TemplateAuditError, match="`none` has no rows"):
        run_subject(run, load_model(run.model))


@pytest.mark.usefixtures("in_root")
def test_max_samples_limits_the_rows() -> None:
    run = read_training_run(SFT, ["max_samples=2"])
    subject = run_subject(run, load_model(run.model), rows=20)
    assert sum("#" in c.id for c in subject.conversations) == 4


@pytest.mark.usefixtures("in_root")
@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("dataset=fixture_alpaka", "Did you mean `fixture_alpaca`"),
        ("dataset_dir=nowhere", "nowhere"),
        ("template=lama3", "Did you mean `llama3`"),
        ("stage=rm", "ranking"),
    ],
)
def test_a_run_that_cannot_start_says_why(override: str, sentence: str) -> None:
    run = read_training_run(SFT, [override])
    with pytest.raises(TemplateAuditError, match=None) as caught:
        run_subject(run, load_model(run.model))
    assert sentence in str(caught.value)


@pytest.mark.usefixtures("in_root")
@pytest.mark.parametrize("neat", [False, True])
def test_packing_is_told(neat: bool) -> None:
    """Arithmetic: 14 rows, one of which breaks the alternation; each sequence has cutoff_len tokens."""
    key = "neat_packing" if neat else "packing"
    run = read_training_run(SFT, [f"{key}=true"])
    why = run_subject(run, load_model(run.model), rows=0).why
    assert "sequences of 1,024 tokens of the first 14 rows" in why
    assert "drops 1 rows" in why
    assert ("keeps the examples of a sequence apart" in why) is neat
