"""The tokens that steer a model. No rule is defined here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from template_audit.frameworks.interface import Encoder
    from template_audit.model import Model


@dataclass(frozen=True)
class ControlTokens:
    """The tokens that steer a model, as its tokenizer and the subject's changes to it have them."""

    tokenizer: Any
    special: frozenset[int]
    size: int
    """Ids from here on are new: the encoder added them."""
    eos: int | None
    """The eos token after the encoder's changes."""
    pad: int | None
    stops: frozenset[int]
    """Where generation stops: the model's own stop tokens and `eos`."""

    @property
    def bos(self) -> int | None:
        """The id of the bos token, or None."""
        value: int | None = self.tokenizer.bos_token_id
        return value

    @property
    def unknown(self) -> int | None:
        """The id that stands for what the vocabulary lacks, where that is a token of its own."""
        value: int | None = self.tokenizer.unk_token_id
        return None if value == self.eos else value

    def __contains__(self, token: int) -> bool:
        return token in self.special or token >= self.size

    def single(self, text: str) -> int | None:
        """The id of the model's token that is exactly `text`, or None."""
        token: int | None = self.tokenizer.convert_tokens_to_ids(text)
        if token is None or (token == self.tokenizer.unk_token_id and text != self.tokenizer.unk_token):
            return None
        return token


@lru_cache(maxsize=1)
def _control_tokens(tokenizer: Any, encoder: Any) -> tuple[frozenset[int], int, int | None, int | None]:
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special} | set(
        tokenizer.all_special_ids
    )
    changed = getattr(encoder, "tokenizer", tokenizer)
    effects = encoder.effects
    special |= {i for token in effects.made_special if (i := tokenizer.convert_tokens_to_ids(token)) is not None}
    size = max(len(tokenizer), max(special, default=0) + 1)
    eos = changed.eos_token_id if effects.eos_token[1] else tokenizer.eos_token_id
    pad = changed.pad_token_id if effects.pad_token[1] else tokenizer.pad_token_id
    return frozenset(special), size, eos, pad


def control_tokens(model: Model, subject: Encoder) -> ControlTokens:
    """The control tokens of `model` as `subject` uses them."""
    encoder: Any = subject  # hashed by identity
    special, size, eos, pad = _control_tokens(model.tokenizer, encoder)
    stops = model.stop_token_ids | ({eos} if eos is not None else set())
    return ControlTokens(model.tokenizer, special, size, eos, pad, frozenset(stops))
