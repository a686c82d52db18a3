"""Rules on pre-training streams: separators, BOS, blocks and what is lost between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from template_audit.rules.interface import Hit, rule

if TYPE_CHECKING:
    from template_audit.pretraining import PretrainCase

_GROUP = "Pre-training"
# What families call the end of a text, where it is not the end of a turn.
_END_OF_TEXT = (
    "<|end_of_text|>",
    "<|endoftext|>",
    "</s>",
    "<eos>",
    "[EOS]",
    "<|eos|>",
    "<｜end▁of▁sentence｜>",
    "<|eod_id|>",
)


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "0%"


@rule(
    "missing-document-separator",
    severity="error",
    group=_GROUP,
    scope="pretraining",
    what="Documents are not separated by one special token.",
    why="Without a token of its own the end of a document is ordinary text: the model learns to write those pieces, "
    "and cannot tell where one document ends and an unrelated one begins.",
    advice="Choose a template whose end-of-text token this tokenizer has, or one that takes the tokenizer's own.",
)
def missing_document_separator(case: PretrainCase) -> Iterator[Hit]:
    """The separator's text is not a single special token of this tokenizer."""
    separator = case.encoder.separator
    if separator.special:
        return
    pieces = case.encoder.tokenizer.convert_ids_to_tokens(list(separator.ids))
    if not separator.ids:
        message = f"The text {separator.text!r} that follows every document becomes no token at all."
    elif len(separator.ids) == 1:
        message = f"`{separator.text}`, which follows every document, is an ordinary token here, not a special one."
    else:
        message = (
            f"`{separator.text}`, which follows every document, is no token of this tokenizer: it becomes "
            f"{len(separator.ids)} ordinary pieces ({' '.join(map(str, pieces))})."
        )
    yield Hit(message, key=separator.text)


@rule(
    "separator-is-turn-end",
    severity="warning",
    group=_GROUP,
    scope="pretraining",
    what="Documents are separated by the token that ends a turn in chats.",
    why="The model already knows this token as the end of an answer. Pre-training teaches it a second meaning, and "
    "blurs where it stops in a conversation.",
    advice="Pre-train with the end-of-text token of the base model: set it as the tokenizer's eos token, or take a "
    "template that leaves the eos token alone.",
)
def separator_is_turn_end(case: PretrainCase) -> Iterator[Hit]:
    """The separator is the chat template's turn end, or the template's own in place of eos.

    A model whose only end token serves both ends is left alone.
    """
    encoder = case.encoder
    separator, (before, after) = encoder.separator, encoder.effects.eos_token
    if not separator.special or separator.text in _END_OF_TEXT:
        return
    others = [token for token in _END_OF_TEXT if token in _special_texts(case)]
    advice = (
        f"Separate documents by `{others[0]}`, which this tokenizer has: make it the eos token." if others else None
    )
    if before != after and separator.text == after:
        yield Hit(
            f"The template replaces the eos token `{before}` by `{after}`, the end of its turns, and so documents are "
            f"separated by `{after}`.",
            key=separator.text,
            advice=advice,
        )
    elif separator.ids[0] in case.turn_ends and others:
        yield Hit(
            f"`{separator.text}` ({separator.ids[0]}) separates documents and ends the answers of this model's chat "
            "template.",
            key=separator.text,
            advice=advice,
        )


def _special_texts(case: PretrainCase) -> set[str]:
    """The special tokens that the model itself has."""
    tokenizer = case.model.tokenizer
    return {str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special}


@rule(
    "separator-untrained",
    severity="warning",
    group=_GROUP,
    scope="pretraining",
    what="The separator is the padding token, and is masked with it.",
    why="The collator of pre-training masks every label that is the padding token. When that is the separator too, the "
    "model is never trained to end a document.",
    advice="Give the tokenizer a padding token of its own.",
)
def separator_untrained(case: PretrainCase) -> Iterator[Hit]:
    """The collator masks the separator."""
    separator = case.encoder.separator
    if separator.trained or not separator.ids:
        return
    before, after = case.encoder.effects.pad_token
    how = f" (the framework made it so: there was no padding token, now it is `{after}`)" if before != after else ""
    yield Hit(
        f"`{separator.text}` ({separator.ids[-1]}) is the padding token as well{how}: its label is −100 wherever it "
        "stands.",
        key=separator.text,
    )


