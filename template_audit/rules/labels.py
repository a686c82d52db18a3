"""Rules of the group Labels: which tokens count in the loss."""

from __future__ import annotations

from collections.abc import Iterator

from template_audit.conversation import Message
from template_audit.rules.evidence import THOUGHT, Facts, count, show
from template_audit.rules.interface import Case, Hit, rule
from template_audit.rules.sides import TEMPLATE_FIELDS, Span
from template_audit.stream import IGNORE


@rule(
    "turn-end-untrained",
    severity="error",
    group="Labels",
    reads="structure",
    what="The marker that ends a trained answer is there, but masked.",
    why="The model is never taught to stop: after training it writes past the end of its answer.",
    advice="Put the end marker into the loss: in the answer's part of the framework template, inside "
    "`{% generation %}`, or with a pad token that is not the eos token.",
)
def turn_end_untrained(case: Case) -> Iterator[Hit]:
    facts = case.facts
    for end in facts.ends:
        index = end.subject
        if index is None or case.subject.input_ids[index] != case.reference.input_ids[end.reference]:
            continue
        body = facts.sub.body(end.message)
        if body and not facts.sub.is_trained(index) and any(facts.sub.trained(*body)):
            marker = show(case.subject.token_text(index))
            pad = case.subject.input_ids[index] == facts.control.pad
            because = " It is also the pad token, which some collators mask." if pad else ""
            yield Hit(
                f"{marker} after the answer of message {end.message} is masked while the answer is trained.{because}",
                key=marker,
                turn=end.message,
                reference=(end.reference, end.reference + 1),
                subject=(index, index + 1),
            )


@rule(
    "no-trained-tokens",
    severity="error",
    group="Labels",
    reads="structure",
    what="Every token of the example is masked. Info when all of its answers are empty and the chat template's own "
    "mask trains nothing, either.",
    why="The example teaches nothing, and a batch of such examples gives a loss of nan.",
    advice="Check that the conversation has an answer, that the length limit leaves room for it, and that the "
    "trainer's response marker is the template's.",
)
def no_trained_tokens(case: Case) -> Iterator[Hit]:
    if any(m.role == "assistant" for m in case.conversation.messages) and not any(
        label != IGNORE for label in case.subject.labels
    ):
        neither = bool(case.reference.prompts) and all(label == IGNORE for label in case.reference.labels)
        blank = not any((m.content and m.content.strip()) or m.tool_calls for m in _answers(case))
        yield Hit(
            f"None of the {count(len(case.subject), 'token')} is trained"
            + (f"; nor does the mask of {case.reference_name} train any." if neither else "."),
            subject=(0, len(case.subject)),
            severity="info" if neither and blank else None,
        )


def _answers(case: Case) -> list[Message]:
    return [message for message in case.conversation.messages if message.role == "assistant"]


@rule(
    "all-tokens-trained",
    severity="error",
    group="Labels",
    reads="structure",
    what="No token is masked: prompt, headers and answers all count in the loss.",
    why="The model learns to write users' messages and headers, too. With long prompts most of the gradient comes "
    "from text that it will never have to write.",
    advice="Mask the prompt (in LLaMA-Factory leave `train_on_prompt` off), unless this is continued pre-training.",
)
def all_tokens_trained(case: Case) -> Iterator[Hit]:
    if case.facts.all_trained and any(m.role != "assistant" for m in case.conversation.messages):
        yield Hit(f"All {count(len(case.subject), 'token')} are trained.", subject=(0, len(case.subject)))


@rule(
    "prompt-trained",
    severity="error",
    group="Labels",
    reads="structure",
    what="Text of a user, a tool or the system prompt counts in the loss.",
    why="The model learns to write what others say, and may answer its own questions.",
    advice="Mask everything that is not the assistant's.",
)
def prompt_trained(case: Case) -> Iterator[Hit]:
    facts = case.facts
    if facts.all_trained:
        return
    found: dict[tuple[str, int | None], list[int]] = {}
    own = _written_by_the_model(case)
    for index in facts.sub.trained(0, len(case.subject)):
        if index in own:
            continue
        if case.subject.labels[index] != case.subject.input_ids[index]:
            continue  # a borrowed label: see label-shifted
        role = _role_of(case, index)
        if role in ("user", "tool", "system"):
            found.setdefault((role, facts.sub.origins[index].message), []).append(index)
    for (role, message), indices in found.items():
        span = (indices[0], indices[-1] + 1)
        whose = {"user": "the user's text", "tool": "a tool's result", "system": "the system prompt"}[role]
        where = "" if message is None else f" in message {message}"
        yield Hit(
            f"{count(len(indices), 'token')} of {whose}{where} {'is' if len(indices) == 1 else 'are'} trained, from "
            f"{show(case.subject.token_text(indices[0]))} on.",
            key=role,
            turn=message,
            subject=span,
        )


