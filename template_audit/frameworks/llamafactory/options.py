"""LLaMA-Factory's own options that touch SFT encoding, and how it checks them.

Source: LLaMA-Factory 0.9.5, hparams/data_args.py (``DataArguments``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from template_audit.errors import UsageError
from template_audit.frameworks.interface import Option
from template_audit.frameworks.llamafactory.registry import Registry

DEFAULT_CLOCK = "2024-07-26T12:00:00"
"""The same pinned moment as that of the chat template, so that both sides show one date."""

OPTIONS = (
    Option("cutoff_len", "int?", None, "Longest example in tokens, cut turn by turn; null: the release's, 2048."),
    Option("train_on_prompt", "bool", False, "Train the prompt tokens too."),
    Option("mask_history", "bool", False, "Train the last turn only; the last turns win when an example is cut."),
    Option("default_system", "str?", None, "Replaces the template's default system text."),
    Option("tool_format", "str?", None, "Replaces the template's format of tool definitions and calls."),
    Option("enable_thinking", "bool?", True, "Reasoning templates: true, false (takes thoughts out) or null."),
    Option("preserve_thinking", "bool", False, "Reasoning templates: keep thoughts in the history under mask_history."),
    Option("packing", "bool?", None, "Pack examples into sequences; lowers cutoff_len by one."),
    Option("neat_packing", "bool", False, "Packing without attention across examples; turns packing on."),
    Option("clock", "str", DEFAULT_CLOCK, "The moment, in ISO 8601, whose date the llama3 tool prompt shows."),
)


@dataclass(frozen=True, slots=True)
class SftOptions:
    """The options in force. `cutoff_len` is what the framework works with: under packing, one less."""

    cutoff_len: int = 2048
    train_on_prompt: bool = False
    mask_history: bool = False
    default_system: str | None = None
    tool_format: str | None = None
    enable_thinking: bool | None = True
    preserve_thinking: bool = False
    packing: bool = False
    neat_packing: bool = False
    clock: datetime = field(default_factory=lambda: datetime.fromisoformat(DEFAULT_CLOCK))

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any], registry: Registry) -> SftOptions:
        """Check the options together, as ``DataArguments.__post_init__`` of a release does.

        `options` may be partial; keys that concern other stages are passed over. Raises UsageError.
        """
        behaviours = registry.behaviours
        for option in OPTIONS:
            given = options.get(option.name, option.default)
            if given != option.default and option.name != "clock" and option.name not in registry.data_args:
                raise UsageError(f"LLaMA-Factory {registry.version} has no option `{option.name}` yet; leave it out.")
        values = {option.name: options.get(option.name, option.default) for option in OPTIONS}
        if values["mask_history"] and values["train_on_prompt"]:
            raise UsageError("LLaMA-Factory refuses `mask_history` together with `train_on_prompt`; set one of them.")
        values["packing"] = bool(values["packing"] or values["neat_packing"])
        if values["cutoff_len"] is None:
            values["cutoff_len"] = behaviours.default_cutoff_len
        inside = behaviours.packing_pad_inside_cutoff_len and behaviours.packing_reserves_padding
        if values["packing"] and (behaviours.packing_lowers_cutoff_len or inside):
            values["cutoff_len"] -= 1
        try:
            values["clock"] = datetime.fromisoformat(values["clock"])
        except ValueError:
            raise UsageError(
                f"Option `clock` takes a moment in ISO 8601, such as {DEFAULT_CLOCK}, got {values['clock']!r}."
            ) from None
        return cls(**values)
