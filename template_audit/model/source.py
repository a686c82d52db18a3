"""Loading a model: a hub repository, a folder or a GGUF file, as the installed transformers reads it."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from template_audit import __version__
from template_audit.errors import ModelError
from template_audit.model import Model, ModelFile, TemplateSource
from template_audit.model.autotokenizer import load_tokenizer
from template_audit.model.gguf import read_templates
from template_audit.model.hub import Location, is_small_file, locate
from template_audit.model.templates import (
    OPTION,
    TEMPLATE_FOLDER,
    conflict_notes,
    find_templates,
    gguf_sources,
    in_use,
    mark_winners,
    read_json,
    read_replacement,
)


def load_model(
    name: str | Path,
    *,
    revision: str | None = None,
    chat_template: str | Path | None = None,
    trust_remote_code: bool = False,
    offline: bool | None = None,
) -> Model:
    """Load a model's tokenizer, chat templates and configurations; never its weights.

    `name` is ``org/name``, ``org/name@revision``, ``hf://org/name@revision``, a folder, or a ``.gguf``
    file. `chat_template` names a file whose template replaces all of the model's own, on the
    tokenizer as well: a Jinja file, a ``.json`` with `chat_template`, or a ``.gguf``.
    `offline` True never asks the hub; None leaves that to HF_HUB_OFFLINE. HF_TOKEN, HF_ENDPOINT and
    HF_HOME work as in huggingface_hub.

    Raises ModelError (one sentence) when the model cannot be had or read, UsageError when `name` or
    `revision` is malformed.
    """
    location = locate(name, revision, offline)
    folder = location.path
    if location.gguf:
        tokenizer_config, config, generation_config, sources = {}, {}, {}, []
    else:
        tokenizer_config = read_json(folder / "tokenizer_config.json")
        config = read_json(folder / "config.json")
        generation_config = read_json(folder / "generation_config.json")
        sources = find_templates(folder, tokenizer_config)
    gguf_templates, gguf_files, gguf_notes = read_ggufs(location)
    sources += gguf_templates
    replacement = read_replacement(Path(chat_template).expanduser()) if chat_template is not None else {}

    tokenizer, said = load_tokenizer(location, tokenizer_config, trust_remote_code=trust_remote_code)
    if not isinstance(tokenizer.model_max_length, (int, float)):
        raise ModelError(f"{folder / 'tokenizer_config.json'}: `model_max_length` must be a number.")
    if replacement:
        alone = list(replacement) == ["default"]
        tokenizer.chat_template = replacement["default"] if alone else replacement
        place = f"{OPTION} {chat_template}"
        sources[:0] = [TemplateSource(place, key, text, True) for key, text in replacement.items()]
    used = in_use(tokenizer.chat_template, location.id)
    versions = _versions()
    model = Model(
        id=location.id,
        revision=location.revision,
        path=folder / location.gguf if location.gguf else folder,
        files=tuple(
            sorted(hashed_files(location, with_code=trust_remote_code) + gguf_files, key=lambda file: file.path)
        ),
        tokenizer=tokenizer,
        chat_templates=used,
        template_sources=mark_winners(sources, used),
        config=config,
        generation_config=generation_config,
        versions=versions,
    )
    warnings = [f"transformers {versions['transformers']} warns: {text[:300]}" for text in said]
    return replace(model, notes=(*location.notes, *conflict_notes(model), *gguf_notes, *warnings))


def hashed_files(location: Location, *, with_code: bool) -> list[ModelFile]:
    """The files that matter to tokenizer and templates, and the Python code if it was let run."""
    if location.gguf:
        return []
    found = []
    paths = [path for path in location.path.iterdir() if path.is_file()]
    for path in (*paths, *(location.path / TEMPLATE_FOLDER).glob("*.jinja")):
        inside = path.relative_to(location.path).as_posix()
        if is_small_file(inside) or (with_code and path.suffix == ".py"):
            try:
                with path.open("rb") as file:
                    found.append(ModelFile(inside, hashlib.file_digest(file, "sha256").hexdigest()))
            except OSError as error:
                raise ModelError(f"{path} cannot be read: {error}.") from None
    return found


def read_ggufs(location: Location) -> tuple[list[TemplateSource], list[ModelFile], list[str]]:
    """Templates and digests (of the metadata only) of the model's .gguf, or of those beside its tokenizer.

    One beside a tokenizer that cannot be read is a remark: it may be a half-fetched weight file.
    """
    sources: list[TemplateSource] = []
    files: list[ModelFile] = []
    notes: list[str] = []
    for path in [location.path / location.gguf] if location.gguf else sorted(location.path.glob("*.gguf")):
        try:
            templates, digest = read_templates(path)
        except ModelError as error:
            if location.gguf:
                raise
            notes.append(f"{error} Its template, if it has one, was left out.")
            continue
        sources += gguf_sources(path.name, templates)
        files.append(ModelFile(f"{path.name}#metadata", digest))
    return sources, files, notes


def _versions() -> dict[str, str]:
    import huggingface_hub
    import tokenizers
    import transformers

    return {
        "huggingface_hub": huggingface_hub.__version__,
        "jinja2": version("jinja2"),
        "python": platform.python_version(),
        "template_audit": __version__,
        "tokenizers": tokenizers.__version__,
        "transformers": transformers.__version__,
    }
