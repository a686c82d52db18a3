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
    True from 0.9.0 to 0.9.3; since 0.9.4 (and up to 0.8.3) only the later turns carry it."""

    mask_history_keeps_last_turns: bool = True
    """With `mask_history` the turns are cut from the last one backwards, so that the last turns win under
    `cutoff_len`; since 0.9.0. Before, the first turns won and the trained last one could vanish."""

    mask_history_drops_thoughts: bool = True
    """With `mask_history` and without `preserve_thinking` a reasoning template removes the thoughts of all
    turns but the last, and adds an empty thought to the last turn only; since 0.9.5."""

    empty_thought: Literal["joined", "spaced"] = "joined"
    """The empty thought is the two thought words as they are (since 0.9.4, when they got their own line
    breaks), or each followed by an empty line (0.9.3). Reasoning templates exist since 0.9.3."""

    thought_search_strips_words: bool = True
    """Whether an answer has a thought is looked up with the thought words stripped of whitespace (since 0.9.4)
    or as they are (0.9.3)."""

    function_formatter: Literal["template_words", "think_tags", "slots_per_call"] = "template_words"
    """How the text of a tool call turn is taken apart and written: by the template's own `tool_call_words` and
    `thought_words` (since 0.9.4); with a greedy ``<think>…</think>`` around the calls (0.9.2, 0.9.3); or without
    thoughts, and every slot, the eos slot too, repeated for every call (up to 0.9.1)."""

    llama2_function_words: bool = False
    """``Llama2Template`` hands its words to the function formatter. In no release so far: with
    ``template_words`` its tool call turns must be plain JSON."""

    invalid_tool_json: Literal["error", "nothing"] = "error"
    """Tool definitions or calls that are not JSON raise (since 0.9.1) or add no text at all (0.9.0)."""

    tool_definitions_unwrapped: bool = True
    """Tool definitions may come as ``{"type": "function", "function": …}``; since 0.9.3. Before, every
    definition is taken for the bare function."""

    tool_calls_as_json: bool = True
    """``llama3``, ``mistral`` and ``qwen`` calls are written by a JSON writer (since 0.9.3), or the name is
    pasted into the text unescaped (0.9.2)."""

    llama3_parallel_calls: bool = True
    """``llama3`` writes several calls as a list; since 0.9.3. In 0.9.2 more than one raises."""

    default_calls_end_with_newline: bool = False
    """Every call of the ``default`` tool format ends with a line break, also the last; 0.9.2 only
    (up to 0.9.1 the break is part of the recorded slots)."""

    minimax2_calls_lost: bool = False
    """The ``minimax2`` function formatter returns nothing, so that a turn with calls raises; 0.9.4 only."""

    media_placeholders_checked: Literal["all", "plugin"] = "all"
    """A multimodal template raises on ``<image>``, ``<video>`` or ``<audio>`` in a text-only row: on each of them
    (since 0.9.3), or only on those that its plugin replaces (up to 0.9.2)."""

    llava_image_text_repeated: bool = False
    """A llava template writes the text ``{{image}}`` as its image token as often as an image has patches; 0.9.0
    only. Since 0.9.1 it writes the token once."""

    chat_template_parser: Literal["reasoning_aware", "plain", "none"] = "reasoning_aware"
    """``template: null`` parses the tokenizer's chat template and takes a thought in it for a reasoning
    template's (since 0.9.3), parses it without that (0.9.2), or is the ``empty`` template (up to 0.9.1)."""

    parsed_thoughts_have_newlines: bool = True
    """The thought words of a parsed chat template have their line breaks (``<think>\\n`` and
    ``\\n</think>\\n\\n``, since 0.9.4) or are the bare tags (0.9.3)."""

    eos_replaced_by_itself: bool = False
    """`replace_eos` adds the stop word as eos token even when it is the eos token already (up to 0.9.2)."""

    llama2_jinja: Literal["if_else", "override"] = "if_else"
    """The saved chat template of a ``Llama2Template`` sets the content in an if or else (since 0.9.2), or sets
    it and then overrides it (up to 0.9.1). The rendered text is the same."""

    ollama_modelfile: bool = True
    """An Ollama Modelfile is saved beside the weights; since 0.9.2."""

    pretrain_bos: Literal["gemma_template", "add_bos_token"] = "add_bos_token"
    """What makes pre-training put BOS in: ``template: gemma`` (up to 0.9.1) or the tokenizer's ``add_bos_token``."""

    split_before_encoding: bool = True
    """`val_size` splits the rows before they are encoded (since 0.9.4), or the encoded examples."""

    default_cutoff_len: int = 2048
    """What `cutoff_len` is when it is not given: 1024 in 0.9.0, 2048 since 0.9.1."""

    packing_lowers_cutoff_len: bool = True
    """`packing: true` in the config lowers `cutoff_len` by one, in every stage
    (``DataArguments.__post_init__``, since 0.9.3). Packing that pre-training turns on by itself does not."""

    packing_pad_inside_cutoff_len: bool = False
    """Packed SFT keeps the one padding token inside `cutoff_len` (up to 0.9.1); since 0.9.2 it comes on top."""

    packing_reserves_padding: bool = True
    """Packed SFT always keeps room for one padding token; since 0.9.0. Before, a block may be full."""

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
