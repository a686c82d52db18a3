"""Rules of the group Turn ends: the marker that ends an answer, and makes generation stop."""

from __future__ import annotations

from collections.abc import Iterator

from template_audit.rules.evidence import AnswerEnd, Facts, count, show
from template_audit.rules.interface import Case, Hit, rule
from template_audit.stream import IGNORE


def ends_found(facts: Facts) -> Iterator[tuple[str, AnswerEnd, Hit]]:
    """For each answer whose end differs: the rule, the place and what to report."""
    for end in facts.ends:
        found = _check(facts, end)
        if found is not None:
            yield (found[0], end, found[1])


def _check(facts: Facts, end: AnswerEnd) -> tuple[str, Hit] | None:
    ref, sub = facts.case.reference, facts.case.subject
    wanted = ref.input_ids[end.reference]
    marker = show(ref.token_text(end.reference))
    reference = (end.reference, end.reference + 1)
    start, stop = end.subject_tail
    if end.subject is None or _is_next_header(facts, end):
        shown = show(facts.sub.text((start, min(start + 6, stop))))
        then = f"is followed by {shown}" if stop > start else "is the last thing in the stream"
        by_label = start < stop and sub.labels[start] not in (IGNORE, sub.input_ids[start])
        trick = " (the end is trained as the label of the next token only)" if by_label else ""
        message = f"The answer of message {end.message} {then}: its end marker {marker} is missing{trick}."
        return "missing-turn-end", Hit(message, marker, end.message, reference, (start, min(start + 1, stop)))
    found = sub.input_ids[end.subject]
    if found != wanted:
        size = _run(facts, end)
        shown = show(facts.sub.text((end.subject, end.subject + size)))
        pieces = f" ({count(size, 'ordinary token')})" if size > 1 else f" (id {found})"
        stops = found in facts.case.model.stop_token_ids and size == 1
        also = "; generation stops at it, too" if stops else ""
        return "wrong-turn-end", Hit(
            f"The answer of message {end.message} ends with {shown}{pieces}, not with {marker} (id {wanted}){also}.",
            f"{shown}\x1f{marker}",
            end.message,
            reference,
            (end.subject, end.subject + size),
            severity="warning" if stops else None,
        )
    second = facts.significant(facts.sub, (end.subject + 1, stop))
    if (
        second is not None
        and _ends_turns(facts, sub.input_ids[second], wanted)
        and not _in_reference(facts, end, second)
    ):
        shown = show(facts.sub.text((end.subject, second + 1)))
        return "duplicate-turn-end", Hit(
            f"The answer of message {end.message} ends twice: {shown}, where {facts.case.reference_name} has one "
            f"{marker}.",
            shown,
            end.message,
            reference,
            (end.subject, second + 1),
        )
    return None


def _is_next_header(facts: Facts, end: AnswerEnd) -> bool:
    """True when what follows the answer in the subject is how the next turn begins."""
    index, sub = end.subject, facts.case.subject
    assert index is not None
    if sub.input_ids[index] == facts.case.reference.input_ids[end.reference]:
        return False
    if sub.labels[index] == sub.input_ids[index] and not facts.all_trained:
        return False  # trained: the framework takes it for a part of the answer
    turns = sorted(facts.sub.turns.values(), key=lambda turn: turn.start)
    if any(turn.message != end.message and turn.start == index for turn in turns):
        return True
    for hunk in facts.case.alignment.hunks:
        if hunk.sub_start <= index < hunk.sub_end:
            return hunk.kind == "equal" and index - hunk.sub_start + hunk.ref_start > end.reference
    return False


def _run(facts: Facts, end: AnswerEnd) -> int:
    """How many tokens the subject's end marker has: one control token, or pieces up to the next whitespace."""
    assert end.subject is not None
    sub = facts.case.subject
    if sub.input_ids[end.subject] in facts.control:
        return 1
    trained = sub.labels[end.subject] != IGNORE
    size = 0
    for index in range(end.subject, end.subject_tail[1]):
        if (sub.labels[index] != IGNORE) != trained or not sub.token_text(index).strip():
            break
        if index > end.subject and sub.input_ids[index] in facts.control:
            break
        size += 1
    return max(size, 1)


