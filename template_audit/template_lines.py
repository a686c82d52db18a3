"""The text that a chat template writes by itself, and on which of its lines it stands.

Templates are parsed and nothing more: Jinja folds constants when it compiles, which a hostile template
can make arbitrarily expensive.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import TYPE_CHECKING, NamedTuple

from template_audit.stream import EncodedStream

if TYPE_CHECKING:
    from jinja2 import nodes

_BREAK = "\ue000"  # stands for a line break of the template within one of its strings
_MOST = 2_000_000  # comparisons that a line is worth
_PROMPT = "add_generation_prompt"


class Guard(NamedTuple):
    """The roles of messages for which a part of a template can be reached; `only` None: all but `never`."""

    only: frozenset[str] | None = None
    never: frozenset[str] = frozenset()

    def lets(self, role: str | None) -> bool:
        """True when a message of this role may come here; an unknown role may come everywhere."""
        return role is None or (role not in self.never and (self.only is None or role in self.only))

    def and_(self, other: Guard) -> Guard:
        """What both let through."""
        both = [only for only in (self.only, other.only) if only is not None]
        return Guard(frozenset.intersection(*both) if both else None, self.never | other.never)

    def or_(self, other: Guard) -> Guard:
        """What one of the two lets through, as far as that can be said."""
        return Guard() if self.only is None or other.only is None else Guard(self.only | other.only)


class Literal(NamedTuple):
    """Text that a template writes by itself, the line on which it begins, and for whom it is written.

    `breaks` are the places in `text` at which the template's own line ends: not where a ``\\n`` stands for one.
    """

    line: int
    text: str
    guard: Guard = Guard()
    breaks: tuple[int, ...] = ()


def literals(template: str, variables: Mapping[str, str] | None = None) -> list[Literal]:
    """The literals of a template: its plain text, its strings, and `variables` where they are named.

    None when it cannot be parsed. What is written as the generation prompt alone is not among them, nor what
    text is only compared with.
    """
    from datetime import UTC, datetime

    from jinja2 import TemplateSyntaxError

    from template_audit.model.environment import ChatEnvironment

    environment = ChatEnvironment(clock=datetime(2000, 1, 1, tzinfo=UTC), limit=0, restricted=False)
    try:
        found = list(_literals(environment.parse(template), variables or {}, Guard()))
        breaks = {
            (line, text.replace(_BREAK, "\n")): tuple(i for i, char in enumerate(text) if char == _BREAK)
            for line, kind, value in environment.lex(template)
            if kind == "string" and "\n" in value and _BREAK not in value
            for text in [_meant(value[1:-1].replace("\n", _BREAK))]
        }
    except (TemplateSyntaxError, RecursionError):
        return []
    return [literal._replace(breaks=breaks.get(literal[:2], literal.breaks)) for literal in found]


def _meant(string: str) -> str:
    """What a Jinja string means: Python's escapes, the way that Jinja's lexer reads them."""
    try:
        return string.encode("ascii", "backslashreplace").decode("unicode-escape")
    except UnicodeDecodeError:
        return string


def _literals(node: nodes.Node, variables: Mapping[str, str], guard: Guard) -> Iterator[Literal]:
    from jinja2 import nodes

    if isinstance(node, (nodes.If, nodes.CondExpr)):
        for part, reached in _branches(node, guard):
            yield from _literals(part, variables, reached)
    elif isinstance(node, nodes.TemplateData):
        breaks = tuple(i for i, char in enumerate(node.data) if char == "\n")
        yield Literal(node.lineno, node.data, guard, breaks)
    elif isinstance(node, nodes.Const) and isinstance(node.value, str):
        yield Literal(node.lineno, node.value, guard)
    elif isinstance(node, nodes.Name) and node.name in variables:
        yield Literal(node.lineno, variables[node.name], guard)
    elif isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
        yield from _literals(node.node.node, variables, guard)  # what a method of text is given is looked for
    elif isinstance(node, nodes.Getitem):
        yield from _literals(node.node, variables, guard)
    elif not isinstance(node, (nodes.Compare, nodes.Test)):
        for child in node.iter_child_nodes():
            yield from _literals(child, variables, guard)


def _branches(node: nodes.If | nodes.CondExpr, guard: Guard) -> Iterator[tuple[nodes.Node, Guard]]:
    """The parts of a condition that may write something, and who reaches each."""
    from jinja2 import nodes

    if isinstance(node, nodes.CondExpr):
        if not (isinstance(node.test, nodes.Name) and node.test.name == _PROMPT):
            yield node.expr1, guard.and_(_where(node.test))
        if node.expr2 is not None:
            yield node.expr2, guard.and_(_where(node.test, holds=False))
        return
    for branch in (node, *node.elif_):
        if not (isinstance(branch.test, nodes.Name) and branch.test.name == _PROMPT):
            for part in branch.body:
                yield part, guard.and_(_where(branch.test))
        guard = guard.and_(_where(branch.test, holds=False))
    for part in node.else_:
        yield part, guard


def _where(test: nodes.Node, holds: bool = True) -> Guard:
    """The roles for which `test` can hold, or fail; tests of anything but a message's role let all through."""
    from jinja2 import nodes

    if isinstance(test, nodes.Not):
        return _where(test.node, not holds)
    if isinstance(test, (nodes.And, nodes.Or)):
        left, right = _where(test.left, holds), _where(test.right, holds)
        return left.and_(right) if isinstance(test, nodes.And) is holds else left.or_(right)
    if not isinstance(test, nodes.Compare) or len(test.ops) != 1 or not _is_role(test.expr):
        return Guard()
    operand = test.ops[0]
    values = operand.expr.items if isinstance(operand.expr, (nodes.List, nodes.Tuple)) else [operand.expr]
    roles = frozenset(value.value for value in values if isinstance(value, nodes.Const))
    if len(roles) != len(values) or operand.op not in ("eq", "ne", "in", "notin"):
        return Guard()
    return Guard(only=roles) if (operand.op in ("eq", "in")) is holds else Guard(never=roles)


