"""The expressions that the bounded evaluator follows. Everything else is refused with file, line and construct."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from typing import Any

from template_audit.errors import UsageError
from template_audit.frameworks.llamafactory.reader.values import (
    ClassValue,
    Frame,
    FunctionValue,
    Instance,
    Module,
    Opaque,
    describe,
)

MAX_STEPS = 400_000
"""Expressions evaluated by one import; the largest release so far takes 47,000."""
MAX_NESTING = 60
MAX_SIZE = 200_000
"""Characters of one string, or elements of one container."""
MAX_TOTAL = 5_000_000
"""Characters and elements made by one import altogether; the largest release so far makes 490,000."""

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: lambda a, b: bool(a == b),
    ast.NotEq: lambda a, b: bool(a != b),
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    ast.Is: lambda a, b: a is b,
    ast.IsNot: lambda a, b: a is not b,
}
Scalar = (str, int, float, bool, type(None))


class Expressions:
    """Evaluates expressions over plain data; calls and statements are the subclasses'."""

    def __init__(self) -> None:
        self._steps = 0
        self._nesting = 0
        self._total = 0

    def evaluate(self, node: ast.expr, frame: Frame) -> Any:
        """The value of an expression. Raises UsageError for whatever is not followed."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise self.refusal(frame.module, node, "takes more steps than the registration code of any release does")
        if self._nesting >= MAX_NESTING:
            raise self.refusal(frame.module, node, "is nested too deeply to be read")
        evaluator = getattr(self, f"_{type(node).__name__.lower()}", None)
        if evaluator is None:
            raise self.refusal(frame.module, node, f"uses {describe(node)}, which this importer does not follow")
        self._nesting += 1
        try:
            return evaluator(node, frame)
        finally:
            self._nesting -= 1

    def refusal(self, module: Module, node: ast.AST, what: str) -> UsageError:
        """The one sentence that names file, line and construct."""
        raise NotImplementedError

    def charge(self, amount: int, frame: Frame, node: ast.AST) -> None:
        """Account for a value of this size before it is made. Raises UsageError when it is too large."""
        self._total += amount
        if amount > MAX_SIZE or self._total > MAX_TOTAL:
            raise self.refusal(frame.module, node, "makes a value larger than any release does")

    def truth(self, node: ast.expr, frame: Frame) -> bool:
        """Whether an expression is true. Raises UsageError when that cannot be known."""
        value = self.evaluate(node, frame)
        if isinstance(value, Opaque):
            raise self.refusal(frame.module, node, f"depends on {describe(node)}, which is only known at run time")
        return bool(value)

    def iterate(self, node: ast.expr, frame: Frame) -> list[Any]:
        """The elements of an iterable expression."""
        value = self.evaluate(node, frame)
        if not isinstance(value, str | list | tuple | set | dict):
            raise self.refusal(
                frame.module, node, f"goes through {describe(node)}, which this importer does not follow"
            )
        self.charge(len(value), frame, node)
        return sorted(value, key=repr) if isinstance(value, set) else list(value)

    def assign(self, target: ast.expr, value: Any, frame: Frame) -> None:
        """Bind a target: a name, a tuple of names, an element of a container or a field of an object."""
        if isinstance(target, ast.Name):
            frame.names[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List) and isinstance(value, list | tuple):
            if len(target.elts) != len(value):
                raise self.refusal(frame.module, target, f"unpacks {len(value)} values into {describe(target)}")
            for element, part in zip(target.elts, value, strict=True):
                self.assign(element, part, frame)
        elif isinstance(target, ast.Subscript) and isinstance(container := self.evaluate(target.value, frame), dict):
            self.charge(1, frame, target)
            container[self._key(target.slice, frame)] = value
        elif isinstance(target, ast.Attribute) and isinstance(owner := self.evaluate(target.value, frame), Instance):
            owner.fields[target.attr] = value
        else:
            raise self.refusal(
                frame.module, target, f"assigns to {describe(target)}, which this importer does not follow"
            )

    def _key(self, node: ast.expr, frame: Frame) -> Any:
        key = self.evaluate(node, frame)
        if not isinstance(key, Scalar):
            raise self.refusal(frame.module, node, f"uses {describe(node)} as a key")
        return key

    def _constant(self, node: ast.Constant, frame: Frame) -> Any:
        if not isinstance(node.value, Scalar):
            raise self.refusal(frame.module, node, f"uses {describe(node)}, which this importer does not follow")
        if isinstance(node.value, str):
            self.charge(len(node.value), frame, node)
        return node.value

    def _name(self, node: ast.Name, frame: Frame) -> Any:
        if node.id in frame.names:
            return frame.names[node.id]
        return frame.module.lookup(node.id)

    def _attribute(self, node: ast.Attribute, frame: Frame) -> Any:
        owner = self.evaluate(node.value, frame)
        if isinstance(owner, Instance) and node.attr in owner.fields:
            return owner.fields[node.attr]
        cls = owner.cls if isinstance(owner, Instance) else owner
        if isinstance(cls, ClassValue) and (found := cls.member(node.attr)) is not None:
            statement, module = found
            if isinstance(statement, ast.FunctionDef):
                return FunctionValue(node.attr, statement, module)
            if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
                return self.evaluate(statement.value, Frame(module))
        if isinstance(owner, Module):
            return owner.lookup(node.attr)
        if isinstance(owner, Opaque):
            return Opaque(f"{owner.name}.{node.attr}")
        raise self.refusal(frame.module, node, f"uses {describe(node)}, which this importer does not follow")

    def _subscript(self, node: ast.Subscript, frame: Frame) -> Any:
        owner = self.evaluate(node.value, frame)
        if isinstance(owner, Opaque):
            return Opaque(f"{owner.name}[…]")
        if isinstance(node.slice, ast.Slice) or not isinstance(owner, str | list | tuple | dict):
            raise self.refusal(frame.module, node, f"uses {describe(node)}, which this importer does not follow")
        try:
            return owner[self._key(node.slice, frame)]
        except (KeyError, IndexError, TypeError):
            raise self.refusal(frame.module, node, f"looks up {describe(node)}, which is not there") from None

    def _elements(self, nodes: list[ast.expr], frame: Frame) -> Iterator[Any]:
        for node in nodes:
            if isinstance(node, ast.Starred):
                yield from self.iterate(node.value, frame)
            else:
                yield self.evaluate(node, frame)

    def _list(self, node: ast.List, frame: Frame) -> list[Any]:
        self.charge(len(node.elts), frame, node)
        return list(self._elements(node.elts, frame))

    def _tuple(self, node: ast.Tuple, frame: Frame) -> tuple[Any, ...]:
        self.charge(len(node.elts), frame, node)
        return tuple(self._elements(node.elts, frame))

    def _set(self, node: ast.Set, frame: Frame) -> set[Any]:
        self.charge(len(node.elts), frame, node)
        elements = list(self._elements(node.elts, frame))
        if not all(isinstance(element, Scalar) for element in elements):
            raise self.refusal(frame.module, node, f"puts more than plain values into the set {describe(node)}")
        return set(elements)

    def _dict(self, node: ast.Dict, frame: Frame) -> dict[Any, Any]:
        self.charge(len(node.keys), frame, node)
        result: dict[Any, Any] = {}
        for key, value in zip(node.keys, node.values, strict=True):
            if key is not None:
                result[self._key(key, frame)] = self.evaluate(value, frame)
            elif isinstance(merged := self.evaluate(value, frame), dict):
                result |= merged
            else:
                raise self.refusal(
                    frame.module, value, f"unpacks {describe(value)}, which this importer does not follow"
                )
        return result

    def _binop(self, node: ast.BinOp, frame: Frame) -> Any:
        operands: list[tuple[ast.operator, ast.expr]] = []
        left: ast.expr = node
        while isinstance(left, ast.BinOp):  # a long chain of additions is flat, not deep
            operands.append((left.op, left.right))
            left = left.left
        value = self.evaluate(left, frame)
        for operator, operand in reversed(operands):
            value = self._combine(operator, value, self.evaluate(operand, frame), node, frame)
        return value

    def _combine(self, operator: ast.operator, left: Any, right: Any, node: ast.BinOp, frame: Frame) -> Any:
        sequences = (str, list, tuple)
        if isinstance(operator, ast.Add) and type(left) is type(right) and isinstance(left, sequences):
            self.charge(len(left) + len(right), frame, node)
            return left + right
        if isinstance(operator, ast.Mult):
            if isinstance(left, int) and isinstance(right, sequences):
                left, right = right, left
            if isinstance(left, sequences) and isinstance(right, int):
                self.charge(len(left) * max(right, 0), frame, node)
                return left * right
        if isinstance(operator, ast.BitOr) and isinstance(left, dict) and isinstance(right, dict):
            self.charge(len(left) + len(right), frame, node)
            return left | right
        raise self.refusal(frame.module, node, f"computes {describe(node)}, which this importer does not follow")

    def _boolop(self, node: ast.BoolOp, frame: Frame) -> Any:
        value: Any = None
        for operand in node.values:
            value = self.evaluate(operand, frame)
            if isinstance(value, Opaque):
                raise self.refusal(
                    frame.module, operand, f"depends on {describe(operand)}, which is only known at run time"
                )
            if bool(value) is isinstance(node.op, ast.Or):
                break
        return value

    def _unaryop(self, node: ast.UnaryOp, frame: Frame) -> Any:
        if isinstance(node.op, ast.Not):
            return not self.truth(node.operand, frame)
        value = self.evaluate(node.operand, frame)
        if isinstance(node.op, ast.USub) and isinstance(value, int | float):
            return -value
        raise self.refusal(frame.module, node, f"computes {describe(node)}, which this importer does not follow")

    def _compare(self, node: ast.Compare, frame: Frame) -> bool:
        left = self.evaluate(node.left, frame)
        for operator, operand in zip(node.ops, node.comparators, strict=True):
            right = self.evaluate(operand, frame)
            compare = _COMPARE.get(type(operator))
            known = not isinstance(left, Opaque) and not isinstance(right, Opaque)
            if compare is None or not known:
                raise self.refusal(
                    frame.module, node, f"depends on {describe(node)}, which this importer does not follow"
                )
            try:
                if not compare(left, right):
                    return False
            except TypeError:
                problem = f"compares {describe(node)}, which cannot be compared"
                raise self.refusal(frame.module, node, problem) from None
            left = right
        return True

    def _ifexp(self, node: ast.IfExp, frame: Frame) -> Any:
        return self.evaluate(node.body if self.truth(node.test, frame) else node.orelse, frame)

    def _joinedstr(self, node: ast.JoinedStr, frame: Frame) -> str:
        parts = []
        for piece in node.values:
            plain = not isinstance(piece, ast.FormattedValue) or (piece.conversion == -1 and piece.format_spec is None)
            value = self.evaluate(piece.value if isinstance(piece, ast.FormattedValue) else piece, frame)
            if not plain or not isinstance(value, str | int):
                raise self.refusal(frame.module, node, f"formats {describe(node)}, which this importer does not follow")
            parts.append(str(value))
        self.charge(sum(map(len, parts)), frame, node)
        return "".join(parts)

    def _comprehension(self, node: Any, frame: Frame) -> Iterator[Frame]:
        def walk(index: int, current: Frame) -> Iterator[Frame]:
            if index == len(node.generators):
                yield current
                return
            generator = node.generators[index]
            for value in self.iterate(generator.iter, current):
                inner = current.child()
                self.assign(generator.target, value, inner)
                if all(self.truth(test, inner) for test in generator.ifs):
                    yield from walk(index + 1, inner)

        if len(node.generators) > 3:
            raise self.refusal(frame.module, node, f"nests too many loops in {describe(node)}")
        yield from walk(0, frame)

    def _listcomp(self, node: ast.ListComp | ast.GeneratorExp, frame: Frame) -> list[Any]:
        result: list[Any] = []
        for inner in self._comprehension(node, frame):
            self.charge(1, frame, node)
            result.append(self.evaluate(node.elt, inner))
        return result

    _generatorexp = _listcomp

    def _dictcomp(self, node: ast.DictComp, frame: Frame) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        for inner in self._comprehension(node, frame):
            self.charge(1, frame, node)
            result[self._key(node.key, inner)] = self.evaluate(node.value, inner)
        return result
