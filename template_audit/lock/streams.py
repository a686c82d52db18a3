"""Differences between locked streams and those of today: special tokens, ids, labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from template_audit.lock.drift import Drift, shown, text_change
from template_audit.lock.store import Entry, LockedConversation, Side
from template_audit.stream import common_prefix

_IDS = 6
Pair = tuple[LockedConversation, LockedConversation]


def special_token_drift(old: Entry, new: Entry) -> list[Drift]:
    """What transformers makes of the special tokens, and how many tokens there are."""
    before, after = old.model.special_tokens, new.model.special_tokens
    out = []
    for name in sorted({*before, *after}):
        if before.get(name) != after.get(name):
            was, now = (_token(one.get(name)) for one in (before, after))
            out.append(Drift("special-tokens", f"{name} as it is loaded", f"changed from {was} to {now}.", name))
    if old.model.tokenizer_size != new.model.tokenizer_size:
        what = f"changed from {old.model.tokenizer_size:,} to {new.model.tokenizer_size:,} tokens."
        out.append(Drift("special-tokens", "the vocabulary as it is loaded", what, "size"))
    return out


def _token(token: tuple[str, int | None] | None) -> str:
    return "none" if token is None else f"{shown(token[0])} ({'no id' if token[1] is None else token[1]})"


def stream_drift(pairs: Sequence[Pair], specs: tuple[str, str]) -> list[Drift]:
    """What became of the streams: one drift for each side whose ids, and each whose labels alone, are different."""
    out: list[Drift] = []
    for title, pick in zip(specs, _SIDES, strict=True):
        sides = [(old.id, pick(old), pick(new)) for old, new in pairs]
        texts = [one for one in sides if _text_or_ids(one[1]) != _text_or_ids(one[2])]
        labels = [one for one in sides if one not in texts and one[1].all_labels != one[2].all_labels]
        if texts:
            out.append(_tokens(title, texts, len(sides)))
        if labels:
            out.append(_labels(title, labels, len(sides)))
    return out


_SIDES: tuple[Callable[[LockedConversation], Side], ...] = (lambda one: one.reference, lambda one: one.subject)
Named = tuple[str, Side, Side]


def _text_or_ids(side: Side) -> tuple[object, ...]:
    return side.kind, side.ids, side.text


def rendered_change(pairs: Iterable[Pair]) -> str | None:
    """The first difference in what the reference writes, in words: what a change of its template does."""
    for old, new in pairs:
        before, after = old.reference, new.reference
        if before.kind is not None or after.kind is not None:
            if before.kind != after.kind:
                return f"On `{old.id}` {_refusal(before, after)}"
        elif before.text != after.text:
            was, now, _ = text_change(before.whole_text, after.whole_text)
            return f"On `{old.id}` it rendered {was}, and renders {now}."
    return None


def _refusal(before: Side, after: Side) -> str:
    if before.kind is None:
        return f"there is no stream any more: {after.error}"
    return f"there is a stream now; before: {before.error}" if after.kind is None else f"it is refused: {after.error}"


def _tokens(title: str, changed: Sequence[Named], count: int) -> Drift:
    name, old, new = changed[0]
    if old.kind != new.kind:
        where = f"on `{name}` {_refusal(old, new)}"
    else:
        at = common_prefix(old.ids, new.ids)
        was, now = old.ids[at : at + _IDS], new.ids[at : at + _IDS]
        ids = f"at token {at} the ids {_row(was, old.ids, at)} became {_row(now, new.ids, at)}"
        if old.text == new.text:
            where = f"first on `{name}`: the text is the same, {ids}."
        else:
            before, after, _ = text_change(old.whole_text, new.whole_text)
            where = f"first on `{name}`: {before} became {after}; {ids}."
    what = f"ids of {len(changed)} of {count} conversations are others, {where}"
    return Drift("tokens", title, what, f"{title}\x00tokens", conversation=name)


def _row(ids: Sequence[int], all_ids: Sequence[int], at: int) -> str:
    return "[" + ", ".join(map(str, ids)) + (", …" if at + len(ids) < len(all_ids) else "") + "]"


def _labels(title: str, changed: Sequence[Named], count: int) -> Drift:
    name, old, new = changed[0]
    before, after = old.all_labels, new.all_labels
    at = common_prefix(before, after)
    end = at
    while end < min(len(before), len(after)) and before[end] != after[end]:
        end += 1
    was, now = ("masked" if labels[at : at + 1] in ([], [-100]) else "trained" for labels in (before, after))
    tokens = f"token {at} is" if end - at <= 1 else f"tokens {at} to {end - 1} are"
    difference = f"{now}, not {was}" if was != now else "trained on other labels"
    what = f"labels of {len(changed)} of {count} conversations are others, first on `{name}`: {tokens} {difference}."
    return Drift("labels", title, what, f"{title}\x00labels", conversation=name)


def option_drift(old: Mapping[str, object], new: Mapping[str, object], prefix: str, file: str | None) -> list[Drift]:
    """Options in force that are others than before."""
    from template_audit.lock.settings import change

    out = []
    for name in sorted({*old, *new}):
        if name not in old or name not in new or old[name] != new[name]:
            if name not in new:
                what = f"is no longer there; it was {shown(old[name])}."
            elif name not in old:
                what = f"is new, and is {shown(new[name])}."
            else:
                what = change(old[name], new[name])
            out.append(Drift("option", f"{prefix}option {name}", what, f"{prefix}{name}", file=file, entry=name))
    return out
