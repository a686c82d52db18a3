"""A template as the ``register_template(…)`` call that registers it, and such a call read back.

Reading goes through the importer's own evaluator, so nothing is run. Where a copy of the framework is
at hand, `template_audit.frameworks.llamafactory.importer.import_registry` reads the call as part of it;
`read_snippet` reads it on top of a recorded release, whose classes are declared here by name only.
"""

from __future__ import annotations

import ast
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from template_audit.errors import UsageError
from template_audit.frameworks.llamafactory.reader.interpreter import Interpreter, Native
from template_audit.frameworks.llamafactory.reader.source import SourceTree
from template_audit.frameworks.llamafactory.reader.values import ClassValue, Frame, FunctionValue, Instance
from template_audit.frameworks.llamafactory.records import (
    check_formatter,
    plugin_from_call,
    slots_from_value,
    template_from_instance,
)
from template_audit.frameworks.llamafactory.registry import (
    Formatter,
    FormatterKind,
    MMPlugin,
    Registry,
    Slot,
    Special,
    TemplateKind,
    TemplateSpec,
    Token,
)
from template_audit.report.sanitize import is_hidden

OLDEST = (0, 9, 2)
"""The first release whose `register_template` takes what a snippet says."""

_FORMATTERS: dict[FormatterKind, str] = {
    "string": "StringFormatter",
    "empty": "EmptyFormatter",
    "function": "FunctionFormatter",
    "tool": "ToolFormatter",
}
_CLASSES: dict[TemplateKind, str] = {
    "plain": "Template",
    "llama2": "Llama2Template",
    "reasoning": "ReasoningTemplate",
    "glm47_reasoning": "Glm47ReasoningTemplate",
}
_CONTENT = "{{content}}"
_BASE_PLUGIN = MMPlugin("base")

# The classes by name and the parameters by name (data/formatter.py, data/template.py); no code of theirs.
_DECLARED = """
@dataclass
class Formatter:
    slots: list = field(default_factory=list)
    tool_format: str = None
class EmptyFormatter(Formatter):
    pass
class StringFormatter(Formatter):
    pass
class FunctionFormatter(StringFormatter):
    pass
class ToolFormatter(Formatter):
    pass
class Template:
    pass
class Llama2Template(Template):
    pass
class ReasoningTemplate(Template):
    pass
class Glm47ReasoningTemplate(ReasoningTemplate):
    pass
def get_mm_plugin(name, image_token=None, video_token=None, audio_token=None, **kwargs):
    pass
"""
_SINCE = {"enable_thinking": (0, 9, 3), "tool_call_words": (0, 9, 4), "preserve_thinking": (0, 9, 5)}


def snippet(spec: TemplateSpec, registry: Registry) -> str:
    """The call that registers `spec`; what is the release's default anyway is left out."""
    lines = [f"name={_quoted(spec.name)}"]
    answer = spec.format_assistant
    defaults = {
        "format_user": Formatter("string", (_CONTENT,)),
        "format_assistant": Formatter(
            "string", (_CONTENT,) if spec.efficient_eos else (_CONTENT, Special("eos_token"))
        ),
        "format_system": Formatter("string", (_CONTENT,)),
        "format_function": Formatter("function", answer.slots, "default"),
        "format_observation": spec.format_user,
        "format_tools": Formatter("tool", (), "default"),
        "format_prefix": Formatter("empty"),
    }
    for name, usual in defaults.items():
        formatter: Formatter = getattr(spec, name)
        if formatter != usual:
            lines.append(f"{name}={_formatter(formatter)}")
    if spec.default_system:
        lines.append(f"default_system={_quoted(spec.default_system)}")
    if spec.stop_words:
        lines.append(f"stop_words=[{', '.join(map(_quoted, spec.stop_words))}]")
    for name, pair, default in (
        ("thought_words", spec.thought_words, _default_thought_words(registry)),
        ("tool_call_words", spec.tool_call_words, ("<tool_call>", "</tool_call>")),
    ):
        if pair != default:
            lines.append(f"{name}=({_quoted(pair[0])}, {_quoted(pair[1])})")
    for name in ("efficient_eos", "replace_eos", "replace_jinja_template", "preserve_thinking"):
        if getattr(spec, name):
            lines.append(f"{name}=True")
    if spec.enable_thinking is not True:
        lines.append(f"enable_thinking={spec.enable_thinking}")
    if spec.mm_plugin not in (None, _BASE_PLUGIN):
        lines.append(f"mm_plugin={_plugin(spec.mm_plugin)}")
    if spec.kind != "plain":
        lines.append(f"template_class={_CLASSES[spec.kind]}")
    return "register_template(\n" + "".join(f"    {line},\n" for line in lines) + ")\n"


