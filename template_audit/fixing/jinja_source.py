"""A chat template's source as a tree of what it writes, with the place of each part in the source.

The source is lexed and never compiled. Whitespace that the template's own tags strip belongs to no part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment

_BRANCHES = ("elif", "else")
_OPENERS = frozenset({"if", "for", "macro", "call", "filter", "set", "with", "block", "autoescape", "generation"})
_CAPTURING = frozenset({"macro", "call", "filter", "set"})
_LOOSE = frozenset({"if", "else", "or", "and", "not", "in", "is"})
_COMPARED = frozenset({"==", "!=", "<", ">", "<=", ">=", "-", "*", "/", "//", "%", "**", ","})


@dataclass(frozen=True, slots=True)
class Term:
    """One part of what an output expression adds up: ``source[start:end]``, and its text if it is a string."""

    start: int
    end: int
    text: str | None = None


@dataclass(slots=True, eq=False)
class Leaf:
    """Text or ``{{ … }}``. Text has one term, an expression the terms that it adds up.

    `end` is where the next tag begins, so that stripped whitespace is inside. `captured` is true inside of macros
    and ``{% set %}`` blocks, whose text is not written where it stands.
    """

    start: int
    end: int
    terms: list[Term]
    is_text: bool
    captured: bool
    parent: Body
    index: int


@dataclass(slots=True, eq=False)
class Body:
    """A sequence of leaves and blocks; `owner` is the block that it is a branch of, None for the whole.

    `start` is where it begins, behind the tag that opens it.
    """

    owner: Block | None
    start: int
    children: list[Leaf | Block] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Block:
    """``{% if … %}`` and the like: where it is, its first tag without the brackets, and its branches."""

    name: str
    head: str
    start: int
    end: int
    parent: Body
    index: int
    bodies: list[Body] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Source:
    """A template's source, its tree, and all leaves in order."""

    text: str
    root: Body
    leaves: list[Leaf]

    def bodies(self) -> list[Body]:
        """The branches of blocks whose text is written where it stands, in the order of the source."""
        found: list[Body] = []

        def walk(body: Body) -> None:
            for child in body.children:
                if isinstance(child, Block) and child.name not in _CAPTURING:
                    for branch in child.bodies:
                        found.append(branch)
                        walk(branch)

        walk(self.root)
        return found


def parse(template: str) -> Source | None:
    """The tree of a template's source; None where it cannot be taken apart."""
    from jinja2 import Environment
    from jinja2.exceptions import TemplateSyntaxError

    from template_audit.model.environment import GenerationTags

    text = "\n".join(re.split(r"\r\n|\r|\n", template))
    text = text.removesuffix("\n")
    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTags, "jinja2.ext.loopcontrols"]
    )
    try:
        return _Reader(text, environment).source()
    except (TemplateSyntaxError, _Unread, RecursionError):
        return None


class _Unread(Exception):
    """The source has a construct that is not followed."""


class _Reader:
    def __init__(self, text: str, environment: Environment) -> None:
        self.text = text
        self.tokens = list(self._located(environment))
        self.leaves: list[Leaf] = []

    def _located(self, environment: Environment) -> Iterator[tuple[str, str, int]]:
        """Tokens with their place; what lies between two tokens is whitespace that a tag strips."""
        at = 0
        for _, kind, value in environment.lex(self.text):
            start = self.text.find(value, at)
            if start < 0 or self.text[at:start].strip():
                raise _Unread
            yield kind, value, start
            at = start + len(value)

    def source(self) -> Source:
        root = body = Body(None, 0)
        i = 0
        while i < len(self.tokens):
            kind, value, start = self.tokens[i]
            if kind == "data":
                end = self.tokens[i + 1][2] if i + 1 < len(self.tokens) else len(self.text)
                self._leaf(body, start, end, [Term(start, start + len(value), value)], is_text=True)
                i += 1
            elif kind == "variable_begin":
                stop = self._find(i, "variable_end")
                end = self.tokens[stop][2] + len(self.tokens[stop][1].rstrip())
                self._leaf(body, start, end, self._terms(i + 1, stop), is_text=False)
                i = stop + 1
            elif kind == "block_begin":
                stop = self._find(i, "block_end")
                body = self._tag(body, i, stop)
                i = stop + 1
            elif kind.startswith("comment") or kind == "whitespace":
                i += 1
            else:
                raise _Unread  # raw blocks and line statements
        if body is not root:
            raise _Unread
        return Source(self.text, root, self.leaves)

    def _find(self, i: int, kind: str) -> int:
        found = next((k for k in range(i, len(self.tokens)) if self.tokens[k][0] == kind), None)
        if found is None:
            raise _Unread
        return found

    def _leaf(self, body: Body, start: int, end: int, terms: list[Term], *, is_text: bool) -> None:
        leaf = Leaf(start, end, terms, is_text, _captured(body), body, len(body.children))
        body.children.append(leaf)
        self.leaves.append(leaf)

    def _tag(self, body: Body, i: int, stop: int) -> Body:
        """The body that goes on after this tag."""
        inner = [token for token in self.tokens[i + 1 : stop] if token[0] != "whitespace"]
        start, end = self.tokens[i][2], self.tokens[stop][2] + len(self.tokens[stop][1].rstrip())
        name = inner[0][1] if inner else ""
        head = self.text[inner[0][2] : self.tokens[stop][2]].rstrip() if inner else ""
        if name.startswith("end"):
            if body.owner is None or f"end{body.owner.name}" != name:
                raise _Unread
            body.owner.end = end
            return body.owner.parent
        if name in _BRANCHES:
            if body.owner is None:
                raise _Unread
            body.owner.bodies.append(Body(body.owner, end))
            return body.owner.bodies[-1]
        if name in _OPENERS and not (name == "set" and _assigns(inner)):
            block = Block(name, head, start, end, body, len(body.children))
            block.bodies.append(Body(block, end))
            body.children.append(block)
            return block.bodies[0]
        return body

    def _terms(self, i: int, stop: int) -> list[Term]:
        """What an expression adds up; one term where it does anything else at its outermost level."""
        tokens = [token for token in self.tokens[i:stop] if token[0] != "whitespace"]
        if not tokens:
            raise _Unread
        groups: list[list[tuple[str, str, int]]] = [[]]
        depth = 0
        for token in tokens:
            kind, value, _ = token
            if kind == "operator" and value in "([{":
                depth += 1
            elif kind == "operator" and value in ")]}":
                depth -= 1
            if depth == 0 and kind == "operator" and value in "+~":
                groups.append([])
                continue
            if depth == 0 and ((kind == "name" and value in _LOOSE) or (kind == "operator" and value in _COMPARED)):
                groups = [tokens]
                break
            groups[-1].append(token)
        if not all(groups):
            groups = [tokens]
        return [_term(group) for group in groups]


def _term(tokens: list[tuple[str, str, int]]) -> Term:
    first, last = tokens[0], tokens[-1]
    text = None
    if len(tokens) == 1 and first[0] == "string":
        try:  # as jinja2's own lexer reads it
            text = first[1][1:-1].encode("ascii", "backslashreplace").decode("unicode-escape")
        except UnicodeDecodeError:
            text = None
    return Term(first[2], last[2] + len(last[1]), text)


def _assigns(tokens: list[tuple[str, str, int]]) -> bool:
    return any(kind == "operator" and value == "=" for kind, value, _ in tokens)


def _captured(body: Body) -> bool:
    owner = body.owner
    while owner is not None:
        if owner.name in _CAPTURING:
            return True
        owner = owner.parent.owner
    return False
