"""An entry beside what its request gives today: every drift, in the order in which one explains the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from template_audit.findings import Finding
from template_audit.frameworks import parse_spec
from template_audit.lock.drift import Drift, moved
from template_audit.lock.inputs import ModelFiles
from template_audit.lock.settings import framework_drift, settings_drift
from template_audit.lock.store import Entry, LockedConversation
from template_audit.lock.streams import option_drift, rendered_change, special_token_drift, stream_drift
from template_audit.lock.templates import template_drift

_RESULTS = ("special-tokens", "tokens", "labels")


@dataclass(frozen=True, slots=True)
class Difference:
    """What is different. `findings` are those that were not accepted; `notes` are what is no drift but worth a word."""

    drifts: tuple[Drift, ...]
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()


def compare_files(entry: Entry, files: ModelFiles, uses: Mapping[str, str] | None) -> list[Drift]:
    """What is different in the model's files; `uses` is where templates are taken from today, None when unknown."""
    if files.id != entry.model.id:
        what = f"changed from {entry.model.id} to {files.id}."
        return [Drift("settings", "the model", what, "model", file=entry.request.config)]
    out = settings_drift(entry.settings, files.settings)
    out += template_drift(entry.templates, files.templates, entry.model.templates, uses)
    seen = {drift.file for drift in out} | {place.partition("#")[0] for place in (*entry.templates, *files.templates)}
    for path in sorted({*entry.model.files, *files.files} - {*entry.settings, *files.settings}):
        before, after = entry.model.files.get(path), files.files.get(path)
        if before != after and path.partition("#")[0] not in seen and not path.startswith("--chat-template"):
            what = "is new." if before is None else "is no longer there." if after is None else "changed."
            out.append(Drift("settings", path, what, f"{path}\x00bytes", file=path))
    return out


def compare_framework(entry: Entry, framework: Mapping[str, Any]) -> list[Drift]:
    """What is different in the subject's framework."""
    return framework_drift(parse_spec(entry.request.encoder).framework, entry.framework, framework)


def compare_entries(old: Entry, new: Entry, files: ModelFiles, findings: Sequence[Finding]) -> Difference:
    """Everything that is different between an entry and the one that its request gives today."""
    files_moved = compare_files(old, files, new.model.templates)
    drifts = files_moved + compare_framework(old, new.framework)
    versions = moved(old.versions, new.versions)
    drifts += _encoders(old, new)
    notes: list[str] = []
    pairs, others, data = _conversations(old, new)
    drifts += data
    results = special_token_drift(old, new) + stream_drift(pairs, (old.reference.spec, old.subject.spec))
    rendered = rendered_change(pairs)
    drifts = [_with_rendering(drift, rendered) for drift in drifts]
    if results and not drifts:
        results = _caused(results, versions)
    drifts += results
    fresh = _fresh(old, findings, others)
    notes += _notes(old, new, versions, bool(drifts or fresh), others)
    return Difference(tuple(drifts), tuple(fresh), tuple(notes))


def _with_rendering(drift: Drift, rendered: str | None) -> Drift:
    if drift.level != "template" or rendered is None:
        return drift
    return replace(drift, details=(*drift.details, rendered))


def _caused(results: list[Drift], versions: list[str]) -> list[Drift]:
    """Results that differ although no file, option or template does: the versions are to blame, where they moved."""
    if not versions:
        return [replace(results[0], details=(*results[0].details, _NO_CAUSE)), *results[1:]]
    blame = ", ".join(versions)
    first = results[0]
    return [replace(first, place=f"{blame}: {first.place}"), *results[1:]]


_NO_CAUSE = "Nothing else is different: no file, option, template or recorded version. Was the lock file edited?"


