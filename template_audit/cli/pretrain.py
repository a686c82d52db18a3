"""``template-audit pretrain``: what pre-training makes of a data set."""

from __future__ import annotations

from typing import TYPE_CHECKING, TextIO

import click

from template_audit.cli.inputs import Inputs, model_inputs
from template_audit.cli.options import Outputs, assignments, baseline_option, configured, encoder_option, reported
from template_audit.errors import UsageError
from template_audit.report.interface import RecordFormat

if TYPE_CHECKING:
    from template_audit.baseline import Baseline
    from template_audit.config import Config
    from template_audit.pretraining import PretrainReport
    from template_audit.report.interface import ReportFormat, ReportOptions


@click.command("pretrain")
@encoder_option
@click.option(
    "--dataset",
    "datasets",
    metavar="FILE|NAME",
    multiple=True,
    required=True,
    help="A file of documents, or a data set's name in --dataset-dir; may be repeated.",
)
@click.option("--dataset-dir", metavar="DIR", help="The folder of dataset_info.json.")
@click.option("--column", metavar="NAME", help="The column of text in a file that no dataset_info.json describes.")
@click.option("--max-samples", metavar="N", type=click.IntRange(min=1), help="Take the first N rows of each data set.")
@click.option("--block", metavar="N", type=click.IntRange(min=0), help="Show block N with its documents; from 0.")
@click.option(
    "-o",
    "--option",
    metavar="KEY=VALUE",
    multiple=True,
    help="An option of the framework under its own name, such as cutoff_len=1024; may be repeated.",
)
@click.option("--framework-source", metavar="PATH", help="Read the framework's templates from this copy of its source.")
@click.option(
    "--python",
    metavar="PATH",
    help="Take the blocks' ids from the framework that is installed there: the bin/python of its environment.",
)
@click.option(
    "--verify",
    is_flag=True,
    help="With --python: fail unless the built-in encoder gives what the installed framework gives.",
)
@configured
@baseline_option
@reported
@click.option("-v", "--verbose", is_flag=True, help="The whole text of the block.")
@click.option("-q", "--quiet", is_flag=True, help="The totals alone.")
@model_inputs
def COMMAND(
    given: Inputs,
    encoder: str,
    datasets: tuple[str, ...],
    dataset_dir: str | None,
    column: str | None,
    max_samples: int | None,
    block: int | None,
    option: tuple[str, ...],
    framework_source: str | None,
    python: str | None,
    verify: bool,
    config: Config,
    baseline: Baseline | None,
    outputs: Outputs,
    verbose: bool,
    quiet: bool,
) -> int:
    """Show what pre-training MODEL on documents would feed it: separators, blocks, what is cut and lost.

    Exits with 1 when something at or above --fail-on was found.
    """
    from template_audit.pretraining import audit_pretraining, check_pretraining, choose_pretrain_encoder

    options = assignments(option, "-o")
    check_pretraining(encoder, options)
    if verify and python is None:
        raise UsageError("`--verify` needs `--python`, an environment in which the framework is installed.")
    chosen, why = choose_pretrain_encoder(
        encoder, given.load_model(), framework_source=framework_source, python=python, **options
    )
    documents = chosen.open_documents(datasets, dataset_dir=dataset_dir, column=column, max_samples=max_samples)
    report = audit_pretraining(chosen, documents, block=block, why=why, config=config)
    return finish(report, baseline, outputs, verify=verify, verbose=verbose, quiet=quiet)


def finish(
    report: PretrainReport,
    baseline: Baseline | None,
    outputs: Outputs,
    *,
    verify: bool = False,
    verbose: bool = False,
    quiet: bool = False,
) -> int:
    """Print the report and return its exit code; with `verify`, 1 when an installed framework gave something else."""
    if baseline is not None:
        report = baseline.apply_to_pretraining(report)

    def write(form: ReportFormat, stream: TextIO, options: ReportOptions) -> None:
        if form.name == "json":
            from template_audit.report.json import write_json

            write_json(report.to_dict(), stream)
        elif isinstance(form, RecordFormat):
            form.write_records([report.record()], stream, options)
        else:
            from template_audit.report.terminal.pretraining import show_pretraining
            from template_audit.report.terminal.screen import Screen

            show_pretraining(Screen(stream, options), report, verbose=verbose, quiet=quiet)

    outputs.write(write, verbose=verbose, quiet=quiet)
    return max(report.exit_code, 1) if verify and report.mismatches else report.exit_code
