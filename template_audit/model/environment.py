"""The Jinja environments of the worker: the one transformers has, and the same one with traced text.

The first has what ``transformers.utils.chat_template_utils._compile_jinja_template`` (4.55 to 5.23)
gives a template: an immutable sandbox, trimmed blocks, loop controls, ``{% generation %}``, a
``tojson`` that escapes no HTML, ``raise_exception`` and ``strftime_now``. The second gives the same
text and the Origin of its characters. Of third-party packages only jinja2 is imported here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import wraps
from types import BuiltinMethodType
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame, optimizeconst
from jinja2.environment import Template
from jinja2.exceptions import FilterArgumentError, SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace, pass_environment
from markupsafe import escape

from template_audit.trace import Traced, as_derived, derive, is_traced, join, literal, pieces_of
from template_audit.trace_data import text_of, to_json
from template_audit.trace_format import format_text, percent


class OutputTooLarge(Exception):
    """A template wrote more characters than it may."""


class GenerationTags(Extension):
    """``{% generation %}…{% endgeneration %}``: marks what the assistant generated.

    The ranges are those of transformers' own tracker (5.x): they count the characters that the
    template had handed over when the tag was reached, which is not the place in the text when the
    tag stands in a macro or a ``{% set %}`` block.
    """

    tags = {"generation"}  # noqa: RUF012 - as Extension declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("record"), [], [], body).set_lineno(line)

    def record(self, caller: Callable[[], str]) -> str:
        """The block's text, unchanged."""
        text = caller()
        environment = self.environment
        assert isinstance(environment, ChatEnvironment)
        environment.generated.append((environment.written, environment.written + str.__len__(text)))
        return text


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """The environment in which transformers renders chat templates, with a limit on the output.

    `limit` is the largest number of characters that any text which the template joins may have.
    `clock` is the time that ``strftime_now`` prints. `restricted` stands for the narrower ``dict``
    and ``namespace`` of later transformers.
    """

    def __init__(self, *, clock: datetime, limit: int, restricted: bool) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTags, "jinja2.ext.loopcontrols"])
        self.limit = limit
        self.written = 0
        self.generated: list[tuple[int, int]] = []
        self._compiled: dict[str, Template] = {}
        self.filters["tojson"] = _to_json
        self.globals["raise_exception"] = _raise_exception
        self.globals["strftime_now"] = lambda format: clock.strftime(format)
        if restricted:
            self.globals["dict"] = RestrictedDict()
            self.globals["namespace"] = RestrictedNamespace

    def run(self, template: str, variables: Mapping[str, Any]) -> str:
        """Compile `template` if need be, and render it.

        Raises whatever the template raises, jinja2's TemplateSyntaxError, and OutputTooLarge.
        """
        if template not in self._compiled:
            self._compiled[template] = self.from_string(template)
        self.written, self.generated = 0, []
        return self.concat(self._counted(self._compiled[template].generate(variables)))

    def concat(self, parts: Iterable[str]) -> str:
        """Join what a template, a macro or a block wrote. Raises OutputTooLarge beyond the limit."""
        return "".join(self.within_limit(parts))

    def within_limit(self, parts: Iterable[str]) -> Iterator[str]:
        """The same parts, while their total length stays within the limit."""
        total = 0
        for part in parts:
            total += str.__len__(part)
            if total > self.limit:
                raise OutputTooLarge(f"it wrote more than {self.limit:,} characters")
            yield part

    def _counted(self, parts: Iterable[str]) -> Iterator[str]:
        for part in parts:
            yield part
            self.written += str.__len__(part)


