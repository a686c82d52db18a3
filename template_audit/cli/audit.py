"""``template-audit audit``: hold a trainer's encoding against the model's chat template."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from template_audit.cli.inputs import REFERENCE, Inputs, inputs, with_probes
from template_audit.cli.options import output_option, output_stream
from template_audit.errors import UsageError
from template_audit.report import formats

if TYPE_CHECKING:
    from template_audit.audit import Report
    from template_audit.findings import Threshold

DEFAULT_FRAMEWORK = "llamafactory"


@click.command("audit")
@click.option(
    "--encoder",
    metavar="SPEC",
    default=DEFAULT_FRAMEWORK,
    show_default=True,
    help="What trains: framework[@version][:template]; without a template, the one for this model.",
)
@click.option("--reference", metavar="SPEC", default=REFERENCE, show_default=True, help="What the model expects.")
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning", "info", "never"]),
    default="error",
    show_default=True,
    help="Exit with 1 when a finding is this grave or graver.",
)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(list(formats())),
    default="terminal",
    show_default=True,
    help="How to print.",
)
@output_option
@click.option("-v", "--verbose", is_flag=True, help="Every diff, with every token, id and label.")
@click.option("-q", "--quiet", is_flag=True, help="The verdict alone.")
@inputs
def COMMAND(
    given: Inputs,
    encoder: str,
    reference: str,
    fail_on: Threshold,
    output_format: str,
    output: Path | None,
    verbose: bool,
    quiet: bool,
) -> int:
    """Hold what a trainer feeds MODEL against what its chat template shows.

    Without --conversation both encode the built-in probes.

    Exits with 0 when everything was evaluated and nothing at or above --fail-on was found, with 1
    when something was, and with 2 when the request is wrong or something could not be evaluated.
    """
    from template_audit.report import get_format
    from template_audit.report.interface import ReportOptions

    report = _audit(given, encoder, reference, fail_on)
    options = ReportOptions(verbose=verbose, quiet=quiet, colour=False if output else None)
    with output_stream(output) as stream:
        get_format(output_format).write(report, stream, options)
    return report.exit_code


def _audit(given: Inputs, encoder: str, reference: str, fail_on: Threshold) -> Report:
    from template_audit.frameworks import get_framework, parse_spec
    from template_audit.training import is_training_config

    if is_training_config(given.target):
        raise UsageError(f"`{given.target}` is a file and no model; training configs cannot be audited yet.")
    subject_framework = get_framework(parse_spec(encoder).framework)
    reference_framework = get_framework(parse_spec(reference).framework)
    options = given.options_for(subject_framework, reference_framework)
    reference_options = given.options_for(reference_framework, subject_framework)
    read = given.read_conversations()
    model = given.load_model()

    from template_audit.audit import audit

    return audit(
        model,
        subject=encoder,
        reference=reference,
        conversations=with_probes(read, model),
        fail_on=fail_on,
        options=options,
        reference_options=reference_options,
    )
