"""``template-audit scan``: every row of a data set through both encoders and every rule."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, TextIO

import click

from template_audit.cli.inputs import Inputs, inputs_without_conversations
from template_audit.cli.options import Outputs, configured, encoder_option, reference_option, reported
from template_audit.errors import UsageError

if TYPE_CHECKING:
    from template_audit.config import Config
    from template_audit.findings import Level
    from template_audit.frameworks.interface import TrainingRun
    from template_audit.report.interface import ReportFormat, ReportOptions
    from template_audit.scanning.records import ScanRecord
    from template_audit.scanning.rows import Source
    from template_audit.scanning.scans import Scan


@click.command("scan")
@encoder_option
@reference_option
@click.option(
    "--dataset",
    "datasets",
    metavar="PATH|NAME",
    multiple=True,
    help="A file (JSON, JSON lines, .gz, .zst, Parquet), a folder, a data set of the hub (org/name[:split]), or a name "
    "in --dataset-info; may be repeated.",
)
@click.option("--dataset-format", metavar="NAME", help="Row format of the files: openai, sharegpt or alpaca.")
@click.option("--dataset-info", metavar="FILE", help="The dataset_info.json (or its folder) that describes the names.")
@click.option("--sample", metavar="N", type=click.IntRange(min=1), help="Scan N rows, drawn by --seed.")
@click.option("--seed", metavar="N", type=click.IntRange(min=0), default=0, show_default=True, help="See --sample.")
@click.option("--max-rows", metavar="N", type=click.IntRange(min=1), help="Scan the first N rows only.")
@click.option("--shard", metavar="I/N", help="Scan one part of N; `template-audit merge` puts the reports together.")
@click.option(
    "--show", metavar="ROW", type=click.IntRange(min=1), help="Show this row in full, with its diff, and no other."
)
@click.option(
    "--jobs",
    metavar="N",
    type=click.IntRange(min=1),
    help="Processes; by default one for each core, and one for little data.",
)
@configured
@reported
@click.option("-v", "--verbose", is_flag=True, help="Every cause, with its evidence.")
@click.option("-q", "--quiet", is_flag=True, help="The verdict alone, and no progress.")
@inputs_without_conversations
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
def COMMAND(
    given: Inputs,
    overrides: tuple[str, ...],
    encoder: str,
    reference: str,
    datasets: tuple[str, ...],
    dataset_format: str | None,
    dataset_info: str | None,
    sample: int | None,
    seed: int,
    max_rows: int | None,
    shard: str | None,
    show: int | None,
    jobs: int | None,
    config: Config,
    outputs: Outputs,
    verbose: bool,
    quiet: bool,
) -> int:
    """Hold every row of a data set, as a trainer feeds it to MODEL, against the model's chat template.

    MODEL is a repository of the hub, a folder, a .gguf, or the YAML or JSON config of a training run, whose
    own data sets are scanned unless --dataset names others. The report says for every finding how many
    rows show it, the first and the worst of them, and what became of every row that was read.

    Ctrl-C gives the report so far. Exits with 0 when every row was evaluated and nothing at or above
    --fail-on was found, with 1 when something was, and with 2 when the request is wrong, a row could not
    be read or evaluated, or the scan was interrupted.
    """
    from template_audit.scanning.requests import shard_of
    from template_audit.scanning.rows import Selection

    selection = Selection(sample, seed, max_rows, None if shard is None else shard_of(shard))
    scan, sources = _prepare(given, overrides, encoder, reference, config, datasets, dataset_format, dataset_info, seed)
    if show is not None:
        return _show(scan, sources, show, outputs, verbose=verbose, quiet=quiet)
    with _Bar(silent=quiet) as bar:
        record = scan.run(sources, selection, jobs=jobs, progress=bar.advance)
    write_scan(record, outputs, verbose=verbose, quiet=quiet)
    return record.exit_code


def _prepare(
    given: Inputs,
    overrides: tuple[str, ...],
    encoder: str,
    reference: str,
    config: Config,
    datasets: tuple[str, ...],
    dataset_format: str | None,
    dataset_info: str | None,
    seed: int,
) -> tuple[Scan, list[Source]]:
    """The scan, and the sources of its rows. What can be wrong without the model is looked at first."""
    from pathlib import Path

    from template_audit.frameworks import get_framework, parse_spec
    from template_audit.scanning.requests import described_run, file_sources, run_source
    from template_audit.training import is_training_config, read_training_run, run_subject, spec_of

    names = tuple(name for name in datasets if dataset_info is not None and not Path(name).exists())
    files = file_sources([name for name in datasets if name not in names], dataset_format)
    run = read_training_run(given.target, overrides) if is_training_config(given.target) else None
    if run is None and overrides:
        raise UsageError(f"`{overrides[0]}` overrides a training config, and `{given.target}` is a model.")
    if run is None and not datasets:
        raise UsageError("There is nothing to scan: name a data set with `--dataset PATH`, or give a training config.")
    if run is not None and run.stage == "pt":
        raise UsageError(f"{run.config} is of stage pt, which has no conversations; use `template-audit pretrain`.")
    subject = get_framework(run.framework if run else parse_spec(encoder).framework)
    other = get_framework(parse_spec(reference).framework)
    options, reference_options = given.options_for(subject, other), given.options_for(other, subject)
    if run is not None:
        spec_of(run, encoder)
        given = given.for_run(run)
        known = {option.name for option in other.options()}
        shared = {key: value for key, value in run.options.items() if key in known}
        reference_options = {**shared, **reference_options}
    model = given.load_model()

    from template_audit.scanning.scans import open_scan

    request: dict[str, Any] = {"subject": encoder, "options": options}
    if run is not None:
        chosen = run_subject(
            run, model, encoder=encoder, rows=0, options=options, framework_source=given.framework_source
        )
        request = {"subject": chosen.encoder, "subject_why": chosen.why, "severities": _severities_of(run, config)}
    scan = open_scan(
        model,
        reference=reference,
        reference_options=reference_options,
        config=config,
        framework_source=given.framework_source,
        seed=seed,
        **request,
    )
    ours = scan.sides.subject
    if names and dataset_info is not None:
        files.append(run_source(described_run(names, dataset_info, ours, run.seed if run else 42), ours))
    if run is not None and not datasets:
        files.append(run_source(run, ours))
    return scan, files


def _severities_of(run: TrainingRun, config: Config) -> dict[str, Level]:
    own: dict[str, Level] = {"vocabulary-grows": "warning"} if run.resizes_vocabulary else {}
    return {name: level for name, level in own.items() if name not in config.severities}


def write_scan(record: ScanRecord, outputs: Outputs, *, verbose: bool, quiet: bool) -> None:
    """Print the report in every format that was asked for."""

    def write(form: ReportFormat, stream: TextIO, options: ReportOptions) -> None:
        from template_audit.report.interface import RecordFormat

        if form.name == "json":
            import msgspec

            from template_audit.report.json import write_json

            write_json(msgspec.to_builtins(record), stream)
        elif isinstance(form, RecordFormat):
            from template_audit.scanning.records import as_report

            form.write_records([as_report(record)], stream, options)
        else:
            from template_audit.report.terminal.scan import show_scan
            from template_audit.report.terminal.screen import Screen

            show_scan(Screen(stream, options), record, verbose=verbose, quiet=quiet)

    outputs.write(write, verbose=verbose, quiet=quiet)


def _show(scan: Scan, sources: list[Source], number: int, outputs: Outputs, *, verbose: bool, quiet: bool) -> int:
    """One row, as `audit` shows a conversation."""
    from template_audit.audit import audit
    from template_audit.errors import DataError
    from template_audit.scanning.rows import conversation_of, one_row

    found = one_row(sources, number)
    conversation = conversation_of(found)
    if isinstance(conversation, DataError):
        raise conversation
    report = audit(
        scan.model,
        subject=scan.sides.subject,
        reference=scan.sides.reference,
        subject_why=scan.sides.subject_why,
        conversations=[conversation],
        config=scan.config,
        fail_on=scan.fail_on,
        severities=scan.setup.severities,
    )
    outputs.write(lambda form, *where: form.write(report, *where), verbose=verbose, quiet=quiet)
    return report.exit_code


class _Bar(AbstractContextManager["_Bar"]):
    """Progress on the standard error: rows, rate and time left; nothing when that is no terminal."""

    def __init__(self, *, silent: bool) -> None:
        import sys

        self._progress: Any = None
        if silent or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.fields[rows]:,} rows"),
            BarColumn(),
            TextColumn("{task.fields[rate]:,} rows/s"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )

    def __enter__(self) -> _Bar:
        if self._progress is not None:
            self._progress.start()
            self._task = self._progress.add_task("", total=None, rows=0, rate=0)
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def advance(self, state: Any) -> None:
        """Take in how far a scan is."""
        if self._progress is not None:
            rate = round(state.rows / max(state.seconds, 0.001))
            total = None if state.share is None else 1000
            done = 0 if state.share is None else round(state.share * 1000)
            self._progress.update(self._task, total=total, completed=done, rows=state.rows, rate=rate)
