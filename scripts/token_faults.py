"""Faults of ids and labels, after the text is tokenized: part of the described encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from template_audit.conversation import Conversation
from template_audit.frameworks.chat_template import ChatTemplateEncoder
from template_audit.stream import IGNORE, LITERAL, EncodedStream, Piece, Turn

Fault = Mapping[str, Any]


@dataclass
class Work:
    """A stream that faults of ids and labels change."""

    encoder: ChatTemplateEncoder
    told: Conversation
    """The conversation as the template got it."""
    conversation: Conversation
    stream: EncodedStream

    @property
    def tokenizer(self) -> Any:
        """The trainer's tokenizer."""
        return self.encoder.model.tokenizer

    def token(self, name: str) -> int:
        """The id of a token: ``bos``, ``eos``, ``pad`` or ``unk``, or the token's own text."""
        if name in ("bos", "eos", "pad", "unk"):
            name = getattr(self.tokenizer, f"{name}_token")
        found: int = self.tokenizer.convert_tokens_to_ids(name)
        return found

    def train(self, wanted: Sequence[bool]) -> None:
        """Set the labels anew."""
        ids = self.stream.input_ids
        labels = [id if flag else IGNORE for id, flag in zip(ids, wanted, strict=True)]
        self.stream = replace(self.stream, labels=labels)

    @property
    def trained(self) -> list[bool]:
        """Which tokens have a label."""
        return [label != IGNORE for label in self.stream.labels]


def _add_bos(work: Work, fault: Fault) -> None:
    stream, text = work.stream, work.tokenizer.bos_token
    size = len(text)
    work.stream = replace(
        stream,
        input_ids=[work.token("bos"), *stream.input_ids],
        labels=[IGNORE, *stream.labels],
        text=text + stream.text,
        spans=[(0, size), *((a + size, b + size) for a, b in stream.spans)],
        pieces=[Piece(0, size, LITERAL), *(Piece(a + size, b + size, origin) for a, b, origin in stream.pieces)],
        turns=[Turn(m, r, a + 1, b + 1, c + size, d + size) for m, r, a, b, c, d in stream.turns],
    )


def _truncate(work: Work, fault: Fault) -> None:
    stream, limit = work.stream, fault["length"]
    if len(stream) <= limit:
        return
    end = stream.spans[limit - 1][1]
    work.stream = replace(
        stream,
        input_ids=stream.input_ids[:limit],
        labels=stream.labels[:limit],
        text=stream.text[:end],
        spans=stream.spans[:limit],
        pieces=[Piece(a, min(b, end), origin) for a, b, origin in stream.pieces if a < end],
        turns=[Turn(m, r, a, min(b, limit), c, min(d, end)) for m, r, a, b, c, d in stream.turns if a < limit],
        notes=(*stream.notes, f"cut to a cutoff of {limit} tokens"),
    )


def _train_all(work: Work, fault: Fault) -> None:
    work.train([True] * len(work.stream))


def _train_last(work: Work, fault: Fault) -> None:
    """Only the last answer is trained."""
    last = [turn for turn in work.stream.turns if turn.role == "assistant"][-1]
    work.train([flag and last.start <= i < last.end for i, flag in enumerate(work.trained)])


def _train_content(work: Work, fault: Fault) -> None:
    """Only what the assistant said is trained, and the token `end` where it stands in an answer's turn."""
    messages = work.conversation.messages
    end = work.token(fault["end"]) if "end" in fault else None
    wanted = [
        origin.message is not None and messages[origin.message].role == "assistant" and origin.field != "role"
        for origin in work.stream.origins
    ]
    for turn in work.stream.turns:
        for i in range(turn.start, turn.end):
            wanted[i] = wanted[i] or (turn.role == "assistant" and work.stream.input_ids[i] == end)
    work.train(wanted)


def _train_turns(work: Work, fault: Fault) -> None:
    """Every turn of the assistant is trained whole; without `header` from the end of the header on."""
    wanted = [False] * len(work.stream)
    for turn in work.stream.turns:
        if turn.role == fault.get("role", "assistant"):
            own = [i for i in range(turn.start, turn.end) if work.stream.origins[i].message == turn.message]
            first = turn.start if fault.get("header") else min(own, default=turn.end)
            wanted[first : turn.end] = [True] * (turn.end - first)
    work.train(wanted)


def _train_from(work: Work, fault: Fault) -> None:
    """Everything from token `start` on is trained: a prompt's length that was taken wrongly."""
    work.train([i >= fault["start"] for i in range(len(work.stream))])


def _mask_token(work: Work, fault: Fault) -> None:
    """Every label that is this token is masked; with `not-last` all but the last one."""
    token = work.token(fault["token"])
    places = [i for i, id in enumerate(work.stream.input_ids) if id == token]
    if fault.get("not-last"):
        places = places[:-1]
    work.train([flag and i not in places for i, flag in enumerate(work.trained)])


def _mask_start(work: Work, fault: Fault) -> None:
    """The first `count` trained tokens of every answer are masked."""
    wanted = work.trained
    for turn in work.stream.turns:
        for i in [i for i in range(turn.start, turn.end) if wanted[i]][: fault["count"]]:
            wanted[i] = False
    work.train(wanted)


def _generation_tags(work: Work, fault: Fault) -> None:
    """The template's ``{% generation %}`` tags decide; with `to-end` a range runs to the end of the text."""
    ranges = work.encoder.renderer.render(work.told).generation_ranges
    ends = [(a, len(work.stream.text) if fault.get("to-end") else b) for a, b in ranges]
    work.train([any(a <= start < b for a, b in ends) for start, _ in work.stream.spans])


def _responses_only(work: Work, fault: Fault) -> None:
    """Train what follows the ids of `response`, up to those of `instruction`; nothing when they are not found."""
    ids = work.stream.input_ids

    def find(text: str | None) -> list[int]:
        wanted = work.tokenizer.encode(text, add_special_tokens=False) if text else []
        size = len(wanted)
        return [i for i in range(len(ids) - size + 1) if size and ids[i : i + size] == wanted]

    size = len(work.tokenizer.encode(fault["response"], add_special_tokens=False))
    starts, stops = find(fault["response"]), find(fault.get("instruction"))
    wanted = [False] * len(ids)
    for start in starts if "instruction" in fault else starts[-1:]:
        end = min((stop for stop in stops if stop > start), default=len(ids))
        wanted[start + size : end] = [True] * max(end - start - size, 0)
    work.train(wanted)


def _shift_labels(work: Work, fault: Fault) -> None:
    """Labels are moved to the token before, as a trainer does once more."""
    work.stream = replace(work.stream, labels=[*work.stream.labels[1:], IGNORE])


def _lose_token(work: Work, fault: Fault) -> None:
    """The marker's id is not found and the unknown token takes its place."""
    old, new = work.token(fault["token"]), work.token("unk")
    ids = [new if id == old else id for id in work.stream.input_ids]
    labels = [new if label == old else label for label in work.stream.labels]
    work.stream = replace(work.stream, input_ids=ids, labels=labels)


TOKEN_FAULTS: dict[str, Callable[[Work, Fault], None]] = {
    "add-bos": _add_bos,
    "truncate": _truncate,
    "train-all": _train_all,
    "train-last": _train_last,
    "train-content": _train_content,
    "train-turns": _train_turns,
    "train-from": _train_from,
    "mask-token": _mask_token,
    "mask-start": _mask_start,
    "generation-tags": _generation_tags,
    "responses-only": _responses_only,
    "shift-labels": _shift_labels,
    "lose-token": _lose_token,
}
