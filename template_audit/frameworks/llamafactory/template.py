"""One template at work: messages to the slots that are tokenized, turn by turn.

Source: LLaMA-Factory 0.9.5, data/template.py (Template, Llama2Template, ReasoningTemplate,
Glm47ReasoningTemplate; ``encode_multiturn`` and ``get_template_and_fix_tokenizer``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

from template_audit.frameworks.llamafactory.behaviours import Behaviours
from template_audit.frameworks.llamafactory.messages import Example, ExampleMessage
from template_audit.frameworks.llamafactory.mm_text import process_texts
from template_audit.frameworks.llamafactory.options import SftOptions
from template_audit.frameworks.llamafactory.registry import Formatter, Registry, Special, TemplateSpec
from template_audit.frameworks.llamafactory.slots import Element, ThoughtWords, fill, fill_function, tools_text
from template_audit.frameworks.llamafactory.tool_formats import Release
from template_audit.stream import DEFAULT_SYSTEM, Origin
from template_audit.trace import Traced, join


class Block(NamedTuple):
    """Slots that belong to one message of the conversation (None: to none), in order."""

    message: int | None
    role: str
    elements: list[Element]


Side = list[Block]
"""The prompt or the answer of one turn."""

_ROLES = {"user": "user", "assistant": "assistant", "observation": "tool", "function": "assistant"}


def in_force(spec: TemplateSpec, options: SftOptions, registry: Registry) -> TemplateSpec:
    """The template after the options that change it (``get_template_and_fix_tokenizer``)."""
    if options.tool_format is not None:
        slots = registry.function_slots.get(options.tool_format, ("{{content}}",))
        if not spec.efficient_eos:
            slots = (*slots, Special("eos_token"))
        spec = replace(
            spec,
            format_function=Formatter("function", slots, options.tool_format),
            format_tools=Formatter("tool", (), options.tool_format),
        )
    if options.default_system is not None:
        spec = replace(spec, default_system=options.default_system)
    if is_reasoning(spec):
        spec = replace(spec, enable_thinking=options.enable_thinking, preserve_thinking=options.preserve_thinking)
    return spec


def is_reasoning(spec: TemplateSpec) -> bool:
    """True for the template classes that put thoughts in and take them out."""
    return spec.kind in ("reasoning", "glm47_reasoning")


def turns_of(
    spec: TemplateSpec, example: Example, release: Release, discard_history_thoughts: bool
) -> list[tuple[Side, Side]]:
    """Prompt and answer of every turn, before tokenizing.

    With `discard_history_thoughts` a reasoning template takes the thoughts out of all answers but
    the last. Raises the Python errors of the framework for messages that it cannot format.
    """
    rows = [*example.prompt, *example.response]
    contents = process_texts(spec.mm_plugin, [row.traced() for row in rows], release.behaviours)
    if is_reasoning(spec):
        contents = _without_thoughts(spec, contents, discard_history_thoughts)
    sides: list[Side] = []
    for i, (row, content) in enumerate(zip(rows, contents, strict=True)):
        side: Side = []
        system = ""
        if i == 0:
            opening, system = _opening(spec, example, release)
            side += opening
        elif i % 2 == 0 and spec.format_separator.slots:
            side.append(Block(row.message, _ROLES[row.role], fill(spec.format_separator.slots)))
        elements = _message(spec, i, row, content, system, release)
        side.append(Block(row.message, _ROLES[row.role], elements))
        sides.append(side)
    if is_reasoning(spec):
        _add_empty_thoughts(spec, rows, contents, sides, discard_history_thoughts, release.behaviours)
    return [(sides[i], sides[i + 1]) for i in range(0, len(sides), 2)]


def oneturn_of(spec: TemplateSpec, example: Example, release: Release) -> tuple[Side, Side]:
    """Everything before the last answer, and that answer, as ``encode_oneturn`` has them.

    The preference, KTO and generation processors take examples so. A reasoning template treats the
    last answer alone, and the history's thoughts go unless `preserve_thinking`. Raises as `turns_of`.
    """
    if not is_reasoning(spec) or not spec.preserve_thinking:
        turns = turns_of(spec, example, release, is_reasoning(spec))
        return [block for turn in turns[:-1] for side in turn for block in side] + turns[-1][0], turns[-1][1]
    answer = example.response[-1]
    content = answer.traced()
    if spec.enable_thinking is False:
        content = _remove_thought(spec, content)
    example = replace(example, response=(replace(answer, content=content),))
    prompt, response = oneturn_of(replace(spec, kind="plain"), example, release)
    rows, sides = [*example.prompt[-1:], *example.response], [prompt, response]
    _add_empty_thoughts(spec, rows, [row.traced() for row in rows], sides, True, release.behaviours)
    return sides[0], sides[1]


def _opening(spec: TemplateSpec, example: Example, release: Release) -> tuple[Side, str]:
    """What stands before the first message, and the text that Llama2Template puts into that message."""
    blocks = [Block(None, "system", fill(spec.format_prefix.slots))] if spec.format_prefix.slots else []
    system = _system_text(spec, example)
    if not system and not example.tools:
        return blocks, ""
    tools = tools_text(spec.format_tools, example.tools, release) if example.tools else ""
    elements = fill(spec.format_system.slots, content=join([system, tools]))
    if spec.kind == "llama2":
        return blocks, cast(str, elements[0])
    # BOS and the system text are one turn: that of the system message, when there is one
    head = [element for block in blocks for element in block.elements]
    return [Block(example.system_message, "system", [*head, *elements])], ""


def _system_text(spec: TemplateSpec, example: Example) -> str:
    if not example.system:
        return Traced(spec.default_system, DEFAULT_SYSTEM)
    if isinstance(example.system, Traced):
        return example.system
    return Traced(example.system, Origin(example.system_message, "system"))


def _message(
    spec: TemplateSpec, i: int, row: ExampleMessage, content: Any, system: str, release: Release
) -> list[Element]:
    if row.role == "user":
        if spec.kind == "llama2":
            return fill(spec.format_user.slots, content=system + content if system else content)
        return fill(spec.format_user.slots, content=content, idx=str(i // 2))
    if row.role == "assistant":
        return fill(spec.format_assistant.slots, content=content)
    if row.role == "observation":
        return fill(spec.format_observation.slots, content=content)
    if row.role == "function":
        words = ThoughtWords(spec.thought_words, spec.tool_call_words)
        if spec.kind == "llama2" and not release.behaviours.llama2_function_words:
            words = ThoughtWords(None, None)
        return fill_function(spec.format_function, content, row.message, words, release)
    raise NotImplementedError(f"Unexpected role: {row.role}")


def _without_thoughts(spec: TemplateSpec, contents: Sequence[Any], history: bool) -> list[Any]:
    """The contents after thinking is switched off (all answers) and the history's thoughts are discarded."""
    out = list(contents)
    if spec.enable_thinking is False:
        for i in range(1, len(out), 2):
            out[i] = _remove_thought(spec, out[i])
    if history:
        for i in range(1, len(out) - 2, 2):
            out[i] = _remove_thought(spec, out[i])
    return out


