"""Which of a framework's templates fits a model best, and which encoder a SPEC stands for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from template_audit.alignment import compare
from template_audit.conversation import Conversation
from template_audit.errors import UsageError
from template_audit.frameworks import Spec, get_framework, load_encoder, parse_spec
from template_audit.probes import probe
from template_audit.results import Comparison
from template_audit.stream import IGNORE, EncodedStream

if TYPE_CHECKING:
    from template_audit.frameworks.interface import Encoder, Framework
    from template_audit.model import Model

PROBES = ("single", "multi-turn", "system", "unicode", "reasoning", "tool-call")
"""What templates are ranked by. Probes that the chat template refuses, or of which it leaves tools or reasoning out,
are left out."""


class NoReference(UsageError):
    """There is nothing to match templates against: the chat template takes none of the probes."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"No template can be matched: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Match:
    """How well a template fits: shares between 0 and 1, over the probes that the chat template takes.

    `text` is the likeness of the texts. `tokens` is the share of tokens that are equal in place, each
    probe weighing the same; `special` that of special tokens, over all probes; and `labels` the share of
    equal tokens that both sides train or both mask. None when it was not encoded. `default` is True for
    the template that the framework itself proposes for this model.
    """

    template: str
    spec: str
    text: float
    tokens: float | None = None
    labels: float | None = None
    changes: int = 0
    """How many things the encoder changes in the tokenizer."""
    special: float | None = None
    default: bool = False

    @property
    def fits(self) -> bool:
        """True when every token is equal."""
        return self.tokens == 1.0


def best_match(
    model: Model,
    framework: str = "llamafactory",
    *,
    version: str | None = None,
    top: int = 5,
    framework_source: str | None = None,
) -> list[Match]:
    """The framework's templates, best first: the `top` ones and the framework's default compared exactly, the others
    by text.

    Of templates that fit equally well the framework's default goes first. Raises NoReference when the model has no
    chat template that takes any of the probes, and UsageError for a framework or version without templates.
    """
    plugin = get_framework(framework, framework_source)
    if not plugin.templates(version):
        raise UsageError(f"`match` ranks templates by name, and of these {framework} has none.")
    conversations, streams = _reference(model)
    texts = plugin.texts(model, conversations, version)
    prefix = f"{framework}@{version}" if version else framework
    wanted = [stream.text for stream in streams]
    choice = plugin.choose(model, version)
    default = choice.template if choice else None
    rough = [
        Match(name, f"{prefix}:{name}", _likeness(wanted, written), default=name == default)
        for name, written in texts.items()
    ]
    rough.sort(key=lambda match: (-match.text, len(match.template)))
    chosen = [*rough[:top], *(match for match in rough[top:] if match.default)]
    exact = [_exact(model, match, conversations, streams, framework_source) for match in chosen]
    return sorted(exact, key=_rank) + [match for match in rough[top:] if not match.default]


def _rank(match: Match) -> tuple[float, float, float, bool, float, int, int]:
    shares = -(match.tokens or 0.0), -(match.special or 0.0), -(match.labels or 0.0)
    return *shares, not match.default, -match.text, match.changes, len(match.template)


def taken_probes(model: Model) -> list[Conversation]:
    """The probes that templates are ranked by for this model. Raises NoReference when there are none."""
    return _reference(model)[0]


def _reference(model: Model) -> tuple[list[Conversation], list[EncodedStream]]:
    """The probes that the chat template takes, and their streams."""
    conversations = [probe(name, model) for name in PROBES]
    encoded = load_encoder("chat-template", model).encode_batch(conversations, keep_errors=True)
    taken = [
        (c, s)
        for c, s in zip(conversations, encoded, strict=True)
        if isinstance(s, EncodedStream) and not Comparison(c, s, s, None).lacks
    ]
    if not taken:
        raise NoReference(str(encoded[0]))
    return [c for c, _ in taken], [s for _, s in taken]


def _likeness(wanted: Sequence[str], written: Sequence[str | None]) -> float:
    from rapidfuzz.distance import Levenshtein

    shares = [
        0.0 if theirs is None else Levenshtein.normalized_similarity(ours, theirs)
        for ours, theirs in zip(wanted, written, strict=True)
    ]
    return sum(shares) / len(shares)


