"""What several commands share: options, KEY=VALUE parsing and output."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar, cast

import click

from template_audit.errors import UsageError
from template_audit.report import formats

if TYPE_CHECKING:
    from template_audit.baseline import Baseline
    from template_audit.findings import Threshold
    from template_audit.report.interface import ReportFormat, ReportOptions
    from template_audit.report.terminal.screen import Screen

F = TypeVar("F", bound=Callable[..., Any])

SCHEMA_VERSION = 1
"""Version of the JSON that the listing commands print."""

REFERENCE = "chat-template"

encoder_option: Callable[[F], F] = click.option(
    "--encoder",
    metavar="SPEC",
    default="llamafactory",
    show_default=True,
    help="What trains: framework[@version][:template]; without a template, the one for this model.",
)
reference_option: Callable[[F], F] = click.option(
    "--reference", metavar="SPEC", default=REFERENCE, show_default=True, help="What the model expects."
)
format_option: Callable[[F], F] = click.option(
    "--format",
    "output_format",
    type=click.Choice(["terminal", "json"]),
    default="terminal",
    show_default=True,
    help="How to print.",
)


def _in_a_folder(ctx: click.Context | None, param: click.Parameter | None, path: Path | None) -> Path | None:
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


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where a command's report goes: pairs of a format's name and a file, None being the standard output.

    The standard output comes last: a reader that goes away early costs no file.
    """

    places: tuple[tuple[str, Path | None], ...]

    def write(
        self,
        writer: Callable[[ReportFormat, TextIO, ReportOptions], None],
        *,
        verbose: bool = False,
        quiet: bool = False,
    ) -> None:
        """Call `writer` for every format with the stream that it writes to.

        A command that prints records, and has a picture of its own for the terminal, looks at
        ``isinstance(format, RecordFormat)``.
        """
        from template_audit.report import get_format
        from template_audit.report.interface import ReportOptions

        for name, path in self.places:
            options = ReportOptions(verbose=verbose, quiet=quiet, colour=False if path else None)
            with output_stream(path) as stream:
                writer(get_format(name), stream, options)


def _read_baseline(ctx: click.Context, param: click.Parameter, path: str | None) -> Baseline | None:
    from template_audit.baseline import read_baseline

    return None if path is None else read_baseline(path)


baseline_option: Callable[[F], F] = click.option(
    "--baseline",
    metavar="FILE",
    callback=_read_baseline,
    help="An earlier report of --format json: what it found is known and does not count.",
)
"""Gives a command `baseline`, a `Baseline` or None."""


def reported(command: F) -> F:
    """Give a command ``--format`` and a repeatable ``--output [NAME=]FILE``; it receives `outputs`, an `Outputs`."""

    @wraps(command)
    def run(*args: Any, output_format: str, output: tuple[str, ...], **rest: Any) -> Any:
        return command(*args, outputs=_outputs(output_format, output), **rest)

    decorated: Any = run
    for option in reversed(_REPORTED):
        decorated = option(decorated)
    return cast(F, decorated)


def _outputs(name: str, output: Sequence[str]) -> Outputs:
    """The places that ``--format`` and ``--output`` name. Raises UsageError for one that cannot be written."""
    files: list[tuple[str, Path]] = []
    plain: Path | None = None
    for given in output:
        label, equals, file = given.partition("=")
        if equals and label in formats():
            files.append((label, _writable(Path(file), given)))
        elif equals and not {"/", ".", os.sep} & set(label):
            raise UsageError(
                f"`--output {given}`: there is no format `{label}`; known are {', '.join(formats())}. "
                f"A file of that name is ./{given}."
            )
        elif plain is not None:
            raise UsageError(
                f"`--output {plain}` and `--output {given}`: of several, each needs its format: NAME=FILE."
            )
        else:
            plain = _writable(Path(given), given)
    paths = [path.resolve() for path in (*(path for _, path in files), *([plain] if plain else []))]
    twice = next((path for path in paths if paths.count(path) > 1), None)
    if twice is not None:
        raise UsageError(f"`--output` names {twice} twice; give every format a file of its own.")
    return Outputs((*files, (name, plain)))


def _writable(path: Path, given: str) -> Path:
    """Refuse at once what could not be written in the end."""
    if not path.name or path.is_dir():
        raise UsageError(f"`--output {given}` names a folder; give a file in it.")
    _in_a_folder(None, None, path)
    if path.exists() and not os.access(path, os.W_OK):
        raise UsageError(f"Cannot write `{path}`: permission denied.")
    return path


_REPORTED = (
    click.option(
        "--format",
        "output_format",
        type=click.Choice(list(formats())),
        default="terminal",
        show_default=True,
        help="How to print.",
    ),
    click.option(
        "--output",
        metavar="[NAME=]FILE",
        multiple=True,
        help="Write there instead of to the terminal; with the name of a format, write that format there in "
        "addition. May be repeated.",
    ),
)


def configured(command: F) -> F:
    """Give a command ``--fail-on``, ``--config`` and ``--no-config``; it receives `config`, a Config.

    Its `fail_on` is the option's where that was given.
    """
    return _configured(command, (_FAIL_ON, *_CONFIGURED))


def configured_without_threshold(command: F) -> F:
    """As `configured`, without ``--fail-on``: for a command that fails for no finding."""
    return _configured(command, _CONFIGURED)


def _configured(command: F, options: Sequence[Callable[[Any], Any]]) -> F:
    @wraps(command)
    def run(
        *args: Any, config_file: Path | None, no_config: bool, fail_on: Threshold | None = None, **rest: Any
    ) -> Any:
        from template_audit.config import Config, load_config

        if no_config and config_file is not None:
            raise UsageError("`--config` and `--no-config` exclude each other; give one of them.")
        config = Config() if no_config else load_config(config_file)
        return command(*args, config=replace(config, fail_on=fail_on or config.fail_on), **rest)

    decorated: Any = run
    for option in reversed(options):
        decorated = option(decorated)
    return cast(F, decorated)


_FAIL_ON = click.option(
    "--fail-on",
    type=click.Choice(["error", "warning", "info", "never"]),
    help="Exit with 1 when a finding is this grave or graver; error, unless the configuration says otherwise.",
)
_CONFIGURED = (
    click.option(
        "--config",
        "config_file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Take the configuration from there, and not from the working directory or a folder above.",
    ),
    click.option("--no-config", is_flag=True, help="Take no configuration: every rule at its own severity."),
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
