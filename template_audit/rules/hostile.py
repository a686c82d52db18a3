"""Rules of the group Hostile: templates that hurt whoever renders them, and templates that change by themselves."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator

from template_audit.rules.evidence import count
from template_audit.rules.interface import Hit, ModelCase, refusal_rule, rule

_ADVICE = "Do not use the template; take it from the model's publisher again, and compare."

refusal_rule(
    "template-timeout",
    severity="error",
    group="Hostile",
    what="The chat template did not come to an end in the time that it was given.",
    why="A server that renders it hangs, one request being enough.",
    advice=_ADVICE,
)

refusal_rule(
    "template-too-large",
    severity="error",
    group="Hostile",
    what="The chat template takes too much memory, or writes too much text.",
    why="A server that renders it runs out of memory.",
    advice=_ADVICE,
)

refusal_rule(
    "unsafe-template-access",
    severity="error",
    group="Hostile",
    what="The chat template reaches for Python internals, which the sandbox refuses.",
    why="No honest template needs them. A runtime without a sandbox would run code of the template's author.",
    advice=_ADVICE,
)


@rule(
    "hidden-characters",
    severity="warning",
    group="Hostile",
    scope="model",
    what="The chat template holds characters that no editor shows: control, zero-width or text-direction characters.",
    why="They are tokens like any other, and they can hide instructions from whoever reviews the template.",
    advice="Remove them, unless you know what they are for.",
)
def hidden_characters(case: ModelCase) -> Iterator[Hit]:
    for name, template in case.model.chat_templates.items():
        found = sorted({char for char in template if _hidden(char)})
        for char in found:
            label = unicodedata.name(char, "a control character")
            places = count(template.count(char), "time")
            yield Hit(
                f"U+{ord(char):04X} ({label}) stands {places} in the template `{name}`.",
                key=f"{name} U+{ord(char):04X}",
            )


def _hidden(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cf", "Co", "Zl", "Zp") and char not in "\n\r\t"
