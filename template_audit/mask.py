"""The mask that the reference implies beside the one that training uses, token class by token class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from template_audit.findings import MaskRecord, TokenClass
from template_audit.rules.evidence import THOUGHT, Facts
from template_audit.rules.interface import Case
from template_audit.stream import IGNORE

if TYPE_CHECKING:
    from template_audit.frameworks.interface import Encoder
    from template_audit.model import Model
    from template_audit.results import Comparison
    from template_audit.rules.sides import Side

CLASSES: tuple[TokenClass, ...] = (
    "content",
    "reasoning",
    "tool call",
    "header",
    "turn end",
    "trailing whitespace",
    "other roles",
)
"""Of answers: their text, thoughts with their markers, calls with theirs, what stands before the answer, the marker
that ends it, and what of whitespace follows. Everything else is of other roles."""
_FIELDS: dict[str, TokenClass] = {"content": "content", "reasoning": "reasoning", "tool_call": "tool call"}


def mask_table(
    model: Model, reference: Encoder, subject: Encoder, comparisons: Iterable[Comparison]
) -> list[MaskRecord]:
    """How many tokens of each class both sides have and train, over all conversations that were compared.

    Classes that neither side has are left out. A token counts as trained when its label is not −100.
    """
    counts: dict[tuple[int, TokenClass, bool], int] = Counter()
    for one in comparisons:
        if one.alignment is None:
            continue
        streams = one.alignment.reference, one.alignment.subject
        case = Case(model, one.conversation, reference, subject, *streams, one.alignment)
        for place, side in enumerate((case.facts.ref, case.facts.sub)):
            for kind, label in zip(classes(case.facts, side), side.stream.labels, strict=True):
                counts[place, kind, label != IGNORE] += 1
    rows = []
    for kind in CLASSES:
        (there, unseen), (here, unused) = ((counts[k, kind, True], counts[k, kind, False]) for k in (0, 1))
        if there + unseen + here + unused:
            rows.append(MaskRecord(kind, there, there + unseen, here, here + unused))
    return rows


def classes(facts: Facts, side: Side) -> list[TokenClass]:
    """The class of every token of one side of a case."""
    found: list[TokenClass] = ["other roles"] * len(side.stream)
    messages = facts.case.conversation.messages
    answers = [m for m in side.messages() if m < len(messages) and messages[m].role == "assistant"]
    for message in answers:
        shown = _shown(facts, side, message)
        calls = bool(messages[message].tool_calls)
        for index in _header(facts, side, message):
            written = side.is_trained(index) if shown is None else index >= shown
            calling = calls and written  # the opening of a call stands before its first word
            found[index] = "reasoning" if _thinks(side, index) else "tool call" if calling else "header"
    for message in answers:
        start = (side.body(message) or (0, 0))[0]
        calls = bool(messages[message].tool_calls)
        end, after = _end(facts, side, message)
        for index in range(start, end):
            found[index] = _of_body(side, index, message, calls)
        for index in range(end, after):
            found[index] = "turn end" if side.stream.token_text(index).strip() else "trailing whitespace"
        if message == answers[-1] and after == len(side.stream) - 1 and side.stream.input_ids[after] in facts.control:
            found[after] = "turn end"  # the end of the text behind that of the turn (Phi 3)
    return found


def _header(facts: Facts, side: Side, message: int) -> Iterator[int]:
    """The tokens before an answer, without the marker that ends the turn before it and the whitespace behind that."""
    start, stop = side.before(message)
    ends = set(facts.control.stops)
    for end in facts.ends:
        ends.add(facts.ref.stream.input_ids[end.reference])
    first = next((i for i in range(start, stop) if side.stream.input_ids[i] in ends), None)
    if first is not None:
        start = first + 1
        start += sum(1 for _ in _blanks(side, start, stop))
    yield from range(start, stop)


def _shown(facts: Facts, side: Side, message: int) -> int | None:
    """How many tokens inference shows before an answer, where this side begins with just these."""
    for prompt in facts.case.reference.prompts:
        shown = prompt.input_ids
        if prompt.message == message and prompt.error is None and side.stream.input_ids[: len(shown)] == shown:
            return len(shown)
    return None


def _end(facts: Facts, side: Side, message: int) -> tuple[int, int]:
    """The token with which an answer's end marker begins, and the one behind the whitespace that follows it."""
    start, stop = side.after(message)
    known = next((end for end in facts.ends if end.message == message), None)
    index = None if known is None else known.reference if side is facts.ref else known.subject
    if index is None or not start <= index < stop:
        index = next((i for i in range(start, stop) if side.stream.input_ids[i] in facts.control), start)
        if index == start and (start >= stop or side.stream.input_ids[start] not in facts.control):
            return start, start + sum(1 for _ in _blanks(side, start, stop))
    after = index + 1
    return index, after + sum(1 for _ in _blanks(side, after, stop))


def _blanks(side: Side, start: int, stop: int) -> Iterator[int]:
    for index in range(start, stop):
        if side.stream.token_text(index).strip():
            return
        yield index


def _of_body(side: Side, index: int, message: int, calls: bool) -> TokenClass:
    """The class of a token inside an answer: its field's; of the template's own text that of what it belongs to."""
    origin = side.origins[index]
    if origin.message == message and origin.field in _FIELDS:
        return _FIELDS[origin.field]
    return "reasoning" if _thinks(side, index) else "tool call" if calls else "content"


def _thinks(side: Side, index: int) -> bool:
    """True for a marker of a thought, and for whitespace behind one or behind the thought itself."""
    text = side.stream.token_text(index).strip()
    if text or index == 0:
        return bool(THOUGHT.fullmatch(text))
    before = side.stream.token_text(index - 1).strip()
    return bool(THOUGHT.fullmatch(before)) or (bool(before) and side.origins[index - 1].field == "reasoning")
