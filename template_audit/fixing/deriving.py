"""LLaMA-Factory templates that a chat template may be, derived from what it shows.

Nothing here decides: where the framework leaves a choice (which text ends an answer and which begins the next
question, whether a default system text is one), every choice is a candidate, and the audit picks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from template_audit.fixing.shown import Shown
from template_audit.frameworks.llamafactory.registry import (
    Formatter,
    Registry,
    Slot,
    Special,
    TemplateKind,
    TemplateSpec,
)

if TYPE_CHECKING:
    from template_audit.model import Model

_PLACEHOLDER = re.compile(r"\{\{[a-zA-Z_][a-zA-Z0-9_]*\}\}")
_CONTENT = "{{content}}"
MAX_CANDIDATES = 40


@dataclass(frozen=True, slots=True)
class Frame:
    """The texts around messages, cut into a template's slots.

    `empty_system` is set when the chat template writes a system block without a text, which a template of the
    framework has either always (``always``) or never (``never``).
    """

    prefix: str
    question: tuple[str, str]
    answer: tuple[str, str]
    system: tuple[str, str] | None = None
    default_system: str = ""
    kind: TemplateKind = "plain"
    efficient_eos: bool = False
    thought: tuple[str, str] | None = None
    empty_system: str = ""


def frames(model: Model, seen: Shown, registry: Registry) -> list[Frame]:
    """Every way to cut what `seen` shows that keeps all of the text of the first turn."""
    kinds = {spec.kind for spec in registry.templates.values()}
    found: dict[Frame, None] = {}
    for end, head, efficient in _splits(model, seen):
        if not seen.first.endswith(head):
            continue
        for frame in _systems(model, seen, head):
            for cut in _answers(seen, replace(frame, efficient_eos=efficient), end):
                if cut.kind in kinds and not _has_placeholder(cut):
                    found[cut] = None
    return list(found)[:MAX_CANDIDATES]


def _splits(model: Model, seen: Shown) -> Iterator[tuple[str, str, bool]]:
    """What ends an answer, what begins a question, and whether the eos token alone ends the last answer."""
    if seen.later.startswith(seen.end):
        yield seen.end, seen.later[len(seen.end) :], False
        if seen.first.endswith(seen.later[len(seen.end) :]):
            return
    elif seen.end and seen.first.endswith(seen.later):
        yield "", seen.later, True
    cut = min((at for at in _edges(model, seen.later) if seen.first.endswith(seen.later[at:])), default=0)
    if 0 < cut < len(seen.later):
        yield seen.later[:cut], seen.later[cut:], False
    if seen.first:  # the whole head of the first question, and an answer that ends as the last one does
        yield seen.end, seen.first, False


def _edges(model: Model, text: str) -> Iterator[int]:
    """The places in `text` at which no added token is cut in two."""
    names = sorted(
        {str(t.content) for t in model.tokenizer.added_tokens_decoder.values()} - {""}, key=len, reverse=True
    )
    inside: set[int] = set()
    for match in re.finditer("|".join(map(re.escape, names)), text) if names else ():
        inside.update(range(match.start() + 1, match.end()))
    return (at for at in range(len(text)) if at not in inside)


def _systems(model: Model, seen: Shown, head: str) -> Iterator[Frame]:
    """The text before the first question, cut into prefix and system block."""
    rest = seen.first[: len(seen.first) - len(head)]
    plain = Frame(rest, (head, ""), ("", ""))
    if seen.system is None:
        yield plain
        return
    before, after = seen.system
    bos = str(model.tokenizer.bos_token or "")
    lead = bos if bos and before.startswith(bos) else ""
    if before.startswith(seen.first) and not after.endswith(head):
        yield replace(plain, system=(before[len(seen.first) :], after), kind="llama2")
        return
    if not after.endswith(head):
        yield plain
        return
    tail = after[: len(after) - len(head)]
    if rest.startswith(before) and rest.endswith(tail) and len(rest) >= len(before) + len(tail):
        default = rest[len(before) : len(rest) - len(tail)]
        block = replace(plain, prefix=lead, system=(before[len(lead) :], tail), default_system=default)
        if default:
            yield block
            return
        if before + tail == lead:  # the system text stands there bare
            yield block
            return
        yield replace(plain, system=(before[len(lead) :], tail), empty_system="always")
        yield replace(block, empty_system="never")
    elif before.startswith(rest):
        yield replace(plain, system=(before[len(rest) :], tail))
    elif rest.startswith(before) and before != lead:  # a default text that ends in another way than one that is given
        written = rest[len(before) :]
        same = next((n for n in range(len(tail), 0, -1) if written.endswith(tail[-n:])), 0)
        default = written[: len(written) - same]
        block = replace(plain, system=(before[len(lead) :], tail))
        yield replace(block, prefix=lead, default_system=default, empty_system="" if default else "never")
        yield replace(block, empty_system="always")
    else:
        shared = next((n for n in range(min(len(rest), len(before)), -1, -1) if rest[:n] == before[:n]), 0)
        yield replace(plain, system=(before[shared:], tail), empty_system="always")
        yield replace(plain, prefix=before[:shared], system=(before[shared:], tail), empty_system="never")


def _answers(seen: Shown, frame: Frame, end: str) -> Iterator[Frame]:
    """The text between question and answer, cut into prompt and answer, and what thoughts stand in."""
    tails = [tail for tail in (seen.prompt, *seen.answered) if tail is not None]
    for tail in dict.fromkeys(tails):
        heads = [text[len(tail) :] for text in seen.answered if text.startswith(tail)] or [""]
        for head in dict.fromkeys((*reversed(heads), "")):
            cut = replace(frame, question=(frame.question[0], tail), answer=(head, end))
            yield from _thoughts(seen, cut)


def _thoughts(seen: Shown, frame: Frame) -> Iterator[Frame]:
    tail, (head, _) = frame.question[1], frame.answer
    if seen.thought is None:
        yield frame
        return
    before, after = seen.thought
    opening = before[len(tail) :] if before.startswith(tail) else "" if tail.startswith(before) else None
    if opening is None:
        yield frame
        return
    if head and opening.startswith(head):
        yield replace(frame, thought=(opening[len(head) :], after))
    elif not head:
        yield replace(frame, thought=(opening, after))
        if frame.kind == "plain" and opening:
            yield replace(frame, thought=(opening, after), kind="reasoning")
            yield replace(frame, thought=(opening, after), kind="glm47_reasoning")
    else:
        yield frame


def _has_placeholder(frame: Frame) -> bool:
    texts = [frame.prefix, *frame.question, *frame.answer, *(frame.system or ())]
    return any(_PLACEHOLDER.search(text) for text in texts)


def spec_of(model: Model, frame: Frame, name: str, terminator: str | None) -> TemplateSpec:
    """The template of a frame. `terminator` is the token at which an answer ends, None when it has none."""
    question = around(*frame.question)
    answer = around(*frame.answer)
    bos, eos = str(model.tokenizer.bos_token or ""), model.tokenizer.eos_token
    prefix: tuple[Slot, ...] = (frame.prefix,) if frame.prefix else ()
    if bos and frame.prefix.startswith(bos):
        rest = frame.prefix[len(bos) :]
        prefix = (Special("bos_token"), *((rest,) if rest else ()))
    replaces = terminator is not None and terminator != eos
    return TemplateSpec(
        name=name,
        kind=frame.kind,
        format_user=question,
        format_assistant=answer,
        format_system=around(*(frame.system or ("", ""))),
        format_function=Formatter("function", answer.slots, "default"),
        format_observation=question,
        format_tools=Formatter("tool", (), "default"),
        format_prefix=Formatter("empty", prefix),
        default_system=frame.default_system,
        stop_words=(terminator,) if replaces and terminator is not None else (),
        thought_words=frame.thought or ("<think>\n", "\n</think>\n\n"),
        efficient_eos=frame.efficient_eos,
        replace_eos=replaces,
    )


def around(before: str, after: str) -> Formatter:
    """A slot with the content between two texts."""
    return Formatter("string", (f"{before}{_CONTENT}{after}",))


def terminator_of(model: Model, end: str) -> str | None:
    """The token in `end` at which inference stops; the first special token when none of them is one."""
    from template_audit.model.tokenizer import encode_texts

    tokenizer = model.tokenizer
    added = tokenizer.added_tokens_decoder
    ids = encode_texts(tokenizer, [end])[0][0] if end else []
    for wanted in (model.stop_token_ids, {i for i, token in added.items() if token.special}):
        for token_id in ids:
            if token_id in wanted:
                return str(added[token_id].content) if token_id in added else str(tokenizer.eos_token)
    return None


def with_headers_in_answers(model: Model, spec: TemplateSpec) -> TemplateSpec | None:
    """The same text, the answer's header moved from the prompt into the answer; None when it has no special token.

    An answer is tokenized on its own; a tokenizer that puts a blank before every text does it there, too, unless
    the text begins with a special token.
    """
    specials = sorted({str(t.content) for t in model.tokenizer.added_tokens_decoder.values() if t.special}, key=len)

    def cut(formatter: Formatter) -> tuple[Formatter, str] | None:
        (slot,) = formatter.slots if len(formatter.slots) == 1 else ("",)
        if not isinstance(slot, str):
            return None
        tail = slot.rpartition(_CONTENT)[2]
        at = max((tail.rfind(token) for token in specials), default=-1)
        if at < 0:
            return None
        return replace(formatter, slots=(slot[: len(slot) - len(tail) + at],)), tail[at:]

    user, result = cut(spec.format_user), cut(spec.format_observation)
    if user is None or result is None or user[1] != result[1]:
        return None

    def headed(formatter: Formatter) -> Formatter:
        first, *rest = formatter.slots
        return replace(formatter, slots=(f"{user[1]}{first}" if isinstance(first, str) else first, *rest))

    return replace(
        spec,
        format_user=user[0],
        format_observation=result[0],
        format_assistant=headed(spec.format_assistant),
        format_function=headed(spec.format_function),
    )
