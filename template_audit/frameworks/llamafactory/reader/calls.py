"""The calls that the bounded evaluator follows: code of the source, and pure methods of plain data."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable
from typing import Any

from template_audit.frameworks.llamafactory.reader.expressions import Expressions
from template_audit.frameworks.llamafactory.reader.values import (
    ClassValue,
    Frame,
    FunctionValue,
    Instance,
    Opaque,
    describe,
)

_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        {"startswith", "endswith", "strip", "lstrip", "rstrip", "removeprefix", "removesuffix"}
        | {"split", "lower", "upper", "join", "replace"}
    ),
    dict: frozenset({"items", "keys", "values", "get", "copy", "update", "setdefault", "pop"}),
    list: frozenset({"append", "extend", "copy"}),
    set: frozenset({"add", "update", "copy"}),
    tuple: frozenset(),
}
_CONTAINERS: dict[str, type] = {"dict": dict, "OrderedDict": dict, "list": list, "tuple": tuple, "set": set}
_MEASURES: dict[str, Callable[[Any], Any]] = {"any": any, "all": all, "len": len}


class Calls(Expressions):
    """Evaluates calls; `call_function` and `instantiate` are the Interpreter's."""

    def call_function(self, function: FunctionValue, args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
        """Follow a function of the source."""
        raise NotImplementedError

    def instantiate(self, cls: ClassValue, args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Instance:
        """Build an object of a class of the source."""
        raise NotImplementedError

    def _call(self, node: ast.Call, frame: Frame) -> Any:
        if isinstance(node.func, ast.Attribute):
            owner = self.evaluate(node.func.value, frame)
            if isinstance(owner, str | dict | list | set | tuple):
                return self._method(owner, node.func.attr, node, frame)
        function = self.evaluate(node.func, frame)
        args, kwargs = self._arguments(node, frame)
        if isinstance(function, FunctionValue):
            return self.call_function(function, args, kwargs, node)
        if isinstance(function, ClassValue):
            return self.instantiate(function, args, kwargs, node)
        if isinstance(function, Opaque):
            return self._builtin(function.name, args, kwargs, node, frame)
        raise self.refusal(frame.module, node, f"calls {describe(node.func)}, which this importer does not follow")

    def _arguments(self, node: ast.Call, frame: Frame) -> tuple[list[Any], dict[str, Any]]:
        args = list(self._elements(node.args, frame))
        kwargs: dict[str, Any] = {}
        for keyword in node.keywords:
            value = self.evaluate(keyword.value, frame)
            if keyword.arg is not None:
                kwargs[keyword.arg] = value
            elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
                kwargs |= value
            else:
                raise self.refusal(frame.module, node, f"unpacks {describe(keyword.value)} into a call")
        return args, kwargs

    def _method(self, owner: Any, name: str, node: ast.Call, frame: Frame) -> Any:
        args, kwargs = self._arguments(node, frame)
        if kwargs or name not in _METHODS[type(owner)] or any(isinstance(arg, Opaque) for arg in args):
            raise self.refusal(frame.module, node, f"calls {describe(node)}, which this importer does not follow")
        size = len(owner)
        if name == "replace" and len(args) == 2 and all(isinstance(arg, str) for arg in args):
            size += (owner.count(args[0])) * len(args[1])
        elif name == "join" and len(args) == 1 and isinstance(args[0], list | tuple):
            size = sum(len(part) + len(owner) for part in args[0] if isinstance(part, str))
        self.charge(size, frame, node)
        try:
            result = getattr(owner, name)(*args)
        except (TypeError, ValueError, AttributeError, KeyError):
            problem = f"calls {describe(node)} with arguments that it does not take"
            raise self.refusal(frame.module, node, problem) from None
        return list(result) if name in ("items", "keys", "values") else result

    def _builtin(self, name: str, args: list[Any], kwargs: dict[str, Any], node: ast.Call, frame: Frame) -> Any:
        name = name.rpartition(".")[2]
        if name == "replace" and len(args) == 1 and isinstance(args[0], Instance):  # dataclasses.replace
            return self.instantiate(args[0].cls, [], args[0].fields | kwargs, node)
        if name in ("deepcopy", "copy") and len(args) == 1 and not kwargs:
            return self._copy(args[0], name == "deepcopy", frame, node)
        if not kwargs and len(args) <= 1 and not any(isinstance(arg, Opaque | Instance) for arg in args):
            if name in _CONTAINERS and not args:
                return _CONTAINERS[name]()
            if args and isinstance(args[0], str | list | tuple | set | dict):
                self.charge(len(args[0]), frame, node)
                if name in _MEASURES:
                    return _MEASURES[name](args[0])
                if name in _CONTAINERS:
                    return self._converted(_CONTAINERS[name], args[0], frame, node)
        if name == "dict" and kwargs and not args:
            return kwargs
        if name == "defaultdict":  # a missing key is an error here; no release reads one while it registers
            return {}
        raise self.refusal(frame.module, node, f"calls {describe(node)}, which this importer does not follow")

    def _converted(self, kind: Any, value: Any, frame: Frame, node: ast.Call) -> Any:
        try:
            return kind(value)
        except (TypeError, ValueError):
            raise self.refusal(frame.module, node, f"converts {describe(node)}, which cannot be converted") from None

    def _copy(self, value: Any, deep: bool, frame: Frame, node: ast.Call) -> Any:
        if isinstance(value, Instance):
            fields = {key: self._copy(part, deep, frame, node) if deep else part for key, part in value.fields.items()}
            return Instance(value.cls, fields, value.path, value.line)
        if isinstance(value, list | dict | set | tuple):
            self.charge(len(value), frame, node)
            if deep and isinstance(value, list | tuple):
                return type(value)(self._copy(part, deep, frame, node) for part in value)
            if deep and isinstance(value, dict):
                return {key: self._copy(part, deep, frame, node) for key, part in value.items()}
            return copy.copy(value)
        return value
