"""Holding a lock file against today: what is unchanged is answered from digests, the rest is audited again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from template_audit.config import Config
from template_audit.conversation import Conversation
from template_audit.errors import TemplateAuditError, UsageError
from template_audit.findings import Finding, at_least
from template_audit.lock.comparing import Difference, compare_entries, compare_files, compare_framework
from template_audit.lock.drift import Drift
from template_audit.lock.inputs import (
    ModelFiles,
    Surroundings,
    check_there,
    framework_of,
    read_model_files,
    run_of,
    unchanged,
)
from template_audit.lock.layout import digest
from template_audit.lock.store import Entry, Lock, Request, conversation_of, plain_name, read_lock

if TYPE_CHECKING:
    from template_audit.findings import ReportRecord
    from template_audit.lock.locking import Recorded

State = Literal["unchanged", "same", "drift", "not-evaluated", "missing"]
_LOOK_UPS = 8  # at once, of the hub


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one entry.

    `state`: ``unchanged`` (answered from digests), ``same`` (audited again, nothing is different),
    ``drift``, ``not-evaluated`` (`reason` says why; drifts that could be told are there nevertheless)
    or ``missing`` (asked for, and not in the lock). `now` is the entry as it is today.
    """

    request: Request
    state: State
    entry: Entry | None = None
    now: Entry | None = None
    drifts: tuple[Drift, ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    reason: str | None = None

    def fails(self, config: Config) -> bool:
        """True when a drift, or a finding that was not accepted, is as grave as the configuration's threshold."""
        counted = [*self.findings]
        if self.drifts:
            from template_audit.lock.records import sifted_drifts

            counted += sifted_drifts(self, config).findings
        return any(at_least(finding.severity, config.fail_on or "error") for finding in counted)


@dataclass(frozen=True, slots=True)
class LockReport:
    """What `check_lock` found out. `accepted` says that the lock file was rewritten with today's state."""

    path: Path
    results: tuple[Result, ...]
    config: Config = field(default_factory=Config)
    locked: bool = False
    accepted: bool = False

    @property
    def exit_code(self) -> Literal[0, 1, 2]:
        """2: an entry could not be evaluated, or is asked for and not there. 1: drift that was not accepted."""
        states = {result.state for result in self.results}
        if "not-evaluated" in states or ("missing" in states and self.misses):
            return 2
        return 1 if not self.accepted and any(result.fails(self.config) for result in self.results) else 0

    @property
    def misses(self) -> bool:
        """True when an entry that is missing is no mere remark: by `locked`, or because there was no other to check."""
        return self.locked or all(result.state == "missing" for result in self.results)

    def records(self) -> list[ReportRecord]:
        """One report for each entry, for the formats that machines read."""
        from template_audit.lock.records import report_record

        return [report_record(result, self) for result in self.results]


def check_lock(
    path: str | Path,
    *,
    only: Sequence[str] = (),
    requests: Sequence[Request] = (),
    locked: bool = False,
    update: bool = False,
    offline: bool | None = None,
    trust_remote_code: bool = False,
    config: Config | None = None,
) -> LockReport:
    """Hold the lock file at `path` against what its models and encoders give today.

    `only` and `requests` choose entries: by the model's name or config as it was locked (or its end, as in
    ``Qwen3-8B``), and by training configs or models as they are asked for today. With `locked` one that
    the lock lacks makes the exit code 2. `update` records today's state of every entry that could be
    evaluated. `offline` True never asks the hub; None leaves that to HF_HUB_OFFLINE.

    Raises UsageError when there is no lock file, it is broken, or `only` names nothing in it.
    """
    path = Path(path)
    lock = read_lock(path)
    if lock is None:
        raise UsageError(f"There is no lock file {path}; `template-audit lock MODEL` makes one.")
    around = Surroundings(path.absolute().parent, config or Config(), offline, trust_remote_code)
    chosen, missing = _chosen(lock, only, requests, path, strict=not locked)
    if not chosen and not missing:
        raise UsageError(f"{path} holds no entries; `template-audit lock MODEL` adds one.")
    results = [*_results(lock, chosen, around), *(Result(request, "missing") for request in missing)]
    report = LockReport(path, tuple(results), around.config, locked)
    if update and any(result.now is not None for result in results):
        _record_again(path, lock, results, around)
        report = replace(report, accepted=True)
    return report


def _chosen(
    lock: Lock, only: Sequence[str], requests: Sequence[Request], path: Path, *, strict: bool
) -> tuple[list[Entry], list[Request]]:
    if not only and not requests:
        return list(lock.entries), []
    chosen: dict[str, Entry] = {}
    missing: list[Request] = []
    for name in only:
        found = [entry for entry in lock.entries if _named(entry, name)]
        if not found and strict:
            from template_audit.frameworks import nearest

            known = sorted({entry.request.title for entry in lock.entries})
            raise UsageError(
                f"{path} has no entry for `{name}`; it has {', '.join(known) or 'none'}.{nearest(name, known)}"
            )
        chosen |= {entry.request.key: entry for entry in found}
        if not found:
            missing.append(Request(name, ""))
    for request in requests:
        entries = [entry for entry in lock.entries if _asked(entry, request)]
        chosen |= {entry.request.key: entry for entry in entries}
        if not entries:
            missing.append(request)
    return [entry for entry in lock.entries if entry.request.key in chosen], missing


def _named(entry: Entry, name: str) -> bool:
    request = entry.request
    names = {plain_name(one) for one in (request.title, request.model, request.config or request.model)}
    wanted = plain_name(name)
    return any(wanted == one or one.endswith(f"/{wanted}") for one in names)


def _asked(entry: Entry, request: Request) -> bool:
    """True for the entries of a config or model that is asked for by name alone, or of exactly this request."""
    if request.encoder:
        return entry.request.key == request.key
    if request.config is not None:
        return entry.request.config is not None and Path(entry.request.config) == Path(request.config)
    locked = plain_name(entry.request.model, entry.request.revision)
    return entry.request.config is None and plain_name(request.model) in (locked, plain_name(entry.request.model))


def _results(lock: Lock, entries: Sequence[Entry], around: Surroundings) -> Iterator[Result]:
    states = _states(lock, entries, around)
    for entry, state in zip(entries, states, strict=True):
        if isinstance(state, TemplateAuditError):
            yield Result(entry.request, "not-evaluated", entry, reason=str(state))
        elif state:
            yield _judged(Result(entry.request, "unchanged", entry))
        else:
            yield _judged(_audited_again(lock, entry, around))


def _states(lock: Lock, entries: Sequence[Entry], around: Surroundings) -> list[bool | TemplateAuditError]:
    """For each entry whether nothing that it hangs on is different, or why that cannot be told."""
    edited = {key for key, content in lock.conversations.items() if digest(content) != key}

    def state(entry: Entry) -> bool | TemplateAuditError:
        try:
            same = unchanged(entry, around)
            return same and not any(conversation.content in edited for conversation in entry.conversations)
        except TemplateAuditError as error:
            return error

    if sum(entry.model.revision is not None for entry in entries) < 2:
        return [state(entry) for entry in entries]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_LOOK_UPS) as pool:
        return list(pool.map(state, entries))


