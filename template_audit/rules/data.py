"""Rules of the group Data: what a single example can lose or carry along."""

from __future__ import annotations

import re
from collections.abc import Iterator

from template_audit.rules.evidence import count, show
from template_audit.rules.interface import Case, Hit, refusal_rule, rule
from template_audit.rules.sides import TEMPLATE_FIELDS

# LLaMA-Factory's identity data had <NAME> and <AUTHOR> before it had {{name}} and {{author}}.
_PLACEHOLDER = re.compile(r"\{\{\s*[A-Za-z_][\w.]*\s*\}\}|<(?:NAME|AUTHOR)>")


def may_hold_placeholder(text: str) -> bool:
    """False for text in which `unfilled-placeholder` finds nothing; quick."""
    return "{{" in text or "<NAME>" in text or "<AUTHOR>" in text


@rule(
    "truncated-supervision",
    severity="warning",
    group="Data",
    reads="structure",
    what="The length limit cut text of a message or the header of an answer, or left out whole turns.",
    why="The model learns answers that stop in the middle without an end marker, or answers to questions that are "
    "not there.",
    advice="Raise the limit (`cutoff_len`), or split or drop long examples before training.",
)
def truncated_supervision(case: Case) -> Iterator[Hit]:
    facts = case.facts
    if not facts.truncated:
        return
    lost = [i for i in sorted(facts.ref.messages()) if facts.is_cut(i)]
    if lost:
        whole = [i for i in lost if facts.sub.body(i) is None]
        missing = len(case.reference) - len(case.subject)
        yield Hit(
            f"The length limit took text of {count(len(lost), 'message')}"
            + (f", {len(whole)} of them whole" if whole else "")
            + f"; the example has {count(len(case.subject), 'token')}"
            + (f", {missing:,} fewer than the conversation." if missing > 0 else "."),
            turn=lost[0],
            subject=facts.sub.body(lost[0]),
        )
        return
    headers = [message for message in facts.answers if facts.header_cut(message)]
    for message in headers[:1]:
        theirs, ours = facts.ref.before(message), facts.sub.before(message)
        yield Hit(
            f"The length limit cut what stands before {count(len(headers), 'answer')}: before message {message} "
            f"{show(facts.ref.text(theirs))} became {show(facts.sub.text(ours))}.",
            key="header",
            turn=message,
            reference=theirs,
            subject=ours,
        )


@rule(
    "unfilled-placeholder",
    severity="warning",
    group="Data",
    reads="structure",
    what="A placeholder such as `{{name}}` stands in the text.",
    why="Somebody meant to fill it in. The model learns to write it.",
    advice="Fill it in before training (LLaMA-Factory's identity.json has `{{name}}` and `{{author}}`).",
)
def unfilled_placeholder(case: Case) -> Iterator[Hit]:
    sub = case.facts.sub
    for match in _PLACEHOLDER.finditer(case.subject.text):
        span = sub.tokens(match.start(), match.end())
        origin = sub.origins[span[0]] if span[0] < span[1] else None
        if origin is not None and origin.field in TEMPLATE_FIELDS and match.group() in case.reference.text:
            continue  # the chat template's own words, too
        message = origin.message if origin else None
        where = f" in message {message}" if message is not None else ""
        yield Hit(f"{show(match.group())}{where} was never filled in.", key=match.group(), turn=message, subject=span)


@rule(
    "empty-response",
    severity="warning",
    group="Data",
    reads="structure",
    what="An answer is empty or only whitespace.",
    why="The model learns to say nothing: to stop at once, or to write a blank.",
    advice="Drop such examples.",
)
def empty_response(case: Case) -> Iterator[Hit]:
    for index, message in enumerate(case.conversation.messages):
        if message.role == "assistant" and not (message.content or "").strip() and not message.tool_calls:
            yield Hit(f"The answer of message {index} is {show(message.content or '')}.", turn=index)


refusal_rule(
    "example-dropped",
    severity="warning",
    group="Data",
    what="The framework leaves the example out.",
    why="It is not trained, and only a line in the log says so: the data set is smaller than it looks.",
    advice="Bring the example into the shape that the framework takes: strictly alternating turns that end with an "
    "answer.",
)

refusal_rule(
    "encoding-failed",
    severity="error",
    group="Data",
    what="An encoder raises on the example.",
    why="A training run stops there, often hours after its start.",
    advice="Correct the example or leave it out; the message says what the encoder stumbled over.",
)
