"""Differences between two outlines of a model's files, or of a framework, key by key."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from template_audit.lock.drift import Drift, shown, text_change
from template_audit.lock.outline import FLAG_FILES, TOKEN_FLAGS, is_summary, summary_change

ORDER = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "config.json",
    "tokenizer.json",
)
_PLAIN = re.compile(r"[\w.-]+\Z")
_FIRST = re.compile(r"[\w-]+")
_LONG = 60


def settings_drift(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Drift]:
    """What is different in the files of a model, the small configurations first."""
    names = sorted({*old, *new}, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    out: list[Drift] = []
    for name in names:
        if name not in new:
            out.append(Drift("settings", name, "is no longer there.", f"{name}\x00gone", file=name))
        elif name not in old:
            out.append(
                Drift("settings", name, "is new; it was not there when this was locked.", f"{name}\x00new", file=name)
            )
        elif old[name] != new[name]:
            out += [
                Drift("settings", name, f"{path} {what}".strip(), f"{name}\x00{path}", file=name, entry=_entry(path))
                for path, what in differences(old[name], new[name], flags=name in FLAG_FILES)
            ]
    return out


def _entry(path: str) -> str | None:
    """The first key of a path."""
    found = _FIRST.match(path)
    return found[0] if found else None


def framework_drift(title: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Drift]:
    """What is different in what a framework says of itself.

    Between two versions only the template is compared: what else differs matters where it shows in the results.
    """
    out: list[Drift] = []
    sections = sorted({*old} & {*new} - {"version"}, key=lambda name: (not name.startswith("template "), name))
    for section in sections:
        if old.get("version") != new.get("version") and not section.startswith("template "):
            continue
        place = f"{title} {section.replace('_', ' ')}"
        for path, what in differences(old[section], new[section], order=list(new[section])):
            said = "changed: its functions do something else than before." if section == "code" else what
            out.append(Drift("framework", f"{place} {path}", said, f"{place}\x00{path}"))
    return out


def differences(old: Any, new: Any, *, flags: bool = False, order: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Pairs (path, what is different), in the order of paths.

    `flags` says that a missing token flag means false, `order` which first keys go before the others.
    """
    from deepdiff import DeepDiff  # half a second, so only where something is different

    if not (isinstance(old, (dict, list)) and type(old) is type(new)):
        return [("", change(old, new))]
    tree = DeepDiff(old, new, view="tree", ignore_order=False, threshold_to_diff_deeper=0)
    found: list[tuple[list[Any], str]] = []
    for kind, changes in tree.items():
        for one in changes:
            path = one.path(output_format="list")
            if "added" in kind:
                found.append((path, _flag(path, False, one.t2) if _is_flag(path, one.t2, flags) else _added(one.t2)))
            elif "removed" in kind:
                found.append((path, _flag(path, one.t1, False) if _is_flag(path, one.t1, flags) else _removed(one.t1)))
            else:
                found.append((path, change(one.t1, one.t2)))

    def place(item: tuple[list[Any], str]) -> tuple[int, list[str]]:
        keys = [str(key) for key in item[0]]
        return order.index(keys[0]) if keys and keys[0] in order else len(order), keys

    return [(path_text(path), what) for path, what in sorted(found, key=place)]


def _is_flag(path: Sequence[Any], value: Any, flags: bool) -> bool:
    return flags and bool(path) and path[-1] in TOKEN_FLAGS and isinstance(value, bool)


def _flag(path: Sequence[Any], old: Any, new: Any) -> str:
    return change(old, new)


def _added(value: Any) -> str:
    return f"was added: {shown(value)}."


def _removed(value: Any) -> str:
    return f"was removed; it was {shown(value)}."


def change(old: Any, new: Any) -> str:
    """“changed from … to …”, for long texts only the stretch that differs."""
    if is_summary(old) and is_summary(new):
        return f"changed: {summary_change(old, new)}."
    if isinstance(old, str) and isinstance(new, str) and max(len(old), len(new)) > _LONG:
        before, after, _ = text_change(old, new)
        return f"changed from {before} to {after}."
    return f"changed from {shown(old)} to {shown(new)}."


def path_text(path: Sequence[Any]) -> str:
    """A path into nested data as ``added_tokens_decoder.128009.lstrip`` or ``model.merges[3]``."""
    out = ""
    for key in path:
        if isinstance(key, int):
            out += f"[{key}]"
        elif _PLAIN.match(str(key)):
            out += f".{key}" if out else str(key)
        else:
            out += f"[{json.dumps(key, ensure_ascii=False)}]" if out else json.dumps(key, ensure_ascii=False)
    return out
