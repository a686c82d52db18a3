"""Data sets of the hub: the real huggingface_hub client against a local server, in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from template_audit.datasets.hub import _matches
from tests.hub_server import FakeHub, Repo, fake_hub

# Reads the data sets that the argument names and prints their rows, or the error.
READER = """
import json, sys
from template_audit.datasets import open_source
from template_audit.errors import TemplateAuditError
out = []
for name in json.loads(sys.argv[1]):
    try:
        source = open_source(name)
        rows = [[row.number, row.where, row.data if isinstance(row.data, dict) else str(row.data)] for row in source.rows()]
        out.append({"stem": source.stem, "revision": source.revision, "size": source.size, "rows": rows})
    except TemplateAuditError as error:
        out.append({"error": type(error).__name__, "text": str(error)})
print(json.dumps(out))
"""  # noqa: E501


def read(url: str, home: Path, *names: str, **env: str) -> list[dict[str, Any]]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", READER, json.dumps(names)],
        env={**inherited, "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def jsonl(path: Path, *texts: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"instruction": text, "output": ""}) + "\n" for text in texts))


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    root = tmp_path_factory.mktemp("hub")
    plain = root / "plain"
    jsonl(plain / "data" / "train-00000-of-00002.jsonl", "a", "b")
    jsonl(plain / "data" / "train-00001-of-00002.jsonl", "c")
    jsonl(plain / "data" / "test-00000-of-00001.jsonl", "t")
    (plain / "README.md").write_text("---\nlicense: mit\n---\nText.")
    declared = root / "declared"
    jsonl(declared / "one" / "x.jsonl", "x")
    jsonl(declared / "one" / "y.jsonl", "y")
    jsonl(declared / "two" / "z.jsonl", "z")
    (declared / "README.md").write_text(
        "---\nconfigs:\n- config_name: first\n  data_files:\n  - split: train\n    path: one/x*\n"
        "  - split: held_out\n    path: [one/y.jsonl]\n- config_name: second\n  data_files: two/*.jsonl\n---\n"
    )
    loose = root / "loose"
    jsonl(loose / "chats.jsonl", "l")
    empty = root / "empty"
    empty.mkdir()
    (empty / "README.md").write_text("nothing")
    repos = {f"datasets/org/{p.name}": Repo.of(p) for p in (plain, declared, loose, empty)}
    repos["datasets/org/closed"] = Repo.of(loose, gated=True, readers=("hf_ok",))
    with fake_hub(repos) as running:
        yield running


def texts(result: dict[str, Any]) -> list[str]:
    assert "rows" in result, result
    return [data["instruction"] for _, _, data in result["rows"]]


def test_splits_and_configs(hub: FakeHub, tmp_path: Path) -> None:
    names = [
        "org/plain",
        "org/plain:test",
        "hf://datasets/org/plain@main:train",
        "org/declared",
        "org/declared:held_out",
        "org/declared:second",
        "org/declared:first/held_out",
        "org/loose",
    ]
    found = read(hub.url, tmp_path, *names)
    assert [texts(result) for result in found] == [
        ["a", "b", "c"],
        ["t"],
        ["a", "b", "c"],
        ["x"],
        ["y"],
        ["z"],
        ["y"],
        ["l"],
    ]
    assert found[0]["stem"] == "plain"
    assert len(found[0]["revision"]) == 40
    assert found[0]["rows"][2][:2] == [3, "org/plain/data/train-00001-of-00002.jsonl:1"]


def test_only_the_wanted_files_are_fetched(hub: FakeHub, tmp_path: Path) -> None:
    hub.requests.clear()
    read(hub.url, tmp_path, "org/plain:test")
    assert hub.fetched() <= {"data/test-00000-of-00001.jsonl", "README.md"}


def test_the_cache_serves_when_the_hub_is_off(hub: FakeHub, tmp_path: Path) -> None:
    (online,) = read(hub.url, tmp_path, "org/plain")
    (offline,) = read(hub.url, tmp_path, "org/plain", HF_HUB_OFFLINE="1")
    (gone,) = read("http://127.0.0.1:9", tmp_path, "org/plain")
    assert offline == gone == online
    (missing,) = read(hub.url, tmp_path, "org/loose", HF_HUB_OFFLINE="1")
    assert "org/loose is not in the local cache and the hub is off (HF_HUB_OFFLINE)" in missing["text"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("org/nothing", "There is no data set org/nothing on"),
        ("org/plain@v9", "The data set org/plain has no revision `v9`"),
        ("org/plain:dev", "The data set org/plain has no split `dev`; it has test, train."),
        ("org/empty", "The data set org/empty holds no files of rows"),
        ("org/closed", "could not be fetched"),
    ],
)
def test_refusals(hub: FakeHub, tmp_path: Path, name: str, sentence: str) -> None:
    (found,) = read(hub.url, tmp_path, name)
    assert found["error"] == "DataError"
    assert sentence in found["text"]


def test_a_token_opens_a_gated_data_set(hub: FakeHub, tmp_path: Path) -> None:
    (found,) = read(hub.url, tmp_path, "org/closed", HF_TOKEN="hf_ok")
    assert texts(found) == ["l"]


RUN = """
import json, sys
from pathlib import Path
from template_audit.frameworks.llamafactory.behaviours import Behaviours
from template_audit.frameworks.llamafactory.config import training_run
from template_audit.frameworks.llamafactory.run import run_rows
info = {"plain": {"hf_hub_url": "org/plain", "split": "test"}, "named": {"hf_hub_url": "org/declared", "subset": "second"}}
config = {"model_name_or_path": "m", "dataset": "plain,named", "dataset_dir": info}
for given in (config, {**config, "dataset": "org/plain", "dataset_dir": "ONLINE"}):
    rows = run_rows(training_run(given, Path("train.yaml")), Behaviours())
    print([(row.id, row.messages[0].content) for row in rows])
"""  # noqa: E501


def test_a_training_config_names_data_sets_of_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        env={**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.splitlines() == [
        "[('plain#1', 't'), ('named#1', 'z')]",
        "[('org/plain#1', 'a'), ('org/plain#2', 'b'), ('org/plain#3', 'c')]",
    ], done.stderr


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("data/train-0.parquet", "data/train-*", True),
        ("data/x/train-0.parquet", "data/train-*", False),
        ("data/x/train-0.parquet", "data/*", False),
        ("data/x/train-0.parquet", "data/**", True),
        ("data/x/train-0.parquet", "**/train-*", True),
        ("train.json", "**/train*", True),
    ],
)
def test_patterns(name: str, pattern: str, expected: bool) -> None:
    assert _matches(name, pattern) is expected
