"""What every template of a release writes for a conversation, as text only: enough to rank them.

No tokenizer is copied or changed, and nothing is tokenized, so all templates of a release take a few
milliseconds. The text is that of the encoder's streams, apart from cutting to ``cutoff_len``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from template_audit.conversation import Conversation
from template_audit.errors import EncodingError
from template_audit.frameworks.llamafactory.messages import example_of
from template_audit.frameworks.llamafactory.options import SftOptions
from template_audit.frameworks.llamafactory.registry import Registry, Special, TemplateSpec, Token
from template_audit.frameworks.llamafactory.slots import Element
from template_audit.frameworks.llamafactory.template import in_force, turns_of
from template_audit.frameworks.llamafactory.tool_formats import Release

if TYPE_CHECKING:
    from template_audit.model import Model


def texts(model: Model, conversations: Sequence[Conversation], registry: Registry) -> dict[str, list[str | None]]:
    """For every template one text per conversation; None where the template does not take it."""
    options = SftOptions()
    release = Release(registry.tool_prompts, options.clock, registry.behaviours)
    return {
        name: [_text(model, conversation, in_force(spec, options, registry), release) for conversation in conversations]
        for name, spec in registry.templates.items()
    }


def _text(model: Model, conversation: Conversation, spec: TemplateSpec, release: Release) -> str | None:
    try:
        turns = turns_of(spec, example_of(conversation, spec.thought_words), release, False)
    except EncodingError:
        return None
    except Exception:  # the framework raises whatever Python raises on a message that it cannot format
        return None
    tokenizer = model.tokenizer
    eos = spec.stop_words[0] if spec.replace_eos and spec.stop_words else tokenizer.eos_token
    specials = {"bos_token": str(tokenizer.bos_token or ""), "eos_token": str(eos or "")}
    sides = [block.elements for turn in turns for side in turn for block in side]
    written = "".join(_written(element, specials) for elements in sides for element in elements)
    return written + (specials["eos_token"] if spec.efficient_eos else "")


def _written(element: Element, specials: dict[str, str]) -> str:
    if isinstance(element, Token):
        return element.text
    return specials.get(element.name, "") if isinstance(element, Special) else str.__str__(element)
