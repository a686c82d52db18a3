"""What a LLaMA-Factory template cannot say of a chat template, as limits with the findings that follow."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from template_audit.fixing.limits import (
    Limit,
    of_several_turns,
    padded,
    with_reasoning,
    with_system,
    with_tools,
    without_reasoning,
    without_system,
)
from template_audit.fixing.shown import Shown
from template_audit.rules.evidence import show

if TYPE_CHECKING:
    from template_audit.frameworks.llamafactory.registry import TemplateSpec

_TEXT = ("token-drift", "whitespace-drift", "generation-prompt-drift", "not-prefix-stable")
_SYSTEM = ("system-prompt-drift", *_TEXT)
_TOOLS = (
    *("tool-layout-drift", "field-dropped", "message-dropped", "role-unsupported", "header-trained"),
    *("missing-turn-end", "wrong-turn-end", "duplicate-turn-end", "turn-end-untrained", "thinking-injected"),
    *_SYSTEM,
)
_THINKING = (
    "thinking-injected",
    "thinking-stripped",
    "field-dropped",
    "history-trained",
    "reasoning-partly-trained",
    *_TEXT,
)
_ENDS = ("wrong-turn-end", "missing-turn-end", "duplicate-turn-end", "turn-end-untrained", "trained-after-turn-end")


def limits_of(seen: Shown, spec: TemplateSpec, missing: Sequence[str]) -> list[Limit]:
    """The limits of `spec`, a template that was chosen for what `seen` shows; `missing` is what tools lack."""
    return [
        *_OF_TOKENS,
        *_of_the_date(seen, spec),
        *_of_tools(seen, spec, missing),
        *_of_trimming(seen, ("whitespace-drift",)),
        *_of_system(seen, spec),
        *_of_trimming(seen, _SYSTEM),
        *_of_answers(seen, spec),
    ]


def _of_the_date(seen: Shown, spec: TemplateSpec) -> Iterator[Limit]:
    sentences = []
    if seen.dated:
        sentences.append(
            "The chat template writes today's date, and a template of LLaMA-Factory holds a fixed one: that of the "
            f"audit's clock, {seen.clock[:10]}, or of `--clock`. Show the same date at inference."
        )
    if spec.format_tools.tool_format == "llama3":
        sentences.append("LLaMA-Factory's tool prompt `llama3` carries the date of the day of training.")
    if sentences:
        yield Limit(" ".join(sentences), ("nondeterministic-template",))


def _of_system(seen: Shown, spec: TemplateSpec) -> Iterator[Limit]:
    if seen.system is None:
        yield Limit(
            "The chat template takes no system message, or hides it; LLaMA-Factory writes one that the data has.",
            ("role-unsupported", *_SYSTEM),
            with_system,
        )
        return
    yield from _of_empty_system(seen, spec)
    if spec.kind == "llama2":
        yield Limit(
            "The chat template merges the system text into a question; LLaMA-Factory does so with the first one only, "
            "and tokenizes both together.",
            _SYSTEM,
            with_system,
        )


def _of_empty_system(seen: Shown, spec: TemplateSpec) -> Iterator[Limit]:
    """LLaMA-Factory writes a system block when there is a text for it, its default or the tools, and else none."""
    assert seen.system is not None
    before, after = seen.system
    question = _slot(spec, "format_user").partition("{{content}}")[0]
    if spec.kind != "llama2" and not spec.default_system and seen.first == before + after != question:
        prefix = _slot(spec, "format_prefix")
        block = seen.first[: len(seen.first) - len(question)]
        if prefix and block.endswith(prefix):
            yield Limit(
                "The chat template writes a system block even without a system text. LLaMA-Factory leaves the block "
                "out then, so the snippet has it in the prefix: right without a system text, one block too many with "
                "one.",
                _SYSTEM,
                with_system,
            )
        else:
            yield Limit(
                f"The chat template writes a system block ({show(block)}) even without a system text; LLaMA-Factory "
                "leaves it out. Give every example a system text; or, if none has one, put the block into "
                "format_prefix.",
                _SYSTEM,
                without_system,
            )
    if seen.no_system is not None:
        yield Limit(
            "An empty system message: the chat template writes an empty block where LLaMA-Factory takes the default "
            "system text, or none.",
            _SYSTEM,
            lambda conversation: conversation.system == "",
        )


def _of_trimming(seen: Shown, rules: Collection[str]) -> Iterator[Limit]:
    if seen.trims:
        yield Limit(
            f"The chat template trims the text of {' and '.join(seen.trims)} messages; LLaMA-Factory writes it as it "
            "is. Trim the data.",
            rules,
            padded,
        )


def _of_answers(seen: Shown, spec: TemplateSpec) -> Iterator[Limit]:
    prompt, (history, last) = seen.prompt, seen.answered
    head = _slot(spec, "format_assistant").partition("{{content}}")[0]
    if prompt is not None and head and prompt.endswith(head):
        yield Limit(
            "The header of an answer is tokenized with the answer, so that its tokens are those of inference; it "
            "counts in the loss then.",
            ("header-trained",),
        )
    if prompt is not None and not (history.startswith(prompt) and last.startswith(prompt)):
        yield Limit(
            "The chat template shows another text before an answer at inference (the generation prompt) than in the "
            "history; LLaMA-Factory has one text for both.",
            (*_THINKING, "header-trained"),
        )
    elif history != last:
        yield Limit(
            "The chat template writes the last answer differently from earlier ones; LLaMA-Factory writes all alike. "
            "Training the last turn only (`mask_history: true`) comes closest.",
            _THINKING,
            without_reasoning,
        )
    if not seen.later.startswith(seen.end):
        yield Limit(
            "The chat template ends the last answer differently from earlier ones; LLaMA-Factory has one end for all.",
            (*_ENDS, *_TEXT),
        )
    if seen.strips_thoughts:
        yield Limit(
            "The chat template leaves the reasoning of earlier answers out; LLaMA-Factory does so only with "
            "`mask_history: true` and a ReasoningTemplate.",
            _THINKING,
            lambda conversation: with_reasoning(conversation) and of_several_turns(conversation),
        )
    if seen.thought is None:
        yield Limit(
            "The chat template writes no reasoning; LLaMA-Factory trains what the data has in front of the answer.",
            _THINKING,
            with_reasoning,
        )
    elif not _thinks(seen, spec):
        yield Limit(
            "The chat template puts reasoning where no thought words of LLaMA-Factory can put it.",
            (*_THINKING, "header-trained", *_ENDS),
            with_reasoning,
        )


def _of_tools(seen: Shown, spec: TemplateSpec, missing: Sequence[str]) -> Iterator[Limit]:
    for sentence in missing:
        yield Limit(sentence, _TOOLS, with_tools)
    if seen.call is not None:
        yield Limit(
            "Several tool results in a row, or text beside a call: LLaMA-Factory joins the results with "
            "`</tool_response>` tags, and drops the text.",
            _TOOLS,
            lambda c: (
                any(m.tool_calls and m.content for m in c.messages)
                or any(a.role == b.role == "tool" for a, b in zip(c.messages, c.messages[1:], strict=False))
            ),
        )


_OF_TOKENS = (
    Limit(
        "LLaMA-Factory tokenizes every slot on its own; where the tokenizer treats the beginning of a text "
        "differently, or merges across the border, ids differ although the text is the same.",
        ("segmentation-drift",),
    ),
)


def _thinks(seen: Shown, spec: TemplateSpec) -> bool:
    """True when the template's thought words give the chat template's text."""
    assert seen.thought is not None
    before, after = seen.thought
    tail = _slot(spec, "format_user").rpartition("{{content}}")[2]
    head = _slot(spec, "format_assistant").partition("{{content}}")[0]
    opening, closing = spec.thought_words
    return tail + head + opening == before and closing == after


def _slot(spec: TemplateSpec, name: str) -> str:
    slots = getattr(spec, name).slots
    return "".join(slot for slot in slots if isinstance(slot, str))