def _judged(result: Result) -> Result:
    """An entry with conversations that cannot be evaluated is not evaluated, whatever else is said of it."""
    entry = result.now or result.entry
    assert entry is not None
    lost = [one for one in entry.conversations if not one.evaluated]
    if result.state == "not-evaluated" or not lost:
        return result
    many = "1 conversation" if len(lost) == 1 else f"{len(lost)} conversations"
    reason = f"{many} could not be evaluated, first `{lost[0].id}`: {lost[0].reason}"
    return replace(result, state="not-evaluated", reason=reason)


def _audited_again(lock: Lock, entry: Entry, around: Surroundings) -> Result:
    from template_audit.lock.locking import record

    files: ModelFiles | None = None
    request = entry.request
    try:
        conversations = _conversations(lock, entry)
        run = run_of(request, around)
        if run is None or run.model == request.model:
            check_there(entry, around)
        if run is not None:
            request = msgspec.structs.replace(request, model=run.model, revision=run.revision)
        files = read_model_files(request, around)
        recorded = record(request, conversations, around, files)
    except TemplateAuditError as error:
        return Result(request, "not-evaluated", entry, drifts=_told(entry, files, around), reason=str(error))
    different = compare_entries(entry, recorded.entry, files, recorded.report.findings)
    return _with_difference(entry, recorded, different, around)


def _with_difference(entry: Entry, recorded: Recorded, different: Difference, around: Surroundings) -> Result:
    result = Result(
        recorded.entry.request,
        "same",
        entry,
        recorded.entry,
        different.drifts,
        different.findings,
        different.notes,
    )
    if not (different.drifts or result.fails(around.config)):
        return result
    from template_audit.lock.records import sifted_drifts

    reasons = dict.fromkeys(one.ignore.reason for one in sifted_drifts(result, around.config).suppressed)
    ignored = tuple(f"Drift is ignored by the configuration: {reason}" for reason in reasons)
    return replace(result, state="drift", notes=(*result.notes, *ignored))


def _told(entry: Entry, files: ModelFiles | None, around: Surroundings) -> tuple[Drift, ...]:
    """What can be said of an entry whose audit failed: where its files and its framework are others."""
    drifts = [] if files is None else compare_files(entry, files, None)
    with suppress(TemplateAuditError):
        drifts += compare_framework(entry, framework_of(entry.request, entry.subject.spec, around))
    return tuple(drifts)


def _conversations(lock: Lock, entry: Entry) -> list[Conversation] | None:
    """The conversations as they were locked; None for those of a training config, which are read again."""
    if entry.request.config is not None and not entry.request.named:
        return None
    return [_content(lock.conversations, one.content, one.id) for one in entry.conversations]


def _content(contents: Mapping[str, Any], key: str, id: str) -> Conversation:
    if key not in contents:
        raise UsageError(f"The lock file lacks conversation {key} (`{id}`); lock the model again.")
    return conversation_of(contents[key], id, f"conversation {key} of the lock file")


def _record_again(path: Path, lock: Lock, results: Sequence[Result], around: Surroundings) -> None:
    """Put today's state into the lock file; built-in probes as they are today."""
    from template_audit.lock.locking import record
    from template_audit.lock.writing import put_entries

    entries: list[Entry] = []
    contents: dict[str, Any] = dict(lock.conversations)
    for result in results:
        if result.now is None or result.entry is None:
            continue
        now = result.now
        if [one.probe for one in now.conversations] != [one.probe for one in result.entry.conversations]:
            given: list[Conversation | str] | None = None
            if now.request.named:
                given = [
                    one.id if one.probe else _content(lock.conversations, one.content, one.id)
                    for one in result.entry.conversations
                ]
            again = record(now.request, given, around)
            now, contents = again.entry, {**contents, **again.contents}
        entries.append(now)
    put_entries(path, entries, contents)
