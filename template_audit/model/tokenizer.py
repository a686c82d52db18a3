"""Tokenizing with offsets: the ids that training code would get, and the characters of each token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from template_audit.errors import EncodingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]

_RESYNC = 64  # how far a decoded piece is searched for in the text before its place is only estimated


def encode_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[tuple[list[int], list[Span]]]:
    """Ids and half-open character spans of every text.

    The ids are those of ``tokenizer.encode(text, add_special_tokens=False)``. The spans are
    monotonic and leave no gap: a character that a normaliser folded into its neighbour belongs to
    the neighbour's token, and all tokens that hold bytes of one character share that character.
    For slow (Python) tokenizers, which know no offsets, the spans come from decoding; where the
    decoded text is not the text given (a normaliser changed it), they are approximate.

    Raises EncodingError for text that is not valid Unicode (a lone surrogate), and when the
    tokenizer itself breaks (a regular expression in tokenizer.json that backtracks without end).
    """
    texts = list(texts)
    if not texts:
        return []
    for text in texts:
        _check_unicode(text)
    if not tokenizer.is_fast or overrides_encode(tokenizer):
        with panics_told():
            return [_encode_slowly(tokenizer, text) for text in texts]
    with _untrimmed(tokenizer.backend_tokenizer), panics_told():
        batch = tokenizer(
            texts,
            add_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
    return [
        (ids, _without_gaps(spans, len(text)))
        for text, ids, spans in zip(texts, batch["input_ids"], batch["offset_mapping"], strict=True)
    ]


def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """The text that one token stands for inside a longer text, leading space included.

    A token that is a fragment of a character is shown by its bytes, as ``<0xF0><0x9F>``. An id
    without a token is ``<no token ID>``.
    """
    # No len(tokenizer) or added_tokens_decoder on the way: transformers 4 rebuilds both at every use.
    try:
        token = tokenizer.convert_ids_to_tokens(token_id)
    except (IndexError, KeyError, OverflowError):
        token = None
    if token is None:
        return f"<no token {token_id}>"
    # Decoders drop the space of the first token, so the second of two equal ones tells the truth.
    once, twice = _decode(tokenizer, [token_id]), _decode(tokenizer, [token_id, token_id])
    text = twice[len(once) :] if twice.startswith(once) else once
    if "�" not in text:
        return text
    added = tokenizer.added_tokens_decoder.get(token_id)
    return _bytes_of(token) if added is None else str(added.content)


def _check_unicode(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise EncodingError(
            f"The text holds the lone surrogate U+{ord(text[error.start]):04X} at character {error.start}, which no "
            "tokenizer can encode; remove it from the data."
        ) from None


def overrides_encode(tokenizer: PreTrainedTokenizerBase) -> bool:
    """True when the class (from remote code, mostly) has an `encode` of its own."""
    module: str = type(tokenizer).encode.__module__
    return not module.startswith("transformers.tokenization_")


@contextmanager
def panics_told() -> Iterator[None]:
    """Rust panics arrive as a BaseException, which no ordinary handler would catch."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        reason = " ".join(str(error).split())[:200]
    else:
        return
    raise EncodingError(f"The model's tokenizer broke on this text ({reason}).")


@contextmanager
def _untrimmed(backend: Any) -> Iterator[None]:
    """Keep a ByteLevel post-processor from cutting whitespace off the spans.

    Without special tokens a post-processor does nothing else, so the ids are the same.
    """
    processor = backend.post_processor
    if processor is None or b'"trim_offsets":true' not in processor.__getstate__():
        yield
        return
    backend.post_processor = None
    try:
        yield
    finally:
        backend.post_processor = processor


def _without_gaps(spans: list[Span], length: int) -> list[Span]:
    """Give characters between two tokens to the earlier one, leading ones to the first."""
    if not spans:
        return spans
    out: list[Span] = []
    end = 0
    for i, (start, stop) in enumerate(spans):
        if start > end:
            if i == 0:
                start = 0
            else:  # every token that shares the last character gets what was folded into it
                k = i - 1
                while k >= 0 and out[k][1] == end:
                    out[k] = (out[k][0], start)
                    k -= 1
        out.append((start, stop))
        end = max(end, stop)
    if end < length:
        k = len(out) - 1
        while k >= 0 and out[k][1] == end:
            out[k] = (out[k][0], length)
            k -= 1
    return out


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text = tokenizer.decode(
        ids, skip_special_tokens=False, clean_up_tokenization_spaces=False, spaces_between_special_tokens=False
    )
    return str(text)


def _encode_slowly(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[Span]]:
    ids = [int(i) for i in tokenizer.encode(text, add_special_tokens=False)]
    return ids, spans_by_decoding(lambda part: _decode(tokenizer, part), ids, text)


def spans_by_decoding(decode: Callable[[list[int]], str], ids: list[int], text: str) -> list[Span]:
    """Character spans of `ids` in `text`, found by decoding step by step.

    Tokens that only together decode to further characters share one span. Exact when the decoded
    text is the text; elsewhere the search resumes within a few dozen characters.
    """
    spans: list[Span] = []
    place = 0
    window = done = 0  # ids[window:done] are decoded and placed; they give ids[done:] their context
    prefix = ""
    for k in range(1, len(ids) + 1):
        seen = decode(ids[window:k])
        if k < len(ids) and (seen.endswith("�") or len(seen) <= len(prefix)):
            continue  # in the middle of a character, which decoders show as U+FFFD or not at all
        start, stop = _place(seen[len(prefix) :], text, place)
        spans += [(start, stop)] * (k - done)
        place = stop
        window, done = done, k
        prefix = decode(ids[window:done])
    return _without_gaps(spans, len(text))


def _place(piece: str, text: str, at: int) -> Span:
    if text.startswith(piece, at):
        return at, at + len(piece)
    bare = piece.strip()
    found = text.find(bare, at, at + len(bare) + _RESYNC) if bare else -1
    if found >= 0:
        return at, found + len(bare)
    return at, min(len(text), at + len(piece))


@cache
def _byte_letters() -> dict[str, int]:
    """The letters by which byte-level vocabularies write bytes (GPT-2's table), back to bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in printable}
    rest = (byte for byte in range(256) if byte not in printable)
    table.update({chr(0x100 + i): byte for i, byte in enumerate(rest)})
    return table


def _bytes_of(token: str) -> str:
    letters = _byte_letters()
    if token.startswith("<0x") or any(char not in letters for char in token):
        return token
    return "".join(f"<0x{letters[char]:02X}>" for char in token)
