"""What the bounded evaluator works on: plain data, and handles for what the source itself defines."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from template_audit.frameworks.llamafactory.reader.source import PACKAGES

if TYPE_CHECKING:
    from template_audit.frameworks.llamafactory.reader.interpreter import Interpreter


@dataclass(eq=False)
class Opaque:
    """Something that the source names but that is not data; an error as soon as it matters."""

    name: str


@dataclass(eq=False)
class FunctionValue:
    """A function written in the source."""

    name: str
    node: ast.FunctionDef
    module: Module


@dataclass(eq=False)
class ClassValue:
    """A class written in the source; its body is looked up, never run."""

    name: str
    node: ast.ClassDef
    module: Module

    def lineage(self) -> Iterator[ClassValue]:
        """This class and those it derives from, as far as they are written in the source, nearest first."""
        yield self
        for base in self.node.bases:
            value = self.module.lookup(base.id) if isinstance(base, ast.Name) else None
            if isinstance(value, ClassValue) and value is not self:
                yield from islice(value.lineage(), 20)

    def member(self, name: str) -> tuple[ast.stmt, Module] | None:
        """The statement that defines `name` in the class body or in a base, with its module."""
        for cls in self.lineage():
            for statement in cls.node.body:
                if name in bound_names(statement):
                    return statement, cls.module
        return None


@dataclass(eq=False)
class Instance:
    """An object of a class written in the source: its fields, by name."""

    cls: ClassValue
    fields: dict[str, Any]
    path: str
    line: int
    """Where it was made."""


@dataclass(eq=False)
class Module:
    """One file's top level. Names are evaluated when they are needed, once."""

    path: str
    tree: ast.Module
    interpreter: Interpreter
    values: dict[str, Any] = field(default_factory=dict)
    _definitions: dict[str, list[ast.stmt]] | None = None
    _pending: set[str] = field(default_factory=set)

    def lookup(self, name: str) -> Any:
        """The value of a module-level name; Opaque when it is none that can be followed."""
        if name not in self.values:
            if name in self._pending:
                return Opaque(name)
            self._pending.add(name)
            try:
                self.values[name] = self._evaluate(name)
            finally:
                self._pending.discard(name)
        return self.values[name]

    def definitions(self) -> dict[str, list[ast.stmt]]:
        """The statements that bind each name of the top level."""
        if self._definitions is None:
            self._definitions = {}
            for statement in self.tree.body:
                for bound in bound_names(statement):
                    self._definitions.setdefault(bound, []).append(statement)
        return self._definitions

    def _evaluate(self, name: str) -> Any:
        statements = self.definitions().get(name)
        if not statements:
            return self._from_star_import(name)
        statement = statements[-1]
        if isinstance(statement, ast.FunctionDef):
            return FunctionValue(name, statement, self)
        if isinstance(statement, ast.ClassDef):
            return ClassValue(name, statement, self)
        if isinstance(statement, ast.ImportFrom):
            return self._imported(name, statement)
        if isinstance(statement, ast.Import):
            alias = next(alias for alias in statement.names if name in (alias.asname, alias.name.partition(".")[0]))
            package, *inside = alias.name.split(".")
            if package in PACKAGES and alias.asname is not None:
                return self._module(inside) or Opaque(name)
            return Opaque(name)
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            if len(statements) > 1:
                raise self.interpreter.refusal(
                    self, statement, f"assigns `{name}` more than once, so its value is unclear"
                )
            return self.interpreter.evaluate(statement.value, Frame(self))
        return Opaque(name)

    def _imported(self, name: str, statement: ast.ImportFrom) -> Any:
        original = next(alias.name for alias in statement.names if name in (alias.asname, alias.name))
        inside = self._inside(statement)
        if inside is None:
            return Opaque(original)
        module = self._module(inside)
        if module is not None and original in module.definitions():
            return module.lookup(original)
        return self._module([*inside, original]) or Opaque(original)

    def _from_star_import(self, name: str) -> Any:
        for statement in reversed(self.tree.body):
            if isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*":
                inside = self._inside(statement)
                module = None if inside is None else self._module(inside)
                if module is not None and name in module.definitions():
                    return module.lookup(name)
        return Opaque(name)

    def _inside(self, statement: ast.ImportFrom) -> list[str] | None:
        """The imported module as path parts inside the package, None when it is of another package."""
        dotted = statement.module.split(".") if statement.module else []
        if statement.level:
            return [*self.path.split("/")[: -statement.level], *dotted]
        return dotted[1:] if dotted and dotted[0] in PACKAGES else None

    def _module(self, parts: list[str]) -> Module | None:
        target = "/".join(parts)
        return self.interpreter.module(f"{target}.py") or self.interpreter.module(f"{target}/__init__.py".lstrip("/"))


@dataclass(eq=False)
class Frame:
    """Where names are looked up: the locals of a function, comprehension or loop, then the module."""

    module: Module
    names: dict[str, Any] = field(default_factory=dict)

    def child(self) -> Frame:
        """A frame that sees these locals and keeps its own."""
        return Frame(self.module, dict(self.names))


def bound_names(statement: ast.stmt) -> list[str]:
    """Names that a statement of a module or class body binds."""
    if isinstance(statement, ast.FunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.partition(".")[0] for alias in statement.names]
    if isinstance(statement, ast.Assign):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)]
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return [statement.target.id]
    return []


def describe(node: ast.AST) -> str:
    """A construct as a user would name it: a clipped piece of the source."""
    try:
        text = " ".join(ast.unparse(node).split())
    except (RecursionError, ValueError, AttributeError):
        return f"a deeply nested {type(node).__name__}"
    return f"`{text[:57]}…`" if len(text) > 60 else f"`{text}`"
