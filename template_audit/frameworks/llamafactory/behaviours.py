"""What LLaMA-Factory's code does differently from release to release, as named facts.

Code that encodes asks these names, never a version number. The importer finds them in a release's
source by its structure; ``docs/llamafactory-releases.md`` lists them per release.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Behaviours:
    """One release's named behaviours; the defaults are those of 0.9.5."""

    efficient_eos_label_on_first_turn: bool = False
    """The first turn's first prompt token too carries the eos label of an ``efficient_eos`` template.
    True up to 0.9.3; since 0.9.4 only the later turns carry it."""

    pretrain_bos: Literal["gemma_template", "add_bos_token"] = "add_bos_token"
    """What makes pre-training put BOS in: ``template: gemma`` (up to 0.9.1) or the tokenizer's ``add_bos_token``."""

    def to_json(self) -> dict[str, Any]:
        """Every behaviour by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Behaviours:
        """The inverse of `to_json`."""
        return cls(**data)
