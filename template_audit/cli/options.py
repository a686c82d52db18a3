"""What several commands share: options, KEY=VALUE parsing and output."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from template_audit.errors import UsageError

if TYPE_CHECKING:
    from template_audit.report.terminal.screen import Screen

F = TypeVar("F", bound=Callable[..., Any])

SCHEMA_VERSION = 1
"""Version of the JSON that the listing commands print."""

format_option: Callable[[F], F] = click.option(
    "--format",
    "output_format",
    type=click.Choice(["terminal", "json"]),
    default="terminal",
    show_default=True,
    help="How to print.",
)


def _in_a_folder(ctx: click.Context, param: click.Parameter, path: Path | None) -> Path | None:
    """Refuse at once what could not be written in the end."""
    if path is not None and not path.absolute().parent.is_dir():
        raise UsageError(f"Cannot write `{path}`: there is no folder {path.absolute().parent}.")
    return path


output_option: Callable[[F], F] = click.option(
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    callback=_in_a_folder,
    help="Write there instead of to the terminal.",
)


def listing_screen() -> Screen:
    """The standard output as a Screen."""
    from template_audit.report.interface import ReportOptions
    from template_audit.report.terminal.screen import Screen

    return Screen(sys.stdout, ReportOptions())


def json_to_stdout(value: dict[str, Any]) -> None:
    """Print `value` with its schema version."""
    from template_audit.report.json import write_json

    write_json({"schema_version": SCHEMA_VERSION, **value}, sys.stdout)


def assignments(pairs: Sequence[str], flag: str, *, scalars: bool = True) -> dict[str, Any]:
    """KEY=VALUE arguments as a dict, values read as YAML; with `scalars` nothing but scalars.

    Raises UsageError naming the argument that is wrong.
    """
    import yaml

    out: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UsageError(f"`{flag} {pair}` is not KEY=VALUE.")
        if key in out:
            raise UsageError(f"`{flag} {key}` is given twice.")
        try:
            value = yaml.safe_load(text) if text else ""
        except yaml.YAMLError:
            raise UsageError(f"The value of `{flag} {pair}` is not valid YAML; put it in quotes.") from None
        if isinstance(value, (list, dict, set)) and scalars:
            raise UsageError(f"`{flag} {pair}`: the value must be a single number, text, true, false or null.")
        plain = value is None or isinstance(value, (str, int, float, bool, list, dict))
        out[key] = value if plain else text  # a date, say, stays the text it was
    return out


@contextmanager
def output_stream(path: Path | None) -> Iterator[TextIO]:
    """The standard output, or `path` opened for writing in UTF-8. Raises UsageError when it cannot be opened.

    A reader that goes away early is no error: the rest of the output is dropped.
    """
    if path is None:
        try:
            yield sys.stdout
            sys.stdout.flush()
        except BrokenPipeError:
            from template_audit.cli import discard_stdout

            discard_stdout()
        return
    try:
        stream = path.open("w", encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"Cannot write `{path}`: {error.strerror or error}.") from None
    with stream:
        yield stream
