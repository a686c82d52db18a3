"""LLaMA-Factory's v1 renderer of the 0.9.6 development line, for one model.

Source: LLaMA-Factory 0.9.6.dev0, v1/core/rendering/rendering.py and v1/core/data_engine.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from template_audit.conversation import Conversation
from template_audit.errors import EncodingError, UsageError
from template_audit.frameworks.interface import TokenizerEffects
from template_audit.frameworks.llamafactory_v1.escape import Escaper
from template_audit.frameworks.llamafactory_v1.rendering import CHATML, V1Renderer
from template_audit.frameworks.llamafactory_v1.samples import Sample, prefix_cuts, sample_of
from template_audit.frameworks.llamafactory_v1.streams import cut_to
from template_audit.model.chat_template import Prefix, Views
from template_audit.model.turns import Tokens, lay_out, token_range
from template_audit.stream import IGNORE, EncodedStream, Turn

if TYPE_CHECKING:
    from template_audit.model import Model

Encoded = tuple[list[int], list[tuple[int, int]]]

_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
_PROCESSOR_CONFIGS = ("vision_config", "audio_config", "thinker_config")


class RendererEncoder:
    """A conversation as v1 trains on it: chat template, and labels for what the last prompt does not cover.

    The data engine makes one sample per assistant turn of a conversation; `encode` gives the longest
    one, or that of option `cut`, and `samples` gives all.
    """

    def __init__(self, model: Model, version: str, options: Mapping[str, Any]) -> None:
        """Raises UsageError for a model with a multimodal processor, which v1 renders in another way."""
        _refuse_processor(model)
        self.model = model
        self.spec = f"llamafactory-v1@{version}"
        self.options = options
        custom = options["custom_chat_template"] or None
        before = model.chat_template
        self.effects = TokenizerEffects(chat_template=(before, custom or (before if model.chat_templates else CHATML)))
        self.notes: tuple[str, ...] = ()
        self._renderer = V1Renderer(model, custom=custom, clock=options["clock"])
        self._escaper = Escaper(model.tokenizer)
        self._specials = frozenset(model.tokenizer.all_special_ids)
        self._stops = model.stop_token_ids
        self._version = version

    def at(self, clock: str) -> RendererEncoder:
        """The same encoder at another moment. Raises UsageError for a clock that is none."""
        return RendererEncoder(self.model, self._version, {**self.options, "clock": clock})

    def encode(self, conversation: Conversation) -> EncodedStream:
        """Encode one conversation. Raises EncodingError where the framework stops."""
        (stream,) = self.encode_batch([conversation])
        assert isinstance(stream, EncodedStream)
        return stream

    def encode_batch(
        self, conversations: Sequence[Conversation], *, keep_errors: bool = False
    ) -> list[EncodedStream | EncodingError]:
        """Encode many at once; same result as `encode`, in order."""
        wanted = [(conversation, self.options["cut"]) for conversation in conversations]
        return self._encode(wanted, keep_errors)

    def samples(self, conversation: Conversation) -> list[EncodedStream | EncodingError]:
        """Every sample that the data engine makes of the conversation, shortest first, or why it cannot be had."""
        cuts = prefix_cuts(conversation)
        return self._encode([(conversation, cut) for cut in cuts], keep_errors=True)

    def _encode(
        self, wanted: Sequence[tuple[Conversation, int | None]], keep_errors: bool
    ) -> list[EncodedStream | EncodingError]:
        made = [self._sample(conversation, cut) for conversation, cut in wanted]
        rendered = iter(self._renderer.render_all([one.conversation for one in made if isinstance(one, Sample)]))
        views = [one if isinstance(one, EncodingError) else next(rendered) for one in made]
        results: list[EncodedStream | EncodingError] = []
        for sample, view, tokens in zip(made, views, self._tokenize(views), strict=True):
            result = self._stream(sample, view, tokens)
            if isinstance(result, EncodingError) and not keep_errors:
                raise result
            results.append(result)
        return results

    def _sample(self, conversation: Conversation, cut: int | None) -> Sample | EncodingError:
        try:
            return sample_of(conversation, cut, self._escaper)
        except EncodingError as error:
            return error

    def _tokenize(self, views: Sequence[Views | EncodingError]) -> Iterator[list[Encoded] | EncodingError]:
        """The full text and the last prompt of every rendering, in one batch unless a text cannot be encoded."""
        from template_audit.model.tokenizer import encode_texts

        groups = [_texts(view) for view in views]
        try:
            flat = iter(encode_texts(self.model.tokenizer, [text for group in groups for text in group]))
        except EncodingError:
            for group in groups:
                try:
                    yield encode_texts(self.model.tokenizer, group)
                except EncodingError as error:
                    yield error
        else:
            for group in groups:
                yield [next(flat) for _ in group]

    def _stream(
        self, sample: Sample | EncodingError, views: Views | EncodingError, encoded: list[Encoded] | EncodingError
    ) -> EncodedStream | EncodingError:
        for part in (sample, views, encoded):
            if isinstance(part, EncodingError):
                return part
        assert isinstance(sample, Sample)
        assert isinstance(views, Views)
        assert isinstance(encoded, list)
        messages = sample.conversation.messages
        last = len(messages) - 1
        prompt = views.prompts[last]
        if isinstance(prompt, EncodingError):
            return prompt
        (ids, spans), (shown, _) = encoded
        if ids[: len(shown)] != shown:
            return EncodingError(
                "LLaMA-Factory v1 stops on this sample: the tokens of the prompt before the last message are not the "
                "first tokens of the whole conversation, so it cannot tell what to train."
            )
        tokens = Tokens(ids, spans, self._stops, self._specials, {last: shown})
        layout = lay_out(sample.conversation, views, tokens, self.model.tokenizer.bos_token)
        size = len(views.full.text)
        first = layout.starts[0]
        turns = [Turn(None, "system" if first > layout.bos else "", *token_range(tokens, 0, first), 0, first)]
        for index, (start, end) in enumerate(zip(layout.starts, [*layout.starts[1:], size], strict=True)):
            turns.append(Turn(index, messages[index].role, *token_range(tokens, start, end), start, end))
        stream = EncodedStream(
            input_ids=ids,
            labels=[IGNORE] * len(shown) + ids[len(shown) :],
            text=views.full.text,
            spans=spans,
            pieces=layout.pieces,
            turns=turns if first else turns[1:],
            notes=sample.notes,
        )
        return cut_to(stream, self.options["cutoff_len"])


def _texts(views: Views | EncodingError) -> list[str]:
    """The full text and the prompt of the last message, or nothing."""
    if isinstance(views, EncodingError):
        return []
    prompt = views.prompts[max(views.prompts)]
    return [views.full.text, prompt.text] if isinstance(prompt, Prefix) else [views.full.text]


def _refuse_processor(model: Model) -> None:
    found = [name for name in _PROCESSOR_FILES if (model.path / name).is_file()]
    found += [f"config.json#{name}" for name in _PROCESSOR_CONFIGS if name in model.config]
    if model.tokenizer.init_kwargs.get("processor_class"):
        found.append("tokenizer_config.json#processor_class")
    if found:
        raise UsageError(
            f"{model.id} has a multimodal processor ({', '.join(found)}), whose messages LLaMA-Factory v1 renders in a "
            "way that is not built here; audit a text-only model."
        )
