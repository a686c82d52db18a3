"""What of a row decides what the rules find: its structure, without the words that people wrote.

Most rows of a data set differ in their words alone. Two *plain* rows of one structure have the same
findings under every rule that ``reads="structure"``, so the rules need not look at each of them.

The structure of a row is: its roles, and which fields are there and blank; the tools' presence; of
both streams everything but the tokens that lie wholly inside a message's own text (a *run*), so the
template's text, its ids, the tokens in which template and text have merged, labels, turns, notes;
and what inference shows before each answer, as far as it goes beyond the runs before it.

A row is plain when nothing in its words can matter beyond that: both streams have the same messages'
text in the same order, but for whitespace around it, and the same ids; the labels of a run are all on
or all off; no run holds a control token; no text holds a marker, a word of thinking, the beginning of
either at its end, or a placeholder; the system prompt is not found in the template's text; nothing was
cut to a length limit; there are no tool calls, whose parts rules look up.
What is not plain has no structure here, and goes through the rules.
"""

from __future__ import annotations

import hashlib
import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from template_audit.conversation import Conversation
from template_audit.rules.control import ControlTokens
from template_audit.rules.data import may_hold_placeholder
from template_audit.rules.evidence import MARKER, THOUGHT
from template_audit.stream import IGNORE, WRITTEN, EncodedStream, Origin, Piece, common_prefix

Structure: TypeAlias = bytes
"""A digest that is equal for rows in which the rules that read the structure find the same."""

_LONGEST = 64
"""No marker and no word of thinking is longer, in characters."""
_EDGE = 4
"""So many tokens at the end of a text may differ between the sides, having merged with what stands beside it."""
_OPENERS = "<[◁"
_UNCLOSED = re.compile(r"[<\[◁][^>\]▷]*\Z")


class Run(NamedTuple):
    """A message's own text: the piece, and tokens that lie wholly in it, on both sides the same."""

    piece: Piece
    start: int
    end: int


class _NotPlain(Exception):
    pass


class Plain(NamedTuple):
    """A plain row: its structure, and its runs in the reference and in the subject."""

    structure: Structure
    theirs: list[Run]
    runs: list[Run]


def plain_row(
    conversation: Conversation,
    reference: EncodedStream,
    subject: EncodedStream,
    control: ControlTokens,
    limit: int | None,
) -> Plain | None:
    """The row with its structure, or None when it is not plain. `limit` is the subject's length limit in tokens."""
    if limit is not None and len(subject.input_ids) >= limit:
        return None
    if any("cutoff" in note for note in subject.notes) or may_hold_placeholder(subject.text):
        return None
    asked_for = asked(conversation)
    if asked_for is None:
        return None
    try:
        theirs, ours = _pairs(reference, subject, control)
        sides = _outside(reference, theirs), _outside(subject, ours), tuple(_prompts(reference, theirs))
    except _NotPlain:
        return None
    given = (conversation.system or "").strip()
    if given and not all(
        in_its_place(given, between(stream, runs), _before(stream, runs))
        for stream, runs in ((reference, theirs), (subject, ours))
    ):
        return None
    whole = repr((asked_for, *sides, reference.notes, subject.notes))  # which may be long, with tool definitions in it
    return Plain(hashlib.blake2b(whole.encode(), digest_size=16).digest(), theirs, ours)


def asked(conversation: Conversation) -> tuple[Any, ...] | None:
    """Roles and fields of a conversation; None when it has tool calls."""
    found: list[Any] = [bool(conversation.tools)]
    for message in conversation.messages:
        if message.tool_calls:
            return None
        found.append((message.role, _kind(message.content), _kind(message.reasoning)))
    return tuple(found)


def _kind(text: str | None) -> str:
    return "none" if text is None else "text" if text.strip() else "blank" if text else "empty"


def _pairs(reference: EncodedStream, subject: EncodedStream, control: ControlTokens) -> tuple[list[Run], list[Run]]:
    """The runs of both sides, pair by pair."""
    theirs, ours = _runs(reference), _runs(subject)
    if len(theirs) != len(ours):
        raise _NotPlain
    for place, (a, b) in enumerate(zip(theirs, ours, strict=True)):
        theirs[place], ours[place] = _same(reference, a, subject, b, control)
    return theirs, ours


