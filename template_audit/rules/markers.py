"""Markers in the template's own text that a tokenizer takes apart. No rule is defined here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from template_audit.rules.control import ControlTokens
from template_audit.rules.evidence import MARKER, Facts
from template_audit.rules.sides import TEMPLATE_FIELDS, Side, Span


class Split(NamedTuple):
    """A marker that is several tokens in the subject. `own` is the model's single token for it."""

    text: str
    tokens: Span
    own: int | None


def split_markers(facts: Facts) -> Iterator[Split]:
    """Markers in the subject's template text that are several tokens and not so in the reference.

    A marker that the reference writes in several tokens too (EXAONE-3.5's ``[|user|]``) is the
    model's own and is left out.
    """
    known: set[str] | None = None
    for text, span in markers(facts.sub):
        if span[1] - span[0] < 2:
            continue
        if known is None:
            known = {text for text, where in markers(facts.ref) if where[1] - where[0] > 1}
        if text not in known:
            yield Split(text, span, facts.control.single(text))


def unknown_in_template(side: Side, control: ControlTokens) -> list[int]:
    """Unknown tokens that stand for the template's own text, which is not the unknown token's."""
    ids = side.stream.input_ids
    if control.unknown is None or control.unknown not in ids:
        return []
    own = str(control.tokenizer.unk_token)
    found = [i for i, token in enumerate(ids) if token == control.unknown and side.origins[i].field in TEMPLATE_FIELDS]
    return [i for i in found if side.stream.token_text(i).strip() != own]


def markers(side: Side) -> Iterator[tuple[str, Span]]:
    """Markers that stand in the template's own text, and their tokens."""
    text = side.stream.text
    starts = [piece.start for piece in side.stream.pieces]
    for match in MARKER.finditer(text):
        if _template_text(side, starts, match.start(), match.end()):
            yield match.group(), side.tokens(match.start(), match.end())


def _template_text(side: Side, starts: list[int], start: int, end: int) -> bool:
    from bisect import bisect_right

    first = max(bisect_right(starts, start) - 1, 0)
    return all(
        piece.origin.field in TEMPLATE_FIELDS for piece in side.stream.pieces[first : bisect_right(starts, end - 1)]
    )
