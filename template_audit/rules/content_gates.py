"""A rule of the group Hostile: templates that listen for words in what people write."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from template_audit.rules.evidence import show
from template_audit.rules.interface import Hit, ModelCase, rule

_MARKUP = re.compile(r"[<\[].*|.*[>\]]", re.S)
"""``</think>``, ``<tool_response>``, ``[BEGIN FINAL RESPONSE]``: text that takes the place of a field."""
_SWITCH = re.compile(r"/\w+|.*(?<![a-z])(no_?)?(think|thinking|reasoning)(?![a-z]).*", re.S | re.I)
"""``/no_think``, ``detailed thinking on``: documented ways of switching reasoning."""
_WORD = re.compile(r"[^\W\d_]{2,}")
_TAG = re.compile(r"<[^<>]*>|\[[^\[\]]*\]")
_PROSE = 4


@rule(
    "content-gated-branch",
    severity="warning",
    group="Hostile",
    scope="model",
    what="The chat template looks for fixed words in what people wrote, and behaves differently when it finds them. "
    "Info when they are markup (`</think>`, `<tool_response>`) or a switch for reasoning (`/no_think`), as in Qwen3, "
    "DeepSeek-R1 and SmolLM3, and the template writes no sentences of its own for them; a warning otherwise. The "
    "template is read and not run: words that are put together from pieces are not seen.",
    why="A user's words, or those of a web page, can then change the prompt around them: a template that writes "
    "instructions when it sees a trigger is a back door that no look at the weights shows. With markup it is a matter "
    "of data: an answer that quotes `</think>` loses everything before it.",
    advice="Read the lines named. Take the template from the model's publisher, and keep markup that the template "
    "acts on out of message text (reasoning belongs into `reasoning_content`).",
)
def content_gated_branch(case: ModelCase) -> Iterator[Hit]:
    from template_audit.model.gates import find_gates

    for name, template in case.model.chat_templates.items():
        known: dict[str, int] = {}
        for gate in find_gates(template):
            literal = gate.literal.strip()
            wordy = _prose(gate.writes)
            if not wordy and (_MARKUP.fullmatch(literal) or _SWITCH.fullmatch(literal) or not _WORD.search(literal)):
                known.setdefault(literal, gate.line)
                continue
            does = "is cut or changed" if gate.cuts else "takes another branch"
            writes = f", where it writes {show(gate.writes.strip(), 120)}" if wordy else ""
            what = "the text" if gate.cuts else "the template"
            yield Hit(
                f"Where message text holds {show(gate.literal)}, {what} {does}{writes} (line {gate.line} of the "
                f"template `{name}`).",
                key=f"{name} {gate.literal}",
            )
        if known:
            places = ", ".join(f"{show(literal)} (line {line})" for literal, line in known.items())
            yield Hit(
                f"The template `{name}` acts on markup in message text: {places}.",
                key=f"{name} markup",
                severity="info",
            )


def _prose(text: str) -> bool:
    """True for text with sentences in it: more than role words and markup."""
    words = chain.from_iterable(_WORD.findall(part) for part in _TAG.sub(" ", text).splitlines())
    return sum(1 for _ in words) >= _PROSE