def _remove_thought(spec: TemplateSpec, text: str) -> str:
    first, last = (re.escape(word) for word in spec.thought_words)
    kept: list[str] = []
    end = 0
    for match in re.finditer(f"{first}(.*?){last}", text, re.DOTALL):
        kept.append(text[end : match.start()])
        end = match.end()
    return join([*kept, text[end:]]).lstrip("\n")


def _empty_thought(spec: TemplateSpec, behaviours: Behaviours) -> str:
    if spec.kind == "glm47_reasoning":
        return spec.thought_words[1]
    if behaviours.empty_thought == "spaced":
        return "".join(word + "\n\n" for word in spec.thought_words)
    return spec.thought_words[0] + spec.thought_words[1]


def _add_empty_thoughts(
    spec: TemplateSpec,
    rows: Sequence[ExampleMessage],
    contents: Sequence[Any],
    sides: list[Side],
    last_only: bool,
    behaviours: Behaviours,
) -> None:
    """Put an empty thought before every answer without one: trained when thinking is on, else as prompt."""
    words = [word.strip() if behaviours.thought_search_strips_words else word for word in spec.thought_words]
    for i in [len(rows) - 2] if last_only else range(0, len(rows), 2):
        if any(word in contents[i + 1] for word in words):
            continue
        block = Block(rows[i + 1].message, "assistant", [_empty_thought(spec, behaviours)])
        if spec.enable_thinking:
            sides[i + 1].insert(0, block)
        else:
            sides[i].append(block)
