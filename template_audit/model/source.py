"""Loading a model repository: a local folder for now (the hub follows)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from template_audit.errors import ModelError
from template_audit.model import Model, ModelFile, TemplateSource


def load_model(
    name: str | Path,
    *,
    revision: str | None = None,
    chat_template: str | Path | None = None,
    trust_remote_code: bool = False,
) -> Model:
    """Read a model folder with the installed transformers. Raises ModelError."""
    from transformers import AutoTokenizer

    folder = Path(name)
    if not folder.is_dir():
        raise ModelError(f"{name} is not a folder.")
    tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    if chat_template is not None:
        tokenizer.chat_template = Path(chat_template).read_text(encoding="utf-8")
    found = tokenizer.chat_template or {}
    templates = {"default": found} if isinstance(found, str) else dict(found)
    return Model(
        id=str(name),
        revision=revision,
        path=folder,
        files=tuple(
            ModelFile(path.name, hashlib.sha256(path.read_bytes()).hexdigest())
            for path in sorted(folder.iterdir())
            if path.suffix in (".json", ".jinja", ".model", ".txt")
        ),
        tokenizer=tokenizer,
        chat_templates=templates,
        template_sources=tuple(
            TemplateSource("tokenizer", name, template, True) for name, template in templates.items()
        ),
        config=_json(folder / "config.json"),
        generation_config=_json(folder / "generation_config.json"),
    )


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
