"""``template-audit check``: hold models and encoders against the lock file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from template_audit.cli.options import Outputs, configured, reported

if TYPE_CHECKING:
    from template_audit.config import Config
    from template_audit.lock.store import Request
    from template_audit.report.interface import ReportFormat, ReportOptions


@click.command("check")
@click.argument("targets", metavar="[MODEL]...", nargs=-1)
@click.option(
    "--lock",
    "path",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    default="template-audit.lock",
    show_default=True,
    help="The lock file.",
)
@click.option("--only", metavar="MODEL", multiple=True, help="Check the entries of this model alone; may be repeated.")
@click.option("--update", is_flag=True, help="Accept what is different: record today's state in the lock file.")
@click.option("--offline", is_flag=True, help="Never ask the hub: hold the local cache against the lock.")
@click.option("--locked", is_flag=True, help="Exit with 2 when a MODEL that is asked for has no entry.")
@click.option("--trust-remote-code", is_flag=True, help="Let model repositories run their own Python code.")
@configured
@reported
@click.option("-v", "--verbose", is_flag=True, help="Every entry, also those that are unchanged.")
@click.option("-q", "--quiet", is_flag=True, help="One line for each entry that is not as it was locked.")
def COMMAND(
    targets: tuple[str, ...],
    path: Path,
    only: tuple[str, ...],
    update: bool,
    offline: bool,
    locked: bool,
    trust_remote_code: bool,
    config: Config,
    outputs: Outputs,
    verbose: bool,
    quiet: bool,
) -> int:
    """Hold today's models, encoders and libraries against the lock file.

    An entry whose files, options and versions are those that were locked is answered from digests, without
    loading a tokenizer. Any other is audited again, on the conversations that were locked, and what is
    different is named where it happened: a key of a configuration, a line of a template, a field of the
    framework's template, an option, a version, or else in the tokens and labels themselves. MODEL arguments
    (models and training configs) choose entries, as --only does.

    Exits with 0 when nothing is different, with 1 when something is, and with 2 when an entry could not be
    evaluated, because its model cannot be reached, say.
    """
    from template_audit.lock import check_lock
    from template_audit.report.interface import RecordFormat

    report = check_lock(
        path,
        only=only,
        requests=[_request(target) for target in targets],
        locked=locked,
        update=update,
        offline=offline or None,
        trust_remote_code=trust_remote_code,
        config=config,
    )

    def write(form: ReportFormat, stream: TextIO, options: ReportOptions) -> None:
        if isinstance(form, RecordFormat):
            form.write_records(report.records(), stream, options)
            return
        from template_audit.report.terminal.gate import show_check
        from template_audit.report.terminal.screen import Screen

        show_check(Screen(stream, options), report, verbose=verbose, quiet=quiet)

    outputs.write(write, verbose=verbose, quiet=quiet)
    return report.exit_code


def _request(target: str) -> Request:
    from template_audit.lock.store import Request
    from template_audit.training import is_training_config

    config = target if is_training_config(target) else None
    return Request(target, "", config=config)
