"""Reads a release's registry from its source, of which nothing is imported or executed."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from template_audit.errors import UsageError
from template_audit.frameworks.llamafactory.detection import data_args, detect_behaviours, find, fingerprints
from template_audit.frameworks.llamafactory.reader.interpreter import Interpreter
from template_audit.frameworks.llamafactory.reader.source import SourceTree, open_source
from template_audit.frameworks.llamafactory.reader.values import Frame, FunctionValue, Instance, Module
from template_audit.frameworks.llamafactory.records import (
    check_formatter,
    plugin_from_call,
    slots_from_value,
    template_from_instance,
)
from template_audit.frameworks.llamafactory.registry import MMPlugin, Registry, Slot, TemplateSpec

_TEMPLATE = "data/template.py"
_TOOLS = "data/tool_utils.py"
_FORMATTER = "data/formatter.py"
_CONSTANTS = "extras/constants.py"
_WEBUI = "webui/common.py"
_REGISTERS = ("register_template", "_register_template", "register_model_group")
_TABLES = ("TEMPLATES", "templates", "SUPPORTED_MODELS", "DEFAULT_TEMPLATE")
_HUBS = ("hf", "ms", "om")
_GUARDS = ("__name__", "TYPE_CHECKING")


def import_registry(path: str | Path, appended: str = "") -> Registry:
    """The registry of the LLaMA-Factory source at `path`, which is read and never run.

    `path` is a ``.whl`` file, an installed copy, an unpacked release, a checkout or a virtual environment.
    Templates that the user added are included: calls of ``register_template`` and assignments to ``TEMPLATES``
    at the top level of data/template.py and of any other file of the package. `appended` is read as if it stood at
    the end of data/template.py.
    A source that did not change is read once. Raises UsageError, naming file, line and construct, for
    whatever cannot be read.
    """
    source = open_source(path)
    key = (source.where, source.stamp(), appended)
    if appended:
        source.append(_TEMPLATE, appended)
    if key not in _READ:
        try:
            _READ[key] = _Import(source).registry()
        except RecursionError:
            raise UsageError(f"Cannot read the LLaMA-Factory source {source.where}: it is nested too deeply.") from None
    return _READ[key]


_READ: dict[tuple[str, tuple[tuple[str, int, int], ...], str], Registry] = {}
"""What was read already: one audit asks for the same source many times, and reading takes a second."""


class _Import:
    def __init__(self, source: SourceTree) -> None:
        self.source = source
        self.interpreter = Interpreter(source, {"get_mm_plugin": self._get_mm_plugin}, self._check)
        template = self.interpreter.module(_TEMPLATE)
        assert template is not None  # open_source looked for it
        self.template_module = template

    def registry(self) -> Registry:
        behaviours = detect_behaviours(self.source)  # first: it says best why a very old release is refused
        templates = self._templates()
        names, models = self._models()
        return Registry(
            version=self._version(),
            templates=MappingProxyType(templates),
            tool_prompts=MappingProxyType(self._tool_prompts()),
            tool_formats=tuple(self._tool_classes),
            function_slots=MappingProxyType(self._function_slots),
            models=MappingProxyType(models),
            model_names=MappingProxyType(names),
            behaviours=behaviours,
            data_args=MappingProxyType(data_args(self.source)),
            code=MappingProxyType(fingerprints(self.source)),
            files=MappingProxyType(dict(sorted(self.source.digests.items()))),
        )

    def _version(self) -> str:
        for path, name in (("extras/env.py", "VERSION"), ("__init__.py", "__version__")):
            module = self.interpreter.module(path)
            if module is not None and isinstance(value := module.lookup(name), str):
                return value
        return self.source.version_hint or "unknown"

    def _templates(self) -> dict[str, TemplateSpec]:
        for module in self._registering_modules():
            for statement in module.tree.body:
                if _registers(statement, module):
                    self.interpreter.position = (module.path, statement.lineno)
                    self.interpreter.execute(statement, Frame(module))
        table = next((name for name in _TABLES if name in self.template_module.definitions()), None)
        found = self.template_module.lookup(table) if table else None
        if not isinstance(found, dict) or not found:
            raise self.source.error(_TEMPLATE, 1, "registers no templates in a way that this importer knows")
        specs: dict[str, TemplateSpec] = {}
        for name, value in found.items():
            if not isinstance(value, Instance) or not isinstance(name, str):
                raise self.source.error(_TEMPLATE, 1, f"holds something else than a template under {name!r}")
            specs[name] = template_from_instance(name, value, self.source, self._slots)
        return specs

    def _registering_modules(self) -> Iterator[Module]:
        """data/template.py, then every other file of the package that registers something at its top level."""
        yield self.template_module
        for path in self.source.python_files():
            if path == _TEMPLATE or path.startswith("v1/"):  # v1 has a registry of its own
                continue
            text = self.source.peek(path)
            if any(f"{word}(" in text for word in _REGISTERS) or any(f"{word}[" in text for word in _TABLES):
                module = self.interpreter.module(path)
                if module is not None:
                    yield module

    def _check(self, instance: Instance) -> None:
        check_formatter(instance, self.source, lambda: self._tool_classes)

    def _slots(self, formatter: Instance) -> tuple[Slot, ...]:
        """Slots at run time: up to 0.9.1 a function formatter puts those of its tool format in front."""
        slots = slots_from_value(formatter, self.source)
        if formatter.cls.name == "FunctionFormatter" and self._function_slots:
            return (*self._function_slots[formatter.fields["tool_format"]], *slots)
        return slots

    def _get_mm_plugin(
        self, args: list[Any], kwargs: dict[str, Any], function: FunctionValue, node: ast.AST
    ) -> MMPlugin:
        bound = self.interpreter.bind(function, args, kwargs, node)
        plugins = function.module.lookup("PLUGINS")
        known = plugins if isinstance(plugins, dict) else {}
        path, line = self.interpreter.position
        return plugin_from_call(bound, known, path, line, self.source)

    def _tool_prompts(self) -> dict[str, str]:
        prompts: dict[str, str] = {}
        for path in (_TOOLS, _FORMATTER):
            module = self.interpreter.module(path)
            if module is not None:
                found = {name: module.lookup(name) for name in module.definitions() if name.isupper()}
                prompts |= {name: value for name, value in found.items() if isinstance(value, str)}
        return prompts

    @cached_property
    def _tool_classes(self) -> dict[str, str]:
        """Tool format → name of the class of data/tool_utils.py that writes it, in the release's order."""
        module = self.interpreter.module(_TOOLS)
        table = module.lookup("TOOLS") if module is not None else None
        if isinstance(table, dict):
            return {name: tool.cls.name for name, tool in table.items() if isinstance(tool, Instance)}
        found: dict[str, str] = {}  # 0.8.x: an if for every format
        function = find(self.source, f"{_FORMATTER}:FunctionFormatter.__post_init__")
        for node in ast.walk(function) if function is not None else ():
            if isinstance(node, ast.If) and isinstance(node.test, ast.Compare):
                formats = [word.value for word in node.test.comparators if isinstance(word, ast.Constant)]
                classes = [name.id for name in ast.walk(node.body[0]) if isinstance(name, ast.Name)]
                tools = [name for name in classes if name.endswith("ToolUtils")]
                if formats and tools:
                    found[str(formats[0])] = tools[0]
        if not found:
            raise self.source.error(_FORMATTER, 1, "knows tool formats in a way that this importer does not follow")
        return found

    @cached_property
    def _function_slots(self) -> dict[str, tuple[Slot, ...]]:
        found: dict[str, tuple[Slot, ...]] = {}
        for tool_format, cls in self._tool_classes.items():
            place = f"{_TOOLS}:{cls}.get_function_slots"
            function, module = find(self.source, place), self.interpreter.module(_TOOLS)
            if function is not None and module is not None:
                slots = self.interpreter.call_function(FunctionValue(function.name, function, module), [], {}, function)
                if not isinstance(slots, list) or not all(isinstance(slot, str) for slot in slots):
                    raise self.source.error(_TOOLS, function.lineno, f"gives `{cls}` slots that are no list of strings")
                found[tool_format] = tuple(slots)
        return found

    def _models(self) -> tuple[dict[str, str | None], dict[str, str | None]]:
        """Display name → default template, and hub id → default template.

        Asks the release's own ``get_template`` (webui/common.py), which says ``default`` when it has none.
        """
        constants = self.interpreter.module(_CONSTANTS)
        webui = self.interpreter.module(_WEBUI)
        supported = constants.lookup("SUPPORTED_MODELS") if constants is not None else None
        chooser = webui.lookup("get_template") if webui is not None else None
        names: dict[str, str | None] = {}
        models: dict[str, str | None] = {}
        if not isinstance(supported, dict):
            return names, models
        if not isinstance(chooser, FunctionValue):
            raise self.source.error(_WEBUI, 1, "has no get_template, which says a model's default template")
        for name in supported:
            template = self.interpreter.call_function(chooser, [name], {}, chooser.node)
            names[name] = None if template in ("default", "", None) else str(template)
        for hub in _HUBS:  # an id of the first hub wins
            for name, ids in supported.items():
                if isinstance(ids, dict) and isinstance(model_id := ids.get(hub), str):
                    models.setdefault(model_id, names[name])
        return names, models


def _registers(statement: ast.stmt, module: Module) -> bool:
    """Whether a top-level statement changes what is registered, as far as it is followed at all."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom):
        return False
    if isinstance(statement, ast.If) and _named(getattr(statement.test, "left", statement.test)) in _GUARDS:
        return False  # `if __name__ == "__main__"` does not hold when the package is imported
    for node in ast.walk(statement):
        if isinstance(node, ast.Call):
            function = node.func
            if _named(function) in _REGISTERS:
                return True
            if isinstance(function, ast.Attribute) and _named(function.value) in _TABLES:
                return True  # TEMPLATES.update(…)
        elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            owner: ast.expr = node
            while isinstance(owner, ast.Subscript | ast.Attribute):
                owner = owner.value
                if _named(owner) in _TABLES:
                    return True
            if isinstance(owner, ast.Name) and isinstance(module.lookup(owner.id), Instance):
                return True
    return False


def _named(node: ast.expr) -> str | None:
    """The last part of a name: ``register_template`` of ``template.register_template``."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None
