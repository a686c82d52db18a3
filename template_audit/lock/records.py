"""The results of a check as report records, which the formats for machines print."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from template_audit.config import Sifted
from template_audit.findings import (
    SCHEMA_VERSION,
    SEVERITIES,
    ConversationRecord,
    EncoderRecord,
    FileRecord,
    Finding,
    Location,
    ModelRecord,
    ReportRecord,
    Severity,
    Summary,
    TokenizerRecord,
    fingerprint,
)
from template_audit.keylines import json_key_line, yaml_entries
from template_audit.lock.drift import Drift
from template_audit.lock.inputs import found_from
from template_audit.lock.store import Entry, LockedConversation
from template_audit.model.templates import OPTION
from template_audit.rules import all_rules

if TYPE_CHECKING:
    from template_audit.config import Config
    from template_audit.lock.checking import LockReport, Result

RULE = "lock-drift"
_LARGEST = 1 << 20  # bytes of a file in which a line is looked for


def report_record(result: Result, report: LockReport) -> ReportRecord:
    """One entry's result; its findings are its drifts, under the rule ``lock-drift``, and findings that are new."""
    entry = result.now or result.entry
    conversations = [] if entry is None else [_conversation(one, result) for one in entry.conversations]
    if entry is None and report.misses:
        conversations = [ConversationRecord("lock entry", False, missing_reason(report), None, None, None)]
    sifted = sifted_drifts(result, report.config, report.path)
    findings = [*sifted.findings, *result.findings]
    severities = [finding.severity for finding in findings]
    return ReportRecord(
        schema_version=SCHEMA_VERSION,
        model=_model(result, entry),
        versions={} if entry is None else dict(entry.versions),
        reference=_side(entry, "reference", result.request.reference),
        subject=_side(entry, "subject", result.request.encoder or "unknown"),
        conversations=conversations,
        findings=[finding.record() for finding in findings],
        summary=Summary(
            **{severity: severities.count(severity) for severity in SEVERITIES},
            conversations=len(conversations),
            evaluated=sum(one.evaluated for one in conversations),
            agree=sum(one.agrees is True for one in conversations),
        ),
        exit_code=result_code(result, report),
        suppressed=[one.record() for one in sifted.suppressed],
        fail_on=report.config.fail_on or "error",
    )


def result_code(result: Result, report: LockReport) -> Literal[0, 1, 2]:
    """The exit code that this entry alone would give."""
    if result.state == "not-evaluated" or (result.state == "missing" and report.misses):
        return 2
    return 1 if result.fails(report.config) and not report.accepted else 0


def missing_reason(report: LockReport) -> str:
    """Why an entry that was asked for is not evaluated."""
    return f"It is not in {report.path}; `template-audit lock` adds it."


def sifted_drifts(result: Result, config: Config, path: Path | None = None) -> Sifted:
    """Every drift of an entry as a finding, parted by the configuration's ignores; none when the rule is off.

    `path` is the lock file, which findings point at that concern no other file.
    """
    level = config.severities.get(RULE, "error")
    entry = result.now or result.entry
    if level == "off" or entry is None:
        return Sifted(())
    found = _findings(result, level, path)
    names = [one.id for one in entry.conversations]
    request = result.request
    return config.sift(found, model=request.title, encoder=entry.subject.spec, conversations=names, scopes=("gate",))


def _findings(result: Result, level: Severity, path: Path | None) -> list[Finding]:
    rule = all_rules()[RULE]
    request = result.request
    return [
        Finding(
            rule=RULE,
            severity=level,
            conversation=drift.conversation,
            message=" ".join([drift.headline, *drift.details]),
            turn=None,
            role=None,
            reference=None,
            subject=None,
            why=rule.why,
            advice=rule.advice,
            fingerprint=fingerprint(RULE, request.key, drift.level, drift.key),
            cause=fingerprint(RULE, request.key, drift.level, drift.key),
            location=_location(drift, result, path),
        )
        for drift in result.drifts
    ]


def _location(drift: Drift, result: Result, path: Path | None) -> Location | None:
    """The file that is different, where it can be told; else the lock file."""
    request = result.request
    if drift.file is None or path is None:
        return None if path is None else Location(_relative(path))
    folder = path.absolute().parent
    if drift.file == request.config or drift.file == f"{OPTION} {request.chat_template}":
        file = Path(found_from(drift.file.removeprefix(f"{OPTION} "), folder)).expanduser()
        return Location(_relative(file), drift.line or _line(file, drift))
    local = Path(found_from(request.model, folder)).expanduser()
    if local.is_file():
        return Location(_relative(local), drift.line)
    if local.is_dir():
        return Location(_relative(local / drift.file), drift.line or _line(local / drift.file, drift))
    return Location(f"{result.entry.model.id if result.entry else request.model}/{drift.file}", drift.line)


def _line(path: Path, drift: Drift) -> int | None:
    """The line of the entry that is different, in a JSON or YAML file of ordinary size."""
    try:
        if drift.entry is None or path.stat().st_size > _LARGEST:
            return None
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    if path.suffix == ".json":
        return json_key_line(text, drift.entry)
    return yaml_entries(text).get(drift.entry, (None, None))[0]


def _relative(path: Path) -> str:
    absolute = Path(os.path.abspath(path))
    return (absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute).as_posix()


def _model(result: Result, entry: Entry | None) -> ModelRecord:
    if entry is None:
        return ModelRecord(result.request.model, result.request.revision, [], TokenizerRecord("unknown", 0))
    model = entry.model
    return ModelRecord(
        model.id,
        model.revision,
        [FileRecord(path, digest) for path, digest in sorted(model.files.items())],
        TokenizerRecord(model.tokenizer_class, model.tokenizer_size),
    )


def _side(entry: Entry | None, name: str, asked: str) -> EncoderRecord:
    if entry is None:
        return EncoderRecord(asked, {}, "It is not locked.")
    side = entry.subject if name == "subject" else entry.reference
    return EncoderRecord(side.spec, dict(side.options), side.why)


def _conversation(one: LockedConversation, result: Result) -> ConversationRecord:
    sides = (one.reference, one.subject)
    lengths = [None if side.kind is not None else len(side.ids) for side in sides]
    both = None not in lengths
    lost = result.state == "not-evaluated" and result.now is None
    return ConversationRecord(
        one.id,
        one.evaluated and not lost,
        result.reason if lost else one.reason,
        one.reference.ids == one.subject.ids if both and not lost else None,
        None if lost else lengths[0],
        None if lost else lengths[1],
    )
