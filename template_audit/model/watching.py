"""What a chat template makes of all conversations that differ in their texts alone, proven by watching it.

The template is rendered once with texts that write down what is done to them. Copying and stripping
are kept as an expression; a question (`startswith`, `in`, truth, …) is kept with its answer; whatever
else could let a text decide about the result ends the watch. So what is found holds for every
conversation of the same structure whose texts give the same answers: the template takes the same
path and writes the same expressions. Only the worker imports this module.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import wraps
from types import GeneratorType
from typing import Any, SupportsIndex, TypeAlias

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame, optimizeconst
from jinja2.runtime import Context, Macro
from jinja2.utils import Namespace

from template_audit.model.environment import ChatEnvironment, RestrictedDict

Step: TypeAlias = tuple[str, str | None]
"""``strip``, ``lstrip``, ``rstrip``, ``removeprefix`` or ``removesuffix``, and its argument."""
Part: TypeAlias = str | tuple[int, tuple[Step, ...]]
"""Text of the template, or the text of a message (its index) after some steps."""
Question: TypeAlias = tuple[str, tuple[Part, ...], tuple[Any, ...], Any]
"""A method of ``str``, or ``bool``; the text that was asked; the arguments; the answer."""


class Unprovable(BaseException):
    """The result may hang on a text in a way that is not written down. No handler of Jinja's catches it."""


class Watch:
    """The texts of the messages (None: none), and the questions that were asked so far."""

    def __init__(self, texts: Sequence[str | None]) -> None:
        self.texts = texts
        self.questions: dict[Question, None] = {}

    def text(self, message: int) -> Watched:
        """The text of a message, watched."""
        return _make(self.texts[message] or "", ((message, ()),), self)

    def ask(self, how: str, parts: tuple[Part, ...], args: tuple[Any, ...], answer: Any) -> Any:
        """Write down a question. Raises Unprovable for arguments that are texts of the conversation themselves."""
        _check_plain(args)
        self.questions[how, parts, args, answer] = None
        return answer

    def value(self, part: Part) -> str:
        """What a part is in the conversation that is watched."""
        if isinstance(part, str):
            return part
        text = self.texts[part[0]] or ""
        for how, argument in part[1]:
            text = getattr(text, how)(argument)
        return text


class Watched(str):
    """A text that knows what it is made of."""

    __slots__ = ("_parts", "_watch")
    _parts: tuple[Part, ...]
    _watch: Watch

    def __str__(self) -> str:
        return self

    def __bool__(self) -> bool:
        if any(isinstance(part, str) for part in self._parts):
            return True
        return bool(self._watch.ask("bool", self._parts, (), str.__len__(self) > 0))

    def __add__(self, other: str) -> Watched:
        return glued((self, other), self._watch) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: str) -> Watched:
        return glued((other, self), self._watch) if isinstance(other, str) else NotImplemented

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, str):
            return False
        return bool(self._watch.ask("__eq__", self._parts, (other,), str.__eq__(self, other)))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        raise Unprovable

    def strip(self, chars: str | None = None, /) -> Watched:
        return self._stripped("lstrip", chars)._stripped("rstrip", chars)

    def lstrip(self, chars: str | None = None, /) -> Watched:
        return self._stripped("lstrip", chars)

    def rstrip(self, chars: str | None = None, /) -> Watched:
        return self._stripped("rstrip", chars)

    def removeprefix(self, prefix: str, /) -> Watched:
        return self._shortened("removeprefix", prefix)

    def removesuffix(self, suffix: str, /) -> Watched:
        return self._shortened("removesuffix", suffix)

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> Watched:
        if old in self:
            raise Unprovable
        return self

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Any]:
        if sep is None or sep in self:
            raise Unprovable
        return [self]

    def _stripped(self, how: str, chars: str | None) -> Watched:
        """Stripped at one end: the template's text at once, a message's text as a further step."""
        _check_plain((chars,))
        parts = list(self._parts if how == "lstrip" else reversed(self._parts))
        while parts:
            part = parts[0]
            if isinstance(part, str):
                left: Part = getattr(part, how)(chars)
            else:
                left = (part[0], part[1] if part[1][-1:] == ((how, chars),) else (*part[1], (how, chars)))
                if len(parts) == 1:
                    parts = [left]
                    break
            parts[0] = left
            # What comes next is reached only when nothing is left of this part.
            value = self._watch.value(left)
            if value if isinstance(left, str) else self._watch.ask("bool", (left,), (), bool(value)):
                break
            del parts[0]
        if how == "rstrip":
            parts.reverse()
        return _make(getattr(str, how)(self, chars), tuple(parts), self._watch)

    def _shortened(self, how: str, text: str) -> Watched:
        _check_plain((text,))
        part = self._parts[0] if len(self._parts) == 1 else ""
        if isinstance(part, str):
            raise Unprovable
        return _make(getattr(str, how)(self, text), ((part[0], (*part[1], (how, text))),), self._watch)


