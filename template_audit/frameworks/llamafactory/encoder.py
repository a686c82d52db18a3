"""LLaMA-Factory's SFT encoder for one model and one template.

Source: LLaMA-Factory 0.9.5, data/processor/supervised.py (``SupervisedDatasetProcessor``).
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from template_audit.conversation import Conversation
from template_audit.errors import EncodingError, UsageError
from template_audit.frameworks import nearest
from template_audit.frameworks.llamafactory.batches import BatchEncoder
from template_audit.frameworks.llamafactory.messages import ROW_KEY, Example, example_of
from template_audit.frameworks.llamafactory.modelfile import modelfile
from template_audit.frameworks.llamafactory.options import SftOptions
from template_audit.frameworks.llamafactory.parsed_template import NULL, null_template
from template_audit.frameworks.llamafactory.registry import Registry, Special, TemplateSpec, Token
from template_audit.frameworks.llamafactory.run import example_of_foreign_row
from template_audit.frameworks.llamafactory.saved_template import special_token
from template_audit.frameworks.llamafactory.sft import (
    Encoded,
    Mark,
    TokenId,
    TokenizedSide,
    encode_answer,
    encode_turns,
)
from template_audit.frameworks.llamafactory.special_tokens import fixed_tokenizer
from template_audit.frameworks.llamafactory.streams import stream_of
from template_audit.frameworks.llamafactory.template import Side, in_force, oneturn_of, turns_of
from template_audit.frameworks.llamafactory.tool_formats import FORMATS, Release
from template_audit.ids import PAYS_FROM, IdsBatch, deferred_streams
from template_audit.model.tokenizer import encode_texts
from template_audit.stream import LITERAL, EncodedStream
from template_audit.trace import Traced, runs_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from template_audit.model import Model

FRAMEWORK_RAISES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What the framework's formatting raises on odd rows. A NameError, say, would be a mistake of this code."""

Tokens = tuple[list[int], list[tuple[int, int]]]
Turns = list[tuple[Side, Side]]
OneTurn = tuple[list[TokenId], list[TokenId]]
"""The ids of a prompt and of its answer."""


