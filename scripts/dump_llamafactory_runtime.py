"""Dump what an installed LLaMA-Factory really registers, from inside its own environment.

    export DISABLE_VERSION_CHECK=1 PYTHONPATH=unpacked/0.9.4
    python scripts/dump_llamafactory_runtime.py --stub torchaudio 0.9.4.json

Needs nothing of this project: it imports the framework and writes, as JSON, every template's class, formatters,
slots, tool formats and flags as they are at run time, and the tool prompts, tool formats, data options and
models, in the form of template_audit/frameworks/llamafactory/registries/*.json. Fields that the release's
templates do not have are left out and are named in ``fields``. ``--stub NAME`` puts an empty module in the place
of a dependency that is not installed and that templates do not need; DISABLE_VERSION_CHECK is the framework's own
switch, for an older release in a newer environment.

    python scripts/dump_llamafactory_runtime.py --compare 0.9.4.json …

runs in this project's environment instead: it compares dumps with the built-in registries, field for field, and
writes their digests to fixtures/llamafactory/runtime_dump_digests.json, which the tests replay.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import importlib
import importlib.machinery
import json
import sys
import types
from pathlib import Path
from typing import Any

DIGESTS = Path(__file__).parent.parent / "fixtures" / "llamafactory" / "runtime_dump_digests.json"
FORMATTERS = {
    "StringFormatter": "string",
    "EmptyFormatter": "empty",
    "FunctionFormatter": "function",
    "ToolFormatter": "tool",
}
TEMPLATES = {
    "Template": "plain",
    "Llama2Template": "llama2",
    "ReasoningTemplate": "reasoning",
    "Glm47ReasoningTemplate": "glm47_reasoning",
}
PLUGIN_TOKENS = ("image_token", "video_token", "audio_token")
SECTIONS = ("tool_formats", "tool_prompts", "data_args", "models", "model_names")


def dump() -> dict[str, Any]:
    """Everything that the framework of this environment registers."""
    template = importlib.import_module("llamafactory.data.template")
    plugins = importlib.import_module("llamafactory.data.mm_plugin")
    tools = importlib.import_module("llamafactory.data.tool_utils")
    constants = importlib.import_module("llamafactory.extras.constants")
    env = importlib.import_module("llamafactory.extras.env")
    options = importlib.import_module("llamafactory.hparams.data_args")
    names = {cls: name for name, cls in reversed(list(plugins.PLUGINS.items()))}
    supported = constants.SUPPORTED_MODELS
    model_names = {name: default_template(constants, name) for name in supported}
    models: dict[str, Any] = {}
    for hub in ("hf", "ms", "om"):
        for name, ids in supported.items():
            for source, model_id in ids.items():
                if source.value == hub:
                    models.setdefault(model_id, model_names[name])
    first = next(iter(template.TEMPLATES.values()))
    return {
        "version": env.VERSION,
        "environment": {name: importlib.import_module(name).__version__ for name in ("transformers", "torch")},
        "fields": sorted(field.name for field in dataclasses.fields(first)),
        "templates": {name: dump_template(value, names) for name, value in template.TEMPLATES.items()},
        "tool_formats": list(tools.TOOLS),
        "tool_prompts": {name: value for name, value in vars(tools).items() if name.isupper() and type(value) is str},
        "data_args": {
            field.name: field.default
            for field in dataclasses.fields(options.DataArguments)
            if field.default is None or isinstance(field.default, (str, int, float, bool))
        },
        "models": models,
        "model_names": model_names,
    }


def default_template(constants: Any, name: str) -> str | None:
    """What webui/common.py `get_template` answers, whose module cannot be imported without gradio."""
    if name in constants.DEFAULT_TEMPLATE:
        return str(constants.DEFAULT_TEMPLATE[name])
    by_prefix = name.endswith("Chat") and name.split("-")[0] in constants.DEFAULT_TEMPLATE  # 0.9.0
    return str(constants.DEFAULT_TEMPLATE[name.split("-")[0]]) if by_prefix else None


def dump_template(value: Any, plugin_names: dict[type, str]) -> dict[str, Any]:
    """One template object, every field of its dataclass."""
    data: dict[str, Any] = {"kind": TEMPLATES[type(value).__name__]}
    for field in dataclasses.fields(value):
        content = getattr(value, field.name)
        if field.name.startswith("format_"):
            tail = [] if content.tool_format is None else [content.tool_format]
            data[field.name] = [FORMATTERS[type(content).__name__], [dump_slot(slot) for slot in content.slots], *tail]
        elif field.name == "mm_plugin":
            data[field.name] = dump_plugin(content, plugin_names)
        else:
            data[field.name] = list(content) if isinstance(content, (list, tuple)) else content
    return data


def dump_slot(slot: Any) -> Any:
    """One slot: a string, ``{"token": …}`` or ``{"special": …}``."""
    if isinstance(slot, str):
        return slot
    if isinstance(slot, dict):
        return {"token": slot["token"]} if list(slot) == ["token"] else {"unexpected": repr(slot)}
    return {"special": next(iter(slot))} if len(slot) == 1 else {"unexpected": repr(sorted(slot))}


def dump_plugin(plugin: Any, names: dict[type, str]) -> list[Any]:
    """Registered name, the three placeholder tokens, and whatever else differs from its class's defaults."""
    defaults = {field.name: field.default for field in getattr(type(plugin), "__dataclass_fields__", {}).values()}
    extras = {
        name: value
        for name, value in sorted(vars(plugin).items())
        if name not in PLUGIN_TOKENS and name.endswith("_token") and value != defaults.get(name)
    }
    return [names[type(plugin)], *(getattr(plugin, name, None) for name in PLUGIN_TOKENS), extras]


