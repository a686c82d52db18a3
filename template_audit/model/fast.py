"""Ids of many texts at once, without offsets: with fastokens where it is installed and proves equal.

fastokens (extra ``fast``) reads the same tokenizer.json as tokenizers and is some twenty times faster.
It is never trusted blindly: its ids are held against those of tokenizers when it is loaded, on the
first texts of a run and on a share of all later ones. On any difference it is not used again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from template_audit.model.tokenizer import encode_texts, overrides_encode, panics_told

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from template_audit.ids import Ids, Places

PAYS_FROM = 1 << 21
"""Characters that have to be tokenized before it pays to load fastokens, which takes one to two seconds."""

_FIRST, _EVERY = 1 << 16, 512  # characters compared at the beginning of a run, and then one text of how many
_PROBES = (
    "Hello, world! It's 12:30, isn't it?  I'LL pay $1,234,567.89\n\n\n\tif (x >= 10) { return; }  \r\n",
    "Grüße, señor: naïve café, ﬁne ½ Å Å e\u0301 \u1e9b\u0323 Ⅷ １２３ ４",
    "日本語のテキスト。中文，没有空格！ 한국어 문장 ไทย हिन्दी العربية עברית",
    "👩‍👩‍👧‍👦🇩🇪🏳️‍🌈 \u200b\u00a0\u3000\ufeff \u202e x \x00 \x1f \x7f \ue000 𝒳𝒴",
    "     leading and trailing     ",
    " a  b   c    d\t\te\n \n  \n   f",
    "don't DON'T we'Ve I'm ’s '' ''' `` -- --- ___ *** ### //// <<>> <|x|> </s> [INST]",
    "x" * 300 + " " * 300 + "é" * 50 + "0" * 40 + "\n" * 20,
    "",
    " ",
    "\n",
)


def are_unicode(texts: Sequence[str]) -> bool:
    """False when one of the texts has a lone surrogate, which no tokenizer takes."""
    for text in texts:
        if not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                return False
    return True


_last: tuple[bytes, Any] = (b"", None)


def _loaded(description: str) -> Any:
    """fastokens' tokenizer of a tokenizer.json; of two encoders with the same one (it is large), the same object.

    Raises ImportError without fastokens, and whatever it raises for what it does not support.
    """
    global _last
    import fastokens

    digest = hashlib.blake2b(description.encode("utf-8", "surrogatepass")).digest()
    if _last[0] != digest:
        fast = fastokens.Tokenizer.from_json_str(description)
        fast.no_truncation()
        fast.no_padding()
        _last = digest, fast
    return _last[1]


class IdTokenizer:
    """Gives the ids of ``tokenizer.encode(text, add_special_tokens=False)``, text by text, as flat arrays.

    `name` is what tokenizes: ``fastokens``, ``tokenizers``, or ``transformers`` for tokenizers that
    tokenizers alone cannot run. `note` says for the report why fastokens, though installed, is not
    used any more. `use_fastokens` None: where it is installed and pays, unless the environment has
    TEMPLATE_AUDIT_FASTOKENS=0.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, use_fastokens: bool | None = None) -> None:
        self.tokenizer = tokenizer
        self.note: str | None = None
        self.name = "transformers" if not tokenizer.is_fast or overrides_encode(tokenizer) else "tokenizers"
        self._fast: Any = None
        if use_fastokens is None and os.environ.get("TEMPLATE_AUDIT_FASTOKENS") == "0":
            use_fastokens = False
        self._untried = self.name == "tokenizers" and use_fastokens is not False
        self._pays_from = 0 if use_fastokens else PAYS_FROM
        self._seen = self._texts = self._compared = 0

    def expect_many(self) -> None:
        """A whole data set will come: load fastokens now, not when that much text has come."""
        self._pays_from = 0
        self.encode([])

    def encode(self, texts: Sequence[str]) -> tuple[Ids, Places]:
        """All ids one after another, and where each text's begin (one more than texts).

        Raises EncodingError when one of the texts cannot be tokenized.
        """
        if self._untried:
            self._seen += sum(map(len, texts))
            if self._seen >= self._pays_from:
                self._untried = False
                self._load()
        if self._fast is not None:
            found = self._encode_fast(texts)
            if found is not None:
                return found
        return self._encode_surely(texts)

    def _load(self) -> None:
        try:
            fast = _loaded(self.tokenizer.backend_tokenizer.to_str())
        except ImportError:
            return
        except Exception:  # it says so in many ways when it does not support a kind of tokenizer
            return
        self._fast, self.name = fast, "fastokens"
        added = [token.content for token in self.tokenizer.added_tokens_decoder.values()]
        probes = [*_PROBES, *(f"a {token} b{token}\n{token}" for token in added), " ".join(added), "".join(added)]
        self._encode_fast(probes, step=1)

    def _encode_fast(self, texts: Sequence[str], step: int = 0) -> tuple[Ids, Places] | None:
        """The ids by fastokens; None, and never again, when they differ from those of tokenizers in a sample."""
        import numpy as np

        try:
            flat, places = self._fast.encode_batch_flat(
                texts if isinstance(texts, list) else list(texts),
                split_special_tokens=bool(getattr(self.tokenizer, "split_special_tokens", False)),
            )
        except Exception:  # a text that is no Unicode; the sure way finds and names it
            return None
        ids = np.frombuffer(flat, dtype=np.uint32).astype(np.int32)
        offsets = np.frombuffer(places, dtype=np.uint64).astype(np.int64)
        if step:
            sample: Sequence[int] = range(0, len(texts), step)
        else:
            first = 0
            while self._compared < _FIRST and first < len(texts):
                self._compared += len(texts[first])
                first += 1
            sample = [*range(first), *range(first + (-self._texts) % _EVERY, len(texts), _EVERY)]
            self._texts += len(texts)
        expected, ends = self._encode_surely([texts[i] for i in sample])
        bounds = ends.tolist()
        for k, i in enumerate(sample):
            mine = ids[offsets[i] : offsets[i + 1]]
            if not np.array_equal(mine, expected[bounds[k] : bounds[k + 1]]):
                self._fast, self.name = None, "tokenizers"
                self.note = (
                    f"fastokens gives other ids than tokenizers for {texts[i]!r:.60}, so it is not used for this model."
                )
                return None
        return ids, offsets

    def _encode_surely(self, texts: Sequence[str]) -> tuple[Ids, Places]:
        import numpy as np

        numbers: dict[str, int] = {}
        order = [numbers.setdefault(text, len(numbers)) for text in texts]
        if self.name == "transformers":
            lists = [ids for ids, _ in encode_texts(self.tokenizer, list(numbers))]
        else:
            lists = self._encode_distinct(list(numbers))
        lengths = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
        starts = np.cumsum(lengths) - lengths
        flat = np.fromiter(chain.from_iterable(lists), dtype=np.int32, count=int(lengths.sum()))
        chosen = np.array(order, dtype=np.int64)
        offsets = np.zeros(len(order) + 1, dtype=np.int64)
        np.cumsum(lengths[chosen], out=offsets[1:])
        if len(numbers) == len(order):
            return flat, offsets
        from template_audit.ids import gather

        return gather(flat, starts[chosen], lengths[chosen]), offsets

    def _encode_distinct(self, texts: list[str]) -> list[list[int]]:
        # The backend keeps the truncation and padding that were asked for last; this asks for none.
        self.tokenizer("", add_special_tokens=False)
        try:
            with panics_told():
                found = self.tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except (UnicodeEncodeError, TypeError):  # text that is no Unicode, for which `encode_texts` has a sentence
            return [ids for ids, _ in encode_texts(self.tokenizer, texts)]
        return [encoding.ids for encoding in found]
