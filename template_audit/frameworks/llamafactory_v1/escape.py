"""Special tokens in the data, as the v1 renderer breaks them.

Source: LLaMA-Factory 0.9.6.dev0, v1/core/rendering/escape.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from template_audit.errors import EncodingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BREAK = "\N{ZERO WIDTH SPACE}"


class Escaper:
    """Breaks the text of special tokens in user data by a zero-width space after its first character.

    Special are the added tokens that are marked so, one-character ones excepted. The longest are
    replaced first. `broken` are the tokens that were found since the Escaper was made.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._ids = frozenset(added)
        self._words = sorted((word for word in added.values() if len(word) >= 2), key=len, reverse=True)
        self.broken: dict[str, None] = {}

    def text(self, text: str) -> str:
        """`text` with its special tokens broken.

        Raises EncodingError when the broken text still gives a special id. The framework stops there
        too, also when the id has nothing to do with the tokens that it broke.
        """
        found = []
        for word in self._words:
            if word in text:
                text = text.replace(word, word[0] + BREAK + word[1:])
                found.append(word)
        if not found:
            return text
        left = self._ids.intersection(self._encode(text))
        if left:
            names = ", ".join(f"`{self._tokenizer.convert_ids_to_tokens(index)}`" for index in sorted(left))
            raise EncodingError(
                "LLaMA-Factory v1 breaks special tokens in the data and stops where the text still gives one, as here: "
                f"{names}."
            )
        self.broken |= dict.fromkeys(found)
        return text

    def arguments(self, arguments: Any) -> Any:
        """The arguments of a tool call: only strings directly in an object are broken, as the framework does."""
        if not isinstance(arguments, dict):
            return arguments
        return {key: self.text(value) if isinstance(value, str) else value for key, value in arguments.items()}

    def _encode(self, text: str) -> list[int]:
        from template_audit.model.tokenizer import encode_texts

        return encode_texts(self._tokenizer, [text])[0][0]
