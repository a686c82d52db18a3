"""``template-audit audit``: hold a trainer's encoding against the model's chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from template_audit.cli import pretrain
from template_audit.cli.inputs import Inputs, inputs, with_probes
from template_audit.cli.options import Outputs, baseline_option, configured, encoder_option, reference_option, reported
from template_audit.errors import UsageError

if TYPE_CHECKING:
    from template_audit.baseline import Baseline
    from template_audit.config import Config
    from template_audit.findings import Level
    from template_audit.frameworks.interface import TrainingRun
    from template_audit.pretraining import PretrainReport
    from template_audit.results import Report


@click.command("audit")
@click.option(
    "--rows",
    metavar="N",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Of a training config's data sets, look at the first N rows each.",
)
@encoder_option
@reference_option
@configured
@baseline_option
@reported
@click.option(
    "--verify",
    is_flag=True,
    help="With --python: fail unless the built-in encoder gives what the installed framework gives.",
)
@click.option("-v", "--verbose", is_flag=True, help="Every diff, with every token, id and label.")
@click.option("-q", "--quiet", is_flag=True, help="The verdict alone.")
@inputs
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
def COMMAND(
    given: Inputs,
    overrides: tuple[str, ...],
    rows: int,
    encoder: str,
    reference: str,
    config: Config,
    baseline: Baseline | None,
    outputs: Outputs,
    verify: bool,
    verbose: bool,
    quiet: bool,
) -> int:
    """Hold what a trainer feeds MODEL against what its chat template shows.

    MODEL is a repository of the hub (org/name, org/name@revision), a folder, a .gguf, or the YAML or
    JSON config of a training run, with KEY=VALUE laid over it as the framework's own command line
    takes them. Without --conversation both sides encode the built-in probes; for a training config
    also the first rows of its data sets, as that run would encode them.

    Exits with 0 when everything was evaluated and nothing at or above --fail-on was found, with 1
    when something was, and with 2 when the request is wrong or something could not be evaluated.

    Severities, --fail-on and findings to ignore can be set in template-audit.toml, or in pyproject.toml
    under tool.template-audit, in the working directory or a folder above.
    """
    from template_audit.training import is_training_config, read_training_run

    if verify and given.python is None:
        raise UsageError("`--verify` needs `--python`, an environment in which the framework is installed.")
    if is_training_config(given.target):
        run = read_training_run(given.target, overrides)
        if run.stage == "pt":
            pretraining = _pretraining(given, run, encoder, config)
            return pretrain.finish(pretraining, baseline, outputs, verify=verify, verbose=verbose, quiet=quiet)
        report = _audit_run(given, run, encoder, reference, config, rows)
    elif overrides:
        raise UsageError(f"`{overrides[0]}` overrides a training config, and `{given.target}` is a model.")
    else:
        report = _audit(given, encoder, reference, config)
    if baseline is not None:
        report = baseline.apply(report)
    outputs.write(lambda form, *where: form.write(report, *where), verbose=verbose, quiet=quiet)
    return max(report.exit_code, 1) if verify and report.mismatches else report.exit_code


def _audit(given: Inputs, encoder: str, reference: str, config: Config) -> Report:
    from template_audit.frameworks import get_framework, parse_spec

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
        framework_source=given.framework_source,
        python=given.python,
        reference=reference,
        conversations=with_probes(read, model),
        config=config,
        options=options,
        reference_options=reference_options,
    )


def _audit_run(given: Inputs, run: TrainingRun, encoder: str, reference: str, config: Config, rows: int) -> Report:
    from template_audit.frameworks import get_framework, parse_spec
    from template_audit.training import run_subject, spec_of

    spec_of(run, encoder)
    subject_framework = get_framework(run.framework)
    reference_framework = get_framework(parse_spec(reference).framework)
    options = given.options_for(subject_framework, reference_framework)
    reference_options = given.options_for(reference_framework, subject_framework)
    known = {option.name for option in reference_framework.options()}
    shared = {key: value for key, value in run.options.items() if key in known}
    read = given.read_conversations()
    model = given.for_run(run).load_model()
    subject = run_subject(
        run,
        model,
        encoder=encoder,
        rows=rows,
        options=options,
        framework_source=given.framework_source,
        python=given.python,
    )

    from template_audit.audit import audit

    return audit(
        model,
        subject=subject.encoder,
        subject_why=subject.why,
        reference=reference,
        conversations=with_probes(read, model) or subject.conversations,
        config=config,
        reference_options={**shared, **reference_options},
        severities=_severities_of(run, config),
        training_config=run.config,
    )


def _severities_of(run: TrainingRun, config: Config) -> dict[str, Level]:
    """What a run makes of rules, unless the user's configuration says otherwise."""
    own: dict[str, Level] = {"vocabulary-grows": "warning"} if run.resizes_vocabulary else {}
    return {name: level for name, level in own.items() if name not in config.severities}


def _pretraining(given: Inputs, run: TrainingRun, encoder: str, config: Config) -> PretrainReport:
    """The same as `pretrain` with what the config says."""
    from template_audit.pretraining import audit_pretraining, check_pretraining, load_pretrain_encoder
    from template_audit.training import spec_of

    spec = spec_of(run, encoder)
    options = {**run.options, "preprocessing_batch_size": run.batch_size, **given.options}
    check_pretraining(spec, options)
    model = given.for_run(run).load_model()
    chosen = load_pretrain_encoder(spec, model, framework_source=given.framework_source, python=given.python, **options)
    documents = chosen.open_documents(
        run.datasets, dataset_dir=run.dataset_dir, max_samples=run.max_samples, seed=run.seed
    )
    why = f"{run.config} says `template: {'null' if run.template is None else run.template}`, stage pt."
    why = " ".join([why, *run.remarks])
    return audit_pretraining(chosen, documents, why=why, config=config, training_config=run.config)