def _question(how: str) -> Callable[..., Any]:
    method = getattr(str, how)

    def ask(self: Watched, *args: Any) -> Any:
        _check_plain(args)
        return self._watch.ask(how, self._parts, args, method(self, *args))

    return ask


def _refused(self: Any, *args: Any, **kwargs: Any) -> Any:
    raise Unprovable


_QUESTIONS = (
    *("__contains__", "startswith", "endswith", "isspace", "isdigit", "isnumeric", "isdecimal", "isalpha", "isalnum"),
    *("islower", "isupper", "isascii", "find", "rfind", "count"),
)
for _name in ({*dir(str)} - {*dir(object)}) | {"__repr__", "__format__", "__lt__", "__le__", "__gt__", "__ge__"}:
    if _name in _QUESTIONS:
        setattr(Watched, _name, _question(_name))
    elif _name not in vars(Watched):
        setattr(Watched, _name, _refused)


def glued(values: Iterable[str], watch: Watch) -> Watched:
    """Texts joined, watched or not."""
    parts: list[Part] = []
    values = list(values)
    for value in values:
        for part in value._parts if isinstance(value, Watched) else (value,):
            if isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            elif part:
                parts.append(part)
    return _make(str.join("", values), tuple(parts), watch)


def _make(text: str, parts: tuple[Part, ...], watch: Watch) -> Watched:
    made = str.__new__(Watched, text)
    made._parts, made._watch = parts, watch
    return made


def _check_plain(args: Iterable[Any]) -> None:
    for arg in args:
        if isinstance(arg, tuple):
            _check_plain(arg)
        elif isinstance(arg, Watched) or not (arg is None or isinstance(arg, (str, int))):
            raise Unprovable


def holds_watched(value: Any) -> bool:
    """True when `value` is watched or may hold something that is."""
    if isinstance(value, Mapping):
        return any(map(holds_watched, value)) or any(map(holds_watched, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(holds_watched, value))
    return isinstance(value, (Watched, Namespace, GeneratorType))


class WatchingCodeGenerator(CodeGenerator):
    """Compiles ``~``, ``{{ … }}`` and ``in`` so that watched texts stay watched."""

    @optimizeconst
    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        self.write("environment.joined((")
        for arg in node.nodes:
            self.visit(arg, frame)
            self.write(", ")
        self.write("))")

    @optimizeconst
    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        if not any(operand.op in ("in", "notin") for operand in node.ops):
            super().visit_Compare(node, frame)
            return
        if len(node.ops) > 1:
            raise Unprovable
        (operand,) = node.ops
        self.write("(not " if operand.op == "notin" else "(")
        self.write("environment.contains(")
        self.visit(node.expr, frame)
        self.write(", ")
        self.visit(operand.expr, frame)
        self.write("))")

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: CodeGenerator._FinalizeInfo) -> None:
        self.write("environment.text_of(")


