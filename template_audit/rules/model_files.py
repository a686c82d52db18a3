"""Rules of the group Model files: the chat template as it is stored, and as it will be saved."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from template_audit.conversation import Conversation, Message
from template_audit.errors import EncodingError
from template_audit.findings import Severity
from template_audit.rules.evidence import count, show
from template_audit.rules.interface import Case, Hit, ModelCase, refusal_rule, rule
from template_audit.stream import IGNORE

if TYPE_CHECKING:
    from template_audit.model import Model

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")

refusal_rule(
    "template-missing",
    severity="error",
    group="Model files",
    what="The model has no chat template that could be used.",
    why="Nothing says how inference will write a conversation, so nothing can be compared: every runtime falls back "
    "to a guess of its own.",
    advice="Give the template that inference will use with `--chat-template FILE`, and save it beside the weights.",
)


refusal_rule(
    "template-broken",
    severity="error",
    group="Model files",
    what="The chat template does not compile.",
    why="No runtime can render it: serving fails at the first request, or falls back to a guess of its own.",
    advice="Mend the line that the message names, or take the template from the model's publisher again.",
)


@rule(
    "template-source-conflict",
    severity="error",
    group="Model files",
    scope="model",
    what="The model's files hold different chat templates under one name.",
    why="Which one is used depends on the program and its version: transformers reads one file, GGUF converters and "
    "servers another.",
    advice="Keep one template, in chat_template.jinja, and remove the others.",
)
def template_source_conflict(case: ModelCase) -> Iterator[Hit]:
    for other, winner in case.model.template_conflicts:
        if winner is not None and other.template.strip() != winner.template.strip():
            yield Hit(
                f"The template in {other.place} is not the one in {winner.place}, which transformers uses.",
                key=f"{other.place}#{other.name}",
            )


@rule(
    "template-rewritten",
    severity="warning",
    group="Model files",
    scope="model",
    what="The framework saves another chat template beside the weights than the one that it was given.",
    why="Inference with the trained model then uses the framework's template: often without tools, reasoning and "
    "generation prompt.",
    advice="Check the saved template, or put the original back after training.",
)
def template_rewritten(case: ModelCase) -> Iterator[Hit]:
    before, after = case.subject_encoder.effects.chat_template
    if before is not None and after is not None and before != after:
        losses = [
            what
            for what, word in (("tools", "tools"), ("the generation prompt", "add_generation_prompt"))
            if word in before and word not in after
        ]
        yield Hit(
            f"Beside the weights the framework saves a chat template of its own ({len(after):,} characters) in place "
            f"of the model's ({len(before):,})"
            + (f"; it does not know {' and '.join(losses)}" if losses else "")
            + f". {_sample(case.model, after)}",
            key="rewritten",
        )


def _sample(model: Model, template: str) -> str:
    """What a saved template makes of one question and its answer, in a sentence."""
    from template_audit.model.chat_template import Renderer

    talk = Conversation((Message("user", "QUESTION"), Message("assistant", "ANSWER")))
    try:
        text = Renderer(replace(model, chat_templates={"default": template})).render(talk).text
    except EncodingError as error:
        return f"It cannot be rendered: {error}"
    return f"It writes a conversation as {show(text, 200)}."


@rule(
    "missing-generation-tags",
    severity="info",
    group="Model files",
    scope="model",
    what="The chat template has no `{% generation %}` tags.",
    why="Trainers that take the loss mask from the template (TRL's `assistant_only_loss`) cannot use it.",
    advice="Only needed for such trainers: add the tags around what the assistant writes, end marker included.",
)
def missing_generation_tags(case: ModelCase) -> Iterator[Hit]:
    template = case.model.chat_template
    if template is not None and not _GENERATION.search(template):
        yield Hit("The chat template has no `{% generation %}` tags.")


def _has_tags(model: Model) -> bool:
    return any(_GENERATION.search(template) for template in model.chat_templates.values())


@rule(
    "generation-mask-wrong",
    severity="error",
    group="Model files",
    concerns=_has_tags,
    what="The `{% generation %}` tags mark other text than the assistant's turns. A warning where it is the generation "
    "prompt, which inference writes.",
    why="A trainer that goes by the tags trains prompts, or leaves the end of answers out.",
    advice="Put the tags around everything that the model writes, from the end of the generation prompt through the "
    "end marker.",
)
def generation_mask_wrong(case: Case) -> Iterator[Hit]:
    renderer = getattr(case.reference_encoder, "renderer", None)
    template = case.model.template_for(bool(case.conversation.tools))
    if renderer is None or template is None or not _GENERATION.search(template):
        return
    ranges = renderer.render(case.conversation).generation_ranges
    marked = {i for start, end in ranges for i in range(*case.facts.ref.tokens(start, end))}
    trained = {i for i, label in enumerate(case.reference.labels) if label != IGNORE}
    surplus, headers = marked - trained, _headers(case)
    header: Severity = "warning"
    for indices, says, severity in (
        (surplus - headers, "mark {} that the model does not write", None),
        (surplus & headers, "mark {} of the generation prompt", header),
        (trained - marked, "leave out {}", None),
    ):
        heavy = sorted(i for i in indices if case.reference.token_text(i).strip())
        if heavy:
            first = heavy[0]
            yield Hit(
                f"The tags {says.format(count(len(heavy), 'token'))}, first {show(case.reference.token_text(first))}.",
                key=says,
                turn=case.facts.ref.origins[first].message,
                reference=(first, first + 1),
                severity=severity,
            )


def _headers(case: Case) -> set[int]:
    """The reference's tokens that inference writes before its answers."""
    found: set[int] = set()
    for prompt in case.reference.prompts:
        body, shown = case.facts.ref.body(prompt.message), prompt.input_ids
        if prompt.error is None and body and case.reference.input_ids[: len(shown)] == shown:
            found.update(range(case.facts.ref.before(prompt.message)[0], len(shown)))
    return found
