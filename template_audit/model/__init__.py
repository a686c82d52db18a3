"""What a model repository says: tokenizer, chat templates, special tokens, generation config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from template_audit.model.source import load_model

_NO_ID = 1 << 31  # tokenizers count in 32 bits

__all__ = ["Model", "ModelFile", "TemplateSource", "load_model"]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file that was read: its path inside the repository and the sha256 of its bytes."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class TemplateSource:
    """One place where a chat template was found.

    `place` is such as ``tokenizer_config.json#chat_template``. `name` is ``default`` or the name of
    a named template (``tool_use``, ``rag``). `wins` marks the one that transformers uses.
    """

    place: str
    name: str
    template: str
    wins: bool


@dataclass(frozen=True, slots=True)
class Model:
    """A model repository as read by the installed transformers. Treat as immutable.

    `tokenizer` belongs to the Model: an encoder that needs to change it works on a copy.
    `chat_templates` maps names to templates (``default``, ``tool_use``, …); empty when the model has none.
    `generation_config` and `config` are the parsed JSON files, empty when absent. `path` is the folder
    (in the hub's cache for a hub model), or the .gguf file. `revision` is the resolved commit of a hub
    model, None for local ones. `template_sources` lists every place, in the order of transformers'
    preference. `notes` are remarks for the report: disagreeing template places, what transformers
    warned about while loading, a cached copy used because the hub was out of reach.
    """

    id: str
    revision: str | None
    path: Path
    files: tuple[ModelFile, ...]
    tokenizer: PreTrainedTokenizerBase
    chat_templates: Mapping[str, str]
    template_sources: tuple[TemplateSource, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def chat_template(self) -> str | None:
        """The template used when no tools are given, None when no template is called ``default``."""
        return self.chat_templates.get("default")

    def template_for(self, has_tools: bool) -> str | None:
        """The template that transformers picks (`PreTrainedTokenizerBase.get_chat_template`)."""
        if has_tools and "tool_use" in self.chat_templates:
            return self.chat_templates["tool_use"]
        return self.chat_template

    @property
    def template_conflicts(self) -> tuple[tuple[TemplateSource, TemplateSource | None], ...]:
        """Places whose template is not the one in use: pairs (that place, the winner or None).

        The winner is None when transformers uses no template of that name at all. Empty when the
        user replaced the template by ``--chat-template``.
        """
        winners = {source.name: source for source in self.template_sources if source.wins}
        if any(source.place.startswith("--chat-template") for source in winners.values()):
            return ()
        pairs = [(source, winners.get(source.name)) for source in self.template_sources if not source.wins]
        return tuple((loser, winner) for loser, winner in pairs if winner is None or winner.template != loser.template)

    @property
    def configured_stops(self) -> frozenset[int]:
        """The `eos_token_id` of the generation config, one or several; what is no id there is passed over."""
        given = self.generation_config.get("eos_token_id")
        ids = given if isinstance(given, list) else [given]
        return frozenset(id for id in ids if type(id) is int and 0 <= id < _NO_ID)

    @property
    def stop_token_ids(self) -> frozenset[int]:
        """Ids at which generation stops: those of the generation config and the tokenizer's eos."""
        eos = self.tokenizer.eos_token_id
        return self.configured_stops | ({eos} if eos is not None else set())


def __getattr__(name: str) -> Any:
    if name == "load_model":  # source.py imports this module, so it is imported on first use
        from template_audit.model.source import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
