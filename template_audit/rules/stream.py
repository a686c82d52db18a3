"""Rules of the group Stream: which tokens are there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from template_audit.alignment import Hunk
from template_audit.rules.evidence import Facts, count, show
from template_audit.rules.interface import Case, Hit, refusal_rule, rule
from template_audit.rules.sides import TEMPLATE_FIELDS
from template_audit.stream import EncodedStream


@rule(
    "token-drift",
    severity="error",
    group="Stream",
    reads="structure",
    what="Training has other tokens than the chat template, and no more specific rule says why. Where nothing trained "
    "follows, it is info.",
    why="Every trained token is conditioned on what stands before it. A header or a marker that inference never shows "
    "moves the model to a place where it was not trained.",
    advice="Use the framework template that writes what the chat template writes; `template-audit match MODEL` ranks "
    "them.",
)
def token_drift(case: Case) -> Iterator[Hit]:
    facts = case.facts
    for hunk in facts.owned("token-drift"):
        yield _difference(facts, hunk)
    for hunk in facts.owned("after-training"):
        hit = _difference(facts, hunk)
        message = f"After the last trained token, where it has no effect: {hit.message}"
        yield replace(hit, message=message, severity="info")


def _difference(facts: Facts, hunk: Hunk) -> Hit:
    ref, sub = (hunk.ref_start, hunk.ref_end), (hunk.sub_start, hunk.sub_end)
    theirs, ours = facts.ref.text(ref), facts.sub.text(sub)
    turn, role = _turn(facts, hunk)
    where = "" if turn is None else f" in the turn of message {turn} ({role})"
    if not ours:
        message = f"Training lacks {show(theirs)}{where}."
    elif not theirs:
        message = f"Training has {show(ours)}{where}, which {facts.case.reference_name} does not write."
    else:
        message = f"Training has {show(ours)}{where} where {facts.case.reference_name} writes {show(theirs)}."
    return Hit(message, f"{theirs[:200]}\x1f{ours[:200]}", turn, ref, sub)


def _turn(facts: Facts, hunk: Hunk) -> tuple[int | None, str]:
    """The message in whose turn the hunk stands: the reference's, unless only the subject has them, between turns."""
    for turn in facts.case.reference.turns if hunk.ref_start == hunk.ref_end else ():
        if turn.message is not None and turn.start < hunk.ref_start < turn.end:
            return turn.message, turn.role
    sides = [
        (facts.case.reference.turns, hunk.ref_start, hunk.ref_end),
        (facts.case.subject.turns, hunk.sub_start, hunk.sub_end),
    ]
    for turns, start, end in reversed(sides) if hunk.ref_start == hunk.ref_end else sides:
        for turn in turns:
            if turn.message is not None and turn.start <= start < max(turn.end, start + (start == end)):
                return turn.message, turn.role
    return None, ""


@rule(
    "whitespace-drift",
    severity="warning",
    group="Stream",
    reads="structure",
    what="Only whitespace differs: a newline or a blank more or less, trimmed content.",
    why="Whitespace is tokens, too, and often merges with its neighbours into different ones. The effect is small "
    "where it stands in a prompt; it shows in greedy answers and in prefix caches.",
    advice="Choose the template that writes the same whitespace, or trim the data as the chat template does.",
)
def whitespace_drift(case: Case) -> Iterator[Hit]:
    facts = case.facts
    for hunk in facts.owned("whitespace-drift"):
        hit = _difference(facts, hunk)
        ref, sub = (hunk.ref_start, hunk.ref_end), (hunk.sub_start, hunk.sub_end)
        said = [_blanks(side.said(span)) for side, span in ((facts.ref, ref), (facts.sub, sub))]
        # trimming is one cause wherever it shows, and so is a blank in the template
        written = [_blanks(side.text(span)) for side, span in ((facts.ref, ref), (facts.sub, sub))]
        role = _turn(facts, hunk)[1]
        yield replace(hit, key="message text" if said[0] != said[1] else f"{role} {written}")


def _blanks(text: str) -> str:
    return "".join(char for char in text if char.isspace())


@rule(
    "segmentation-drift",
    severity="warning",
    group="Stream",
    reads="structure",
    what="The same text is other tokens in training than the chat template's text gives.",
    why="Frameworks that encode piece by piece cut where the tokenizer would merge. The model then reads ids at "
    "inference that it did not see in training; of the two, only the chat template's are what a prompt will hold.",
    advice="Nothing can be done in the data. A template that cuts at special tokens, or a trainer that encodes the "
    "whole text, avoids it.",
)
def segmentation_drift(case: Case) -> Iterator[Hit]:
    facts = case.facts
    for hunk in facts.owned("segmentation-drift"):
        ref, sub = (hunk.ref_start, hunk.ref_end), (hunk.sub_start, hunk.sub_end)
        turn, role = _turn(facts, hunk)
        text = facts.ref.text(ref) or facts.sub.text(sub)
        yield Hit(
            f"{show(text)} is {_tokens(case.subject, sub)} in training and {_tokens(case.reference, ref)} in the "
            "reference.",
            _place(facts, ref, role) or text,
            turn,
            ref,
            sub,
        )


