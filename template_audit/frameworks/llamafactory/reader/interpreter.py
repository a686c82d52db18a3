"""A bounded evaluator of Python source: statements, functions and classes over plain data.

It exists to follow a release's own registration code (``register_template``, ``register_model_group``, …)
without importing or executing it. Only what is written in the source is ever called; no built-in function,
import, attribute or file of the running Python is reached by what is read. What is not followed is refused
in one sentence with file, line and construct, and time and size are bounded.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from template_audit.errors import UsageError
from template_audit.frameworks.llamafactory.reader.calls import Calls
from template_audit.frameworks.llamafactory.reader.source import SourceTree
from template_audit.frameworks.llamafactory.reader.values import (
    ClassValue,
    Frame,
    FunctionValue,
    Instance,
    Module,
    describe,
)

Native = Callable[[list[Any], dict[str, Any], FunctionValue, ast.AST], Any]
"""Stands in for a function of the source: (arguments, keyword arguments, the function, the call)."""


class _Return(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


class Interpreter(Calls):
    """Follows the code of one SourceTree.

    `natives` replaces functions of the source, by name, where following them would lead into code that is
    not about registration; `on_instance` sees every new object.
    """

    def __init__(
        self,
        source: SourceTree,
        natives: dict[str, Native] | None = None,
        on_instance: Callable[[Instance], None] | None = None,
    ) -> None:
        super().__init__()
        self.source = source
        self.natives = natives or {}
        self.on_instance = on_instance
        self.position = ("", 1)
        """File and line of the outermost statement that is being followed."""
        self._modules: dict[str, Module | None] = {}

    def module(self, path: str) -> Module | None:
        """The module at `path` of the package, None when there is no such file."""
        if path not in self._modules:
            tree = self.source.tree(path)
            self._modules[path] = None if tree is None else Module(path, tree, self)
        return self._modules[path]

    def refusal(self, module: Module, node: ast.AST, what: str) -> UsageError:
        """The one sentence that names file, line and construct."""
        return self.source.error(module.path, getattr(node, "lineno", 1), what)

    def call_function(self, function: FunctionValue, args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Any:
        """Follow a function of the source with these arguments and return what it returns."""
        native = self.natives.get(function.name)
        if native is not None:
            return native(args, kwargs, function, node)
        frame = Frame(function.module, self.bind(function, args, kwargs, node))
        try:
            self._block(function.node.body, frame)
        except _Return as result:
            return result.value
        return None

    def bind(self, function: FunctionValue, args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> dict[str, Any]:
        """Match arguments to parameters, with the function's own defaults, as Python does."""
        spec, module = function.node.args, function.module
        positional = [*spec.posonlyargs, *spec.args]
        defaults: list[ast.expr | None] = [None] * (len(positional) - len(spec.defaults))
        defaults += spec.defaults
        bound: dict[str, Any] = {}
        if spec.vararg is not None:
            bound[spec.vararg.arg] = tuple(args[len(positional) :])
        elif len(args) > len(positional):
            raise self.refusal(module, node, f"calls `{function.name}` with {len(args)} positional arguments")
        rest = dict(kwargs)
        parameters = [*zip(positional, defaults, strict=True), *zip(spec.kwonlyargs, spec.kw_defaults, strict=True)]
        for index, (parameter, default) in enumerate(parameters):
            name = parameter.arg
            if index < min(len(positional), len(args)):
                if name in rest:
                    raise self.refusal(module, node, f"calls `{function.name}` with `{name}` twice")
                bound[name] = args[index]
            elif name in rest:
                bound[name] = rest.pop(name)
            elif default is not None:
                bound[name] = self.evaluate(default, Frame(module))
            else:
                raise self.refusal(module, node, f"calls `{function.name}` without `{name}`")
        if spec.kwarg is not None:
            bound[spec.kwarg.arg] = rest
        elif rest:
            raise self.refusal(module, node, f"calls `{function.name}` with an unknown argument `{next(iter(rest))}`")
        return bound

    def instantiate(self, cls: ClassValue, args: list[Any], kwargs: dict[str, Any], node: ast.AST) -> Instance:
        """Build an object of a dataclass of the source (or of a class without fields)."""
        names: list[str] = []
        values: dict[str, Any] = {}
        for base in reversed([*cls.lineage()]):
            for statement in base.node.body:
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    name = statement.target.id
                    if name not in names:
                        names.append(name)
                    if statement.value is not None:
                        values[name] = self._field_default(statement.value, base.module)
        unknown = kwargs.keys() - set(names)
        if len(args) > len(names) or unknown:
            what = f"an argument `{min(unknown)}`" if unknown else f"{len(args)} arguments"
            raise self.refusal(cls.module, node, f"calls `{cls.name}` with {what} that it does not have")
        values |= dict(zip(names, args, strict=False)) | kwargs
        missing = [name for name in names if name not in values]
        if missing:
            raise self.refusal(cls.module, node, f"calls `{cls.name}` without `{missing[0]}`")
        instance = Instance(cls, values, *self.position)
        if self.on_instance is not None:
            self.on_instance(instance)
        return instance

    def _field_default(self, node: ast.expr, module: Module) -> Any:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "field":
            for keyword in node.keywords:
                if keyword.arg == "default":
                    return self.evaluate(keyword.value, Frame(module))
                if keyword.arg == "default_factory" and isinstance(keyword.value, ast.Name):
                    factories: dict[str, type] = {"list": list, "dict": dict, "set": set, "tuple": tuple}
                    if keyword.value.id in factories:
                        return factories[keyword.value.id]()
            raise self.refusal(
                module, node, f"declares a field by {describe(node)}, which this importer does not follow"
            )
        return self.evaluate(node, Frame(module))

    def execute(self, statement: ast.stmt, frame: Frame) -> None:
        """Follow one statement. Raises UsageError for whatever is not followed, and for what would raise there."""
        handler = getattr(self, f"_do_{type(statement).__name__.lower()}", None)
        if handler is None:
            raise self.refusal(
                frame.module, statement, f"uses {describe(statement)}, which this importer does not follow"
            )
        handler(statement, frame)

    def _block(self, statements: list[ast.stmt], frame: Frame) -> None:
        for statement in statements:
            self.execute(statement, frame)

    def _do_expr(self, statement: ast.Expr, frame: Frame) -> None:
        value = statement.value
        if isinstance(value, ast.Constant):  # a docstring or an ellipsis
            return
        if isinstance(value, ast.Call) and _root(value.func) in ("logger", "logging", "print", "warnings"):
            return
        self.evaluate(value, frame)

    def _do_pass(self, statement: ast.Pass, frame: Frame) -> None:
        pass

    _do_import = _do_importfrom = _do_functiondef = _do_classdef = _do_pass

    def _do_assign(self, statement: ast.Assign, frame: Frame) -> None:
        value = self.evaluate(statement.value, frame)
        for target in statement.targets:
            self.assign(target, value, frame)

    def _do_annassign(self, statement: ast.AnnAssign, frame: Frame) -> None:
        if statement.value is not None:
            self.assign(statement.target, self.evaluate(statement.value, frame), frame)

    def _do_augassign(self, statement: ast.AugAssign, frame: Frame) -> None:
        target = statement.target
        if not isinstance(target, ast.Name):
            raise self.refusal(
                frame.module, statement, f"uses {describe(statement)}, which this importer does not follow"
            )
        read = ast.copy_location(ast.Name(target.id, ast.Load()), target)
        combined = ast.copy_location(ast.BinOp(read, statement.op, statement.value), statement)
        self.assign(target, self.evaluate(combined, frame), frame)

    def _do_delete(self, statement: ast.Delete, frame: Frame) -> None:
        for target in statement.targets:
            owner = self.evaluate(target.value, frame) if isinstance(target, ast.Subscript) else None
            key = self.evaluate(target.slice, frame) if isinstance(target, ast.Subscript) else None
            if not isinstance(owner, dict) or key not in owner:
                raise self.refusal(frame.module, statement, f"deletes {describe(target)}, which is not there")
            del owner[key]

    def _do_if(self, statement: ast.If, frame: Frame) -> None:
        self._block(statement.body if self.truth(statement.test, frame) else statement.orelse, frame)

    def _do_for(self, statement: ast.For, frame: Frame) -> None:
        for value in self.iterate(statement.iter, frame):
            self.assign(statement.target, value, frame)
            self._block(statement.body, frame)
        self._block(statement.orelse, frame)

    def _do_return(self, statement: ast.Return, frame: Frame) -> None:
        raise _Return(None if statement.value is None else self.evaluate(statement.value, frame))

    def _do_assert(self, statement: ast.Assert, frame: Frame) -> None:
        if not self.truth(statement.test, frame):
            raise self.refusal(frame.module, statement, f"fails its own check {describe(statement.test)}")

    def _do_raise(self, statement: ast.Raise, frame: Frame) -> None:
        cause = "an error" if statement.exc is None else describe(statement.exc)
        path, line = self.position
        raise self.refusal(frame.module, statement, f"raises {cause} for what {path} line {line} asks for")


def _root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None
