"""The model's own chat template as an encoder: what inference shows, and the mask that follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from template_audit.conversation import Conversation
from template_audit.errors import EncodingError, UsageError
from template_audit.frameworks import nearest
from template_audit.frameworks.chat_template_batches import ChatBatchEncoder
from template_audit.frameworks.interface import Choice, EncoderRequest, Option, TokenizerEffects
from template_audit.ids import PAYS_FROM, IdsBatch, deferred_streams
from template_audit.model.chat_template import PINNED_CLOCK, Prefix, Renderer, Views
from template_audit.model.turns import Layout, Tokens, lay_out, token_range
from template_audit.stream import IGNORE, EncodedStream, Prompt, Turn

if TYPE_CHECKING:
    from template_audit.model import Model

_OPTIONS = (
    Option(
        "enable_thinking",
        "bool?",
        None,
        "the template variable of that name, unless template_kwargs has it; null: not passed",
    ),
    Option("template_kwargs", "map", {}, "template variables, as apply_chat_template takes them"),
    Option("clock", "str", PINNED_CLOCK, "the date and time that strftime_now tells, in ISO form"),
)
_UNTRACED = "the template's tracing failed, so it is not known which text came from which message"


class ChatTemplateEncoder:
    """Encodes as inference does: ``apply_chat_template``, then the tokenizer without special tokens.

    `labels` are the mask that the template implies: what the model writes when it is run with this
    template, so each assistant turn from the end of the generation prompt through the token at which
    inference stops. `template_audit.model.turns.lay_out` says exactly which tokens these are.
    """

    def __init__(self, model: Model, template: str | None, options: Mapping[str, Any]) -> None:
        self.model = model
        self.template = template
        self.spec = f"chat-template:{template}" if template else "chat-template"
        self.options = options
        self.effects = TokenizerEffects()
        self.notes: tuple[str, ...] = ()
        variables = dict(options["template_kwargs"])
        if options["enable_thinking"] is not None:
            variables.setdefault("enable_thinking", options["enable_thinking"])
        self.renderer = Renderer(model, template_name=template, clock=options["clock"], template_kwargs=variables)
        tokenizer = model.tokenizer
        added = tokenizer.added_tokens_decoder.items()
        self.specials = frozenset({id for id, token in added if token.special} | set(tokenizer.all_special_ids))
        self.stops = model.stop_token_ids
        self._batches: ChatBatchEncoder | None = None

    def at(self, clock: str) -> ChatTemplateEncoder:
        """The same encoder at another moment. Raises UsageError for a clock that is none."""
        return ChatTemplateEncoder(self.model, self.template, {**self.options, "clock": clock})

    def encode(self, conversation: Conversation) -> EncodedStream:
        """Encode one conversation.

        Raises EncodingError: ``template-missing`` when the model has no template, ``role-unsupported``
        when the template raises, ``template-timeout``, ``template-too-large`` and
        ``unsafe-template-access`` when it hits a limit, ``template-broken`` when it does not compile.
        """
        (stream,) = self.encode_batch([conversation])
        assert isinstance(stream, EncodedStream)
        return stream

    def encode_batch(
        self, conversations: Sequence[Conversation], *, keep_errors: bool = False
    ) -> list[EncodedStream | EncodingError]:
        """Encode many at once; same result as `encode`, in order. Of many only ids and labels are made at once."""
        if len(conversations) < PAYS_FROM:
            return self.encode_in_full(conversations, keep_errors=keep_errors)
        full = partial(self.encode_in_full, keep_errors=True)
        return deferred_streams(conversations, self.encode_ids_batch(conversations), full, keep_errors)

    def encode_in_full(
        self, conversations: Sequence[Conversation], *, keep_errors: bool = False
    ) -> list[EncodedStream | EncodingError]:
        """The same, rendered and traced one by one, with spans, Origins, turns and prompts at once."""
        rendered = self.renderer.render_all(conversations)
        encoded = self._tokenize([_texts(views) if isinstance(views, Views) else [] for views in rendered])
        results: list[EncodedStream | EncodingError] = []
        for conversation, views, tokens in zip(conversations, rendered, encoded, strict=True):
            result = (
                views
                if isinstance(views, EncodingError)
                else tokens
                if isinstance(tokens, EncodingError)
                else self._stream(conversation, views, tokens)
            )
            if isinstance(result, EncodingError) and not keep_errors:
                raise result
            results.append(result)
        return results

    def encode_ids_batch(self, conversations: Sequence[Conversation]) -> IdsBatch:
        """Ids and labels alone, many times faster: see `template_audit.ids.IdsEncoder`."""
        return self.batches.encode(conversations)

    def expect_many(self) -> None:
        """See `template_audit.ids.IdsEncoder`."""
        self.batches.tokenizer.expect_many()

    @property
    def batches(self) -> ChatBatchEncoder:
        """The short way to the ids of many conversations."""
        if self._batches is None:
            self._batches = ChatBatchEncoder(self)
        return self._batches

    def _tokenize(self, texts: Sequence[list[str]]) -> list[list[_Encoded] | EncodingError]:
        """Every group of texts in one batch, or group by group when some text cannot be tokenized."""
        from template_audit.model.tokenizer import encode_texts

        tokenizer = self.model.tokenizer
        try:
            flat = iter(encode_texts(tokenizer, [text for group in texts for text in group]))
            return [[next(flat) for _ in group] for group in texts]
        except EncodingError:
            pass
        results: list[list[_Encoded] | EncodingError] = []
        for group in texts:
            try:
                results.append(encode_texts(tokenizer, group))
            except EncodingError as error:
                results.append(error)
        return results

    def _stream(self, conversation: Conversation, views: Views, encoded: list[_Encoded]) -> EncodedStream:
        ids, spans = encoded[0]
        shown = iter([prompt for prompt, _ in encoded[1:]])
        prompt_ids = {k: next(shown) for k, prompt in views.prompts.items() if isinstance(prompt, Prefix)}
        tokens = Tokens(ids, spans, self.stops, self.specials, prompt_ids)
        layout = lay_out(conversation, views, tokens, self.model.tokenizer.bos_token)
        labels = [IGNORE] * len(ids)
        for first, last in layout.trained:
            labels[first:last] = ids[first:last]
        prompts = [
            Prompt(k, prompt.text, prompt_ids[k]) if isinstance(prompt, Prefix) else Prompt(k, "", [], str(prompt))
            for k, prompt in views.prompts.items()
        ]
        if conversation.messages[0].role == "assistant":
            prompts.insert(0, Prompt(0, "", [], "There is no message before it, so inference has nothing to show."))
        return EncodedStream(
            input_ids=ids,
            labels=labels,
            text=views.full.text,
            spans=spans,
            pieces=layout.pieces,
            turns=_turns(conversation, layout, tokens, len(views.full.text)),
            prompts=prompts,
            notes=() if views.full.traced else (_UNTRACED,),
        )


_Encoded = tuple[list[int], list[tuple[int, int]]]


def _texts(views: Views) -> list[str]:
    """The full text, then every generation prompt that there is."""
    return [views.full.text, *(prompt.text for prompt in views.prompts.values() if isinstance(prompt, Prefix))]


def _turns(conversation: Conversation, layout: Layout, tokens: Tokens, size: int) -> list[Turn]:
    ends = [*layout.starts[1:], size]
    first = layout.starts[0]
    before = Turn(None, "system" if first > layout.bos else "", *token_range(tokens, 0, first), 0, first)
    return [before] * (first > 0) + [
        Turn(index, message.role, *token_range(tokens, start, end), start, end)
        for index, (message, start, end) in enumerate(zip(conversation.messages, layout.starts, ends, strict=True))
    ]


class ChatTemplateFramework:
    """The plug-in; see `template_audit.frameworks.interface.Framework`."""

    name = "chat-template"
    title = "chat template"

    def versions(self) -> Sequence[str]:
        return ()

    def templates(self, version: str | None = None) -> Sequence[str]:
        """None by name: which templates there are depends on the model."""
        return ()

    def options(self) -> Sequence[Option]:
        return _OPTIONS

    def choose(self, model: Model, version: str | None = None) -> Choice | None:
        return Choice(None, "the model's own chat template") if model.chat_templates else None

    def texts(
        self, model: Model, conversations: Sequence[Conversation], version: str | None = None
    ) -> Mapping[str, list[str | None]]:
        return {}

    def load(self, request: EncoderRequest) -> ChatTemplateEncoder:
        """Raises UsageError for a version, an interpreter, or a template that the model does not have."""
        model, template = request.model, request.template
        if request.python is not None:
            raise UsageError("The chat template is not run by `--python`; leave it out.")
        if request.version is not None:
            raise UsageError("The chat template has no versions; write chat-template or chat-template:NAME.")
        if template is not None and template not in model.chat_templates:
            known = sorted(model.chat_templates)
            raise UsageError(
                f"{model.id} has no chat template named `{template}`; it has {', '.join(known) or 'none at all'}."
                + nearest(template, known)
            )
        return ChatTemplateEncoder(model, template, request.options)


FRAMEWORK = ChatTemplateFramework()