def _runs(stream: EncodedStream) -> list[Run]:
    spans = stream.spans
    starts = [start for start, _ in spans]
    runs: list[Run] = []
    for piece in stream.pieces:
        start, end, origin = piece
        if origin.field not in WRITTEN or origin.message is None or origin.derived or start >= end:
            continue
        first, last = bisect_left(starts, start), bisect_left(starts, end)
        while first and first < last and spans[first - 1][1] > starts[first]:
            first += 1  # bytes of a character whose first ones belong to the token before
        while last > first and spans[last - 1][1] > end:
            last -= 1
        if first >= last:
            raise _NotPlain
        runs.append(Run(piece, first, last))
    return runs


def _same(
    reference: EncodedStream, theirs: Run, subject: EncodedStream, ours: Run, control: ControlTokens
) -> tuple[Run, Run]:
    """The runs without a few tokens at one end in which the sides differ.

    Raises unless both sides have the same text, the rest of it in the same ids, and nothing in it that
    rules look for.
    """
    here, there = ours.piece.origin, theirs.piece.origin
    text, other = _text_of(subject, ours), _text_of(reference, theirs)
    if here.message != there.message or WRITTEN[here.field] != WRITTEN[there.field] or text.strip() != other.strip():
        raise _NotPlain
    ids, others = subject.input_ids[ours.start : ours.end], reference.input_ids[theirs.start : theirs.end]
    if ids != others or _lead(subject, ours) != _lead(reference, theirs):
        ours, theirs = _trimmed(subject, ours, reference, theirs)
        ids = subject.input_ids[ours.start : ours.end]
        if ids != reference.input_ids[theirs.start : theirs.end] or _lead(subject, ours) != _lead(reference, theirs):
            raise _NotPlain
    if text != other and not (_holds_no_edge(subject, ours) and _holds_no_edge(reference, theirs)):
        raise _NotPlain
    if not control.special.isdisjoint(ids) or max(ids) >= control.size or is_telling(text):
        raise _NotPlain
    return theirs, ours


def between(stream: EncodedStream, runs: Sequence[Run]) -> list[str]:
    """The text before, between and after the runs."""
    edges = [0, *(edge for r in runs for edge in (stream.spans[r.start][0], stream.spans[r.end - 1][1]))]
    edges.append(len(stream.text))
    return [stream.text[edges[k] : edges[k + 1]] for k in range(0, len(edges), 2)]


def _before(stream: EncodedStream, runs: Sequence[Run]) -> str:
    """The text before the system message."""
    for run in runs:
        if run.piece.origin.message == 0:
            text = _text_of(stream, run)
            return stream.text[: run.piece.start + len(text) - len(text.lstrip())]
    return ""


def in_its_place(given: str, gaps: Sequence[str], before: str) -> bool:
    """True when a system prompt is not also found in the text around runs, where a rule would take it out.

    rules/prompts.py takes it out of what stands before the first turn, to name the template's part of that: "3" would
    go from a date as well. `before` is the text up to the prompt, at the end of which an occurrence may begin.
    """
    near = before[-len(given) :] + given
    return near.find(given) == len(near) - len(given) and not any(given in gap for gap in gaps)


def own_text(origin: Origin) -> str | None:
    """The field of a message whose text a piece with this origin copies, or None."""
    return WRITTEN.get(origin.field)


def _text_of(stream: EncodedStream, run: Run) -> str:
    return stream.text[run.piece.start : run.piece.end]


def _lead(stream: EncodedStream, run: Run) -> int:
    """How many characters of the piece, without whitespace around it, stand before its run."""
    text = _text_of(stream, run)
    return stream.spans[run.start][0] - run.piece.start - (len(text) - len(text.lstrip()))


def _holds_no_edge(stream: EncodedStream, run: Run) -> bool:
    """True when whitespace at the ends of the piece is outside of the run, so that the structure shows it."""
    start, end = stream.spans[run.start][0], stream.spans[run.end - 1][1]
    before, after = stream.text[run.piece.start : start], stream.text[end : run.piece.end]
    begins = bool(before.strip()) or not stream.text[start].isspace()
    return begins and (bool(after.strip()) or not stream.text[end - 1].isspace())


def _trimmed(one: EncodedStream, a: Run, other: EncodedStream, b: Run) -> tuple[Run, Run]:
    """Two runs of one text without the few tokens at its ends that differ."""
    ids, others = one.input_ids[a.start : a.end], other.input_ids[b.start : b.end]
    for i in range(min(_EDGE, len(ids))):
        for j in range(min(_EDGE, len(others))):
            if ids[i] != others[j]:
                continue
            first, second = a._replace(start=a.start + i), b._replace(start=b.start + j)
            if _lead(one, first) == _lead(other, second):
                size = common_prefix(ids[i:], others[j:])
                if size + _EDGE >= max(len(ids) - i, len(others) - j):
                    first, second = first._replace(end=first.start + size), second._replace(end=second.start + size)
                    if _stands_apart(one, first) and _stands_apart(other, second):
                        return first, second
    raise _NotPlain


