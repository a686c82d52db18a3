"""What pre-training feeds: blocks of documents, and what is counted while they are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class DocumentSpan(NamedTuple):
    """The part of one document that lies in one block: tokens ``[start, end)`` of the block.

    `document` counts from 0 over the whole stream. The part begins with the document's token
    `offset`, and the whole document has `length` tokens, its separator included.
    """

    document: int
    start: int
    end: int
    offset: int
    length: int

    @property
    def cut_before(self) -> bool:
        """True when the document began before this block."""
        return self.offset > 0

    @property
    def cut_after(self) -> bool:
        """True when the document goes on after this block, or its rest was dropped."""
        return self.offset + self.end - self.start < self.length


@dataclass(frozen=True, slots=True)
class Block:
    """One training example of pre-training.

    `labels` have the length of `input_ids`; −100 is not trained. `replaced` is the id that a BOS
    token written over the first place took away, None when nothing was.
    """

    index: int
    input_ids: list[int]
    labels: list[int]
    spans: tuple[DocumentSpan, ...]
    replaced: int | None = None


@dataclass(frozen=True, slots=True)
class Separator:
    """What the framework puts after every document: a text, and the ids it becomes on its own.

    `special` says that it is one special token, which no text can contain by accident. `trained`
    is False when the batch collator masks it.
    """

    text: str
    ids: tuple[int, ...]
    special: bool
    trained: bool


@dataclass(slots=True)
class Totals:
    """Counts over a stream, complete once all blocks were taken.

    `tokens` are all tokens, separators included; `tokens_dropped` of them are in no block.
    `documents_split` lie in more than one block or lost a part; `documents_dropped` are in none.
    """

    documents: int = 0
    tokens: int = 0
    blocks: int = 0
    tokens_dropped: int = 0
    documents_split: int = 0
    documents_dropped: int = 0
    tokens_replaced: int = 0
    attention_pairs: int = 0
    cross_document_pairs: int = 0

    @property
    def cross_document_attention(self) -> float:
        """Share of all causal attention pairs (a token and itself or an earlier one of its block)
        whose two tokens belong to different documents; between 0 and 1."""
        return self.cross_document_pairs / self.attention_pairs if self.attention_pairs else 0.0

    def count(self, block: Block) -> None:
        """Take a finished block into account."""
        pairs = _pairs(len(block.input_ids))
        self.blocks += 1
        self.tokens_replaced += block.replaced is not None
        self.attention_pairs += pairs
        self.cross_document_pairs += pairs - sum(_pairs(span.end - span.start) for span in block.spans)


def _pairs(length: int) -> int:
    return length * (length + 1) // 2
