"""A rule of the group Stream that asks the encoders again, at another time of day."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from template_audit.errors import EncodingError
from template_audit.frameworks.interface import Dated
from template_audit.rules.evidence import show
from template_audit.rules.interface import Case, Hit, ModelCase, rule
from template_audit.stream import common_prefix

if TYPE_CHECKING:
    from template_audit.frameworks.interface import Encoder

_ANOTHER_DAY = "2031-03-09T21:47:05"


@rule(
    "nondeterministic-template",
    severity="warning",
    group="Stream",
    scope="model",
    what="The chat template, or the framework's, writes another text on another day.",
    why="What was trained yesterday is not what inference shows today: the model sees a date that it was not trained "
    "with, and recorded ids do not repeat.",
    advice="Pass the date explicitly at inference (Llama's template takes `date_string`), or save a template with a "
    "fixed one.",
)
def nondeterministic_template(case: ModelCase) -> Iterator[Hit]:
    if any("strftime_now" in template for template in case.model.chat_templates.values()):
        yield from _at_another_time(case.reference_encoder, case.cases[:1], "chat template")
    with_tools = [one for one in case.cases if one.conversation.tools]
    yield from _at_another_time(case.subject_encoder, with_tools[:1], "framework's template")


def _at_another_time(encoder: Encoder, cases: Sequence[Case], name: str) -> Iterator[Hit]:
    if not cases or not isinstance(encoder, Dated):
        return
    today, later = encoder.at(str(encoder.options["clock"])), encoder.at(_ANOTHER_DAY)
    for case in cases:
        try:
            now, then = today.encode(case.conversation).text, later.encode(case.conversation).text
        except EncodingError:
            continue
        if now != then:
            start = max(common_prefix(now, then) - 12, 0)
            here, there = show(now[start : start + 32]), show(then[start : start + 32])
            yield Hit(f"The {name} writes {here} one day and {there} another.", key=name)