def _written_by_the_model(case: Case) -> set[int]:
    """Tokens of others that the model has to repeat: the chat template writes them behind its generation prompt."""
    if not case.reference.prompts:
        return set()
    labels = case.reference.labels
    return {
        sub
        for hunk in case.alignment.hunks
        if hunk.kind == "equal"
        for ref, sub in zip(range(hunk.ref_start, hunk.ref_end), range(hunk.sub_start, hunk.sub_end), strict=True)
        if labels[ref] != IGNORE
    }


def _role_of(case: Case, index: int) -> str:
    origin = case.facts.sub.origins[index]
    if origin.field in ("default_system", "tools"):
        return "system"
    messages = case.conversation.messages
    if origin.message is None or origin.field in TEMPLATE_FIELDS or origin.message >= len(messages):
        return ""
    return messages[origin.message].role


def _headers(case: Case) -> Iterator[tuple[int, Span]]:
    """Answers and the tokens between the text before and the answer, in the subject."""
    for message in case.facts.answers:
        yield message, case.facts.sub.before(message)


@rule(
    "header-trained",
    severity="warning",
    group="Labels",
    reads="structure",
    what="The header before an answer, which inference writes for the model, counts in the loss.",
    why="Part of the gradient teaches the model to repeat its own header; some then do so at inference.",
    advice="Begin the trained part after the generation prompt.",
)
def header_trained(case: Case) -> Iterator[Hit]:
    facts = case.facts
    if facts.all_trained:
        return
    given = {
        sub
        for hunk in case.alignment.label_hunks
        if hunk.trained_by == "subject"
        for sub in range(hunk.sub_start, hunk.sub_end)
    }
    own = _written_by_the_model(case)
    for message, (start, end) in _headers(case):
        if start < end and all(facts.sub.is_trained(i) for i in range(start, end)):
            indices = [i for i in range(start, end) if case.subject.labels[i] == case.subject.input_ids[i]]
        else:
            indices = [i for i in range(start, end) if i in given]
        shown = _shown(case, message)
        indices = [i for i in indices if i < shown and i not in own and not _is_end_of_other(case, i, message)]
        text = facts.sub.text((indices[0], indices[-1] + 1)) if indices else ""
        known = shown < len(case.subject)  # a thought's marker is the header's where the prompt gives it
        if text.strip() and (known or not THOUGHT.fullmatch(text.strip())):
            yield Hit(
                f"{show(text)} before the answer of message {message} is trained ({count(len(indices), 'token')}).",
                key=text,
                turn=message,
                subject=(indices[0], indices[-1] + 1),
            )


def _shown(case: Case, message: int) -> int:
    """How many of the subject's tokens inference shows before this answer; all, where it is not known."""
    for prompt in case.reference.prompts:
        if prompt.message == message and prompt.error is None:
            shown = len(prompt.input_ids)
            if case.subject.input_ids[:shown] == prompt.input_ids:
                return shown
    return len(case.subject)


def _is_end_of_other(case: Case, index: int, message: int) -> bool:
    """True for the end marker of an earlier answer, which may stand right before a header."""
    tails = (case.facts.sub.after(m) for m in case.facts.answers if m < message)
    return any(start <= index < end for start, end in tails)


@rule(
    "history-trained",
    severity="warning",
    group="Labels",
    reads="structure",
    what="An earlier answer is trained in the form that it has in the history, not as the model would write it.",
    why="The answer's reasoning is gone, so the model learns to answer such questions without thinking.",
    advice="Train the last answer only (in LLaMA-Factory `mask_history`), or keep the reasoning in the history.",
)
def history_trained(case: Case) -> Iterator[Hit]:
    facts = case.facts
    for message in facts.answers[:-1]:
        body = facts.sub.body(message)
        if body is None or not any(facts.sub.trained(*body)):
            continue
        lost = bool(case.conversation.messages[message].reasoning) and not facts.sub.has(message, "reasoning")
        if lost:
            yield Hit(
                f"The answer of message {message} is trained without its reasoning.",
                key="reasoning",
                turn=message,
                subject=body,
            )
            continue
        theirs = facts.ref.body(message)
        if theirs is not None and not facts.ref.has(message, "reasoning") and theirs[1] > theirs[0]:
            masked = not any(facts.ref.trained(*theirs)) and any(facts.ref.trained(0, len(case.reference)))
            if masked:
                yield Hit(
                    f"The answer of message {message} is trained; the reference masks it.",
                    key="masked",
                    turn=message,
                    reference=theirs,
                    subject=body,
                )


@rule(
    "history-untrained",
    severity="info",
    group="Labels",
    reads="structure",
    what="Earlier answers are masked; only the last one is trained.",
    why="Nothing is wrong with it, but a multi-turn data set then teaches only as much as its last answers.",
    advice="Turn `mask_history` off to train every answer.",
)
def history_untrained(case: Case) -> Iterator[Hit]:
    facts = case.facts
    bodies = [(m, body) for m in facts.answers if (body := facts.sub.body(m)) is not None and body[1] > body[0]]
    if len(bodies) < 2 or not any(facts.sub.trained(*bodies[-1][1])):
        return
    masked = [(m, body) for m, body in bodies[:-1] if not any(facts.sub.trained(*body))]
    if masked:
        yield Hit(
            f"{len(masked)} of {len(bodies)} answers {'is' if len(masked) == 1 else 'are'} masked.",
            turn=masked[0][0],
            subject=masked[0][1],
        )


