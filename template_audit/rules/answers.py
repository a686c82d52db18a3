"""A rule of the group Labels about an answer of which only a part counts."""

from __future__ import annotations

from collections.abc import Iterator

from template_audit.rules.evidence import count, show
from template_audit.rules.interface import Case, Hit, rule


@rule(
    "answer-partly-trained",
    severity="error",
    group="Labels",
    reads="structure",
    what="Some tokens of an answer's text are trained, and some are masked that the chat template's own mask trains.",
    why="The model learns the rest of an answer without its beginning, or an answer that is never finished; a masked "
    "first token leaves open how answers begin.",
    advice="Begin the trained part where the generation prompt ends and end it with the turn's end marker; check the "
    "trainer's response marker and anything that masks tokens by their id.",
)
def answer_partly_trained(case: Case) -> Iterator[Hit]:
    facts = case.facts
    masked = {
        index
        for hunk in case.alignment.label_hunks
        if hunk.trained_by == "reference"
        for index in range(hunk.sub_start, hunk.sub_end)
    }
    for message in facts.answers if masked else ():
        said = [i for i, o in enumerate(facts.sub.origins) if o.message == message and o.field == "content"]
        lost = [i for i in said if i in masked]
        if lost and any(facts.sub.is_trained(i) for i in said):
            yield Hit(
                f"{count(len(lost), 'token')} of the {len(said):,} of the answer of message {message} "
                f"{'is' if len(lost) == 1 else 'are'} masked, the first {show(case.subject.token_text(lost[0]))}.",
                key="content",
                turn=message,
                subject=(lost[0], lost[-1] + 1),
            )