def _place(facts: Facts, ref: tuple[int, int], role: str) -> str:
    """Where in a message's text these reference tokens are; empty when they hold none of it."""
    places = []
    for piece in facts.case.reference.pieces:
        if piece.origin.field not in TEMPLATE_FIELDS and piece.start < piece.end:
            first, last = facts.ref.tokens(piece.start, piece.end)
            if first < ref[1] and ref[0] < last:
                edge = "start" if ref[0] <= first else "end" if last <= ref[1] else "inside"
                places.append(f"{edge} of {role} {piece.origin.field}")
    return places[0] if places else ""


def _tokens(stream: EncodedStream, span: tuple[int, int]) -> str:
    """The tokens' texts where each has one of its own, and their ids."""
    indices = range(span[0], min(span[1], span[0] + 6))
    spans = [stream.spans[i] for i in indices]
    more = ", …" if span[1] - span[0] > 6 else ""
    ids = f"id{'' if len(indices) == 1 else 's'} {', '.join(str(stream.input_ids[i]) for i in indices)}{more}"
    apart = len(spans) > 1 and all(a[1] <= b[0] < b[1] for a, b in pairwise(spans))
    return f"{' + '.join(show(stream.token_text(i), 20) for i in indices)} ({ids})" if apart else ids or "no token"


def _leading_bos(ids: list[int], bos: int) -> int:
    return next((i for i, token in enumerate(ids) if token != bos), len(ids))


@rule(
    "double-bos",
    severity="error",
    group="Stream",
    reads="structure",
    what="The stream begins with two BOS tokens, in training or as the chat template writes it.",
    why="The template writes one and the tokenizer adds another. The model never saw two in pre-training; quality "
    "drops, in training and at inference.",
    advice="Encode templated text with `add_special_tokens=False`, or take the BOS out of the template.",
)
def double_bos(case: Case) -> Iterator[Hit]:
    bos = case.facts.control.bos
    if bos is None:
        return
    found, theirs = (_leading_bos(stream.input_ids, bos) for stream in (case.subject, case.reference))
    if max(found, theirs) > 1:
        yield Hit(
            f"Training begins with {count(found, 'BOS token')}; {case.reference_name} with {theirs}.",
            reference=(0, theirs),
            subject=(0, found),
        )


@rule(
    "missing-bos",
    severity="error",
    group="Stream",
    reads="structure",
    what="The chat template begins with BOS and training does not.",
    why="Models that were pre-trained with BOS lean on it as a fixed first token; without it the first tokens are "
    "read differently, in every example.",
    advice="Use a framework template with the BOS in its prefix.",
)
def missing_bos(case: Case) -> Iterator[Hit]:
    bos = case.facts.control.bos
    if bos is not None and case.reference.input_ids[:1] == [bos] and case.subject.input_ids[:1] != [bos]:
        yield Hit(
            f"Training begins with {show(case.subject.token_text(0)) if len(case.subject) else 'nothing'}; "
            f"{case.reference_name} with BOS, {show(case.reference.token_text(0))} (id {bos}).",
            reference=(0, 1),
            subject=(0, 0),
        )


@rule(
    "bogus-bos",
    severity="error",
    group="Stream",
    reads="structure",
    what="Training begins with BOS and the chat template does not.",
    why="The model is trained behind a token that inference does not show.",
    advice="Use a framework template without BOS in its prefix, as the chat template has none.",
)
def bogus_bos(case: Case) -> Iterator[Hit]:
    bos = case.facts.control.bos
    if bos is not None and case.subject.input_ids[:1] == [bos] and case.reference.input_ids[:1] != [bos]:
        yield Hit(
            f"Training begins with BOS, {show(case.subject.token_text(0))} (id {bos}); {case.reference_name} with "
            f"{show(case.reference.token_text(0)) if len(case.reference) else 'nothing'}.",
            reference=(0, 0),
            subject=(0, 1),
        )


@rule(
    "message-dropped",
    severity="error",
    group="Stream",
    reads="structure",
    what="A message of the conversation is in one stream and not in the other.",
    why="The model learns to answer a conversation that lacks a turn, or one that inference would not show.",
    advice="Check the data format: roles that the framework does not know, and results that no answer follows, are "
    "dropped.",
)
def message_dropped(case: Case) -> Iterator[Hit]:
    facts = case.facts
    if facts.truncated:
        return
    roles = [message.role for message in case.conversation.messages]
    for message in sorted(facts.missing_in_subject):
        body = facts.ref.body(message) or (0, 0)
        yield Hit(
            f"Message {message} ({roles[message]}), {show(facts.ref.text(body), 40)}, is not in training.",
            f"{roles[message]} subject",
            message,
            reference=body,
        )
    for message in sorted(facts.missing_in_reference):
        body = facts.sub.body(message) or (0, 0)
        yield Hit(
            f"Message {message} ({roles[message]}), {show(facts.sub.text(body), 40)}, is trained, and "
            f"{case.reference_name} does not write it.",
            f"{roles[message]} reference",
            message,
            subject=body,
        )


refusal_rule(
    "role-unsupported",
    severity="error",
    group="Stream",
    what="One side refuses a message or the order of roles; the other encodes the conversation without a word.",
    why="What the model is trained on cannot be asked of it: the chat template raises at inference, or the framework "
    "folds the text into another turn, where inference will never show it.",
    advice="Leave such messages out of the data (put a system text into the first user message yourself), or give the "
    "model a chat template that supports them.",
)