def digest(value: Any) -> str:
    """sha256 of the canonical JSON, clipped; key order does not count, list order does."""
    text = json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def comparable(registry: Any, fields: list[str]) -> dict[str, Any]:
    """A recorded Registry in the form of a dump: every field of `fields`, defaults included."""
    from template_audit.frameworks.llamafactory.registry import registry_to_json

    data = registry_to_json(registry)
    templates: dict[str, Any] = {}
    for name, spec in registry.templates.items():
        full: dict[str, Any] = {"kind": spec.kind}
        for field in fields:
            value = getattr(spec, field)
            if field.startswith("format_") or field == "mm_plugin":
                full[field] = data["templates"][name].get(field, ["empty", []])
            else:
                full[field] = list(value) if isinstance(value, tuple) else value
        templates[name] = full
    return {**{name: data[name] for name in SECTIONS}, "templates": templates}


def compare(files: list[str]) -> int:
    """Compare dumps with the built-in registries; print counts and every difference; write the digests."""
    from template_audit.frameworks.llamafactory.registry import load_registry

    recorded: dict[str, Any] = {}
    status = 0
    for file in files:
        runtime = json.loads(Path(file).read_text(encoding="utf-8"))
        registry = comparable(load_registry(runtime["version"]), runtime["fields"])
        templates, ours = runtime["templates"], registry["templates"]
        equal = [name for name in templates if name in ours and digest(ours[name]) == digest(templates[name])]
        order = list(templates) == list(ours)
        sections = [name for name in SECTIONS if runtime[name] == registry[name]]
        print(
            f"{runtime['version']}: {len(templates)} templates at run time, {len(ours)} recorded, {len(equal)} equal, "
            f"same order: {order}; {', '.join(sections)} equal (of {len(SECTIONS)})"
        )
        for name in sorted(templates.keys() | ours.keys()):
            for key in sorted(templates.get(name, {}).keys() | ours.get(name, {}).keys()):
                if templates.get(name, {}).get(key) != ours.get(name, {}).get(key):
                    print(f"  {name}.{key}: {templates.get(name, {}).get(key)!r} != {ours.get(name, {}).get(key)!r}")
        for name in set(SECTIONS) - set(sections):
            print(f"  {name} differs")
        if len(equal) != len(ours) or not order or len(sections) != len(SECTIONS):
            status = 1
        recorded[runtime["version"]] = {
            "environment": runtime["environment"],
            "fields": runtime["fields"],
            "order": digest(list(templates)),
            **{name: digest(runtime[name]) for name in SECTIONS},
            "templates": {name: digest(template) for name, template in templates.items()},
        }
    DIGESTS.parent.mkdir(parents=True, exist_ok=True)
    DIGESTS.write_text(json.dumps(dict(sorted(recorded.items())), indent=1) + "\n", encoding="utf-8")
    return status


def main() -> int:
    """Dump this environment's framework to a file, or compare dumps."""
    parser = argparse.ArgumentParser(description="Dump what an installed LLaMA-Factory registers, or compare dumps.")
    parser.add_argument("output", nargs="?", help="where the dump goes (the framework itself logs to stdout)")
    parser.add_argument("--stub", action="append", default=[], help="replace this module by an empty one")
    parser.add_argument("--compare", nargs="+", help="dumps to compare with the built-in registries")
    arguments = parser.parse_args()
    if arguments.compare:
        return compare(arguments.compare)
    if arguments.output is None:
        parser.error("name the file that the dump goes to, or --compare dumps")
    for name in arguments.stub:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name] = module
    text = json.dumps(dump(), ensure_ascii=False, indent=1)
    Path(arguments.output).write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