def _exact(
    model: Model,
    match: Match,
    conversations: Sequence[Conversation],
    references: Sequence[EncodedStream],
    framework_source: str | None,
) -> Match:
    encoder = load_encoder(match.spec, model, framework_source=framework_source)
    special = _special_ids(model, encoder)
    shares: list[float] = []
    equal = same_labels = specials = same_specials = 0
    for reference, subject in zip(references, encoder.encode_batch(conversations, keep_errors=True), strict=True):
        if not isinstance(subject, EncodedStream):
            shares.append(0.0)
            specials += _count(reference.input_ids, special)
            continue
        here = 0
        specials += max(_count(stream.input_ids, special) for stream in (reference, subject))
        for hunk in compare(reference, subject).hunks:
            if hunk.kind == "equal":
                here += hunk.ref_end - hunk.ref_start
                same_specials += _count(reference.input_ids[hunk.ref_start : hunk.ref_end], special)
                same_labels += sum(
                    (a == IGNORE) == (b == IGNORE)
                    for a, b in zip(
                        reference.labels[hunk.ref_start : hunk.ref_end],
                        subject.labels[hunk.sub_start : hunk.sub_end],
                        strict=True,
                    )
                )
        equal += here
        shares.append(here / max(len(reference), len(subject), 1))
    effects = encoder.effects
    pairs = (effects.eos_token, effects.pad_token, effects.chat_template)
    changes = len(effects.added_tokens) + len(effects.made_special) + sum(before != after for before, after in pairs)
    return replace(
        match,
        tokens=round(sum(shares) / len(shares), 6),
        labels=round(same_labels / equal, 6) if equal else None,
        changes=changes,
        special=round(same_specials / specials, 6) if specials else None,
    )


def _special_ids(model: Model, encoder: Encoder) -> frozenset[int]:
    """The special tokens of the model, those that the encoder made special included."""
    tokenizer = model.tokenizer
    made = (tokenizer.convert_tokens_to_ids(token) for token in encoder.effects.made_special)
    added = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return frozenset({*added, *tokenizer.all_special_ids, *(id for id in made if id is not None)})


def _count(ids: Sequence[int], special: frozenset[int]) -> int:
    return sum(id in special for id in ids)


def choose_encoder(
    spec: str | Encoder,
    model: Model,
    *,
    framework_source: str | None = None,
    python: str | None = None,
    **options: Any,
) -> tuple[Encoder, str]:
    """The encoder of a SPEC, and in one sentence why it is this one.

    A SPEC without a template gets the framework's own choice for the model, else the best match.
    Raises UsageError for a SPEC, template or option that does not exist.
    """
    if not isinstance(spec, str):
        return spec, "The encoder was given."

    def load(spec: str) -> Encoder:
        return load_encoder(spec, model, framework_source=framework_source, python=python, **options)

    parsed = parse_spec(spec)
    framework = get_framework(parsed.framework, framework_source)
    if parsed.template is not None or not framework.templates(parsed.version):
        return load(spec), "It was asked for."
    choice = framework.choose(model, parsed.version)
    if choice is not None:
        chosen, why = choice.template, choice.why
    else:
        chosen, why = _matched(model, parsed, framework, framework_source)
    spec = f"{spec}:{chosen}" if chosen else spec
    return load(spec), why


def _matched(model: Model, spec: Spec, framework: Framework, framework_source: str | None) -> tuple[str, str]:
    """The template that fits best, and why; the framework's first one where the chat template cannot be used."""
    why = f"{framework.title} proposes no template for {model.id}"
    try:
        best = best_match(model, spec.framework, version=spec.version, framework_source=framework_source)[0]
    except NoReference as error:
        return framework.templates(spec.version)[0], f"{why}, and none can be matched: {error.reason}"
    share = f"{best.tokens:.1%} of the tokens are equal" if best.tokens else "by its text"
    return best.template, f"{why}; `{best.template}` fits its chat template best ({share})."