class WatchingEnvironment(ChatEnvironment):
    """A ChatEnvironment for watched texts; the text that it gives is the same, or it raises Unprovable."""

    code_generator_class = WatchingCodeGenerator
    intercepted_binops = frozenset({"%"})

    def __init__(self, *, clock: datetime, limit: int, restricted: bool) -> None:
        super().__init__(clock=clock, limit=limit, restricted=restricted)
        plain: Any
        for name, plain in self.filters.items():
            if name not in _FILTERS_WATCHED:
                self.filters[name] = _guarded(plain)
        for name, plain in self.tests.items():
            if name in _TESTS_OF_TYPE:
                self.tests[name] = _of_type(plain)
            elif name not in _TESTS_WATCHED:
                self.tests[name] = _guarded(plain)
        self.filters["string"] = self.text_of
        self.filters["join"] = self._join
        self.filters["replace"] = self._replace
        self.tests["in"] = self.contains

    def concat(self, parts: Iterable[str]) -> str:
        return self.joined(parts)

    def joined(self, values: Iterable[Any], separator: str = "") -> str:
        """The values as text, joined. Raises OutputTooLarge beyond the limit."""
        texts = list(self.within_limit(map(self.text_of, values)))
        if separator:
            texts = [text for value in texts for text in (separator, value)][1:]
        watch = next((text._watch for text in texts if isinstance(text, Watched)), None)
        return str.join("", texts) if watch is None else glued(texts, watch)

    @staticmethod
    def text_of(value: Any) -> str:
        """``str(value)``. Raises Unprovable for a list or dict with watched texts."""
        if not isinstance(value, str) and holds_watched(value):
            raise Unprovable
        return str(value)

    @staticmethod
    def contains(item: Any, container: Any) -> bool:
        """``item in container``."""
        if isinstance(item, Watched) and isinstance(container, str):
            raise Unprovable
        return item in container

    @staticmethod
    def _replace(s: Any, old: Any, new: Any, count: int | None = None) -> str:
        if holds_watched((old, new)):
            raise Unprovable
        return WatchingEnvironment.text_of(s).replace(str(old), str(new), -1 if count is None else count)

    def _join(self, value: Iterable[Any], d: Any = "", attribute: Any = None) -> str:
        if attribute is not None:
            raise Unprovable
        return self.joined(value, self.text_of(d))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(obj, "__self__", None)
        takes_all = isinstance(obj, (Macro, RestrictedDict)) or obj is dict or isinstance(owner, Watched)
        if not takes_all and not (isinstance(obj, type) and issubclass(obj, Namespace)):
            if type(owner) is str and obj.__name__ == "join" and len(args) == 1:
                return self.joined(args[0], owner)
            given = [value for name, value in kwargs.items() if name not in ("_loop_vars", "_block_vars")]
            if holds_watched(args) or holds_watched(given):  # Jinja hands over its own variables in kwargs
                raise Unprovable
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if holds_watched((left, right)):
            raise Unprovable
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if isinstance(getattr(value, "__self__", None), Watched) and value.__name__ in ("format", "format_map"):
            raise Unprovable
        return super().wrap_str_format(value)


# These treat what they are given by its own methods, or by its type.
_FILTERS_WATCHED = frozenset(
    {
        *("trim", "default", "d", "list", "first", "last", "selectattr", "rejectattr", "select", "reject", "map"),
        *("length", "count", "items", "reverse"),
    }
)
_TESTS_WATCHED = frozenset(("eq", "equalto", "==", "ne", "!="))
_TESTS_OF_TYPE = frozenset(
    {
        *("string", "mapping", "iterable", "sequence", "number", "integer", "float", "boolean", "true", "false"),
        *("none", "defined", "undefined", "callable"),
    }
)


def _guarded(plain: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(plain)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if holds_watched(args) or holds_watched(kwargs):
            raise Unprovable
        return plain(*args, **kwargs)

    return wrapper


def _of_type(plain: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(plain)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return plain(*("text" if isinstance(arg, Watched) else arg for arg in args), **kwargs)

    return wrapper


def parts_of(text: str) -> tuple[Part, ...]:
    """What a text is made of."""
    if isinstance(text, Watched):
        return text._parts
    return (text,) if text else ()