def _stands_apart(stream: EncodedStream, run: Run) -> bool:
    """True when no token beside the run shares a character with it, as the bytes of one character do."""
    spans = stream.spans
    before = run.start == 0 or spans[run.start - 1][1] <= spans[run.start][0]
    return before and (run.end == len(spans) or spans[run.end - 1][1] <= spans[run.end][0])


def is_telling(text: str) -> bool:
    """True for text that holds what rules look for, or ends in what may be its beginning."""
    if not any(opener in text for opener in _OPENERS):
        return False
    return bool(MARKER.search(text) or THOUGHT.search(text) or _UNCLOSED.search(text, max(0, len(text) - _LONGEST)))


def _outside(stream: EncodedStream, runs: Sequence[Run]) -> tuple[Any, ...]:
    """Everything of a stream but the tokens of the runs."""
    ids, labels, spans, text = stream.input_ids, stream.labels, stream.spans, stream.text
    out: list[Any] = []
    token = char = 0
    bases: list[tuple[int, int]] = [(0, 0)]
    for run in (*runs, None):
        first = len(ids) if run is None else run.start
        first_char = len(text) if run is None else spans[run.start][0]
        between = text[char:first_char]
        if run is not None and _UNCLOSED.search(between, max(0, len(between) - _LONGEST)):
            raise _NotPlain
        out.append((tuple(ids[token:first]), tuple(labels[token:first]), between))
        out.append(tuple((start - char, end - char) for start, end in spans[token:first]))
        if run is not None:
            out.append(_trained(ids[run.start : run.end], labels[run.start : run.end]))
            token, char = run.end, spans[run.end - 1][1]
            bases.append((token, char))
    ends = [run.end for run in runs], [spans[run.end - 1][1] for run in runs]

    def place(position: int, which: int) -> tuple[int, int]:
        """A position by the run before it. At the end of a run it counts from there."""
        before = bisect_right(ends[which], position)
        if before < len(runs):
            run = runs[before]
            inside = run.start if which == 0 else spans[run.start][0]
            if position > inside:
                raise _NotPlain
        return before, position - bases[before][which]

    for turn in stream.turns:
        out.append((turn.message, turn.role, place(turn.start, 0), place(turn.end, 0)))
        out.append((place(turn.char_start, 1), place(turn.char_end, 1)))
    out.append(tuple(_pieces(stream, runs, bases)))
    return tuple(out)


def _trained(ids: list[int], labels: list[int]) -> bool:
    if labels == ids:
        return True
    if labels.count(IGNORE) == len(labels):
        return False
    raise _NotPlain


def _pieces(stream: EncodedStream, runs: Sequence[Run], bases: Sequence[tuple[int, int]]) -> list[Any]:
    """Origins of all pieces, with their ends by the run before them."""
    out: list[Any] = []
    run = 0
    for piece in stream.pieces:
        if run < len(runs) and piece is runs[run].piece:
            out.append((piece.origin, piece.start - bases[run][1], piece.end - bases[run + 1][1]))
            run += 1
        else:
            origin: Origin = piece.origin
            out.append((origin, piece.start - bases[run][1], piece.end - bases[run][1]))
    return out


def _prompts(reference: EncodedStream, runs: Sequence[Run]) -> list[Any]:
    """What inference shows before each answer, beyond the runs that come before it."""
    out: list[Any] = []
    for prompt in reference.prompts:
        if prompt.error is not None:
            out.append((prompt.message, prompt.error))
            continue
        before = [
            run for run in runs if run.piece.origin.message is not None and run.piece.origin.message < prompt.message
        ]
        token = before[-1].end if before else 0
        char = reference.spans[token - 1][1] if before else 0
        if list(runs[: len(before)]) != before or not (
            prompt.input_ids[:token] == reference.input_ids[:token] and prompt.text[:char] == reference.text[:char]
        ):
            raise _NotPlain
        rest = prompt.text[char:]
        if may_hold_placeholder(rest):
            raise _NotPlain
        out.append((prompt.message, tuple(prompt.input_ids[token:]), rest))
    return out
