"""LLaMA-Factory's prompts for generation and PPO: the prompt as input, the answer as labels.

Source: data/processor/unsupervised.py (``UnsupervisedDatasetProcessor``), alike from 0.9.0 to 0.9.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from template_audit.errors import EncodingError
from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
from template_audit.frameworks.llamafactory.messages import Example, ExampleMessage
from template_audit.frameworks.llamafactory.pairwise import encode_answers
from template_audit.frameworks.llamafactory.sft import TokenId, infer_seqlen


@dataclass(frozen=True, slots=True)
class PromptExample:
    """A prompt, and the answer that a generation is compared with; of different lengths."""

    input_ids: list[TokenId]
    labels: list[TokenId]


def encode_prompts(encoder: LlamaFactoryEncoder, examples: Sequence[Example]) -> list[PromptExample | EncodingError]:
    """Prompt and answer of every example; an example without exactly one answer has an empty one.

    ``example-dropped`` where the framework skips an example.
    """
    taken = [example for example in examples if len(example.prompt) % 2 == 1]
    answers = [e.response[0] if len(e.response) == 1 else ExampleMessage("assistant", "") for e in taken]
    turns = iter(encode_answers(encoder, list(zip(taken, answers, strict=True))))
    out: list[PromptExample | EncodingError] = []
    for example in examples:
        if len(example.prompt) % 2 != 1:
            out.append(
                EncodingError(
                    "LLaMA-Factory drops this example (its log: “Dropped invalid example”): its prompt has "
                    f"{len(example.prompt)} messages, an even number.",
                    kind="example-dropped",
                )
            )
            continue
        turn = next(turns)
        if isinstance(turn, EncodingError):
            out.append(turn)
            continue
        source, target = infer_seqlen(len(turn[0]), len(turn[1]), encoder.settings.cutoff_len)
        out.append(PromptExample(turn[0][:source], turn[1][:target]))
    return out
