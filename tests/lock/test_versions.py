"""Another transformers between lock and check; on demand: TEMPLATE_AUDIT_OTHER_PYTHON names an interpreter with one.

Whether something must be reported is asked of the two tokenizers themselves, on the texts that were locked.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from template_audit.lock.store import read_lock
from tests.lock.edits import put

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures" / "models"
SHARED = ROOT.parent / "shared" / "models"
OTHER = os.environ.get("TEMPLATE_AUDIT_OTHER_PYTHON")
REBUILT = "rebuilt"
"""deepseek-like under the model type of Qwen 2, as R1's distillations are: since transformers 5.23 AutoTokenizer builds
Qwen's tokenizer from its vocabulary, with Qwen's normaliser."""
MODELS = (REBUILT, "qwen25-like", "llama3-like", "chatml-generation", "mistral-like")
REAL = ("exaone-3.5-2.4b-instruct", "mistral-7b-instruct-v0.2", "phi-3-mini", "llama-3.2-instruct", "qwen3")

TOKENIZERS = """
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
names = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
special = [[getattr(tokenizer, name, None), getattr(tokenizer, name + "_id", None)] for name in names]
ids = [tokenizer.encode(text, add_special_tokens=False) for text in json.load(sys.stdin)]
print(json.dumps([len(tokenizer), special, ids]))
"""

pytestmark = pytest.mark.skipif(OTHER is None, reason="TEMPLATE_AUDIT_OTHER_PYTHON is not set")


def run(python: str, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "400"}
    return subprocess.run([python, *arguments], input=given, capture_output=True, text=True, env=env, timeout=300)


def tokenized(python: str, folder: Path, texts: list[str]) -> Any:
    done = run(python, "-c", TOKENIZERS, str(folder), given=json.dumps(texts))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", [*MODELS, *(pytest.param(name, marks=pytest.mark.shared) for name in REAL)])
def test_what_a_version_changes_is_put_down_to_it_and_what_it_does_not_change_passes(name: str, tmp_path: Path) -> None:
    assert OTHER is not None
    folder = tmp_path / name
    if name in REAL:
        if not (SHARED / name).is_dir():
            pytest.skip(f"{SHARED / name} is not there")
        folder = SHARED / name
    else:
        shutil.copytree(FIXTURES / ("deepseek-like" if name == REBUILT else name), folder)
    if name == REBUILT:
        put("config.json", "model_type", value="qwen2")(folder)
    path = tmp_path / "x.lock"
    common = ("--lock", str(path), "--no-config")
    locked = run(OTHER, "-m", "template_audit", "lock", str(folder), "--encoder", "llamafactory:chatml", *common)
    lock = read_lock(path)
    assert lock is not None, locked.stderr
    texts = [one.reference.whole_text for one in lock.entries[0].conversations if one.reference.kind is None]
    same = tokenized(OTHER, folder, texts) == tokenized(sys.executable, folder, texts)
    before, now = lock.entries[0].versions["transformers"], version("transformers")
    done = run(sys.executable, "-m", "template_audit", "check", *common)
    first = done.stdout.splitlines()[0]
    print(f"| {name} | {before} → {now} | {'same' if same else 'other'} ids | {done.returncode} | `{first}` |")
    if same:
        assert done.returncode == 0, done.stdout
        assert before == now or f"transformers {before} → {now}" in done.stdout
    else:
        assert done.returncode == 1, done.stdout
        assert first.startswith(f"transformers {before} → {now}")
