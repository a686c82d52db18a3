"""From objects that were read in a release's source to the registry's records, checked as the release checks them."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, get_args

from template_audit.errors import UsageError
from template_audit.frameworks.llamafactory.reader.source import SourceTree
from template_audit.frameworks.llamafactory.reader.values import Instance
from template_audit.frameworks.llamafactory.registry import (
    FORMATTER_FIELDS,
    Formatter,
    FormatterKind,
    MMPlugin,
    Slot,
    Special,
    TemplateKind,
    TemplateSpec,
    Token,
)

SlotReader = Callable[[Instance], tuple[Slot, ...]]

_FORMATTERS: dict[str, FormatterKind] = {
    "StringFormatter": "string",
    "EmptyFormatter": "empty",
    "FunctionFormatter": "function",
    "ToolFormatter": "tool",
}
_TEMPLATES: dict[str, TemplateKind] = {
    "Template": "plain",
    "Llama2Template": "llama2",
    "ReasoningTemplate": "reasoning",
    "Glm47ReasoningTemplate": "glm47_reasoning",
}
assert set(_FORMATTERS.values()) == set(get_args(FormatterKind))
assert set(_TEMPLATES.values()) == set(get_args(TemplateKind))

_PLACEHOLDER = re.compile(r"\{\{[a-zA-Z_][a-zA-Z0-9_]*\}\}")  # data/formatter.py, __post_init__
_FLAGS = ("efficient_eos", "replace_eos", "replace_jinja_template", "preserve_thinking")
_IGNORED = ("image_token",)  # 0.8.x: put before the first user text only when images are trained


def check_formatter(instance: Instance, source: SourceTree, tool_formats: Callable[[], Collection[str]]) -> None:
    """Refuse a formatter that the release itself refuses, and classes that this package does not know."""
    name, where = instance.cls.name, (source, instance)
    lineage = [cls.name for cls in instance.cls.lineage()]
    if "Formatter" not in lineage:
        return
    if name not in _FORMATTERS:
        raise _refusal(where, f"uses the formatter class `{name}`, whose output this package does not know")
    slots = slots_from_value(instance, source)
    filled = any(isinstance(slot, str) and _PLACEHOLDER.search(slot) for slot in slots)
    if name == "EmptyFormatter" and filled:
        raise _refusal(where, "puts a placeholder into an EmptyFormatter, which LLaMA-Factory refuses")
    if "StringFormatter" in lineage and not filled:
        raise _refusal(where, f"builds a {name} without a placeholder, which LLaMA-Factory refuses")
    if (
        name in ("FunctionFormatter", "ToolFormatter")
        and (given := instance.fields.get("tool_format")) not in tool_formats()
    ):
        raise _refusal(where, f"uses the tool format {given!r}; known there are {', '.join(tool_formats())}")


def slots_from_value(formatter: Instance, source: SourceTree) -> tuple[Slot, ...]:
    """A formatter's slots as they were given. A plain string counts as its characters, as it does there."""
    value = formatter.fields.get("slots")
    if not isinstance(value, list | tuple | str):
        raise _refusal((source, formatter), "gives slots that are no list of strings")
    return tuple(_slot(element, formatter, source) for element in value)


def _slot(value: Any, formatter: Instance, source: SourceTree) -> Slot:
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and list(value) == ["token"] and isinstance(value["token"], str):
        return Token(value["token"])
    if isinstance(value, set) and len(value) == 1 and isinstance(name := next(iter(value)), str):
        return Special(name)
    shown = f" {value!r}" if isinstance(value, int | float | dict | set) else ""
    raise _refusal((source, formatter), f"has a slot{shown} that is no string, token or special token")


def template_from_instance(name: str, value: Instance, source: SourceTree, read_slots: SlotReader) -> TemplateSpec:
    """The record of one registered template. Raises UsageError for classes and fields that are not known."""
    where = (source, value)
    if value.cls.name not in _TEMPLATES:
        raise _refusal(where, f"gives `{name}` the template class `{value.cls.name}`, whose encoding is not known")
    fields: dict[str, Any] = {"name": name, "kind": _TEMPLATES[value.cls.name]}
    for key, given in value.fields.items():
        if key in FORMATTER_FIELDS:
            fields[key] = _formatter(name, key, given, source, value, read_slots)
        elif key in ("stop_words", "thought_words", "tool_call_words"):
            pair = key != "stop_words"
            if not _is_texts(given) or (pair and len(given) != 2):
                raise _refusal(where, f"gives `{name}` {key} that are no {'pair' if pair else 'list'} of strings")
            fields[key] = tuple(given)
        elif key in _FLAGS or key == "enable_thinking":
            if not isinstance(given, bool) and not (key == "enable_thinking" and given is None):
                raise _refusal(where, f"gives `{name}` a {key} that is neither true nor false")
            fields[key] = given
        elif key == "default_system":
            if not isinstance(given, str):
                raise _refusal(where, f"gives `{name}` a default_system that is no string")
            fields[key] = given
        elif key == "mm_plugin":
            if not isinstance(given, MMPlugin):
                raise _refusal(where, f"gives `{name}` an mm_plugin that get_mm_plugin did not make")
            fields[key] = given
        elif key not in _IGNORED:
            raise _refusal(
                where, f"gives `{name}` a field `{key}`, which changes its encoding in a way that is not known"
            )
    missing = [key for key in FORMATTER_FIELDS[:-2] if key not in fields]
    if missing:
        raise _refusal(where, f"gives `{name}` no {missing[0]}")
    fields.setdefault("format_prefix", Formatter("empty"))
    fields.setdefault("replace_jinja_template", True)  # 0.9.0 and before always replace it
    return TemplateSpec(**fields)


def _formatter(
    name: str, key: str, value: Any, source: SourceTree, template: Instance, read_slots: SlotReader
) -> Formatter:
    if not isinstance(value, Instance) or value.cls.name not in _FORMATTERS:
        raise _refusal((source, template), f"gives `{name}` a {key} that is no formatter")
    return Formatter(_FORMATTERS[value.cls.name], read_slots(value), value.fields.get("tool_format"))


def plugin_from_call(
    bound: Mapping[str, Any], known: Collection[str], path: str, line: int, source: SourceTree
) -> MMPlugin:
    """The record of a ``get_mm_plugin(…)`` call, from its arguments by name."""
    extras: dict[str, Any] = {}
    values: dict[str, Any] = {"name": None}
    for key, value in bound.items():
        if isinstance(value, dict):
            extras |= value
        else:
            values[key] = value
    if values["name"] not in known:
        raise source.error(path, line, f"asks for the multimodal plugin {values['name']!r}, which is not there")
    tokens = [values.pop(key, None) for key in ("image_token", "video_token", "audio_token")]
    extras |= {key: value for key, value in values.items() if key != "name"}
    texts = [token for token in (*tokens, *extras.values()) if token is not None]
    if not _is_texts(texts):
        raise source.error(path, line, "gives a multimodal plugin something else than token strings")
    return MMPlugin(values["name"], tokens[0], tokens[1], tokens[2], tuple(sorted(extras.items())))


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(text, str) for text in value)


def _refusal(where: tuple[SourceTree, Instance], what: str) -> UsageError:
    source, instance = where
    return source.error(instance.path, instance.line, what)
