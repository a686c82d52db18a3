"""Hub models: the real huggingface_hub client against a local server, each case in a fresh process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hub_server import INVALID_TOKEN, FakeHub, Repo, fake_hub

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "fixtures" / "models"

# Loads what the argument asks for, one after another, and prints what came of it.
LOADER = """
import json, sys
from template_audit import load_model
from template_audit.errors import TemplateAuditError
results = []
for request in json.loads(sys.argv[1]):
    try:
        model = load_model(request.pop("name"), **request)
    except TemplateAuditError as error:
        results.append({"error": type(error).__name__, "text": str(error)})
    else:
        results.append({
            "id": model.id,
            "revision": model.revision,
            "files": {file.path: file.sha256 for file in model.files},
            "ids": model.tokenizer.encode("Good morning"),
            "templates": dict(model.chat_templates),
            "class": type(model.tokenizer).__name__,
            "notes": model.notes,
        })
print(json.dumps(results))
"""


def load(hub: FakeHub | str, home: Path, *requests: dict[str, Any] | str, **env: str) -> list[dict[str, Any]]:
    """Run LOADER with a cache in `home`; a request is the keywords of load_model, or a name."""
    url = hub if isinstance(hub, str) else hub.url
    asked = [{"name": request} if isinstance(request, str) else request for request in requests]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run(
        [sys.executable, "-c", LOADER, json.dumps(asked)],
        env={**inherited, "HF_ENDPOINT": url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **env},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "loading must be quiet"
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results


def model_folder(target: Path, source: str, **texts: str) -> Path:
    """A fixture model with weights beside it, and more files by name."""
    shutil.copytree(MODELS / source, target)
    (target / "README.md").write_text("# A model\n", encoding="utf-8")
    for name in ("model.safetensors", "pytorch_model.bin", "model-q4.gguf", "original/consolidated.pth"):
        path = target / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"weights" * 1000)
    (target / "model.safetensors.index.json").write_text("{}", encoding="utf-8")
    for name, text in texts.items():
        path = target / name.replace("__", "/")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return target


OLD, NEW = hashlib.sha1(b"old").hexdigest(), hashlib.sha1(b"new").hexdigest()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """A hub with one public model of two commits, and gated, private, broken and odd ones."""
    root = tmp_path_factory.mktemp("repos")
    old = model_folder(root / "old", "qwen25-like", **{"chat_template.jinja": "OLD"})
    new = model_folder(
        root / "new",
        "qwen3-like",
        **{"chat_template.jinja": "NEW", "additional_chat_templates__tool_use.jinja": "TOOLS"},
    )
    bare = root / "bare"
    bare.mkdir()
    (bare / "model.safetensors").write_bytes(b"weights")
    broken = model_folder(root / "broken", "qwen3-like", **{"tokenizer.json": '{"version": "1.0", ' + " " * 2000})
    code = model_folder(root / "code", "qwen3-like", **{"tokenizer_config.json": json.dumps(CUSTOM)})
    (code / "tokenizer.json").unlink()
    (code / "vocab.txt").write_text("a\n", encoding="utf-8")
    other = model_folder(root / "other", "chatml-plain")
    repos = {
        "org/model": Repo({OLD: old, NEW: new}, {"main": NEW, "v1.0": OLD}),
        "org/gated": Repo.of(other, gated=True, readers=("hf_reader",)),
        "org/private": Repo.of(other, private=True, readers=("hf_reader",)),
        "org/bare": Repo.of(bare),
        "org/broken": Repo.of(broken),
        "org/code": Repo.of(code),
    }
    with fake_hub(repos) as server:
        yield server


CUSTOM = {"auto_map": {"AutoTokenizer": ["custom.Custom", None]}, "tokenizer_class": "Custom"}


@pytest.fixture(scope="module")
def warm(hub: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[str]]:
    """A cache that org/model was loaded into by name, what came of it, and the requests that it took."""
    home = tmp_path_factory.mktemp("warm")
    hub.requests.clear()
    (result,) = load(hub, home, "org/model")
    return home, result, list(hub.requests)


def test_model_by_name(warm: tuple[Path, dict[str, Any], list[str]]) -> None:
    _, result, _ = warm
    assert (result["id"], result["revision"]) == ("org/model", NEW)
    assert result["templates"] == {"default": "NEW", "tool_use": "TOOLS"}
    assert result["files"]["chat_template.jinja"] == hashlib.sha256(b"NEW").hexdigest()
    assert set(result["files"]) >= {"tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json"}


def test_only_small_files_are_fetched(hub: FakeHub, warm: tuple[Path, dict[str, Any], list[str]]) -> None:
    home, result, requests = warm
    fetched = FakeHub(hub.url, requests).fetched()
    assert fetched == set(result["files"])
    cached = {path.name for path in home.rglob("*") if path.is_symlink() or path.is_file()}
    assert "tokenizer.json" in cached
    assert not cached & {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "README.md"}
    assert not any(name.endswith((".gguf", ".pth")) for name in cached)


def test_same_tokenizer_as_plain_transformers(hub: FakeHub, tmp_path: Path, warm: Any) -> None:
    plain = (
        "import json, sys\nfrom transformers import AutoTokenizer\nt = AutoTokenizer.from_pretrained('org/model')\n"
        "print(json.dumps([type(t).__name__, t.encode('Good morning'), t.chat_template]))"
    )
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", plain], env=env, capture_output=True, text=True, check=True)
    _, result, _ = warm
    assert json.loads(done.stdout) == [result["class"], result["ids"], result["templates"]]


def test_revisions(hub: FakeHub, tmp_path: Path) -> None:
    results = load(
        hub,
        tmp_path,
        "org/model@v1.0",
        {"name": "org/model", "revision": "v1.0"},
        "hf://org/model@v1.0",
        {"name": "hf://org/model", "revision": OLD},
        f"org/model@{OLD}",
        "org/model@main",
    )
    assert [result["revision"] for result in results] == [OLD] * 5 + [NEW]
    assert [result["templates"]["default"] for result in results] == ["OLD"] * 5 + ["NEW"]
    assert {result["id"] for result in results} == {"org/model"}


def test_second_load_fetches_nothing(hub: FakeHub, warm: tuple[Path, dict[str, Any], list[str]]) -> None:
    home, before, _ = warm
    hub.requests.clear()
    assert load(hub, home, "org/model", {"name": "org/model", "offline": True}) == [before, before]
    assert hub.fetched() == set()


def test_offline(hub: FakeHub, warm: tuple[Path, dict[str, Any], list[str]]) -> None:
    home, before, _ = warm
    hub.requests.clear()
    by_name, by_commit, cold, other = load(
        hub, home, "org/model", f"org/model@{NEW}", "org/gated", "org/model@v9", HF_HUB_OFFLINE="1"
    )
    assert [by_name, by_commit] == [before, before]
    assert hub.requests == []
    assert cold["error"] == "ModelError"
    assert cold["text"].startswith("org/gated is not in the local cache and the hub is off (HF_HUB_OFFLINE)")
    assert other["text"].startswith("org/model@v9 is not in the local cache")


NOBODY = "http://127.0.0.1:9"  # the discard port: refused at once


def test_no_network(warm: tuple[Path, dict[str, Any], list[str]], tmp_path: Path) -> None:
    (failed,) = load(NOBODY, tmp_path, "org/model")
    assert failed["error"] == "ModelError"
    assert failed["text"].startswith(f"org/model could not be fetched from {NOBODY} (")
    assert "check the network" in failed["text"]
    home, before, _ = warm
    (cached,) = load(NOBODY, home, "org/model")
    assert cached["notes"].pop(0).startswith("The hub could not be reached (")
    assert cached == before


def test_refusals(hub: FakeHub, tmp_path: Path) -> None:
    names = ["org/nothing", "org/private", "org/gated", "org/model@v9", "org/bare", "org/broken", "org/code", "or g/x"]
    found = dict(zip(names, load(hub, tmp_path, *names), strict=True))
    for name, expected in {
        "org/nothing": f"There is no model org/nothing on {hub.url} (401)",
        "org/private": f"There is no model org/private on {hub.url} (401)",
        "org/gated": f"org/gated is gated (401): accept its terms on {hub.url}/org/gated and set HF_TOKEN",
        "org/model@v9": "org/model has no revision `v9`",
        "org/bare": "org/bare holds no tokenizer",
        "org/broken": "tokenizer.json is not valid JSON (line 1",
        "org/code": "org/code needs the Python code in its own repository",
        "or g/x": "`or g/x` is no hub name",
    }.items():
        assert found[name].get("error") == "ModelError", found[name]
        assert expected in found[name]["text"]
        assert "\n" not in found[name]["text"]


def test_tokens(hub: FakeHub, tmp_path: Path) -> None:
    names = ["org/gated", "org/private", "org/nothing"]
    gated, private, nothing = load(hub, tmp_path / "a", *names, HF_TOKEN="hf_reader")
    assert gated["ids"] == private["ids"]
    assert nothing["text"].startswith(f"There is no model org/nothing on {hub.url} (404)")
    gated, private, _ = load(hub, tmp_path / "b", *names, HF_TOKEN="hf_stranger")
    assert gated["text"].startswith("org/gated is gated (403)")
    assert private["text"].startswith(f"There is no model org/private on {hub.url} (404)")
    assert "hf_stranger" not in gated["text"] + private["text"]
    (model,) = load(hub, tmp_path / "c", "org/model", HF_TOKEN=INVALID_TOKEN)
    assert model["text"].startswith(f"{hub.url} refused the token for org/model (401): set HF_TOKEN to a valid one")
    assert INVALID_TOKEN not in model["text"]