class RestrictedDict:
    """``dict`` as templates get it from transformers 5.2x: no attributes but ``fromkeys``."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        """``dict.fromkeys``."""
        return dict.fromkeys(*args)


class RestrictedNamespace(Namespace):
    """``namespace`` as templates get it from transformers 5.2x: no name may begin with ``_``."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args  # so that `namespace(self=…)` works, as in Jinja's own
        values = dict(*rest, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace cannot have the underscored attribute {name!r}")


def _raise_exception(message: Any) -> NoReturn:
    raise TemplateError(message)


def _to_json(
    x: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class TracedMarkup(Traced):
    """Traced text that is marked as safe: as in markupsafe, text joined to it is escaped."""

    __slots__ = ()

    def __html__(self) -> TracedMarkup:
        return self

    def __str__(self) -> str:
        return Traced(self)

    def __add__(self, other: Any) -> TracedMarkup:
        return super().__add__(_escape(other))

    def __radd__(self, other: Any) -> TracedMarkup:
        return super().__radd__(_escape(other))

    def join(self, iterable: Iterable[str], /) -> TracedMarkup:
        return super().join(map(_escape, iterable))


class TracingCodeGenerator(CodeGenerator):
    """Compiles ``~`` and ``{{ … }}`` so that they keep Origins."""

    @optimizeconst
    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        if frame.eval_ctx.volatile or frame.eval_ctx.autoescape:
            super().visit_Concat(node, frame)
            return
        self.write("environment.joined((")
        for arg in node.nodes:
            self.visit(arg, frame)
            self.write(", ")
        self.write("))")

    def _output_child_pre(self, node: nodes.Expr, frame: Frame, finalize: CodeGenerator._FinalizeInfo) -> None:
        if frame.eval_ctx.volatile or frame.eval_ctx.autoescape:
            super()._output_child_pre(node, frame, finalize)
        else:
            self.write("environment.text_of(")


class TracingEnvironment(ChatEnvironment):
    """A ChatEnvironment in which traced text stays traced; the text itself is the same."""

    code_generator_class = TracingCodeGenerator
    intercepted_binops = frozenset({"%"})
    text_of = staticmethod(text_of)

    def __init__(self, *, clock: datetime, limit: int, restricted: bool) -> None:
        super().__init__(clock=clock, limit=limit, restricted=restricted)
        self.filters.update(_TRACING_FILTERS)
        self.filters.update({name: _deriving(FILTERS[name]) for name in _DERIVING_FILTERS})

    def concat(self, parts: Iterable[str]) -> str:
        return join(self.within_limit(parts))

    def joined(self, parts: Iterable[Any], separator: str = "") -> str:
        """The parts as text, joined. Raises OutputTooLarge beyond the limit."""
        return join(self.within_limit(map(text_of, parts)), separator)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(obj, "__self__", None) if isinstance(obj, BuiltinMethodType) else None
        if type(owner) is str:  # a method of a literal, which would make plain text of traced arguments
            if obj.__name__ == "join" and args and not isinstance(args[0], str):
                args = (list(args[0]),)
            if is_traced(args) or is_traced(kwargs):
                obj = getattr(literal(owner), obj.__name__)
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if type(left) is str and is_traced(right):
            return percent(left, right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        plain = super().wrap_str_format(value)
        owner = getattr(value, "__self__", None)
        if plain is None or not (type(owner) is str or isinstance(owner, Traced)):
            return plain
        formatter = SandboxedFormatter(self)

        def wrapper(*args: Any, **kwargs: Any) -> str:
            if value.__name__ == "format":
                return format_text(owner, args, kwargs, formatter)
            (mapping,) = args
            return format_text(owner, (), mapping, formatter)

        return wrapper


@pass_environment
def _join(environment: TracingEnvironment, value: Iterable[Any], d: Any = "", attribute: Any = None) -> str:
    if attribute is not None:
        value = map(make_attrgetter(environment, attribute), value)
    return environment.joined(value, text_of(d))


def _replace(s: Any, old: Any, new: Any, count: int | None = None) -> str:
    return literal(text_of(s)).replace(text_of(old), text_of(new), -1 if count is None else count)


def _string(value: Any) -> str:
    return value if isinstance(value, str) else text_of(value)


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    if args and kwargs:
        raise FilterArgumentError("`format` takes positional or keyword arguments, not both")
    return percent(_string(value), kwargs or args)


def _indent(s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    by = literal(width if isinstance(width, str) else " " * width)
    head, *tail = literal(s + "\n").splitlines()
    lines = [by + head if first else head, *(by + line if line or blank else line for line in tail)]
    return join(lines, "\n")


def _escape(value: Any) -> Any:
    if not isinstance(value, Traced) or isinstance(value, TracedMarkup):
        return escape(value)
    parts = []
    for start, end, origin in pieces_of(value):
        for char in value[start:end]:
            escaped = str(escape(str.__str__(char)))
            parts.append(Traced(escaped, origin if escaped == char else as_derived(origin)))
    return TracedMarkup(join(parts))


def _safe(value: Any) -> str:
    return TracedMarkup(text_of(value))


_TRACING_FILTERS: dict[str, Callable[..., Any]] = {
    "join": _join,
    "replace": _replace,
    "string": _string,
    "format": _format,
    "indent": _indent,
    "e": _escape,
    "escape": _escape,
    "safe": _safe,
    "tojson": to_json,
}
# Filters whose text is computed, not copied. Those named nowhere here keep Origins by themselves.
_DERIVING_FILTERS = ("title", "wordwrap", "striptags", "urlize", "urlencode", "xmlattr", "pprint", "forceescape")


def _deriving(plain: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(plain)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = plain(*args, **kwargs)
        return derive(result, args, kwargs) if is_traced(args) or is_traced(kwargs) else result

    return wrapper
