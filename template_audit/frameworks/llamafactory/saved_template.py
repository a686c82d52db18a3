"""The chat template that the framework writes into the tokenizer, and so beside the weights.

Source: LLaMA-Factory 0.9.5, data/template.py (``_convert_slots_to_jinja``, ``_get_jinja_template``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from template_audit.frameworks.llamafactory.behaviours import Behaviours
from template_audit.frameworks.llamafactory.registry import Slot, Special, TemplateSpec, Token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_TAKE_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
    "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% endif %}"
)


def saved_template(
    spec: TemplateSpec, tokenizer: PreTrainedTokenizerBase, behaviours: Behaviours | None = None
) -> str | None:
    """The Jinja template made of `spec`, or None when it can't be made (a slot that is a token look-up).

    `tokenizer` is the changed one: its bos and eos tokens are written out. The template knows
    system, user and assistant messages; tools and thoughts are not in it.
    """
    parts = (spec.format_prefix, spec.format_system, spec.format_user, spec.format_assistant, spec.format_separator)
    if any(isinstance(slot, Token) for part in parts for slot in part.slots):
        return None
    prefix = _expression(spec.format_prefix.slots, tokenizer)
    system = _expression(spec.format_system.slots, tokenizer, "system_message")
    user = _expression(spec.format_user.slots, tokenizer)
    assistant = _expression((*spec.format_assistant.slots, *spec.format_separator.slots), tokenizer)
    out = "{{ " + prefix + " }}" if prefix else ""
    if spec.default_system:
        out += "{% set system_message = " + _quoted(spec.default_system) + " %}"
    out += _TAKE_SYSTEM
    each, content = "{% for message in loop_messages %}", "{% set content = message['content'] %}"
    if spec.kind == "llama2":
        first = "{% if loop.index0 == 0 and system_message is defined %}"
        with_system = "{% set content = " + system + " + message['content'] %}"
        if behaviours is not None and behaviours.llama2_jinja == "override":
            out += each + content + first + with_system + "{% endif %}"
        else:
            out += each + first + with_system + "{% else %}" + content + "{% endif %}"
    else:
        out += "{% if system_message is defined %}{{ " + system + " }}{% endif %}" + each + content
    return out + (
        "{% if message['role'] == 'user' %}{{ " + user + " }}"
        "{% elif message['role'] == 'assistant' %}{{ " + assistant + " }}{% endif %}{% endfor %}"
    )


def _expression(slots: Sequence[Slot], tokenizer: PreTrainedTokenizerBase, variable: str = "content") -> str:
    items: list[str] = []
    for slot in slots:
        if isinstance(slot, str):
            before, *rest = slot.split("{{content}}")
            items += [_quoted(before)] if before else []
            if rest:  # a second placeholder in one slot, and what follows it, is left out
                items.append(variable)
                items += [_quoted(rest[0])] if rest[0] else []
        elif isinstance(slot, Special):
            token = special_token(slot, tokenizer)
            items += [] if token is None else ["'" + token[0] + "'"]
    return " + ".join(items)


def special_token(slot: Special, tokenizer: PreTrainedTokenizerBase) -> tuple[str, int] | None:
    """Text and id of the tokenizer's bos or eos token; None where the slot is skipped.

    That is when the tokenizer has no such token, and for any other name (phi_small has one in 0.9.5).
    """
    if slot.name == "bos_token" and tokenizer.bos_token_id is not None:
        return str(tokenizer.bos_token), int(tokenizer.bos_token_id)
    if slot.name == "eos_token" and tokenizer.eos_token_id is not None:
        return str(tokenizer.eos_token), int(tokenizer.eos_token_id)
    return None


def _quoted(text: str) -> str:
    return "'" + text.replace("'", r"\'") + "'"
