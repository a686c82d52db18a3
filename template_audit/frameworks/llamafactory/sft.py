"""Ids and labels of one example: truncation turn by turn, and what is trained.

Source: LLaMA-Factory 0.9.5, data/processor/supervised.py (``_encode_data_example``) and
data/processor/processor_utils.py (``infer_seqlen``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from template_audit.frameworks.llamafactory.behaviours import Behaviours
from template_audit.frameworks.llamafactory.options import SftOptions
from template_audit.stream import IGNORE, LITERAL, Origin

TokenId = int | None
"""None: a slot looks up a token that the tokenizer does not have, and the framework takes what it gets."""


Span = tuple[int, int]


class Mark(NamedTuple):
    """Where a message's slots begin in a side: first token, first character."""

    message: int | None
    role: str
    token: int
    char: int


@dataclass(slots=True)
class TokenizedSide:
    """The prompt or the answer of one turn; `runs` tile `text`.

    `chunks` hold the tokens' character spans, slot by slot, each with the place of its slot in `text`.
    """

    ids: list[TokenId] = field(default_factory=list)
    chunks: list[tuple[int, list[Span]]] = field(default_factory=list)
    text: str = ""
    runs: list[tuple[int, Origin]] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)

    def cut(self, length: int) -> TokenizedSide:
        """The first `length` tokens, and the text up to the end of the last of them."""
        if length >= len(self.ids):
            return self
        chunks: list[tuple[int, list[Span]]] = []
        left, end = length, 0
        for at, spans in self.chunks:
            if not left:
                break
            spans = spans[:left]
            left -= len(spans)
            chunks.append((at, spans))
            end = max([end, *(at + stop for _, stop in spans)])
        runs: list[tuple[int, Origin]] = []
        start = 0
        for size, origin in self.runs:
            if start >= end:
                break
            runs.append((min(size, end - start), origin))
            start += size
        marks = [mark for mark in self.marks if mark.token < length]
        return TokenizedSide(self.ids[:length], chunks, self.text[:end], runs, marks)


@dataclass(slots=True)
class Encoded:
    """What the framework's processor returns, and the sides that it is made of, in the order of the ids."""

    input_ids: list[TokenId]
    labels: list[TokenId]
    sides: list[TokenizedSide]
    notes: list[str]


def infer_seqlen(source: int, target: int, budget: int) -> tuple[int, int]:
    """Lengths that prompt and answer of a turn are cut to, so that both fit into `budget` tokens.

    A short answer is kept whole, else a short prompt is, else both are cut in proportion.
    """
    if target * 2 < budget:
        room = budget
    elif source * 2 < budget:
        room = budget - source
    else:
        room = int(budget * (target / (source + target)))
    kept_target = min(room, target)
    return min(max(budget - kept_target, 0), source), kept_target


def cuts_backwards(options: SftOptions, behaviours: Behaviours) -> bool:
    """True when the last turns win under `cutoff_len`."""
    return options.mask_history and behaviours.mask_history_keeps_last_turns


def fit_turns(
    lengths: Sequence[tuple[int, int]], cutoff_len: int, appends_eos: bool, backwards: bool
) -> tuple[list[tuple[int, int, int]], list[str]]:
    """What of every turn (lengths of prompt and answer) is kept under `cutoff_len`, and notes on what is not.

    The result has (turn, prompt length, answer length), in the order in which the turns are taken.
    """
    fitted: list[tuple[int, int, int]] = []
    notes: list[str] = []
    total = 1 if appends_eos else 0
    order = range(len(lengths))
    for place, turn in enumerate(reversed(order) if backwards else order):
        if total >= cutoff_len:
            left_out = ", ".join(map(str, sorted([*(reversed(order) if backwards else order)][place:])))
            notes.append(f"cutoff_len {cutoff_len} leaves out turn {left_out}.")
            break
        source, target = lengths[turn]
        source_len, target_len = infer_seqlen(source, target, cutoff_len - total)
        notes += _cut_notes(turn, source, source_len, target, target_len, cutoff_len)
        total += source_len + target_len
        fitted.append((turn, source_len, target_len))
    return fitted, notes


def encode_turns(
    turns: Sequence[tuple[TokenizedSide, TokenizedSide]],
    options: SftOptions,
    eos: tuple[str, int] | None,
    behaviours: Behaviours,
) -> Encoded:
    """Ids and labels of an example of `turns` under `options`.

    `eos` is the eos token's text and id for an ``efficient_eos`` template, which appends it once and
    labels the first prompt token of every later turn with it, else None.
    """
    kept: list[tuple[list[TokenId], list[TokenId], list[TokenizedSide]]] = []
    lengths = [(len(source.ids), len(target.ids)) for source, target in turns]
    reverse = cuts_backwards(options, behaviours)
    fitted, notes = fit_turns(lengths, options.cutoff_len, eos is not None, reverse)
    for place, (turn, source_len, target_len) in enumerate(fitted):
        source, target = turns[turn][0].cut(source_len), turns[turn][1].cut(target_len)
        source_labels: list[TokenId] = [IGNORE] * source_len
        if options.train_on_prompt:
            source_labels = source.ids
        elif eos is not None and (place or behaviours.efficient_eos_label_on_first_turn):
            source_labels = [eos[1], *[IGNORE] * (source_len - 1)]
        target_labels = target.ids
        if options.mask_history and turn != len(turns) - 1:
            target_labels = [IGNORE] * target_len
        kept.append((source.ids + target.ids, source_labels + target_labels, [source, target]))
    if reverse:
        kept.reverse()
    encoded = Encoded([], [], [], notes)
    for ids, labels, sides in kept:
        encoded.input_ids += ids
        encoded.labels += labels
        encoded.sides += sides
    if eos is not None:
        encoded.input_ids.append(eos[1])
        encoded.labels.append(eos[1])
        encoded.sides.append(_eos_side(*eos))
    return encoded


def encode_answer(
    turns: Sequence[tuple[TokenizedSide, TokenizedSide]], cutoff_len: int, eos: tuple[str, int] | None
) -> Encoded:
    """Ids and labels of the first of `turns`, each a whole prompt with one of the row's answers.

    All are cut to the lengths that the longest answer leaves. `eos` as in `encode_turns`; it is part of the answer.
    Source: data/processor/pairwise.py and feedback.py, ``_encode_data_example``.
    """
    source, target = turns[0]
    added = eos is not None
    longest = max(len(answer.ids) for _, answer in turns) + added
    source_len, target_len = infer_seqlen(len(source.ids), longest, cutoff_len)
    notes = _cut_notes(0, len(source.ids), source_len, len(target.ids), target_len, cutoff_len)
    sides = [source.cut(source_len), target.cut(target_len)]
    if eos is not None and target_len > len(target.ids):
        sides.append(_eos_side(*eos))
    answer = [token for side in sides[1:] for token in side.ids]
    masked: list[TokenId] = [IGNORE] * source_len
    return Encoded(sides[0].ids + answer, masked + answer, sides, notes)


def _eos_side(text: str, token_id: int) -> TokenizedSide:
    return TokenizedSide([token_id], [(0, [(0, len(text))])], text, [(len(text), LITERAL)])


def _cut_notes(turn: int, source: int, source_len: int, target: int, target_len: int, cutoff_len: int) -> list[str]:
    notes = []
    for size, length, name in ((source, source_len, "prompt"), (target, target_len, "answer")):
        if length < size:
            notes.append(f"cutoff_len {cutoff_len} cuts turn {turn}'s {name} from {size} to {length} tokens.")
    return notes
