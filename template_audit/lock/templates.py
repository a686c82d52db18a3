"""Differences between two states of a model's chat templates, line by line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from template_audit.lock.drift import Drift, shown, text_change

Templates = Mapping[str, Mapping[str, Sequence[str]]]
_SHOWN = 3  # changed stretches that are quoted beside the first
_LONG_LINE = 60


def template_drift(
    old: Templates, new: Templates, used: Mapping[str, str], uses: Mapping[str, str] | None
) -> list[Drift]:
    """What is different in the templates. `used` and `uses` map names to the place that is taken, before and today.

    `uses` is None when that could not be found out.
    """
    out = []
    for place, name in sorted({(where, name) for one in (old, new) for where in one for name in one[where]}):
        title = place if name == "default" or f"/{name}." in place else f"{place} ({name})"
        before, after = old.get(place, {}).get(name), new.get(place, {}).get(name)
        if before == after:
            continue
        file = place.partition("#")[0]
        key = f"{title}\x00template"
        if before is None:
            what = f"is new; {_now(name, used, uses)}"
            out.append(Drift("template", title, what, key, file=file, line=1))
        elif after is None:
            what = f"is no longer there; {_now(name, used, uses)}"
            out.append(Drift("template", title, what, key, file=file))
        else:
            out.append(_changed(title, key, file, before, after, "#" not in place))
    for name in sorted({*used, *(uses or {})}):
        if uses and used.get(name) != uses.get(name) and not out:
            what = f"is taken from {uses.get(name, 'nowhere')}; it was taken from {used.get(name, 'nowhere')}."
            out.append(Drift("template", f"chat template `{name}`", what, f"{name}\x00used"))
    return out


def _now(name: str, used: Mapping[str, str], uses: Mapping[str, str] | None) -> str:
    if uses is None:
        return "it may be another one that is used now."
    was, now = used.get(name), uses.get(name)
    if not uses:
        return "the model has no chat template now."
    if was == now:
        return f"the template in use is still that of {now}." if now else "no template of that name is in use."
    return f"the template in use is that of {now or 'no place'}, and was that of {was or 'no place'}."


def _changed(title: str, key: str, file: str, old: Sequence[str], new: Sequence[str], own_file: bool) -> Drift:
    stretches = [code for code in SequenceMatcher(None, old, new, autojunk=False).get_opcodes() if code[0] != "equal"]
    lines = [_stretch(old[a:b], new[c:d], c) for _, a, b, c, d in stretches]
    line, place, what = lines[0]
    details = [f"{title} {where} {text}" for _, where, text in lines[1 : 1 + _SHOWN]]
    if len(lines) > 1 + _SHOWN:
        details.append(f"{title}: {len(lines) - 1 - _SHOWN} more stretches changed.")
    entry = None if own_file else "chat_template"
    return Drift("template", f"{title} {place}", what, key, tuple(details), file, line if own_file else None, entry)


def _stretch(old: Sequence[str], new: Sequence[str], start: int) -> tuple[int, str, str]:
    """The line where a stretch begins, that place in words, and what became of it."""
    line = start + 1
    if not old:
        return line, f"line {line}", f"is new: {_quoted(new)}."
    if not new:
        return line, f"line {line}", f"is gone: {_quoted(old)}."
    if len(old) == len(new) == 1:
        before, after, column = text_change(old[0], new[0])
        if max(len(old[0]), len(new[0])) > _LONG_LINE:
            return line, f"line {line}, column {column + 1}", f"changed from {before} to {after}."
        return line, f"line {line}", f"changed from {shown(old[0])} to {shown(new[0])}."
    before, after, _ = text_change("\n".join(old), "\n".join(new))
    return line, f"line {line}", f"changed from {before} to {after}."


def _quoted(lines: Sequence[str]) -> str:
    return shown("\n".join(lines))
