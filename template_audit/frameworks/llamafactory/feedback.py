"""LLaMA-Factory's KTO examples: an answer that is wanted or not, and a mismatched one for the KL term.

Source: data/processor/feedback.py (``FeedbackDatasetProcessor``), 0.9.0 to 0.9.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from template_audit.errors import EncodingError
from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder, OneTurn
from template_audit.frameworks.llamafactory.messages import Example, ExampleMessage
from template_audit.frameworks.llamafactory.pairwise import encode_answers, not_a_pair
from template_audit.frameworks.llamafactory.sft import TokenId, infer_seqlen
from template_audit.stream import IGNORE


@dataclass(frozen=True, slots=True)
class FeedbackExample:
    """One KTO example. `kto_tag` is True when the answer is wanted.

    The `kl_` lists hold the same prompt with the answer of example `kl_example` of the batch.
    """

    input_ids: list[TokenId]
    labels: list[TokenId]
    kl_input_ids: list[TokenId]
    kl_labels: list[TokenId]
    kto_tag: bool
    kl_example: int


def encode_feedback(encoder: LlamaFactoryEncoder, batch: Sequence[Example]) -> list[FeedbackExample | EncodingError]:
    """The examples of one map batch, whose answers are mixed for the KL term; errors in their places.

    ``example-dropped`` where the framework skips an example. Its neighbour then has nothing to be
    mixed with, on which the framework stops: ``encoding-failed``.
    """
    partners = _partners(len(batch), encoder.registry.behaviours.kl_pairs)
    chosen: list[tuple[ExampleMessage, ExampleMessage] | EncodingError] = []
    for number, example in enumerate(batch):
        if len(example.prompt) % 2 != 1 or len(example.response) < 2:
            chosen.append(not_a_pair(example))
            continue
        partner = _answer(batch[partners[number]].response)
        if partner is None:
            chosen.append(
                EncodingError(
                    f"LLaMA-Factory stops here (IndexError): example {partners[number]} of the batch has no answer "
                    "that this prompt could be paired with for the KL term; take that row out of the data set."
                )
            )
            continue
        own = _answer(example.response)
        assert own is not None
        chosen.append((own, partner))
    turns = iter(
        encode_answers(
            encoder,
            [
                (example, answer)
                for example, answers in zip(batch, chosen, strict=True)
                if not isinstance(answers, EncodingError)
                for answer in answers
            ],
        )
    )
    out: list[FeedbackExample | EncodingError] = []
    for number, answers in enumerate(chosen):
        if isinstance(answers, EncodingError):
            out.append(answers)
            continue
        own_turn, kl_turn = next(turns), next(turns)
        if isinstance(own_turn, EncodingError):
            out.append(own_turn)
        elif isinstance(kl_turn, EncodingError):
            out.append(kl_turn)
        else:
            wanted = bool(batch[number].response[0].content)
            cutoff_len = encoder.settings.cutoff_len
            out.append(
                FeedbackExample(*_cut(own_turn, cutoff_len), *_cut(kl_turn, cutoff_len), wanted, partners[number])
            )
    return out


def _partners(count: int, kind: str) -> list[int]:
    """For each example the one whose answer it is paired with; the same one when the batch has only one."""
    if kind == "reversed":
        return list(range(count - 1, -1, -1))
    return [(number - 1) % count for number in range(count)]


def _answer(response: Sequence[ExampleMessage]) -> ExampleMessage | None:
    """The one of a pair that is not the empty counterpart; None where the framework finds no such place."""
    if response and response[0].content:
        return response[0]
    return response[1] if len(response) > 1 else None


def _cut(turn: OneTurn, cutoff_len: int) -> tuple[list[TokenId], list[TokenId]]:
    prompt, answer = turn
    source, target = infer_seqlen(len(prompt), len(answer), cutoff_len)
    answer = answer[:target]
    return prompt[:source] + answer, [IGNORE] * source + answer
