"""A rule of the group Stream that asks the encoders again, at another time of day."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from template_audit.errors import EncodingError
from template_audit.rules.evidence import show
from template_audit.rules.interface import Case, Hit, ModelCase, rule

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
    template = "".join(case.model.chat_templates.values())
    if "strftime_now" in template:
        yield from _at_another_time(case.reference_encoder, case.cases[:1], "chat template", reference=True)
    with_tools = [one for one in case.cases if one.conversation.tools]
    yield from _at_another_time(case.subject_encoder, with_tools[:1], "framework's template", reference=False)


def _at_another_time(
    encoder: Encoder, cases: tuple[Case, ...] | list[Case], name: str, *, reference: bool
) -> Iterator[Hit]:
    from template_audit.frameworks import load_encoder

    if not cases or "clock" not in encoder.options:
        return
    later = load_encoder(encoder.spec, encoder.model, **{**encoder.options, "clock": _ANOTHER_DAY})
    for case in cases:
        now = (case.reference if reference else case.subject).text
        try:
            then = later.encode(case.conversation).text
        except EncodingError:
            continue
        if now != then:
            at = next(i for i, (a, b) in enumerate(zip(now, then, strict=False)) if a != b)
            start = max(at - 12, 0)
            yield Hit(
                f"The {name} writes {show(now[start : at + 20])} one day and {show(then[start : at + 20])} another.",
                key=name,
            )