@rule(
    "bos-overwrites-token",
    severity="warning",
    group=_GROUP,
    scope="pretraining",
    what="BOS is written over the first token of every block.",
    why="A token of the text is lost at the start of every block, and BOS appears in the middle of documents that were "
    "cut there.",
    advice="Accept it, or train without packing, where BOS is put in front.",
)
def bos_overwrites_token(case: PretrainCase) -> Iterator[Hit]:
    """At least one token was replaced by BOS."""
    totals = case.totals
    if totals.tokens_replaced:
        yield Hit(
            f"The first token of {totals.tokens_replaced:,} of {totals.blocks:,} blocks was replaced by "
            f"`{case.encoder.tokenizer.bos_token}`."
        )


@rule(
    "no-training-examples",
    severity="error",
    group=_GROUP,
    scope="pretraining",
    what="All documents together fill no block.",
    why="What does not fill a block is dropped, so nothing is left to train on: the run stops before its first step, "
    "or trains on nothing.",
    advice="Lower cutoff_len, raise preprocessing_batch_size, use fewer preprocessing workers, or give more documents.",
)
def no_training_examples(case: PretrainCase) -> Iterator[Hit]:
    """There are documents and no block."""
    totals = case.totals
    if totals.documents and not totals.blocks:
        yield Hit(
            f"No block is made of {totals.documents:,} documents with {totals.tokens:,} tokens; a block takes "
            f"{case.encoder.block_size:,} tokens of one map batch."
        )


@rule(
    "remainder-dropped",
    severity="info",
    group=_GROUP,
    scope="pretraining",
    what="Tokens that do not fill a block, or exceed the limit, are dropped.",
    why="They are never trained. With packing the rest of every map batch goes, so small batches and many workers "
    "lose more.",
    advice="Raise preprocessing_batch_size, or use fewer preprocessing workers; without packing, raise cutoff_len.",
)
def remainder_dropped(case: PretrainCase) -> Iterator[Hit]:
    """At least one token is in no block."""
    totals = case.totals
    if not totals.tokens_dropped:
        return
    share = _share(totals.tokens_dropped, totals.tokens)
    if not case.encoder.packing:
        message = f"{totals.tokens_dropped:,} tokens beyond cutoff_len are dropped ({share} of all)."
    else:
        message = f"{totals.tokens_dropped:,} tokens that fill no block are dropped ({share} of all)"
        message += f", {totals.documents_dropped:,} whole documents among them." if totals.documents_dropped else "."
    yield Hit(message)


@rule(
    "document-split",
    severity="info",
    group=_GROUP,
    scope="pretraining",
    what="Documents are cut at the edges of blocks.",
    why="The later part is trained without what came before it.",
    advice="Raise cutoff_len towards the length of the documents.",
)
def document_split(case: PretrainCase) -> Iterator[Hit]:
    """At least one document is not whole in one block."""
    totals = case.totals
    if totals.documents_split:
        share = _share(totals.documents_split, totals.documents)
        yield Hit(
            f"{totals.documents_split:,} of {totals.documents:,} documents ({share}) are not whole in one block of "
            f"{case.encoder.block_size:,} tokens."
        )


@rule(
    "cross-document-attention",
    severity="info",
    group=_GROUP,
    scope="pretraining",
    what="Tokens attend to other documents in their block.",
    why="Packed documents share one attention mask, so a document is trained with unrelated text before it.",
    advice="Accept it, as most pre-training does, or train without packing.",
)
def cross_document_attention(case: PretrainCase) -> Iterator[Hit]:
    """Some causal attention pairs join two documents."""
    totals = case.totals
    if totals.cross_document_pairs:
        yield Hit(
            f"{totals.cross_document_attention:.1%} of the attention within blocks joins tokens of different documents."
        )
