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
    notes: list[str] = []
    total = 0 if eos is None else 1
    order = list(enumerate(turns))
    reverse = options.mask_history and behaviours.mask_history_keeps_last_turns
    if reverse:
        order.reverse()
    for place, (turn, (source, target)) in enumerate(order):
        if total >= options.cutoff_len:
            left_out = ", ".join(str(turn) for turn, _ in sorted(order[place:]))
            notes.append(f"cutoff_len {options.cutoff_len} leaves out turn {left_out}.")
            break
        source_len, target_len = infer_seqlen(len(source.ids), len(target.ids), options.cutoff_len - total)
        notes += _cut_notes(turn, source, source_len, target, target_len, options.cutoff_len)
        source, target = source.cut(source_len), target.cut(target_len)
        total += source_len + target_len
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
    notes = _cut_notes(0, source, source_len, target, target_len, cutoff_len)
    sides = [source.cut(source_len), target.cut(target_len)]
    if eos is not None and target_len > len(target.ids):
        sides.append(_eos_side(*eos))
    answer = [token for side in sides[1:] for token in side.ids]
    masked: list[TokenId] = [IGNORE] * source_len
    return Encoded(sides[0].ids + answer, masked + answer, sides, notes)


def _eos_side(text: str, token_id: int) -> TokenizedSide:
    return TokenizedSide([token_id], [(0, [(0, len(text))])], text, [(len(text), LITERAL)])


def _cut_notes(
    turn: int, source: TokenizedSide, source_len: int, target: TokenizedSide, target_len: int, cutoff_len: int
) -> list[str]:
    notes = []
    for side, length, name in ((source, source_len, "prompt"), (target, target_len, "answer")):
        if length < len(side.ids):
            notes.append(f"cutoff_len {cutoff_len} cuts turn {turn}'s {name} from {len(side.ids)} to {length} tokens.")
    return notes
