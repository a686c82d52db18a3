"""The command line: one file per command; it parses and prints, and decides nothing.

A command is a module beside this file that defines ``COMMAND``. A first argument that names no command
is a MODEL for `audit`.
"""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import click

from template_audit import __version__
from template_audit.errors import TemplateAuditError

PROGRAM = "template-audit"
DEFAULT_COMMAND = "audit"
USAGE_ERROR = 2
INTERRUPTED = 130


class Commands(click.Group):
    """The commands of this folder, imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, the default one first."""
        names = [module.name for module in iter_modules(__path__) if self.get_command(ctx, module.name) is not None]
        return sorted(names, key=lambda name: (name != DEFAULT_COMMAND, name))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, or None."""
        if cmd_name not in {module.name for module in iter_modules(__path__)}:
            return None
        command = getattr(import_module(f"{__name__}.{cmd_name}"), "COMMAND", None)
        return command if isinstance(command, click.Command) else None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command in front of arguments that name none."""
        if args and args[0] not in ("--help", "-h", "--version") and self.get_command(ctx, args[0]) is None:
            self._refuse_misspelt(ctx, args)
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader of its output that goes away early is no error."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            discard_stdout()
            return 0
        return result

    def _refuse_misspelt(self, ctx: click.Context, args: list[str]) -> None:
        first = args[0]
        close = difflib.get_close_matches(first, self.list_commands(ctx), n=1, cutoff=0.75)
        if close and not first.startswith("-") and not Path(first).exists():
            raise click.UsageError(f"`{first}` is neither a command nor a folder. Did you mean `{close[0]}`?", ctx)


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    subcommand_metavar="[COMMAND] MODEL [OPTIONS]",
)
@click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")
def commands() -> None:
    """Show what a trainer really feeds a model, and whether that is what the model expects.

    `template-audit MODEL` is short for `template-audit audit MODEL`. MODEL is org/name, org/name@revision,
    hf://org/name@revision or a folder.
    """


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code; see `docs/design.md` for the codes."""
    _quieten_libraries()
    if sys.stdout is None:  # closed by whoever started this: the exit code and the files are all that is wanted
        discard_stdout()
    try:
        code = commands.main(args=None if args is None else list(args), prog_name=PROGRAM, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return USAGE_ERROR
    except click.UsageError as error:
        return _refuse(f"{_sentence(error.format_message())} {_help_for(error)}")
    except click.ClickException as error:
        return _refuse(error.format_message())
    except TemplateAuditError as error:
        return _refuse(str(error))
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return _fail(error, args)
        return _refuse(f"The output cannot be written: {error.strerror}.")
    except Exception as error:
        return _fail(error, args)
    return code if isinstance(code, int) else 0


def discard_stdout() -> None:
    """After a reader has gone away: whatever is still buffered goes nowhere, silently."""
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - lives until the process ends


def _fail(error: Exception, args: Sequence[str] | None) -> int:
    """A mistake of this program is not clean and is no finding either; called from Python it is raised."""
    if args is not None:
        raise error
    import traceback

    traceback.print_exception(error)
    return _refuse("This is a mistake in template-audit; nothing was decided. Please report it with the lines above.")


def _refuse(message: str) -> int:
    from template_audit.report.sanitize import one_line

    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    print(f"{PROGRAM}: {one_line(message, encoding=encoding)}", file=sys.stderr)
    return USAGE_ERROR


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."


def _help_for(error: click.UsageError) -> str:
    path = error.ctx.command_path if error.ctx else PROGRAM
    return f"See `{path} --help`."


def _quieten_libraries() -> None:
    """Keep remarks of the libraries off the terminal; what matters of them is on the report."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
