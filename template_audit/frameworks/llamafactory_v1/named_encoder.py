"""Encoder of the named v1 templates: every segment tokenized on its own, assistant segments trained.

Source: LLaMA-Factory 0.9.5, v1/core/utils/rendering.py and v1/plugins/model_plugins/templates/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from template_audit.conversation import Conversation
from template_audit.errors import EncodingError
from template_audit.frameworks.interface import TokenizerEffects
from template_audit.frameworks.llamafactory_v1.named import NAMED
from template_audit.frameworks.llamafactory_v1.streams import cut_to
from template_audit.stream import IGNORE, EncodedStream, Turn
from template_audit.trace import join, pieces_of

if TYPE_CHECKING:
    from template_audit.model import Model


class NamedTemplateEncoder:
    """One of `NAMED` for one model. The tokenizer is not changed."""

    def __init__(self, model: Model, version: str, template: str, options: Mapping[str, Any]) -> None:
        self.model = model
        self.spec = f"llamafactory-v1@{version}:{template}"
        self.options = options
        self.effects = TokenizerEffects()
        self.notes: tuple[str, ...] = ()
        self._segments = NAMED[template]

    def encode(self, conversation: Conversation) -> EncodedStream:
        """Encode one conversation. Raises EncodingError where the framework stops."""
        from template_audit.model.tokenizer import encode_texts

        if not conversation.messages:
            raise EncodingError("The conversation has no messages.")
        segments = list(self._segments(conversation))
        ids: list[int] = []
        labels: list[int] = []
        spans: list[tuple[int, int]] = []
        turns: list[Turn] = []
        at = 0
        texts = [str.__str__(segment.text) for segment in segments]
        for segment, (some, places) in zip(segments, encode_texts(self.model.tokenizer, texts), strict=True):
            end = at + len(segment.text)
            turns.append(Turn(segment.message, segment.role, len(ids), len(ids) + len(some), at, end))
            ids += some
            labels += some if segment.trained else [IGNORE] * len(some)
            spans += [(start + at, stop + at) for start, stop in places]
            at = end
        text = join(segment.text for segment in segments)
        stream = EncodedStream(
            input_ids=ids, labels=labels, text=str.__str__(text), spans=spans, pieces=pieces_of(text), turns=turns
        )
        return cut_to(stream, self.options["cutoff_len"])

    def encode_batch(
        self, conversations: Sequence[Conversation], *, keep_errors: bool = False
    ) -> list[EncodedStream | EncodingError]:
        """Encode many; same result as `encode`, in order."""
        results: list[EncodedStream | EncodingError] = []
        for conversation in conversations:
            try:
                results.append(self.encode(conversation))
            except EncodingError as error:
                if not keep_errors:
                    raise
                results.append(error)
        return results


def text_of(template: str, conversation: Conversation) -> str | None:
    """The text that a template writes, None for a conversation that it does not take."""
    try:
        return "".join(str.__str__(segment.text) for segment in NAMED[template](conversation))
    except EncodingError:
        return None