class LlamaFactoryEncoder:
    """What one release of LLaMA-Factory makes of a conversation, with one template, in SFT.

    The model's tokenizer stays as it is: `tokenizer` is a copy, changed as the framework changes it
    (`effects`).
    """

    def __init__(
        self,
        model: Model,
        registry: Registry,
        template: TemplateSpec,
        options: Mapping[str, Any],
        notes: tuple[str, ...] = (),
    ) -> None:
        """Raises UsageError for options that this template or the framework refuses."""
        self.settings = SftOptions.from_mapping(options, registry)
        self.options: Mapping[str, Any] = {**options, "cutoff_len": self._given_cutoff_len(options, registry)}
        _check_options(self.settings, template, registry)
        self.model = model
        self.registry = registry
        self.notes = notes
        self.template = in_force(template, self.settings, registry)
        self.spec = f"llamafactory@{registry.version}:{template.name}"
        self.tokenizer, self.effects = fixed_tokenizer(
            model.tokenizer, self.template, registry.behaviours, lambda: _loaded_again(model)
        )
        self._release = Release(registry.tool_prompts, self.settings.clock, registry.behaviours)
        self._literals: dict[str, Tokens] = {}
        self._batches: BatchEncoder | None = None

    def at(self, clock: str) -> LlamaFactoryEncoder:
        """The same encoder at another moment; it shares this one's tokenizer."""
        later = copy.copy(self)
        later._batches = None
        later.options = {**self.options, "clock": clock}
        later.settings = SftOptions.from_mapping(later.options, self.registry)
        if self.template.name == NULL:
            spec = null_template(self.model, self.registry, clock)
            later.template = in_force(spec, later.settings, self.registry)
        later._release = Release(self.registry.tool_prompts, later.settings.clock, self.registry.behaviours)
        return later

    @staticmethod
    def _given_cutoff_len(options: Mapping[str, Any], registry: Registry) -> int:
        given = options.get("cutoff_len")
        return registry.behaviours.default_cutoff_len if given is None else int(given)

    def encode(self, conversation: Conversation) -> EncodedStream:
        """The framework's ids and labels of one conversation. Raises EncodingError."""
        stream = self.encode_batch([conversation])[0]
        assert isinstance(stream, EncodedStream)
        return stream

    def encode_batch(
        self, conversations: Sequence[Conversation], *, keep_errors: bool = False
    ) -> list[EncodedStream | EncodingError]:
        """Many conversations, tokenized in one go; the same result as `encode` on each.

        With `keep_errors` an EncodingError takes the place of a stream, else the first one is raised.
        Of many conversations only ids and labels are made at once.
        """
        if len(conversations) < PAYS_FROM:
            return self.encode_in_full(conversations, keep_errors=keep_errors)
        full = partial(self.encode_in_full, keep_errors=True)
        return deferred_streams(conversations, self.encode_ids_batch(conversations), full, keep_errors)

    def encode_in_full(
        self, conversations: Sequence[Conversation], *, keep_errors: bool = False
    ) -> list[EncodedStream | EncodingError]:
        """The same, with spans, Origins and turns at once."""
        return self.encode_examples(self.examples_of(conversations), keep_errors=keep_errors)

    def encode_ids_batch(self, conversations: Sequence[Conversation]) -> IdsBatch:
        """Ids and labels alone, many times faster: see `template_audit.ids.IdsEncoder`."""
        return self.batches.encode(conversations)

    def expect_many(self) -> None:
        """See `template_audit.ids.IdsEncoder`."""
        self.batches.tokenizer.expect_many()

    @property
    def batches(self) -> BatchEncoder:
        """The short way to the ids of many conversations."""
        if self._batches is None:
            self._batches = BatchEncoder(self)
        return self._batches

    def examples_of(self, conversations: Sequence[Conversation]) -> list[Example | EncodingError]:
        """The framework's own form of each conversation.

        A conversation that was read from a data set row goes through the framework's converter; of a
        training run's rows the converter's result is there already (`ROW_KEY`).
        """
        out: list[Example | EncodingError] = []
        for conversation in conversations:
            row = conversation.row or {}
            example: Example | EncodingError | None = row.get(ROW_KEY)
            if example is None and "format" in row:
                example = example_of_foreign_row(row["format"], row["data"], self.registry.behaviours, conversation.id)
            if example is None:
                try:
                    example = example_of(conversation, self.template.thought_words)
                except EncodingError as error:
                    example = error
            out.append(example)
        return out

    def encode_examples(
        self, examples: Sequence[Example | EncodingError], *, keep_errors: bool = False
    ) -> list[EncodedStream | EncodingError]:
        """Like `encode_batch`, for examples in the framework's own form; errors are passed through."""
        out: list[EncodedStream | EncodingError] = []
        for example, encoded in zip(examples, self.encode_ids(examples), strict=True):
            result: EncodedStream | EncodingError
            try:
                if isinstance(encoded, EncodingError):
                    raise encoded
                assert isinstance(example, Example)
                result = stream_of(encoded, example.notes, self.lost_tokens)
            except EncodingError as error:
                if not keep_errors:
                    raise
                result = error
            out.append(result)
        return out

    def encode_ids(self, examples: Sequence[Example | EncodingError]) -> list[Encoded | EncodingError]:
        """Exactly what the framework's processor returns for each example, oddities included.

        Of a preference pair the chosen answer, of a KTO example its own, wanted or not.

        An id is None where a token look-up of the template finds nothing, and labels may be longer
        than ids (an ``efficient_eos`` template and an empty prompt).
        """
        planned = [self.plan(example) for example in examples]
        tokens = self._tokenize(planned)
        eos = special_token(Special("eos_token"), self.tokenizer) if self.template.efficient_eos else None
        out: list[Encoded | EncodingError] = []
        for example, turns in zip(examples, planned, strict=True):
            if isinstance(turns, EncodingError):
                out.append(turns)
                continue
            try:
                sides = [(self._side(source, tokens), self._side(target, tokens)) for source, target in turns]
                assert isinstance(example, Example)
                out.append(
                    encode_answer(sides, self.settings.cutoff_len, eos)
                    if example.paired
                    else encode_turns(sides, self.settings, eos, self.registry.behaviours)
                )
            except EncodingError as error:
                out.append(error)
        return out

    def encode_oneturn(self, examples: Sequence[Example]) -> list[OneTurn | EncodingError]:
        """Prompt ids and ids of the last answer, uncut, as ``Template.encode_oneturn`` returns them.

        Every example has exactly one response. An id may be None, as in `encode_ids`.
        """
        planned: list[Turns | EncodingError] = []
        for example in examples:
            try:
                planned.append([oneturn_of(self.template, example, self._release)])
            except (EncodingError, *FRAMEWORK_RAISES) as error:
                planned.append(error if isinstance(error, EncodingError) else self._stopped(error))
        tokens = self._tokenize(planned)
        out: list[OneTurn | EncodingError] = []
        for turns in planned:
            if isinstance(turns, EncodingError):
                out.append(turns)
                continue
            try:
                out.append((self._side(turns[0][0], tokens).ids, self._side(turns[0][1], tokens).ids))
            except EncodingError as error:
                out.append(error)
        return out

    def ollama_modelfile(self) -> str | None:
        """The Modelfile that the framework's export writes beside the weights, None in releases that write none.

        Raises UsageError for a template at which the export stops.
        """
        if not self.registry.behaviours.ollama_modelfile:
            return None
        return modelfile(self.template, self.tokenizer)

    def _stopped(self, error: Exception) -> EncodingError:
        return EncodingError(
            f"LLaMA-Factory {self.registry.version} stops with {type(error).__name__} on this example: {error!s:.300}"
        )

    def plan(self, example: Example | EncodingError) -> Turns | EncodingError:
        """The slots of an example, before tokenizing, or why there are none. Errors are passed through."""
        if isinstance(example, EncodingError):
            return example
        answers = len(example.response)
        if len(example.prompt) % 2 != 1 or (answers < 2 if example.paired else answers != 1):
            return EncodingError(
                "LLaMA-Factory drops this example (its log: “Dropped invalid example”): it needs an odd number of "
                f"prompt messages and {'two answers' if example.paired else 'one answer'}, and has "
                f"{len(example.prompt)} and {answers}.",
                kind="example-dropped",
            )
        if example.paired:
            return self._plan_pair(example)
        discard = (
            self.settings.mask_history
            and not self.template.preserve_thinking
            and self.registry.behaviours.mask_history_drops_thoughts
        )
        try:
            return turns_of(self.template, example, self._release, discard)
        except EncodingError as error:
            return error
        except FRAMEWORK_RAISES as error:
            return self._stopped(error)

    def _plan_pair(self, example: Example) -> Turns | EncodingError:
        """The prompt with the answer that is shown, and what else has a say in where they are cut."""
        answers = example.response[:2]
        if example.stage == "kto":
            answers = answers[:1] if answers[0].content else answers[1:]
        try:
            return [oneturn_of(self.template, replace(example, response=(one,)), self._release) for one in answers]
        except EncodingError as error:
            return error
        except FRAMEWORK_RAISES as error:
            return self._stopped(error)

    def _tokenize(self, planned: Iterable[Turns | EncodingError]) -> dict[str, Tokens | EncodingError]:
        """The tokens of every text slot; the template's own texts are tokenized once and kept."""
        wanted: dict[str, bool] = {}
        for turns in planned:
            if not isinstance(turns, EncodingError):
                for side in (side for turn in turns for side in turn):
                    for block in side:
                        for element in block.elements:
                            if isinstance(element, str) and element:
                                wanted[str.__str__(element)] = isinstance(element, Traced)
        texts = [text for text in wanted if text not in self._literals]
        found: dict[str, Tokens | EncodingError] = dict(zip(texts, self._encode_texts(texts), strict=True))
        for text, traced in wanted.items():
            tokens = found.get(text)
            if not traced and isinstance(tokens, tuple):
                self._literals[text] = tokens
        return {**self._literals, **found}

    def _encode_texts(self, texts: Sequence[str]) -> list[Tokens | EncodingError]:
        try:
            return list(encode_texts(self.tokenizer, texts))
        except EncodingError as error:
            if len(texts) == 1:
                return [error]
            return [tokens for text in texts for tokens in self._encode_texts([text])]

    def _side(self, blocks: Side, tokens: Mapping[str, Tokens | EncodingError]) -> TokenizedSide:
        side = TokenizedSide()
        texts: list[str] = []
        at = 0
        for block in blocks:
            side.marks.append(Mark(block.message, block.role, len(side.ids), at))
            for element in block.elements:
                if not element:
                    continue
                if isinstance(element, str):
                    found = tokens[element]
                    if isinstance(found, EncodingError):
                        raise found
                    side.ids += found[0]
                    side.chunks.append((at, found[1]))
                    side.runs += runs_of(element)
                    text = str.__str__(element)
                elif isinstance(element, Token):
                    text = element.text
                    side.ids.append(self.tokenizer.convert_tokens_to_ids(text))
                else:
                    special = special_token(element, self.tokenizer)
                    if special is None:
                        continue
                    text, token_id = special
                    side.ids.append(token_id)
                if not isinstance(element, str):
                    side.chunks.append((at, [(0, len(text))]))
                    side.runs.append((len(text), LITERAL))
                texts.append(text)
                at += len(text)
        side.text = "".join(texts)
        return side

    @property
    def lost_tokens(self) -> list[str]:
        """Tokens that the template looks up and the tokenizer does not have."""
        slots = [getattr(self.template, name).slots for name in ("format_prefix", "format_system", "format_user")]
        slots += [getattr(self.template, name).slots for name in ("format_assistant", "format_function")]
        slots += [self.template.format_observation.slots]
        names = dict.fromkeys(slot.text for group in slots for slot in group if isinstance(slot, Token))
        return [name for name in names if self.tokenizer.convert_tokens_to_ids(name) is None]


def _loaded_again(model: Model) -> PreTrainedTokenizerBase:
    """The model's tokenizer once more; a deep copy where its folder alone does not give one."""
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model.path, trust_remote_code=False)
    except Exception:  # whatever transformers and tokenizers raise on files such as GGUF
        return copy.deepcopy(model.tokenizer)
    tokenizer.chat_template = model.tokenizer.chat_template
    return tokenizer


def _check_options(settings: SftOptions, template: TemplateSpec, registry: Registry) -> None:
    if settings.train_on_prompt and template.efficient_eos:
        raise UsageError(
            f"LLaMA-Factory refuses `train_on_prompt` with template `{template.name}`, which ends answers by "
            "efficient_eos; leave it off."
        )
    known = [name for name in registry.tool_formats if name in FORMATS]
    if settings.tool_format is not None and settings.tool_format not in known:
        raise UsageError(
            f"LLaMA-Factory {registry.version} has no tool format `{settings.tool_format}`; known are "
            f"{', '.join(known)}.{nearest(settings.tool_format, known)}"
        )