@rule(
    "reasoning-partly-trained",
    severity="error",
    group="Labels",
    reads="structure",
    what="Some tokens of an answer's reasoning are trained and some are masked.",
    why="The model learns the middle of a thought without its beginning, or a thought without its end.",
    advice="Train the whole reasoning with its markers, or mask all of it.",
)
def reasoning_partly_trained(case: Case) -> Iterator[Hit]:
    facts = case.facts
    for message in facts.answers:
        indices = [i for i, o in enumerate(facts.sub.origins) if o.message == message and o.field == "reasoning"]
        if not indices:
            continue
        indices += _closing(facts, indices[-1] + 1, message)
        trained = sum(facts.sub.is_trained(i) for i in indices)
        if 0 < trained < len(indices):
            first = next(i for i in indices if not facts.sub.is_trained(i))
            yield Hit(
                f"{trained} of {count(len(indices), 'reasoning token')} of message {message} are trained; "
                f"{show(case.subject.token_text(first))} is the first that is masked.",
                key="reasoning",
                turn=message,
                subject=(indices[0], indices[-1] + 1),
            )


def _closing(facts: Facts, start: int, message: int) -> range:
    """The tokens of the marker that ends a thought, right behind it; the one that begins it may be the prompt's."""
    text, at = facts.case.subject.text, facts.sub.char(start)
    marker = THOUGHT.match(text, at + len(text[at:]) - len(text[at:].lstrip()))
    if marker is None:
        return range(0)
    first, last = facts.sub.tokens(*marker.span())
    return range(max(first, start), last)


@rule(
    "trained-after-turn-end",
    severity="warning",
    group="Labels",
    reads="structure",
    what="Tokens after an answer's end marker count in the loss. Mere whitespace is reported as info: it does no harm.",
    why="Generation stops at the marker, so the model never has to write what follows; it learns to begin the next "
    "turn by itself.",
    advice="End the trained part with the end marker.",
)
def trained_after_turn_end(case: Case) -> Iterator[Hit]:
    facts = case.facts
    if facts.all_trained:
        return
    for end in facts.ends:
        index = end.subject
        if index is None or case.subject.input_ids[index] != case.reference.input_ids[end.reference]:
            continue
        after = [i for i in facts.sub.trained(index + 1, end.subject_tail[1]) if _own_label(facts, i)]
        text = facts.sub.text((after[0], after[-1] + 1)) if after else ""
        if not after or (text.strip() and _second_end(facts, after, index)):
            continue
        harmless = not text.strip()
        yield Hit(
            f"{show(text)} after the end marker of message {end.message} is trained"
            + (", whitespace that the model never gets to write." if harmless else "."),
            key=text,
            turn=end.message,
            subject=(after[0], after[-1] + 1),
            severity="info" if harmless else None,
        )


def _second_end(facts: Facts, after: list[int], index: int) -> bool:
    """True when the trained tail is a second end marker, which duplicate-turn-end reports."""
    ids = facts.case.subject.input_ids
    heavy = [i for i in after if facts.case.subject.token_text(i).strip()]
    return all(ids[i] == ids[index] or ids[i] in facts.control.stops for i in heavy)


def _own_label(facts: Facts, index: int) -> bool:
    return facts.case.subject.labels[index] == facts.case.subject.input_ids[index]


@rule(
    "label-shifted",
    severity="error",
    group="Labels",
    reads="structure",
    what="A label is neither its token nor −100.",
    why="Trainers shift labels by themselves. Labels that are already shifted teach the model the token after the "
    "next one.",
    advice="Give labels that equal the input ids where they count. (A label of the eos token on the first token of a "
    "later turn is LLaMA-Factory's way of training the turn end, and is not reported.)",
)
def label_shifted(case: Case) -> Iterator[Hit]:
    facts = case.facts
    ids, labels = case.subject.input_ids, case.subject.labels
    wrong = [
        i
        for i, (token, label) in enumerate(zip(ids, labels, strict=True))
        if label not in (IGNORE, token) and not _ends_by_label(facts, i)
    ]
    if wrong:
        first = wrong[0]
        yield Hit(
            f"{count(len(wrong), 'label')} {'is' if len(wrong) == 1 else 'are'} not the token in that place; at token "
            f"{first} {show(case.subject.token_text(first))} (id {ids[first]}) has label {labels[first]}.",
            subject=(first, first + 1),
        )


def _ends_by_label(facts: Facts, index: int) -> bool:
    """True for a stop token as the label of the first token of a prompt (``efficient_eos``).

    Source: LLaMA-Factory, data/processor/supervised.py; up to 0.9.3 the first turn has it, too.
    """
    labels = facts.case.subject.labels
    if labels[index] != facts.control.eos and labels[index] not in facts.control.stops:
        return False
    begins = any(turn.start == index for turn in facts.case.subject.turns)
    return index == 0 or begins or labels[index - 1] != IGNORE
