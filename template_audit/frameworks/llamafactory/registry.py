"""What one release of LLaMA-Factory registers: templates, tool prompts, model defaults, behaviours.

A `Registry` is plain data. `template_audit.frameworks.llamafactory.importer` reads one from a
release's source; those of the released versions are recorded in ``registries/*.json`` and are read
back here without importing anything heavy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

from template_audit.errors import UsageError
from template_audit.frameworks.llamafactory.behaviours import Behaviours


@dataclass(frozen=True, slots=True)
class Token:
    """A ``{"token": text}`` slot: one vocabulary look-up, no tokenization."""

    text: str


@dataclass(frozen=True, slots=True)
class Special:
    """A ``{"bos_token"}`` or ``{"eos_token"}`` slot: the tokenizer's own, skipped when it has none.

    Any other name (the prefix of ``phi_small`` is ``{"<|endoftext|>"}``) adds nothing at all
    (data/template.py, ``Template._convert_elements_to_ids``).
    """

    name: str


Slot: TypeAlias = str | Token | Special
FormatterKind = Literal["string", "empty", "function", "tool"]
TemplateKind = Literal["plain", "llama2", "reasoning", "glm47_reasoning"]


@dataclass(frozen=True, slots=True)
class Formatter:
    """One of the framework's formatters: its class, its slots as they are at run time, its tool format.

    Up to 0.9.1 a function formatter puts its tool format's own slots in front of those that it was
    given (data/formatter.py, ``FunctionFormatter.__post_init__``); they are included here.
    """

    kind: FormatterKind
    slots: tuple[Slot, ...] = ()
    tool_format: str | None = None


@dataclass(frozen=True, slots=True)
class MMPlugin:
    """The multimodal plugin of a template: the name it is registered under and its placeholder tokens."""

    name: str
    image_token: str | None = None
    video_token: str | None = None
    audio_token: str | None = None
    extras: tuple[tuple[str, str], ...] = ()
    """Further keyword arguments, such as ``vision_bos_token``."""


@dataclass(frozen=True, slots=True)
class TemplateSpec:
    """One template with every default resolved as that release's ``register_template`` resolves it.

    A field that a release does not have yet holds what its code does instead: no separator, the
    thought words ``("<think>", "</think>")``, thinking neither forced nor kept.
    """

    name: str
    kind: TemplateKind
    format_user: Formatter
    format_assistant: Formatter
    format_system: Formatter
    format_function: Formatter
    format_observation: Formatter
    format_tools: Formatter
    format_prefix: Formatter
    format_separator: Formatter = Formatter("empty")
    """Put before every user turn but the first; releases up to 0.9.1 only, empty since."""
    default_system: str = ""
    stop_words: tuple[str, ...] = ()
    thought_words: tuple[str, str] = ("<think>", "</think>")
    tool_call_words: tuple[str, str] = ("<tool_call>", "</tool_call>")
    efficient_eos: bool = False
    replace_eos: bool = False
    replace_jinja_template: bool = False
    enable_thinking: bool | None = True
    preserve_thinking: bool = False
    mm_plugin: MMPlugin | None = None


@dataclass(frozen=True, slots=True)
class Registry:
    """Everything that one release of LLaMA-Factory registers."""

    version: str
    templates: Mapping[str, TemplateSpec]
    """By name, in registration order."""
    tool_prompts: Mapping[str, str]
    """Module-level strings of data/tool_utils.py (of data/formatter.py before 0.8.3), by constant name."""
    tool_formats: tuple[str, ...]
    function_slots: Mapping[str, tuple[Slot, ...]]
    """Per tool format, the slots that its function formatter repeats for each call; empty since 0.9.2."""
    models: Mapping[str, str | None]
    """Hub id → the template that the framework itself proposes for it, None when it proposes none."""
    model_names: Mapping[str, str | None]
    """The framework's own display name → the same."""
    behaviours: Behaviours
    data_args: Mapping[str, Any] = field(default_factory=dict)
    """The release's own data options (``DataArguments``) with their defaults."""
    code: Mapping[str, str] = field(default_factory=dict)
    """``path:function`` → digest of what each function of the data path does; see `unfamiliar_code`."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Path inside the package → sha256 of each source file that was read."""

    def default_template(self, model_id: str) -> str | None:
        """The framework's default template of a hub id or display name; case is ignored as hubs ignore it."""
        for known in (self.models, self.model_names):
            if known.get(model_id):
                return known[model_id]
        wanted = model_id.lower()
        return next((template for name, template in self.models.items() if name.lower() == wanted and template), None)


FORMATTER_FIELDS = (
    "format_user",
    "format_assistant",
    "format_system",
    "format_function",
    "format_observation",
    "format_tools",
    "format_prefix",
    "format_separator",
)
_PLAIN_DEFAULTS: dict[str, Any] = {
    f.name: f.default for f in fields(TemplateSpec) if f.name not in ("name", "kind", "mm_plugin", *FORMATTER_FIELDS)
}


def builtin_versions() -> tuple[str, ...]:
    """The releases whose registries ship with this package, newest first."""
    names = (entry.name for entry in (files(__package__) / "registries").iterdir())
    versions = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    return tuple(sorted(versions, key=lambda text: tuple(map(int, text.split("."))), reverse=True))


