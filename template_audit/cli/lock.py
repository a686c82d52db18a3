"""``template-audit lock``: record what later runs are held against."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from template_audit.cli.inputs import Inputs, inputs_of_several
from template_audit.cli.options import configured_without_threshold, encoder_option, listing_screen, reference_option
from template_audit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from template_audit.config import Config
    from template_audit.lock.locking import Recorded
    from template_audit.lock.store import Request

FILE = "template-audit.lock"


@click.command("lock")
@encoder_option
@reference_option
@click.option(
    "--rows",
    metavar="N",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Of a training config's data sets, lock the first N rows each.",
)
@click.option(
    "--lock",
    "path",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    default=FILE,
    show_default=True,
    help="The lock file.",
)
@click.option("--offline", is_flag=True, help="Never ask the hub: take what is in the local cache.")
@configured_without_threshold
@inputs_of_several
def COMMAND(
    given: list[Inputs], encoder: str, reference: str, rows: int, path: Path, offline: bool, config: Config
) -> int:
    """Record in a lock file what MODEL and its encoder give today; `check` holds later days against it.

    MODEL is what `audit` takes: a repository of the hub, a folder, a .gguf, or the config of a training
    run, which KEY=VALUE arguments after it override. For each the built-in probes (for a config also the
    first rows of its data sets), or the conversations that are named, are encoded by both sides; texts,
    ids, labels, files, templates, options and versions are recorded, and all findings are accepted. Entries
    for other models, encoders and options stay in the file as they are.

    Exits with 2 when something could not be evaluated, else with 0.
    """
    from template_audit.lock import lock_models
    from template_audit.lock.inputs import Surroundings

    if given[0].revision is not None and len(given) > 1:
        raise UsageError("`--revision` is for one MODEL; write org/name@revision for each.")
    conversations = given[0].read_conversations() or None
    requests = [_request(one, overrides, encoder, reference, rows) for one, overrides in _targets(given)]
    if conversations:
        requests = [_named(request) for request in requests]
    around = Surroundings(path.absolute().parent, config, offline or None, given[0].trust_remote_code)
    recorded = lock_models(path, [(request, conversations) for request in requests], around)
    return _print(path, recorded)


def _targets(given: Sequence[Inputs]) -> list[tuple[Inputs, list[str]]]:
    """Each model or config with the overrides that stand behind it."""
    from template_audit.training import is_training_config

    out: list[tuple[Inputs, list[str]]] = []
    for one in given:
        if "=" not in one.target or Path(one.target).exists():
            out.append((one, []))
        elif not out or not is_training_config(out[-1][0].target):
            raise UsageError(f"`{one.target}` overrides a training config, and there is none before it.")
        else:
            out[-1][1].append(one.target)
    return out


def _request(given: Inputs, overrides: list[str], encoder: str, reference: str, rows: int) -> Request:
    from template_audit.frameworks import get_framework, parse_spec
    from template_audit.lock.store import Request
    from template_audit.training import is_training_config, read_training_run, spec_of

    subject_framework = get_framework(parse_spec(encoder).framework)
    reference_framework = get_framework(parse_spec(reference).framework)
    request = Request(
        model=given.target,
        encoder=encoder,
        reference=reference,
        revision=given.revision,
        chat_template=given.chat_template,
        framework_source=given.framework_source,
        options=given.options_for(subject_framework, reference_framework),
        reference_options=given.options_for(reference_framework, subject_framework),
    )
    if not is_training_config(given.target):
        return request
    import msgspec

    run = read_training_run(given.target, overrides)
    spec_of(run, encoder)
    return msgspec.structs.replace(request, model=run.model, config=given.target, overrides=overrides, rows=rows)


def _named(request: Request) -> Request:
    import msgspec

    return msgspec.structs.replace(request, named=True)


def _print(path: Path, recorded: Sequence[Recorded]) -> int:
    screen = listing_screen()
    lost = 0
    for one in recorded:
        entry = one.entry
        summary = one.report.summary
        count = len(entry.conversations)
        screen.line(
            (screen.clean(entry.request.title), "strong"),
            f"  {screen.clean(entry.subject.spec)}  ",
            (f"{count} conversation{'s' * (count != 1)}", "quiet"),
        )
        request = entry.request
        for name in (request.config or request.model, request.chat_template, request.framework_source):
            if name is not None and Path(name).expanduser().is_absolute():
                note = f"`{name}` is locked as an absolute path, which a check on another machine will not find."
                screen.paragraph("  ", note, indent=2)
        if one.report.findings:
            found = ", ".join(
                f"{number} {name}{'s' * (number != 1 and name != 'info')}"
                for name, number in (("error", summary.error), ("warning", summary.warning), ("info", summary.info))
                if number
            )
            rules = ", ".join(dict.fromkeys(f.rule for f in one.report.findings if f.severity == "error"))
            screen.paragraph("  ", f"accepted: {found}{f' ({rules})' if rules else ''}", indent=2)
        for conversation in entry.conversations:
            if not conversation.evaluated:
                lost += 1
                screen.paragraph("  ", f"not evaluated: `{conversation.id}`: {conversation.reason}", indent=2)
    screen.line()
    many = "1 entry" if len(recorded) == 1 else f"{len(recorded)} entries"
    screen.line(f"{many} written to {screen.clean(str(path))}.")
    return 2 if lost else 0
