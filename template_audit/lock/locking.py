"""Making entries: a model is audited, and everything that the audit hung on and gave is recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from template_audit.conversation import Conversation
from template_audit.errors import UsageError
from template_audit.lock.inputs import (
    ModelFiles,
    Surroundings,
    all_versions,
    data_of,
    framework_of,
    read_model_files,
    run_of,
)
from template_audit.lock.layout import digest
from template_audit.lock.store import (
    Entry,
    LockedConversation,
    LockedEncoder,
    LockedFinding,
    LockedModel,
    Request,
    Side,
    content_of,
    read_lock,
    short_message,
)
from template_audit.lock.writing import put_entries
from template_audit.probes import load_probes, probes

if TYPE_CHECKING:
    from template_audit.findings import Level
    from template_audit.frameworks.interface import TrainingRun
    from template_audit.model import Model
    from template_audit.results import Comparison, Report

_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass(frozen=True, slots=True)
class Recorded:
    """An entry, what its conversations say (by digest), and the audit that it was made of."""

    entry: Entry
    contents: Mapping[str, Any]
    report: Report


def lock_models(
    path: str | Path,
    requests: Sequence[tuple[Request, Sequence[Conversation | str] | None]],
    around: Surroundings,
) -> list[Recorded]:
    """Audit every request, and put the entries into the lock file at `path`.

    With each request go the conversations to record, probes by their name; None means the built-in ones
    and, for a training config, the first rows of its data sets. Nothing is written unless all of them
    could be made. Raises the errors of `load_model`, `audit` and `put_entries`.
    """
    read_lock(path)  # one that is broken had better be known now
    made = [record(request, conversations, around) for request, conversations in requests]
    contents = {key: value for one in made for key, value in one.contents.items()}
    put_entries(Path(path), [one.entry for one in made], contents)
    return made


def record(
    request: Request,
    conversations: Sequence[Conversation | str] | None,
    around: Surroundings,
    files: ModelFiles | None = None,
) -> Recorded:
    """Audit one request and record it; `files` are the model's if they were read already."""
    run = run_of(request, around)
    if run is not None:
        request = _of_run(request, run)
    files = files or read_model_files(request, around)
    model = _load(request, around)
    builtin = {probe.id: probe for probe in load_probes(model)}
    chosen = None
    if conversations is not None:
        from template_audit.probes import probe

        chosen = [probe(one, model) if isinstance(one, str) else one for one in conversations]
    report = _audit(request, run, model, chosen, around)
    framework = framework_of(request, report.subject.spec, around)
    why = report.subject_why
    if run is not None and request.config is not None:  # the same words from every working directory
        why = why.replace(str(run.config), request.config)
    contents = {}
    locked = []
    for comparison in report.comparisons:
        content = content_of(comparison.conversation)
        try:
            key = digest(content)
        except (TypeError, ValueError):
            name = comparison.conversation.id
            raise UsageError(
                f"Conversation `{name}` holds a value that JSON does not have, so it cannot be locked; "
                "leave the column out, or give the conversations as JSON."
            ) from None
        if not _is_row_of_run(comparison.conversation):
            contents[key] = content
        locked.append(_conversation(comparison, key, builtin))
    entry = Entry(
        request=request,
        model=_model(model, files),
        versions=all_versions(request, framework),
        settings=files.settings,
        templates=files.templates,
        framework=framework,
        data=data_of(request, run, around),
        reference=LockedEncoder(report.reference.spec, dict(report.reference.options), report.reference_why),
        subject=LockedEncoder(report.subject.spec, dict(report.subject.options), why),
        configuration=around.configuration,
        conversations=locked,
        findings=[
            LockedFinding(f.rule, f.severity, f.conversation, f.fingerprint, short_message(f.message))
            for f in report.findings
        ],
    )
    return Recorded(entry.sealed(), contents, report)


def _of_run(request: Request, run: TrainingRun) -> Request:
    import msgspec

    return msgspec.structs.replace(request, model=run.model, revision=run.revision)


def _load(request: Request, around: Surroundings) -> Model:
    from template_audit.model.sandbox import shared_sandbox
    from template_audit.model.source import load_model

    shared_sandbox().start()  # it gets ready while this process imports transformers
    return load_model(
        around.path(request.model),
        revision=request.revision,
        chat_template=None if request.chat_template is None else around.path(request.chat_template),
        trust_remote_code=around.trust_remote_code,
        offline=around.offline,
    )


def _audit(
    request: Request,
    run: TrainingRun | None,
    model: Model,
    conversations: list[Conversation] | None,
    around: Surroundings,
) -> Report:
    from template_audit.audit import audit

    source = None if request.framework_source is None else around.path(request.framework_source)
    if run is None:
        return audit(
            model,
            subject=request.encoder,
            reference=request.reference,
            conversations=conversations,
            config=around.config,
            options=request.options,
            reference_options=request.reference_options,
            framework_source=source,
        )
    from template_audit.frameworks import get_framework, parse_spec
    from template_audit.training import run_subject

    rows = 20 if request.rows is None else request.rows
    subject = run_subject(
        run, model, encoder=request.encoder, rows=rows, options=request.options, framework_source=source
    )
    known = {option.name for option in get_framework(parse_spec(request.reference).framework).options()}
    shared = {key: value for key, value in run.options.items() if key in known}
    own: dict[str, Level] = {"vocabulary-grows": "warning"} if run.resizes_vocabulary else {}
    return audit(
        model,
        subject=subject.encoder,
        subject_why=subject.why,
        reference=request.reference,
        conversations=conversations or subject.conversations,
        config=around.config,
        reference_options={**shared, **request.reference_options},
        training_config=run.config,
        severities={name: level for name, level in own.items() if name not in around.config.severities},
    )


def _is_row_of_run(conversation: Conversation) -> bool:
    """True for a row that a training config's framework read: it brings along what no file can hold."""
    return conversation.row is not None and "format" not in conversation.row


def _conversation(comparison: Comparison, content: str, builtin: Mapping[str, Conversation]) -> LockedConversation:
    conversation = comparison.conversation
    return LockedConversation(
        id=conversation.id,
        content=content,
        reference=Side.of(comparison.reference),
        subject=Side.of(comparison.subject),
        probe=conversation.id in probes() and builtin.get(conversation.id) == conversation,
        evaluated=comparison.evaluated,
        reason=comparison.reason,
    )


def _model(model: Model, files: ModelFiles) -> LockedModel:
    tokenizer = model.tokenizer
    special: dict[str, tuple[str, int | None]] = {}
    for name in _SPECIAL_TOKENS:
        text = getattr(tokenizer, name, None)
        if text is not None:
            token_id = getattr(tokenizer, f"{name}_id", None)
            special[name] = (str(text), None if token_id is None else int(token_id))
    return LockedModel(
        id=files.id,
        revision=model.revision,
        files=files.files,
        tokenizer_class=type(tokenizer).__name__,
        tokenizer_size=len(tokenizer),
        special_tokens=special,
        templates={source.name: source.place for source in model.template_sources if source.wins},
    )
