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

    default_cutoff_len: int = 2048
    """What `cutoff_len` is when it is not given: 1024 in 0.9.0, 2048 since 0.9.1."""

    packing_lowers_cutoff_len: bool = True
    """`packing: true` in the config lowers `cutoff_len` by one, in every stage
    (``DataArguments.__post_init__``, since 0.9.3). Packing that pre-training turns on by itself does not."""

    packing_pad_inside_cutoff_len: bool = False
    """Packed SFT keeps the one padding token inside `cutoff_len` (up to 0.9.1); since 0.9.2 it comes on top."""

    packing_position_ids: bool = True
    """Packed SFT examples carry position ids that restart with every example; since 0.9.3."""

    packing_params: bool = True
    """Examples of `neat_packing` carry the boundaries of their parts (``packing_params``); since 0.9.5."""

    kl_pairs: Literal["reversed", "shifted"] = "shifted"
    """How KTO pairs prompts with other rows' answers within a map batch: in reversed order (up to 0.9.2),
    or each with the row before it."""

    dataset_columns_by_formatting: bool = False
    """dataset_info.json: only the columns of the entry's formatting are read, and tags only for
    ``sharegpt`` (up to 0.9.1); since 0.9.2 all of both."""

    openai_formatting: Literal["sharegpt", "unknown", "openai"] = "openai"
    """What ``formatting: openai`` is: the sharegpt converter (up to 0.9.1, as is every word but
    ``alpaca``), an error (0.9.2, 0.9.3), or a converter of its own."""

    openai_null_tool_calls_fail: bool = False
    """The ``openai`` converter raises on an assistant message whose `tool_calls` is null; 0.9.4 only."""

    sharegpt_reads_past_bad_role: bool = False
    """The ``sharegpt`` converter goes on after a role out of turn, and raises on one that is no tag (up to 0.9.1)."""

    pairwise_bad_role_dropped: bool = False
    """A ranking row whose `chosen` or `rejected` has a user's role is dropped (up to 0.9.1);
    since 0.9.2 it is only warned about."""

    def to_json(self) -> dict[str, Any]:
        """Every behaviour by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Behaviours:
        """The inverse of `to_json`."""
        return cls(**data)
