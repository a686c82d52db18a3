"""Where a chat template can live, and which of the places the installed transformers uses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from template_audit.errors import ModelError
from template_audit.model import Model, TemplateSource
from template_audit.model.gguf import read_templates

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"
PROCESSOR_FILES = ("chat_template.json", "processor_config.json")
OPTION = "--chat-template"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, empty when there is no such file. Raises ModelError, naming the place."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}.") from None
    if not text.strip():
        raise ModelError(f"{path} is empty; fetch the file again.")
    if text.startswith("version https://git-lfs"):
        raise ModelError(f"{path} is only a Git LFS pointer; run `git lfs pull` in that folder to get the file itself.")
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ModelError(f"{path} is not valid JSON ({place}: {error.msg}); fetch the file again.") from None
    except RecursionError:
        raise ModelError(f"{path} is nested too deeply to be read.") from None
    except ValueError:
        raise ModelError(f"{path} holds a number with too many digits to be read.") from None
    if not isinstance(data, dict):
        raise ModelError(f"{path} must hold a JSON object, not {type(data).__name__}.")
    return data


def read_text(path: Path) -> str:
    """A template file as transformers reads it (UTF-8, line ends made ``\\n``)."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}.") from None


def named_templates(value: Any, place: str) -> dict[str, str]:
    """The templates of a JSON `chat_template`: one text, a list of ``{name, template}``, or a mapping."""
    if value is None:
        return {}
    if isinstance(value, str):
        return {"default": value}
    if isinstance(value, list):
        if not all(isinstance(item, dict) and {"name", "template"} <= item.keys() for item in value):
            raise ModelError(f"{place} must be a text or a list of objects with `name` and `template`.")
        value = {item["name"]: item["template"] for item in value}
    if not isinstance(value, dict) or not all(isinstance(x, str) for pair in value.items() for x in pair):
        raise ModelError(f"{place} must be a text, or named texts.")
    return value


def find_templates(folder: Path, tokenizer_config: Mapping[str, Any]) -> list[TemplateSource]:
    """Every template in a model folder, first those that transformers prefers; none is marked as the winner.

    transformers (`PreTrainedTokenizerBase._from_pretrained`, 4.57 to 5.23) takes the template files,
    and when there is any of them nothing from tokenizer_config.json. chat_template.json is read by
    processors only.
    """
    found: list[TemplateSource] = []

    def add(place: str, templates: Mapping[str, str]) -> None:
        found.extend(TemplateSource(place, name, text, False) for name, text in templates.items())

    if (folder / TEMPLATE_FILE).is_file():
        add(TEMPLATE_FILE, {"default": read_text(folder / TEMPLATE_FILE)})
    for path in sorted((folder / TEMPLATE_FOLDER).glob("*.jinja")):
        add(f"{TEMPLATE_FOLDER}/{path.name}", {path.stem: read_text(path)})
    place = "tokenizer_config.json#chat_template"
    add(place, named_templates(tokenizer_config.get("chat_template"), f"{folder / place}"))
    for name in PROCESSOR_FILES:
        place = f"{name}#chat_template"
        add(place, named_templates(read_json(folder / name).get("chat_template"), f"{folder / place}"))
    return found


def gguf_sources(file: str, templates: Mapping[str, str]) -> list[TemplateSource]:
    """The templates of a GGUF file as places; transformers uses them when the tokenizer is the file's too."""
    key = f"{file}#tokenizer.chat_template"
    return [
        TemplateSource(key if name == "default" else f"{key}.{name}", name, text, False)
        for name, text in templates.items()
    ]


def read_replacement(file: Path) -> dict[str, str]:
    """The template(s) of a ``--chat-template FILE``: Jinja text, a JSON file with `chat_template`, or a GGUF.

    Raises ModelError when the file is missing or holds no template.
    """
    if not file.exists() or file.is_dir():
        raise ModelError(f"{OPTION} names {file}, which is not a file.")
    if file.suffix == ".gguf":
        templates = read_templates(file)[0]
    elif file.suffix == ".json":
        templates = named_templates(read_json(file).get("chat_template"), f"{file}#chat_template")
    else:
        templates = {"default": read_text(file)}
    if not templates:
        raise ModelError(f"{OPTION} names {file}, which holds no chat template.")
    return templates


def in_use(tokenizer_template: Any, where: str) -> dict[str, str]:
    """A tokenizer's `chat_template` attribute as templates by name."""
    return named_templates(tokenizer_template, f"The chat template of {where}")


def mark_winners(found: Sequence[TemplateSource], used: Mapping[str, str]) -> tuple[TemplateSource, ...]:
    """Mark, for each template in use, the first place that holds it under that name.

    A template that stands in no file (a tokenizer class brought it along) becomes a place of its own.
    """
    left = dict(used)
    out = []
    for source in found:
        wins = left.get(source.name) == source.template
        if wins:
            del left[source.name]
        out.append(TemplateSource(source.place, source.name, source.template, wins))
    out.extend(TemplateSource("the tokenizer's class", name, text, True) for name, text in left.items())
    return tuple(out)


def conflict_notes(model: Model) -> list[str]:
    """Remarks on places that disagree with, or are shut out by, the templates in use."""
    user = f"transformers {model.versions['transformers']}"
    return [
        f"{source.place} holds another `{source.name}` template than {winner.place}; {user} uses the latter."
        if winner is not None
        else f"{user} does not use the `{source.name}` template in {source.place}; {OPTION} can name that file."
        for source, winner in model.template_conflicts
    ]
