"""LLaMA-Factory's preference pairs (reward models and DPO).

Source: data/processor/pairwise.py (``PairwiseDatasetProcessor``), alike from 0.9.0 to 0.9.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from template_audit.errors import EncodingError
from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder, OneTurn
from template_audit.frameworks.llamafactory.messages import Example, ExampleMessage
from template_audit.frameworks.llamafactory.registry import Special
from template_audit.frameworks.llamafactory.saved_template import special_token
from template_audit.frameworks.llamafactory.sft import TokenId, infer_seqlen
from template_audit.stream import IGNORE


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """One prompt with two answers. The prompt is cut to one length for both, and masked in both."""

    chosen_input_ids: list[TokenId]
    chosen_labels: list[TokenId]
    rejected_input_ids: list[TokenId]
    rejected_labels: list[TokenId]


def encode_pairs(encoder: LlamaFactoryEncoder, examples: Sequence[Example]) -> list[PreferencePair | EncodingError]:
    """Both sides of every example, or the error: ``example-dropped`` where the framework skips it.

    The prompt's ids are those that go with the chosen answer, also for the rejected one.
    """
    taken = [len(example.prompt) % 2 == 1 and len(example.response) >= 2 for example in examples]
    turns = iter(
        encode_answers(
            encoder,
            [
                (example, answer)
                for example, wanted in zip(examples, taken, strict=True)
                if wanted
                for answer in example.response[:2]
            ],
        )
    )
    out: list[PreferencePair | EncodingError] = []
    for example, wanted in zip(examples, taken, strict=True):
        if not wanted:
            out.append(not_a_pair(example))
            continue
        chosen, rejected = next(turns), next(turns)
        if isinstance(chosen, EncodingError) or isinstance(rejected, EncodingError):
            out.append(chosen if isinstance(chosen, EncodingError) else _error(rejected))
        else:
            out.append(_pair(chosen, rejected[1], encoder.settings.cutoff_len))
    return out


def encode_answers(
    encoder: LlamaFactoryEncoder, pairs: Sequence[tuple[Example, ExampleMessage]]
) -> list[OneTurn | EncodingError]:
    """Prompt and answer ids of examples, each with the answer beside it; an ``efficient_eos`` is appended."""
    encoded = encoder.encode_oneturn([replace(example, response=(answer,)) for example, answer in pairs])
    eos = special_token(Special("eos_token"), encoder.tokenizer) if encoder.template.efficient_eos else None
    tail: list[TokenId] = [] if eos is None else [eos[1]]
    return [turn if isinstance(turn, EncodingError) else (turn[0], turn[1] + tail) for turn in encoded]


def not_a_pair(example: Example) -> EncodingError:
    """The refusal of an example that the framework skips in stages with two answers."""
    return EncodingError(
        "LLaMA-Factory drops this example (its log: “Dropped invalid example”): it needs an odd number of prompt "
        f"messages and two answers, and has {len(example.prompt)} and {len(example.response)}.",
        kind="example-dropped",
    )


def _error(turn: OneTurn | EncodingError) -> EncodingError:
    assert isinstance(turn, EncodingError)
    return turn


def _pair(chosen: OneTurn, rejected: list[TokenId], cutoff_len: int) -> PreferencePair:
    prompt, answer = chosen
    source, target = infer_seqlen(len(prompt), max(len(answer), len(rejected)), cutoff_len)
    prompt = prompt[:source]
    masked: list[TokenId] = [IGNORE] * source
    answer, rejected = answer[:target], rejected[:target]
    return PreferencePair(prompt + answer, masked + answer, prompt + rejected, masked + rejected)
