"""The recorded vectors, and loading of the tokenizers that they were recorded with."""

from __future__ import annotations

import importlib.util
import json
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from template_audit.conversation import Conversation
from template_audit.model import Model

ROOT = Path(__file__).resolve().parents[3]
FIXTURES = ROOT / "fixtures" / "llamafactory"
SHARED = ROOT.parent / "shared" / "models"


@cache
def recorder() -> ModuleType:
    """The recording script: its digests are the ones to compare with. It imports nothing heavy."""
    spec = importlib.util.spec_from_file_location("recorder", ROOT / "scripts" / "record_llamafactory_vectors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def recorded(name: str) -> Any:
    """A recorded file of ``fixtures/llamafactory``."""
    return json.loads((FIXTURES / name).read_text(encoding="utf-8"))


def cases() -> Any:
    """Option sets and conversations, as they were recorded."""
    return recorded("vectors_cases.json")


@cache
def conversations() -> dict[str, Conversation]:
    """The conversations of the cases by name."""
    return {name: Conversation.from_openai(data, id=name) for name, data in cases()["conversations"].items()}


@cache
def model_of(name: str) -> Model:
    """A fixture model, or one of ``../shared/models``; skips, visibly, when that is not there."""
    folder = ROOT / "fixtures" / "models" / name
    if not folder.is_dir():
        folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    template = tokenizer.chat_template
    templates = template if isinstance(template, dict) else {"default": template} if template else {}
    return Model(
        id=name,
        revision=None,
        path=folder,
        files=(),
        tokenizer=tokenizer,
        chat_templates=templates,
        template_sources=(),
    )