def _encoders(old: Entry, new: Entry) -> list[Drift]:
    config = new.request.config
    prefix = f"{config}: " if config else ""
    out: list[Drift] = []
    was, now = parse_spec(old.subject.spec), parse_spec(new.subject.spec)
    if (was.framework, was.template) != (now.framework, now.template):
        why = new.subject.why
        what = f"changed from {was.template} to {now.template}. {why}".rstrip()
        out.append(
            Drift(
                "framework", f"{prefix}the template of {now.framework}", what, "template", file=config, entry="template"
            )
        )
    same = old.versions == new.versions
    for old_side, new_side, name in ((old.subject, new.subject, ""), (old.reference, new.reference, "reference ")):
        was_set, is_set = old_side.options, new_side.options
        if not same:  # an option that another release brings along is no difference by itself
            common = was_set.keys() & is_set.keys()
            was_set, is_set = ({key: one[key] for key in common} for one in (was_set, is_set))
        found = option_drift(was_set, is_set, prefix + name, config)
        known = {drift.key for drift in out}
        out += [drift for drift in found if drift.key.replace("reference ", "") not in known]
    return out


Pairs = list[tuple[LockedConversation, LockedConversation]]


def _conversations(old: Entry, new: Entry) -> tuple[Pairs, set[str], list[Drift]]:
    """Conversations on both sides, names of probes that say something else today, and rows that changed."""
    today = {one.id: one for one in new.conversations}
    pairs: Pairs = []
    drifts: list[Drift] = []
    others = {one.id for one in old.conversations if one.probe and one.id in today and not today[one.id].probe}
    rows = []
    for one in old.conversations:
        now = today.pop(one.id, None)
        if now is None:
            rows.append((one.id, "is no longer there."))
            continue
        if now.content != one.content:
            if one.probe and new.request.config is not None and not new.request.named:  # read anew, not from the lock
                others.add(one.id)
                continue
            rows.append((one.id, "says something else than before."))
        pairs.append((one, now))
    rows += [(name, "is new.") for name, one in today.items() if not one.probe]
    if rows:
        name, what = rows[0]
        more = f" ({len(rows) - 1} more rows are others, too.)" if len(rows) > 1 else ""
        drifts.append(Drift("data", f"row `{name}`", what + more, f"{name}\x00row", conversation=name))
    return pairs, others, drifts


def _fresh(old: Entry, findings: Sequence[Finding], others: set[str]) -> list[Finding]:
    """Findings that were not there when the entry was locked.

    A probe that is another one today is judged as any conversation would be, which says nothing.
    """
    known = {finding.fingerprint for finding in old.findings}
    return [one for one in findings if one.fingerprint not in known and one.conversation not in others]


def _notes(old: Entry, new: Entry, versions: list[str], drifted: bool, others: set[str]) -> list[str]:
    notes = []
    if versions:
        tail = "" if drifted else "; everything that is locked is the same"
        notes.append(f"{', '.join(versions)}{tail}.")
    if not drifted and old.model.revision != new.model.revision:
        notes.append(f"{new.model.id} is at revision {new.model.revision}, and was at {old.model.revision}.")
    if not drifted and old.model.files != new.model.files:
        changed = [
            path
            for path in sorted({*old.model.files, *new.model.files})
            if old.model.files.get(path) != new.model.files.get(path)
        ]
        notes.append(f"{', '.join(changed)} changed, in nothing that a tokenizer or template reads.")
    if not drifted and old.data != new.data:
        changed = [name for name in sorted({*old.data, *new.data}) if old.data.get(name) != new.data.get(name)]
        notes.append(f"{', '.join(changed)} changed, in nothing that the locked rows depend on.")
    if old.digest != old.seal():
        notes.append("The entry was edited since it was locked.")
    if others:
        notes.append(
            f"The built-in {'probe' if len(others) == 1 else 'probes'} {', '.join(sorted(others))} would be another "
            "conversation today; the locked one was used, and its findings were not judged."
        )
    gone = {f.fingerprint for f in old.findings} - {f.fingerprint for f in new.findings}
    if gone:
        many = "1 accepted finding is" if len(gone) == 1 else f"{len(gone)} accepted findings are"
        notes.append(f"{many} no longer there.")
    if notes and not drifted:
        notes.append("`template-audit check --update` records today's state.")
    return notes
