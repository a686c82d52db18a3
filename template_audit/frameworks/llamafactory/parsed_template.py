"""``template: null``: the template that the framework reads off the tokenizer's chat template.

Source: LLaMA-Factory 0.9.5, data/template.py (``parse_template``). The chat template is rendered in
the contained worker.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from template_audit.conversation import Conversation, Message
from template_audit.errors import EncodingError, UsageError
from template_audit.frameworks.llamafactory.registry import Formatter, Registry, TemplateSpec

if TYPE_CHECKING:
    from template_audit.model import Model

NULL = "null"
"""How a SPEC asks for it: ``llamafactory:null``."""

_CONTENT = "{{content}}"
_PLACEHOLDER = re.compile(r"\{\{[a-zA-Z_][a-zA-Z0-9_]*\}\}")


def null_template(model: Model, registry: Registry, clock: str) -> TemplateSpec:
    """The template of a run that names none, with the chat template's own date at `clock` (ISO 8601).

    Without a (single) chat template, and in releases that do not parse one, it is ``empty``. Raises
    UsageError where the framework stops: the chat template raises on what it is tried with, or
    leaves the content out.
    """
    behaviours = registry.behaviours
    if behaviours.chat_template_parser == "none" or not isinstance(model.tokenizer.chat_template, str):
        return replace(registry.templates["empty"], name=NULL)
    prefix, system, user, assistant, default_system = _slots(model, clock)
    reasoning = False
    words = ("<think>", "</think>")
    if behaviours.chat_template_parser == "reasoning_aware":
        reasoning = "<think>" in assistant
        assistant = assistant.replace("<think>", "").replace("</think>", "").lstrip("\n")
        if behaviours.parsed_thoughts_have_newlines:
            words = ("<think>\n", "\n</think>\n\n")
    for slot, name in ((system, "system"), (user, "user"), (assistant, "assistant")):
        if not _PLACEHOLDER.search(slot):
            raise UsageError(
                f"LLaMA-Factory stops at `template: null`: the chat template of {model.id} leaves out the content of "
                f"{name} messages. Name a template, as in `llamafactory:chatml`."
            )
    return TemplateSpec(
        name=NULL,
        kind="reasoning" if reasoning else "plain",
        format_user=Formatter("string", (user,)),
        format_assistant=Formatter("string", (assistant,)),
        format_system=Formatter("string", (system,)),
        format_function=Formatter("function", (assistant,), "default"),
        format_observation=Formatter("string", (user,)),
        format_tools=Formatter("tool", (), "default"),
        format_prefix=Formatter("empty", (prefix,) if prefix else ()),
        default_system=default_system,
        thought_words=words,
    )


def _slots(model: Model, clock: str) -> tuple[str, str, str, str, str]:
    """Prefix, system, user and assistant slot, and the default system text."""
    from template_audit.model.chat_template import Renderer

    tokenizer = model.tokenizer
    renderer = Renderer(model, clock=clock)

    def render(*messages: tuple[str, str], prompt: bool) -> str:
        conversation = Conversation(tuple(Message(role, content) for role, content in messages))  # type: ignore[arg-type]
        try:
            return str(renderer.render(conversation, add_generation_prompt=prompt).text)
        except EncodingError as error:
            raise UsageError(f"LLaMA-Factory stops at `template: null` on {model.id}: {error}") from None

    prefix = str(tokenizer.decode(tokenizer.encode("")))
    system = render(("system", _CONTENT), prompt=False)[len(prefix) :]
    user_after_empty_system = render(("system", ""), ("user", _CONTENT), prompt=True)[len(prefix) :]
    user = render(("user", _CONTENT), prompt=True)[len(prefix) :]
    assistant = render(("user", _CONTENT), ("assistant", _CONTENT), prompt=False)[len(prefix) + len(user) :]
    default_system = ""
    if len(user) > len(user_after_empty_system):
        default_system = _left_over(user_after_empty_system, user)
        user = user[len(system.replace(_CONTENT, default_system, 1)) :]
    return prefix, system, user, assistant, default_system


def _left_over(short: str, long: str) -> str:
    """The characters of `long` that a greedy walk along `short` passes over."""
    at = 0
    out: list[str] = []
    for char in long:
        if at == len(short):
            break
        if short[at] == char:
            at += 1
        else:
            out.append(char)
    return "".join(out)
