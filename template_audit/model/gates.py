"""Places where a chat template looks for fixed words in what people wrote, found without running it.

The template is parsed and nothing more: jinja2 folds constants when it compiles, which a hostile
template can make arbitrarily expensive. What is found is what the template's text says plainly. Code
that means to hide (words put together from pieces, characters compared one by one) is not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from jinja2 import nodes

Kind = Literal["structure", "text", "parts"]
"""What a value holds: messages as objects, text that somebody wrote, or a list of content parts."""

_TEXT_FIELDS = frozenset({"content", "reasoning", "reasoning_content", "thinking", "text"})
_ITEMS = frozenset({"split", "rsplit", "splitlines", "partition", "rpartition"})
_SEARCHES = frozenset({"startswith", "endswith", "find", "rfind", "index", "rindex", "count"})
_CUTS = frozenset({"split", "rsplit", "partition", "rpartition", "replace", "removeprefix", "removesuffix"})
_TO_TEXT = frozenset({"string", "tojson", "join"})
_PART_KINDS = ("text", "image", "image_url", "audio", "audio_url", "input_audio", "video", "video_url")
_TESTS = frozenset({"in", "eq", "==", "equalto", "ne", "!="})


@dataclass(frozen=True, slots=True)
class Gate:
    """One place where the template's output depends on `literal` being in somebody's text.

    `line` counts from 1. `cuts` says that the text is cut or replaced at the literal. `writes` is what
    the template writes by itself where the literal is there; empty when there is no such branch.
    """

    literal: str
    line: int
    cuts: bool
    writes: str = ""


def find_gates(template: str) -> list[Gate]:
    """Every gate of a template, in its order; none when it cannot be parsed."""
    from datetime import UTC, datetime

    from jinja2.exceptions import TemplateSyntaxError

    from template_audit.model.environment import ChatEnvironment

    environment = ChatEnvironment(clock=datetime(2000, 1, 1, tzinfo=UTC), limit=0, restricted=False)
    try:
        return list(_Reader(environment.parse(template)).gates())
    except (TemplateSyntaxError, RecursionError):
        return []


class _Reader:
    """Follows messages and their text through assignments, loops and macros of one template."""

    def __init__(self, tree: nodes.Template) -> None:
        from jinja2 import nodes

        self.expressions = [node for node in _walk(tree) if isinstance(node, nodes.Expr)]
        self.statements = [node for node in _walk(tree) if isinstance(node, nodes.Stmt)]
        self.keys = set(_keys(self.expressions))
        self.kinds: dict[str, Kind] = {"messages": "structure"}
        while self._learn():
            pass

    def gates(self) -> Iterator[Gate]:
        """The gates, with what their branches write."""
        from jinja2 import nodes

        written: dict[int, str] = {}
        for branch in (*self.statements, *self.expressions):
            if isinstance(branch, nodes.If | nodes.CondExpr):
                for test, positive in _polar(branch.test):
                    written[id(test)] = _written(branch, positive)
        for node in self.expressions:
            for literal, cuts in self._literals(node):
                if literal.strip():
                    yield Gate(literal, node.lineno, cuts, written.get(id(node), ""))

    def _literals(self, node: nodes.Expr) -> Iterator[tuple[str, bool]]:
        """The literals that this expression looks for in text, and whether it cuts there."""
        from jinja2 import nodes

        if isinstance(node, nodes.Compare):
            sides = [node.expr, *(operand.expr for operand in node.ops)]
            operators = {operand.op for operand in node.ops}
            if operators <= {"in", "notin", "eq", "ne"} and any(self._kind(side) == "text" for side in sides):
                found = [literal for side in sides for literal in _constants(side)]
                member = operators & {"in", "notin"}
                yield from ((literal, False) for literal in found if not (member and literal in self.keys))
        elif isinstance(node, nodes.Test) and node.name in _TESTS and node.args:
            if "text" in (self._kind(node.node), self._kind(node.args[0])):
                yield from ((literal, False) for side in (node.node, node.args[0]) for literal in _constants(side))
        elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.args:
            if node.node.attr in _SEARCHES | _CUTS and self._kind(node.node.node) == "text":
                yield from ((literal, node.node.attr in _CUTS) for literal in _constants(node.args[0]))
        elif (
            isinstance(node, nodes.Filter)
            and node.name == "replace"
            and node.node
            and node.args
            and self._kind(node.node) == "text"
        ):
            yield from ((literal, True) for literal in _constants(node.args[0]))

    def _learn(self) -> bool:
        """Pass over all assignments once; True when a name was learnt that may teach others."""
        from jinja2 import nodes

        before = len(self.kinds)
        macros: dict[str, nodes.Macro] = {}
        for node in self.statements:
            if isinstance(node, nodes.Assign):
                self._bind(node.target, self._kind(node.node))
            elif isinstance(node, nodes.For) and isinstance(node.target, nodes.Expr):
                self._bind(node.target, self._items(node.iter))
            elif isinstance(node, nodes.AssignBlock):
                if any(self._kind(inner) == "text" for inner in _walk(node) if isinstance(inner, nodes.Expr)):
                    self._bind(node.target, "text")
            elif isinstance(node, nodes.Macro):
                macros[node.name] = node
        for call in self.expressions:
            if not (isinstance(call, nodes.Call) and isinstance(call.node, nodes.Name) and call.node.name in macros):
                continue
            parameters = macros[call.node.name].args
            for parameter, argument in zip(parameters, call.args, strict=False):
                self._bind(parameter, self._kind(argument))
            for keyword in call.kwargs:
                for parameter in parameters:
                    if parameter.name == keyword.key:
                        self._bind(parameter, self._kind(keyword.value))
        return len(self.kinds) > before

    def _bind(self, target: nodes.Expr, kind: Kind | None) -> None:
        from jinja2 import nodes

        if kind is None:
            return
        if isinstance(target, nodes.Name):
            self.kinds.setdefault(target.name, kind)
        elif isinstance(target, nodes.NSRef):
            self.kinds.setdefault(f"{target.name}.{target.attr}", kind)
        elif isinstance(target, nodes.Tuple):
            for item in target.items:
                self._bind(item, kind)

    def _items(self, node: nodes.Node) -> Kind | None:
        """What a loop over `node` yields."""
        from jinja2 import nodes

        kind = self._kind(node)
        if kind != "text":
            return kind
        cut = isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr) and node.node.attr in _ITEMS
        return "text" if cut else "parts"

    def _kind(self, node: nodes.Node | None) -> Kind | None:
        """What an expression holds, or None for anything that nobody wrote."""
        from jinja2 import nodes

        match node:
            case nodes.Name():
                return self.kinds.get(node.name)
            case nodes.Getattr():
                if isinstance(node.node, nodes.Name) and f"{node.node.name}.{node.attr}" in self.kinds:
                    return self.kinds[f"{node.node.name}.{node.attr}"]
                return self._field(self._kind(node.node), node.attr)
            case nodes.Getitem():
                key = node.arg.value if isinstance(node.arg, nodes.Const) else None
                return self._field(self._kind(node.node), key)
            case nodes.Filter():
                kind = self._kind(node.node)
                if kind and node.name in _TO_TEXT:
                    return "text"
                if kind and node.name == "map":
                    return self._field(kind, next(iter(_mapped(node)), None))
                return kind if node.name not in ("length", "count", "int") else None
            case nodes.Call():
                return self._call(node)
            case nodes.Concat():
                return self._first(node.nodes)
            case nodes.BinExpr():
                return self._first([node.left, node.right])
            case nodes.CondExpr():
                return self._first([node.expr1, *([node.expr2] if node.expr2 else [])])
            case nodes.List() | nodes.Tuple():
                return self._first(node.items)
        return None

    def _call(self, node: nodes.Call) -> Kind | None:
        from jinja2 import nodes

        if isinstance(node.node, nodes.Getattr):
            kind = self._kind(node.node.node)
            if kind == "text":
                return None if node.node.attr in _SEARCHES else "text"
            if node.node.attr == "get" and node.args and isinstance(node.args[0], nodes.Const):
                return self._field(kind, node.args[0].value)
            return kind
        if isinstance(node.node, nodes.Name):  # a macro that is given text writes text, as a rule
            return "text" if self._first(node.args) == "text" else None
        return None

    def _first(self, parts: Iterable[nodes.Expr]) -> Kind | None:
        kinds = [self._kind(part) for part in parts]
        return "text" if "text" in kinds else next((kind for kind in kinds if kind), None)

    @staticmethod
    def _field(kind: Kind | None, key: object) -> Kind | None:
        if kind is None or not isinstance(key, str):
            return kind  # an index or a slice
        return "text" if key in _TEXT_FIELDS else None


def _mapped(node: nodes.Filter) -> Iterator[object]:
    from jinja2 import nodes

    for keyword in node.kwargs:
        if keyword.key == "attribute" and isinstance(keyword.value, nodes.Const):
            yield keyword.value.value


def _constants(node: nodes.Expr) -> Iterator[str]:
    """The string literals of an operand: itself, or the items of a list."""
    from jinja2 import nodes

    for item in node.items if isinstance(node, nodes.List | nodes.Tuple) else [node]:
        if isinstance(item, nodes.Const) and isinstance(item.value, str):
            yield item.value


def _walk(node: nodes.Node) -> Iterator[nodes.Node]:
    """`node` and everything below it, in the order of the template."""
    stack = [node]
    while stack:
        node = stack.pop()
        yield node
        stack += reversed(list(node.iter_child_nodes()))


def _keys(expressions: Iterable[nodes.Expr]) -> Iterator[str]:
    """Words by which the template reads mappings or tells content parts apart: ``'image' in part`` asks for a key."""
    from jinja2 import nodes

    yield from _PART_KINDS
    for node in expressions:
        if isinstance(node, nodes.Getattr):
            yield node.attr
        elif isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
            yield str(node.arg.value)
        elif isinstance(node, nodes.Compare):
            named = (isinstance(node.expr, nodes.Getattr) and node.expr.attr == "type") or (
                isinstance(node.expr, nodes.Getitem)
                and isinstance(node.expr.arg, nodes.Const)
                and node.expr.arg.value == "type"
            )
            if named:
                yield from (literal for operand in node.ops for literal in _constants(operand.expr))


def _polar(test: nodes.Node, positive: bool = True) -> Iterator[tuple[nodes.Expr, bool]]:
    """Every expression of a test, and whether the branch is the one taken when it holds."""
    from jinja2 import nodes

    if isinstance(test, nodes.Not):
        yield from _polar(test.node, not positive)
    elif isinstance(test, nodes.And | nodes.Or):
        yield from _polar(test.left, positive)
        yield from _polar(test.right, positive)
    else:
        turned = isinstance(test, nodes.Compare) and any(operand.op in ("notin", "ne") for operand in test.ops)
        yield from ((node, positive != turned) for node in _walk(test) if isinstance(node, nodes.Expr))


def _written(branch: nodes.If | nodes.CondExpr, positive: bool) -> str:
    """What the template itself writes or keeps where the test holds (or does not); deeper branches left out."""
    from jinja2 import nodes

    if isinstance(branch, nodes.CondExpr):
        chosen = branch.expr1 if positive else branch.expr2
        return " ".join(_said(chosen)) if chosen is not None else ""
    found: list[str] = []
    for node in branch.body if positive else branch.else_:
        if isinstance(node, nodes.Output):
            for part in node.nodes:
                found += [part.data] if isinstance(part, nodes.TemplateData) else _said(part)
        elif isinstance(node, nodes.Assign):
            found += _said(node.node)
    return " ".join(found)


def _said(node: nodes.Node) -> list[str]:
    """The literals of an expression, those of an error that it raises left out."""
    from jinja2 import nodes

    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Name) and node.node.name == "raise_exception":
        return []
    if isinstance(node, nodes.Const):
        return [node.value] if isinstance(node.value, str) else []
    return [text for child in node.iter_child_nodes() for text in _said(child)]