def _is_role(node: nodes.Node) -> bool:
    """True for ``message.role`` and ``message['role']`` of a plain name: the message at hand, most likely."""
    from jinja2 import nodes

    if isinstance(node, nodes.Getattr):
        return node.attr == "role" and isinstance(node.node, nodes.Name)
    if not isinstance(node, nodes.Getitem) or not isinstance(node.arg, nodes.Const):
        return False
    return node.arg.value == "role" and isinstance(node.node, nodes.Name)


class Run(NamedTuple):
    """A template's own text between fields of messages, a range in it, and where that begins in the stream's text."""

    text: str
    start: int
    end: int
    at: int


def literal_runs(stream: EncodedStream, start: int, end: int) -> Iterator[Run]:
    """The template's own text under the tokens [start, end), run by run."""
    if not stream.spans:
        return
    first = stream.spans[start][0] if start < len(stream) else len(stream.text)
    last = max((stop for _, stop in stream.spans[start:end]), default=first)
    run_start: int | None = None
    for piece in [*stream.pieces, None]:
        own = piece is not None and piece.origin.field in ("literal", "default_system")
        if piece is not None and own:
            run_start = piece.start if run_start is None else run_start
            run_end = piece.end
        elif run_start is not None:
            begin, stop = max(first, run_start), min(last, run_end)
            if begin < stop or (begin == stop and first == last):
                yield Run(stream.text[run_start:run_end], begin - run_start, stop - run_start, begin)
            run_start = None


def role_at(stream: EncodedStream, char: int) -> str | None:
    """The role of the message that a character of the stream belongs to; None between messages."""
    return next((turn.role for turn in stream.turns if turn.char_start <= char < turn.char_end), None)


def line_of(known: Sequence[Literal], run: str, start: int, end: int, role: str | None = None) -> int | None:
    """The one line whose literal wrote ``run[start:end]``, or its beginning; None when several could have.

    `role` is that of the message: literals that are not for such messages are passed over.
    """
    blank = not run[start:end].strip()
    texts = {literal.text for literal in known if literal.text}
    if len(run) * len(texts) > _MOST:
        return None
    places = _tiling(run, texts)
    whole: set[int] = set()
    begun: set[int] = set()
    for literal in known:
        text = literal.text
        if not text or (not text.strip() and not blank) or not literal.guard.lets(role):
            continue
        for at in places.get(text, ()):
            stop = at + len(text)
            if at <= start < stop or (at < start == end == stop):
                line = literal.line + sum(place < start - at for place in literal.breaks)
                (whole if stop >= end else begun).add(line)
    lines = whole or begun
    return lines.pop() if len(lines) == 1 else None


def _tiling(run: str, texts: Set[str]) -> Mapping[str, list[int]]:
    """Where each text can stand in `run` so that texts before and behind it make up the rest.

    Where they cannot make up the run at all (a filter took blanks away, say) it is wherever each one stands.
    """
    from_here = {0}
    places: dict[str, list[int]] = {}
    for at in range(len(run)):
        if at in from_here:
            for text in texts:
                if run.startswith(text, at):
                    places.setdefault(text, []).append(at)
                    from_here.add(at + len(text))
    if len(run) not in from_here:
        return {text: [found.start() for found in re.finditer(f"(?={re.escape(text)})", run)] for text in texts}
    to_end = {len(run)}
    for at, text in sorted(((at, text) for text, ats in places.items() for at in ats), reverse=True):
        if at + len(text) in to_end:
            to_end.add(at)
    return {text: [at for at in ats if at + len(text) in to_end] for text, ats in places.items()}
