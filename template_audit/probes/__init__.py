"""Conversations that ship with the tool, each made to provoke particular rules."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from template_audit.conversation import Conversation
from template_audit.errors import UsageError

if TYPE_CHECKING:
    from template_audit.model import Model

_FALLBACK = {"turn_marker": "<|im_start|>", "end_marker": "<|im_end|>"}


@dataclass(frozen=True, slots=True)
class Probe:
    """A built-in conversation.

    `provokes` says what it is for. `needs` are the capabilities without which a model cannot take it:
    ``system``, ``tools``, ``reasoning``. `provoked` are rules that this probe makes fire by what it
    says, whatever model and template are like: such a finding is info, not an accusation.
    """

    id: str
    provokes: str
    needs: tuple[str, ...]
    provoked: frozenset[str]
    data: Mapping[str, Any]

    def conversation(self, markers: Mapping[str, str] = _FALLBACK) -> Conversation:
        """The conversation with ``${turn_marker}`` and ``${end_marker}`` filled in."""
        return Conversation.from_openai(_filled(self.data, markers), id=self.id, where=f"probe {self.id}")


@cache
def probes() -> dict[str, Probe]:
    """Every probe by id, in the order of the file."""
    rows = json.loads(files(__name__).joinpath("probes.json").read_text(encoding="utf-8"))
    return {
        row["id"]: Probe(
            id=row["id"],
            provokes=row["provokes"],
            needs=tuple(row.get("needs", ())),
            provoked=frozenset(row.get("provoked", ())),
            data={"messages": row["messages"], "tools": row.get("tools")},
        )
        for row in rows
    }


def load_probes(model: Model | None = None) -> list[Conversation]:
    """All built-in conversations. The control tokens that some contain are `model`'s own."""
    markers = _markers(model)
    return [probe.conversation(markers) for probe in probes().values()]


def probe(id: str, model: Model | None = None) -> Conversation:
    """One built-in conversation. Raises UsageError with the nearest known id."""
    if id not in probes():
        from template_audit.frameworks import nearest

        raise UsageError(f"There is no probe `{id}`; known are {', '.join(probes())}.{nearest(id, list(probes()))}")
    return probes()[id].conversation(_markers(model))


def _markers(model: Model | None) -> Mapping[str, str]:
    """A marker with which the model's template begins a turn, and the one that ends it."""
    if model is None:
        return _FALLBACK
    tokenizer, template = model.tokenizer, model.chat_template or ""
    specials = [
        str(t.content) for t in tokenizer.added_tokens_decoder.values() if t.special and str(t.content) in template
    ]
    end = str(tokenizer.eos_token) if tokenizer.eos_token else _FALLBACK["end_marker"]
    others = [text for text in specials if text not in (end, tokenizer.bos_token)]
    return {"turn_marker": min(others, key=template.index) if others else end, "end_marker": end}


def _filled(value: Any, markers: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for name, text in markers.items():
            value = value.replace("${" + name + "}", text)
        return value
    if isinstance(value, list):
        return [_filled(item, markers) for item in value]
    if isinstance(value, dict):
        filled = {key: _filled(item, markers) for key, item in value.items() if key != "repeat"}
        if "repeat" in value:  # a long text, kept short in the file
            filled["content"] *= value["repeat"]
        return filled
    return value