def read_snippet(text: str, registry: Registry) -> Registry:
    """`registry` with the templates that `text` registers. Nothing is run.

    Raises UsageError, naming the line, for whatever is no plain call of `register_template`, for what the
    release refuses (a name that is taken, a formatter without its placeholder, an unknown tool format or
    parameter), and for releases before 0.9.2, whose call takes other parameters.
    """
    return _Snippet(text, registry).registry()


class _Snippet:
    def __init__(self, text: str, registry: Registry) -> None:
        self.base = registry
        self.found: dict[str, TemplateSpec] = {}
        self.source = SourceTree("snippet", "llamafactory")
        self.source._texts.update(
            {
                "data/formatter.py": _DECLARED + _signature(registry),
                "data/template.py": f"from .formatter import *\n{text}",
            }
        )
        natives: dict[str, Native] = {"register_template": self._register, "get_mm_plugin": self._plugin}
        self.interpreter = Interpreter(self.source, natives, self._check)

    def registry(self) -> Registry:
        module = self.interpreter.module("data/template.py")
        assert module is not None
        for statement in module.tree.body[1:]:
            if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
                raise self.source.error(module.path, statement.lineno, "is no call of `register_template`")
            self.interpreter.position = (module.path, statement.lineno)
            self.interpreter.execute(statement, Frame(module))
        return replace(self.base, templates=MappingProxyType({**self.base.templates, **self.found}))

    def _check(self, instance: Instance) -> None:
        check_formatter(instance, self.source, lambda: self.base.tool_formats)

    def _plugin(self, args: list[Any], kwargs: dict[str, Any], function: FunctionValue, node: ast.AST) -> MMPlugin:
        known = {spec.mm_plugin.name for spec in self.base.templates.values() if spec.mm_plugin is not None}
        bound = self.interpreter.bind(function, args, kwargs, node)
        return plugin_from_call(bound, known, *self.interpreter.position, self.source)

    def _register(self, args: list[Any], kwargs: dict[str, Any], function: FunctionValue, node: ast.AST) -> None:
        given = self.interpreter.bind(function, args, kwargs, node)
        name, path, line = given.pop("name"), *self.interpreter.position
        if name in self.base.templates or name in self.found:
            raise self.source.error(path, line, f"registers `{name}`, which is there already")
        template_class = given.pop("template_class")
        module = self.interpreter.module("data/formatter.py")
        assert module is not None

        def make(kind: FormatterKind, *slots: Any, tool_format: str | None = None) -> Instance:
            cls = module.lookup(_FORMATTERS[kind])
            return Instance(cls, {"slots": list(slots), "tool_format": tool_format}, path, line)

        answer = make("string", _CONTENT, *([] if given["efficient_eos"] else [{"eos_token"}]))
        answered = given["format_assistant"] or answer
        fill: dict[str, Any] = {
            "format_user": make("string", _CONTENT),
            "format_assistant": answer,
            "format_system": make("string", _CONTENT),
            "format_function": make("function", *answered.fields["slots"], tool_format="default"),
            "format_observation": given["format_user"] or make("string", _CONTENT),
            "format_tools": make("tool", tool_format="default"),
            "format_prefix": make("empty"),
            "stop_words": [],
            "thought_words": _default_thought_words(self.base),
            "mm_plugin": _BASE_PLUGIN,
        }
        values = {key: fill.get(key) if value is None else value for key, value in given.items()}
        if "tool_call_words" in values:
            values["tool_call_words"] = values["tool_call_words"] or ("<tool_call>", "</tool_call>")
        values["enable_thinking"] = given.get("enable_thinking", True)
        if not isinstance(template_class, ClassValue):
            raise self.source.error(path, line, "gives a template_class that is no class of the framework")
        if template_class.name not in {_CLASSES[spec.kind] for spec in self.base.templates.values()}:
            raise self.source.error(
                path, line, f"uses `{template_class.name}`, which {self.base.version} does not have"
            )
        read = template_from_instance(
            name,
            Instance(template_class, values, path, line),
            self.source,
            lambda it: slots_from_value(it, self.source),
        )
        self.found[name] = read


