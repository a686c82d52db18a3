"""Rules of the group Special tokens: markers that are not what they seem, and tokens that steer the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from template_audit.rules.control import control_tokens
from template_audit.rules.evidence import Facts, show
from template_audit.rules.interface import Case, Hit, ModelCase, rule
from template_audit.rules.markers import split_markers, unknown_in_template
from template_audit.rules.sides import TEMPLATE_FIELDS

if TYPE_CHECKING:
    from template_audit.model import Model


@rule(
    "foreign-special-token",
    severity="error",
    group="Special tokens",
    reads="structure",
    what="The framework's template writes a control token of another model family. This tokenizer does not have it "
    "and takes it apart into ordinary pieces.",
    why="Instead of one token with one meaning the model sees a string of punctuation and word pieces that it never "
    "saw in this role. Turn boundaries blur, and every turn is longer than it need be.",
    advice="Use the template of this model's own family; `template-audit match MODEL` ranks them.",
)
def foreign_special_token(case: Case) -> Iterator[Hit]:
    for split in split_markers(case.facts):
        if split.own is None:
            pieces = split.tokens[1] - split.tokens[0]
            yield Hit(
                f"{show(split.text)} is no token of this model: it becomes {pieces} ordinary tokens.",
                key=split.text,
                subject=split.tokens,
            )


@rule(
    "special-token-split",
    severity="error",
    group="Special tokens",
    reads="structure",
    what="A marker that is one token of this model becomes several tokens in the subject.",
    why="The model knows the marker as one token; its spelling in pieces means nothing to it, and generation does "
    "not stop at it.",
    advice="Encode markers as special tokens: do not set `split_special_tokens`, and load the tokenizer with its "
    "added tokens.",
)
def special_token_split(case: Case) -> Iterator[Hit]:
    for split in split_markers(case.facts):
        if split.own is not None:
            pieces = split.tokens[1] - split.tokens[0]
            yield Hit(
                f"{show(split.text)} is one token of this model (id {split.own}) and becomes {pieces} tokens here.",
                key=split.text,
                subject=split.tokens,
            )


@rule(
    "unknown-special-token",
    severity="error",
    group="Special tokens",
    reads="structure",
    what="Text of the template becomes the unknown token, or a token that the template looks up does not exist.",
    why="Markers that map to the unknown token all look alike to the model, and a missing id stops the training run.",
    advice="Use a template of this model's own family, or add the token to the tokenizer and resize the embedding.",
)
def unknown_special_token(case: Case) -> Iterator[Hit]:
    facts = case.facts
    theirs = {case.reference.token_text(i) for i in unknown_in_template(facts.ref, facts.control)}
    for index in unknown_in_template(facts.sub, facts.control):
        text = case.subject.token_text(index)
        if text not in theirs:
            yield Hit(
                f"{show(text)} of the template becomes the unknown token (id {facts.control.unknown}).",
                key=text,
                subject=(index, index + 1),
            )


@rule(
    "vocabulary-grows",
    severity="error",
    group="Special tokens",
    scope="model",
    what="The framework adds tokens to the vocabulary that the model has no embedding for.",
    why="Their ids lie beyond the embedding, and training stops with an index error; or, where it is padded or was "
    "resized, they start from vectors that a small data set (or LoRA, which does not train the embedding) never makes "
    "useful.",
    advice="Use a template whose markers the model has. If the new tokens are wanted, resize the embedding "
    "(`resize_vocab: true` in LLaMA-Factory) and train the embedding and output layers in full.",
)
def vocabulary_grows(case: ModelCase) -> Iterator[Hit]:
    changed = getattr(case.subject_encoder, "tokenizer", None)
    size = len(case.model.tokenizer)
    rows = _embedding_rows(case.model)
    for token in case.subject_encoder.effects.added_tokens:
        id = None if changed is None else int(changed.convert_tokens_to_ids(token))
        where = "" if id is None else f", as id {id}"
        spare = rows is not None and id is not None and id < rows
        beside = "" if rows is None else f"; the embedding has {rows:,} rows by config.json"
        if spare:
            beside += ", so training runs, on a row that was never trained"
        yield Hit(
            f"{show(token)} is added to the vocabulary of {size:,} tokens{where}{beside}.",
            key=token,
            severity="warning" if spare else None,
        )


def _embedding_rows(model: Model) -> int | None:
    """Rows of the embedding, which many models pad beyond their vocabulary; None where config.json says nothing."""
    text = model.config.get("text_config")
    for config in (model.config, text if isinstance(text, dict) else {}):
        rows = config.get("vocab_size")
        if type(rows) is int and rows > 0:
            return rows
    return None


@rule(
    "special-token-injection",
    severity="warning",
    group="Special tokens",
    reads="structure",
    what="Text that somebody wrote (a message, a tool result, a system prompt) becomes a control token.",
    why="The data can then end a turn, or begin another speaker's, in the middle of a message. At inference the same "
    "hole lets a user or a web page write turns in the assistant's name.",
    advice="Remove control tokens from the data, or encode message text with `split_special_tokens`, at inference too.",
)
def special_token_injection(case: Case) -> Iterator[Hit]:
    facts = case.facts
    for index, token in enumerate(case.subject.input_ids):
        if token not in facts.control:
            continue
        origin = facts.sub.origins[index]
        text = case.subject.token_text(index)
        if origin.field in TEMPLATE_FIELDS or origin.field == "default_system" or not text.strip():
            continue
        if token == facts.control.tokenizer.unk_token_id and text != facts.control.tokenizer.unk_token:
            continue  # a character that the vocabulary lacks
        whose = "the tool definitions" if origin.message is None else f"message {origin.message}"
        yield Hit(
            f"{show(text)} in the text of {whose} becomes a control token (id {token}).",
            key=text,
            turn=origin.message,
            subject=(index, index + 1),
        )


@rule(
    "eos-mismatch",
    severity="error",
    group="Special tokens",
    scope="model",
    reads="structure",
    what="The marker that ends a trained answer is not a token at which generation stops.",
    why="The model writes its end marker and the runtime does not take it for one: answers run on until the length "
    "limit.",
    advice="Add the marker's id to `eos_token_id` in generation_config.json, and make it the tokenizer's eos token.",
)
def eos_mismatch(case: ModelCase) -> Iterator[Hit]:
    control = control_tokens(case.model, case.subject_encoder)
    configured = case.model.configured_stops
    seen: set[int] = set()
    for one in case.cases:
        for end in one.facts.ends:
            token = one.subject.input_ids[end.subject] if end.subject is not None else None
            if (
                token is None
                or token in seen
                or one.facts.is_empty(end.message)
                or not one.facts.sub.is_trained(end.subject or 0)
            ):
                continue
            if token != one.reference.input_ids[end.reference]:
                continue  # wrong-turn-end says so
            seen.add(token)
            text = show(one.subject.token_text(end.subject or 0))
            if token not in control:
                continue  # not one token: another rule's matter
            if token not in control.stops:
                yield Hit(
                    f"Answers end with {text} (id {token}); generation stops at {_names(one.facts)} only.",
                    key=text,
                )
            elif configured and token not in configured:
                yield Hit(
                    f"Answers end with {text} (id {token}); it is the tokenizer's eos token, but generation_config.json"
                    f" stops at {', '.join(map(str, sorted(configured)))} only, and `generate` goes by that.",
                    key=text,
                )


def _names(facts: Facts) -> str:
    names = []
    for token in sorted(facts.control.stops):
        text = facts.control.tokenizer.convert_ids_to_tokens(token)
        names.append(f"{show(str(text))} (id {token})")
    return ", ".join(names) or "no token"


@rule(
    "pad-equals-eos",
    severity="warning",
    group="Special tokens",
    scope="model",
    reads="structure",
    what="The pad token is the eos token. A warning when the end of an answer is masked with it, else info.",
    why="Collators that mask padding by its id mask the real end of the answer, too, and the model never learns to "
    "stop.",
    advice="Set a pad token of its own (an unused special token will do), or make sure that labels are padded with "
    "−100 and not derived from the ids.",
)
def pad_equals_eos(case: ModelCase) -> Iterator[Hit]:
    control = control_tokens(case.model, case.subject_encoder)
    if control.pad is None or control.pad != control.eos:
        return
    name = case.subject_encoder.effects.pad_token[1] or case.model.tokenizer.pad_token
    for one in case.cases:
        for end in one.facts.ends:
            if end.subject is None or one.subject.input_ids[end.subject] != control.pad:
                continue
            if not one.facts.sub.is_trained(end.subject) and any(one.facts.sub.trained(0, len(one.subject))):
                yield Hit(f"{show(str(name))} is pad and eos token, and it is masked where an answer ends.")
                return
    yield Hit(
        f"{show(str(name))} is pad and eos token; the ends of the answers are trained all the same.", severity="info"
    )