def _ends_turns(facts: Facts, token: int, wanted: int) -> bool:
    return token == wanted or (token in facts.control and token in facts.control.stops)


def _in_reference(facts: Facts, end: AnswerEnd, second: int) -> bool:
    """True when the reference has the second marker in this place, too."""
    follower = facts.significant(facts.ref, (end.reference + 1, end.reference_tail[1]))
    return follower is not None and facts.case.reference.input_ids[follower] == facts.case.subject.input_ids[second]


def _hits(case: Case, name: str) -> Iterator[Hit]:
    return (hit for rule, _, hit in ends_found(case.facts) if rule == name)


@rule(
    "missing-turn-end",
    severity="error",
    group="Turn ends",
    reads="structure",
    what="An answer is not followed by the marker with which the chat template ends it.",
    why="A model that never saw the marker after an answer does not learn to write it: it runs on, into the next "
    "turn or until the length limit.",
    advice="Use a framework template that writes the chat template's end marker after every answer.",
)
def missing_turn_end(case: Case) -> Iterator[Hit]:
    yield from _hits(case, "missing-turn-end")


@rule(
    "duplicate-turn-end",
    severity="error",
    group="Turn ends",
    reads="structure",
    what="An answer is followed by two end markers where the chat template has one.",
    why="The second marker is trained after a point where generation has stopped, and in later turns the model "
    "sees a history that inference never shows.",
    advice="Remove the end marker from the data, or the one that the framework adds.",
)
def duplicate_turn_end(case: Case) -> Iterator[Hit]:
    yield from _hits(case, "duplicate-turn-end")


@rule(
    "wrong-turn-end",
    severity="error",
    group="Turn ends",
    reads="structure",
    what="An answer ends with another marker than the chat template's.",
    why="Inference waits for the chat template's marker and the model writes the one it was trained on: generation "
    "does not stop, or the marker shows up in the text.",
    advice="Use the framework template that ends answers with the chat template's marker, or make the trained marker "
    "the eos token in the tokenizer and the generation config, and save the trained template.",
)
def wrong_turn_end(case: Case) -> Iterator[Hit]:
    yield from _hits(case, "wrong-turn-end")


@rule(
    "no-turn-end",
    severity="warning",
    group="Turn ends",
    reads="structure",
    what="Neither side writes a control token after the last answer.",
    why="Training and inference agree, and the model still never learns to stop: nothing that generation could stop "
    "at is trained after an answer, so it runs on until the length limit or a stop string.",
    advice="Let the chat template and the framework's template write the eos token after every answer; without one, "
    "inference needs a stop string.",
)
def no_turn_end(case: Case) -> Iterator[Hit]:
    facts, last = case.facts, case.facts.last_answer
    if last is None or last != len(case.conversation.messages) - 1 or last not in facts.answers:
        return
    body = facts.sub.body(last)
    if body is None or facts.ref.body(last) is None or facts.is_empty(last) or facts.is_cut(last):
        return
    if next(facts.sub.trained(*body), None) is None:
        return
    sides = facts.ref, facts.sub
    # From the body's last token on, which may be a marker of its own, as a tool call's is.
    tails = [(max(side.after(last)[0] - 1, 0), side.after(last)[1]) for side in sides]
    if any(
        side.stream.input_ids[i] in facts.control for side, tail in zip(sides, tails, strict=True) for i in range(*tail)
    ):
        return
    text = facts.sub.text((tails[1][0] + 1, tails[1][1])).strip()
    yield Hit(
        f"Nothing that generation could stop at follows the answer of message {last}, on either side"
        + (f", only the text {show(text)}." if text else "."),
        key=text,
        turn=last,
        reference=tails[0],
        subject=tails[1],
        severity="info" if text else None,  # a stop string can look for it
    )