def _signature(registry: Registry) -> str:
    version = _version(registry)
    if version < OLDEST:
        raise UsageError(
            f"A snippet for LLaMA-Factory {registry.version} cannot be written: its registration takes other "
            "parameters than that of 0.9.2 and later."
        )
    names = ("format_user", "format_assistant", "format_system", "format_function", "format_observation")
    parts = [f"{name}=None" for name in (*names, "format_tools", "format_prefix")]
    parts += [
        "default_system=''",
        "stop_words=None",
        "thought_words=None",
        "tool_call_words=None",
        "efficient_eos=False",
    ]
    parts += ["replace_eos=False", "replace_jinja_template=False", "enable_thinking=True", "preserve_thinking=False"]
    parts += ["mm_plugin=None", "template_class=Template"]
    kept = [part for part in parts if version >= _SINCE.get(part.partition("=")[0], OLDEST)]
    return f"def register_template(name, {', '.join(kept)}):\n    pass\n"


def _version(registry: Registry) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in registry.version.split(".")[:3])


def _default_thought_words(registry: Registry) -> tuple[str, str]:
    """What a release fills in; templates without thoughts show it, and most are such."""
    found = [spec.thought_words for spec in registry.templates.values()]
    return max(dict.fromkeys(found), key=found.count)


def _formatter(formatter: Formatter) -> str:
    arguments = []
    if formatter.slots:
        arguments.append(f"slots=[{', '.join(map(_slot, formatter.slots))}]")
    if formatter.tool_format is not None:
        arguments.append(f"tool_format={_quoted(formatter.tool_format)}")
    return f"{_FORMATTERS[formatter.kind]}({', '.join(arguments)})"


def _slot(slot: Slot) -> str:
    if isinstance(slot, Token):
        return f'{{"token": {_quoted(slot.text)}}}'
    return f"{{{_quoted(slot.name)}}}" if isinstance(slot, Special) else _quoted(slot)


def _plugin(plugin: MMPlugin | None) -> str:
    assert plugin is not None
    tokens = (
        ("image_token", plugin.image_token),
        ("video_token", plugin.video_token),
        ("audio_token", plugin.audio_token),
    )
    given = [(key, value) for key, value in (*tokens, *plugin.extras) if value is not None]
    return f"get_mm_plugin(name={_quoted(plugin.name)}" + "".join(f", {k}={_quoted(v)}" for k, v in given) + ")"


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def _quoted(text: str) -> str:
    """A Python literal of `text` in which nothing is hidden from a reader or obeyed by a terminal."""
    return '"' + "".join(_ESCAPES.get(char) or (_code(char) if is_hidden(char) else char) for char in text) + '"'


def _code(char: str) -> str:
    return f"\\U{ord(char):08x}" if ord(char) > 0xFFFF else f"\\u{ord(char):04x}"