@cache
def load_registry(version: str | None = None) -> Registry:
    """The recorded registry of a release (the newest by default).

    Raises UsageError, naming the known releases, when there is no record of it.
    """
    known = builtin_versions()
    chosen = version or known[0]
    if chosen not in known:
        raise UsageError(
            f"There is no built-in LLaMA-Factory {chosen}; built in are {', '.join(known)}. "
            "Point --framework-source at an installed copy, a wheel or a checkout of it."
        )
    text = (files(__package__) / "registries" / f"{chosen}.json").read_text(encoding="utf-8")
    return registry_from_json(json.loads(text))


def unfamiliar_code(registry: Registry) -> tuple[str, ...]:
    """The functions of a release that do something which no built-in release does, as ``path:function``.

    Empty for every built-in release. What an encoder does for such a function is read from its structure
    (`Behaviours`) and was never compared with the real package.
    """
    known: dict[str, set[str]] = {}
    for version in builtin_versions():
        for place, digest in load_registry(version).code.items():
            known.setdefault(place, set()).add(digest)
    return tuple(place for place, digest in sorted(registry.code.items()) if digest not in known.get(place, ()))


def slot_to_json(slot: Slot) -> str | dict[str, str]:
    """A slot as JSON: a string, ``{"token": …}`` or ``{"special": …}``."""
    if isinstance(slot, str):
        return slot
    return {"token": slot.text} if isinstance(slot, Token) else {"special": slot.name}


def slot_from_json(value: Any) -> Slot:
    """The inverse of `slot_to_json`."""
    if isinstance(value, str):
        return value
    return Token(value["token"]) if "token" in value else Special(value["special"])


def formatter_to_json(formatter: Formatter) -> list[Any]:
    """A formatter as ``[kind, slots]`` or ``[kind, slots, tool_format]``."""
    tail = [] if formatter.tool_format is None else [formatter.tool_format]
    return [formatter.kind, [slot_to_json(slot) for slot in formatter.slots], *tail]


def formatter_from_json(value: Any) -> Formatter:
    """The inverse of `formatter_to_json`."""
    kind, slots, *tool_format = value
    return Formatter(kind, tuple(slot_from_json(slot) for slot in slots), tool_format[0] if tool_format else None)


def template_to_json(spec: TemplateSpec) -> dict[str, Any]:
    """A template as JSON, without the fields that have their default value."""
    data: dict[str, Any] = {"kind": spec.kind}
    for name in FORMATTER_FIELDS:
        formatter = getattr(spec, name)
        if name != "format_separator" or formatter != Formatter("empty"):
            data[name] = formatter_to_json(formatter)
    for name, default in _PLAIN_DEFAULTS.items():
        value = getattr(spec, name)
        if value != default:
            data[name] = list(value) if isinstance(value, tuple) else value
    if spec.mm_plugin is not None:
        plugin = spec.mm_plugin
        tokens = [plugin.image_token, plugin.video_token, plugin.audio_token]
        data["mm_plugin"] = [plugin.name, *tokens, dict(plugin.extras)]
    return data


def template_from_json(name: str, data: Mapping[str, Any]) -> TemplateSpec:
    """The inverse of `template_to_json`."""
    values: dict[str, Any] = {"name": name}
    for key, value in data.items():
        if key in FORMATTER_FIELDS:
            values[key] = formatter_from_json(value)
        elif key == "mm_plugin":
            plugin, image, video, audio, extras = value
            values[key] = MMPlugin(plugin, image, video, audio, tuple(extras.items()))
        else:
            values[key] = tuple(value) if isinstance(value, list) else value
    return TemplateSpec(**values)


def registry_to_json(registry: Registry) -> dict[str, Any]:
    """A registry as JSON; templates keep their order, everything else is sorted."""
    return {
        "version": registry.version,
        "files": dict(sorted(registry.files.items())),
        "behaviours": registry.behaviours.to_json(),
        "data_args": dict(sorted(registry.data_args.items())),
        "tool_formats": list(registry.tool_formats),
        "function_slots": {
            name: [slot_to_json(slot) for slot in slots] for name, slots in sorted(registry.function_slots.items())
        },
        "tool_prompts": dict(sorted(registry.tool_prompts.items())),
        "templates": {name: template_to_json(spec) for name, spec in registry.templates.items()},
        "models": dict(sorted(registry.models.items())),
        "model_names": dict(sorted(registry.model_names.items())),
        "code": dict(sorted(registry.code.items())),
    }


def registry_from_json(data: Mapping[str, Any]) -> Registry:
    """The inverse of `registry_to_json`."""
    return Registry(
        version=data["version"],
        templates=MappingProxyType(
            {name: template_from_json(name, template) for name, template in data["templates"].items()}
        ),
        tool_prompts=MappingProxyType(data["tool_prompts"]),
        tool_formats=tuple(data["tool_formats"]),
        function_slots=MappingProxyType(
            {name: tuple(slot_from_json(slot) for slot in slots) for name, slots in data["function_slots"].items()}
        ),
        models=MappingProxyType(data["models"]),
        model_names=MappingProxyType(data["model_names"]),
        behaviours=Behaviours.from_json(data["behaviours"]),
        data_args=MappingProxyType(data["data_args"]),
        code=MappingProxyType(data["code"]),
        files=MappingProxyType(data["files"]),
    )


def dump_registry(registry: Registry) -> str:
    """The recorded form: JSON with one template, model or prompt a line, so that a diff can be read."""
    lines = []
    for key, value in registry_to_json(registry).items():
        if isinstance(value, dict) and value:
            rows = ",\n".join(f"{_compact(name)}:{_compact(row)}" for name, row in value.items())
            lines.append(f"{_compact(key)}:{{\n{rows}\n}}")
        else:
            lines.append(f"{_compact(key)}:{_compact(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
