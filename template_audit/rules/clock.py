"""A rule of the group Stream that asks the encoders again: on another day, and with other dice."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from template_audit.errors import EncodingError
from template_audit.frameworks.interface import Dated
from template_audit.rules.evidence import sentence, show
from template_audit.rules.interface import Case, Hit, ModelCase, called, rule
from template_audit.stream import common_prefix

if TYPE_CHECKING:
    from template_audit.frameworks.interface import Encoder
    from template_audit.model.chat_template import Renderer

_ANOTHER_DAY = "2031-03-09T21:47:05"
_DICE = re.compile(r"\|\s*random\b")
_THROWS = 8
"""Renderings with other dice; a template that draws one of two texts hides behind all of them once in 256 times."""


@rule(
    "nondeterministic-template",
    severity="warning",
    group="Stream",
    scope="model",
    what="The chat template, or the framework's, writes another text on another day, or draws a text at random.",
    why="What was trained yesterday is not what inference shows today: the model sees a date that it was not trained "
    "with, and recorded ids do not repeat.",
    advice="Pass the date explicitly at inference (Llama's template takes `date_string`), or save a template with a "
    "fixed one. Take `|random` out of a template.",
)
def nondeterministic_template(case: ModelCase) -> Iterator[Hit]:
    reference, subject = case.reference_encoder, case.subject_encoder
    yield from _again(case, reference, sentence(called(reference)))
    if (subject.spec, subject.options) != (reference.spec, reference.options):
        name = "framework's template" if called(subject) != "the chat template" else "chat template in training"
        yield from _again(case, subject, f"The {name}")


def _again(case: ModelCase, encoder: Encoder, name: str) -> Iterator[Hit]:
    if called(encoder) != "the chat template":  # only tool definitions of a framework can hold a date
        yield from _at_another_time(encoder, [one for one in case.cases if one.conversation.tools][:1], name)
        return
    templates = case.model.chat_templates.values()
    if any("strftime_now" in template for template in templates):
        yield from _at_another_time(encoder, case.cases[:1], name)
    if any(_DICE.search(template) for template in templates):
        yield from _with_other_dice(encoder, case.cases, name)


def _at_another_time(encoder: Encoder, cases: Sequence[Case], name: str) -> Iterator[Hit]:
    if not isinstance(encoder, Dated):
        return
    today, later = encoder.at(str(encoder.options["clock"])), encoder.at(_ANOTHER_DAY)
    for case in cases:
        try:
            now, then = today.encode(case.conversation).text, later.encode(case.conversation).text
        except EncodingError:
            continue
        if now != then:
            here, there = _differ(now, then)
            yield Hit(f"{name} writes {here} one day and {there} another.", key=name)


def _with_other_dice(encoder: Encoder, cases: Sequence[Case], name: str) -> Iterator[Hit]:
    renderer: Renderer | None = getattr(encoder, "renderer", None)
    if renderer is None:
        return
    for case in cases:
        for seed in range(1, _THROWS + 1):
            try:
                once, again = (renderer.with_seed(s).render(case.conversation).text for s in (0, seed))
            except EncodingError:
                break
            if once != again:
                here, there = _differ(once, again)
                yield Hit(f"{name} draws at random: it writes {here} one time and {there} another.", key=f"{name} dice")
                return


def _differ(one: str, other: str) -> tuple[str, str]:
    """Both texts where they begin to differ."""
    start = max(common_prefix(one, other) - 12, 0)
    return show(one[start : start + 32]), show(other[start : start + 32])
