"""For test suites: ``assert_template_agrees`` fails a test where a trainer feeds a model what it does not expect.

It needs no pytest. Under pytest the plugin (`template_audit.pytest_plugin`) makes the configuration that holds
in the root directory of the tests count, and adds a marker. Nothing heavy is imported before the first call.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from template_audit.errors import TemplateAuditError, UsageError

if TYPE_CHECKING:
    from template_audit.config import Config
    from template_audit.conversation import Conversation
    from template_audit.findings import ReportRecord, Threshold
    from template_audit.frameworks.interface import Encoder
    from template_audit.model import Model
    from template_audit.report.records import Entry
    from template_audit.results import Report

__all__ = ["assert_template_agrees"]

ROOTS: list[Path] = []
"""Root directories of the test sessions that are running in this process; the last one counts."""

_MOST = 20  # causes that are told in full
_EVIDENCE = 300  # characters of a stream that are shown


def assert_template_agrees(
    model: str | Path | Model,
    encoder: str | Encoder,
    *,
    conversations: str | Path | Conversation | Sequence[str | Path | Conversation] | None = None,
    fail_on: Threshold | None = None,
    reference: str | Encoder = "chat-template",
    config: Config | str | Path | None = None,
    baseline: str | Path | None = None,
    **options: Any,
) -> Report:
    """Audit `model` with `encoder`, and return the report when nothing at or above `fail_on` was found.

    `model` is what ``template-audit MODEL`` takes, or one that `load_model` gave (several tests of one model
    are faster so); `encoder` and `reference` are SPECs or encoders. `conversations` are files, names of
    probes or Conversations; the built-in probes when there are none. `options` are the framework's own
    (``cutoff_len=1024``) and, for either side, those of `reference`. `config` is a file or a Config; by
    default that of the root directory of the tests, else of the working directory, and ``Config()`` is none.
    `fail_on` goes before the configuration's. `baseline` is an earlier JSON report, whose findings are known.

    Raises AssertionError with every finding that counts, and with every conversation that could not be
    evaluated; UsageError, ModelError or DataError (one sentence) when nothing could be audited at all.
    """
    __tracebackhide__ = True
    try:
        report = _audit(model, encoder, conversations, fail_on, reference, config, options)
        if baseline is not None:
            from template_audit.baseline import read_baseline

            report = read_baseline(baseline).apply(report)
    except TemplateAuditError as error:
        error.args = (_clean(str(error)), *error.args[1:])
        raise error.with_traceback(None) from None  # one sentence; where in this package it arose is of no use
    if report.exit_code:
        raise AssertionError(disagreement(report.record()))
    return report


def _audit(
    model: str | Path | Model,
    encoder: str | Encoder,
    conversations: str | Path | Conversation | Sequence[str | Path | Conversation] | None,
    fail_on: Threshold | None,
    reference: str | Encoder,
    config: Config | str | Path | None,
    options: Mapping[str, Any],
) -> Report:
    if isinstance(model, (str, Path)):
        from template_audit.training import is_training_config

        if is_training_config(str(model)):
            raise UsageError(f"`{model}` is a training config; name the model and the encoder that it trains.")
        from template_audit.model import load_model

        model = load_model(model)
    if options and not isinstance(encoder, str):
        raise UsageError(
            f"Give `{next(iter(options))}` to the encoder when it is loaded: `load_encoder(SPEC, model, …)`."
        )
    from template_audit.audit import audit

    mine, theirs = _option_names(encoder), _option_names(reference)
    return audit(
        model,
        subject=encoder,
        reference=reference,
        conversations=_conversations(conversations, model),
        fail_on=fail_on,
        config=_config(config),
        options={name: value for name, value in options.items() if name in mine or name not in theirs},
        reference_options={name: value for name, value in options.items() if name in theirs},
    )


def _option_names(encoder: str | Encoder) -> set[str]:
    if not isinstance(encoder, str):
        return set()
    from template_audit.frameworks import get_framework, parse_spec

    return {option.name for option in get_framework(parse_spec(encoder).framework).options()}


def _config(config: Config | str | Path | None) -> Config:
    from template_audit.config import Config, find_config, load_config, read_config

    if isinstance(config, Config):
        return config
    if config is not None or not ROOTS:
        return load_config(config)
    found = find_config(ROOTS[-1])
    return Config() if found is None else read_config(found)


def _conversations(given: Any, model: Model) -> list[Conversation] | None:
    """Conversations of every file, probes by their names, one after the other; later ones of the same id numbered."""
    if given is None:
        return None
    from template_audit.conversation import Conversation

    several = [given] if isinstance(given, (str, Path, Conversation)) else list(given)
    found = [one for item in several for one in ([item] if isinstance(item, Conversation) else _read(item, model))]
    if not found:
        raise UsageError("`conversations` holds no conversation; leave it out for the built-in probes.")
    seen: dict[str, int] = {}
    for place, one in enumerate(found):
        seen[one.id] = seen.get(one.id, 0) + 1
        if seen[one.id] > 1:
            found[place] = replace(one, id=f"{one.id} ({seen[one.id]})")
    return found


def _read(name: str | Path, model: Model) -> Sequence[Conversation]:
    from template_audit.probes import probe, probes

    if isinstance(name, str) and name in probes() and not Path(name).is_file():
        return [probe(name, model)]
    if not Path(name).exists():
        raise UsageError(f"`{name}` is neither a file nor a built-in probe; the probes are {', '.join(probes())}.")
    from template_audit.datasets import read_conversations

    return read_conversations(name)


# --- the message -----------------------------------------------------------------------------------


def disagreement(record: ReportRecord) -> str:
    """What makes the audit fail, for people: what was not evaluated, then one paragraph for every cause.

    Foreign text in it has nothing hidden, and nothing that a terminal obeys.
    """
    from template_audit.findings import at_least
    from template_audit.report.records import entries, not_evaluated, title, verdict

    lines = [f"{title(record)}: {verdict(record)}."]
    for reason, names in not_evaluated(record).items():
        lines += ["", "not evaluated", f"  where: {_names(names)}", f"  {_clean(reason)}"]
    found = entries([record], "new")
    failing = [entry for entry in found if at_least(entry.first.severity, record.fail_on)]
    for entry in failing[:_MOST]:
        lines += ["", *_told(entry)]
    more = [f"{len(failing) - _MOST:,} more that fail"] if len(failing) > _MOST else []
    more += [f"{len(found) - len(failing):,} below `{record.fail_on}`"] if len(found) > len(failing) else []
    if more:
        command = f"template-audit {_clean(record.model.id)} --encoder {_clean(record.subject.spec)}"
        lines += ["", f"Not shown: {' and '.join(more)}. `{command}` shows all."]
    return "\n".join(lines)


def _told(entry: Entry) -> Iterator[str]:
    from template_audit.report.records import advice, evidence_text

    finding = entry.first
    yield f"{finding.severity}  {_clean(finding.rule)}"
    yield f"  {entry.sentence}"
    if entry.cause.conversations:
        yield f"  where: {_names(entry.cause.conversations)}"
    if finding.location is not None:
        line = f", line {finding.location.line}" if finding.location.line else ""
        yield f"  file: {_clean(finding.location.path)}{line}"
    for label, evidence in (("expected", finding.reference), ("fed", finding.subject)):
        if evidence is not None and evidence.text:
            yield f"  {label} (token {evidence.start}): {evidence_text(evidence.text, _EVIDENCE)}"
    yield f"  what to do: {advice(finding)}"


def _names(names: Sequence[str]) -> str:
    from template_audit.report.records import FEW, NAME, clean

    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(clean(name, NAME) for name in names[:FEW]) + more


def _clean(text: str) -> str:
    from template_audit.report.records import clean

    return clean(text)
