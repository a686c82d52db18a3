"""Training frameworks as encoders; each is a module or folder here that defines ``FRAMEWORK``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from template_audit.errors import UsageError
from template_audit.frameworks.interface import Encoder, EncoderRequest, Framework, Option, SourceReader
from template_audit.plugins import plugged

if TYPE_CHECKING:
    from template_audit.model import Model


class Spec(NamedTuple):
    """``framework[@version][:template]``, taken apart."""

    framework: str
    version: str | None
    template: str | None


@cache
def frameworks() -> dict[str, Framework]:
    """Every framework of this folder by name."""
    return plugged(__name__, "FRAMEWORK")


def nearest(word: str, known: Sequence[str]) -> str:
    """A “did you mean” tail for an error sentence, empty when nothing is near."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean `{close[0]}`?" if close else ""


def parse_spec(spec: str) -> Spec:
    """Take a SPEC apart. Raises UsageError when it is malformed."""
    head, _, template = spec.partition(":")
    framework, _, version = head.partition("@")
    if not framework:
        raise UsageError(f"Encoder `{spec}` names no framework; write framework[@version][:template].")
    return Spec(framework, version or None, template or None)


def get_framework(name: str, source: str | None = None) -> Framework:
    """The framework of this name, as it lies at `source` if that is given.

    Raises UsageError with the nearest known name, and for a source of a framework that has none.
    """
    known = frameworks()
    if name not in known:
        raise UsageError(f"Unknown framework `{name}`; known are {', '.join(known)}.{nearest(name, list(known))}")
    framework = known[name]
    if source is None:
        return framework
    if not isinstance(framework, SourceReader):
        raise UsageError(f"{framework.title} is not read from a source; leave `--framework-source` out.")
    return framework.from_source(source)


def check_options(
    framework: Framework, options: dict[str, Any], offered: Sequence[Option] | None = None
) -> dict[str, Any]:
    """Fill in defaults. Raises UsageError for an unknown key or a value of the wrong type.

    `offered` are the options to check against, by default the framework's for encoding conversations.
    """
    known = {option.name: option for option in (framework.options() if offered is None else offered)}
    for key, value in options.items():
        if key not in known:
            raise UsageError(
                f"{framework.title} has no option `{key}`; known are {', '.join(sorted(known)) or 'none'}."
                + nearest(key, list(known))
            )
        _check_type(framework, known[key], value)
    return {name: options.get(name, option.default) for name, option in known.items()}


_TYPES: dict[str, type | tuple[type, ...]] = {
    "int": int,
    "bool": bool,
    "str": str,
    "float": (int, float),
    "map": Mapping,
}


def _check_type(framework: Framework, option: Option, value: Any) -> None:
    name = option.type.removesuffix("?")
    if value is None and option.type.endswith("?"):
        return
    wanted = _TYPES[name]
    if not isinstance(value, wanted) or (name in ("int", "float") and isinstance(value, bool)):
        raise UsageError(
            f"Option `{option.name}` of {framework.title} takes {option.type.replace('?', ' or null')}, got {value!r}."
        )


def load_encoder(
    spec: str,
    model: Model,
    *,
    framework_source: str | None = None,
    python: str | None = None,
    **options: Any,
) -> Encoder:
    """The encoder that `spec` names, for `model`.

    `spec` is ``framework[@version][:template]``; `options` are the framework's own option names.
    `framework_source` is a copy of the framework's source (a wheel, an installed copy, a checkout) to read
    the templates from. Raises UsageError for an unknown framework, version, template or option.
    """
    parsed = parse_spec(spec)
    framework = get_framework(parsed.framework, framework_source)
    return framework.load(
        EncoderRequest(
            model=model,
            version=parsed.version,
            template=parsed.template,
            options=check_options(framework, options),
            source=framework_source,
            python=python,
        )
    )
