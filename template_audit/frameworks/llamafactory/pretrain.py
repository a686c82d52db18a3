"""LLaMA-Factory's pre-training processor: documents, separators, blocks.

Source: data/processor/pretrain.py of 0.9.2 to 0.9.5 (``PretrainDatasetProcessor``),
data/processors/pretrain.py of 0.9.0 and 0.9.1; hparams/data_args.py (``__post_init__``) and
hparams/parser.py (``get_train_args``) for what packing does to `cutoff_len`; the labels are those of
transformers' ``DataCollatorForLanguageModeling``, which train/pt/workflow.py uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from template_audit.blocks import Block, DocumentSpan, Separator, Totals
from template_audit.errors import EncodingError, UsageError
from template_audit.frameworks.interface import Option
from template_audit.frameworks.llamafactory.converters import Converted
from template_audit.frameworks.llamafactory.rows import map_batches
from template_audit.model.fast import IdTokenizer, are_unicode
from template_audit.pretraining import Documents
from template_audit.stream import IGNORE

if TYPE_CHECKING:
    from template_audit.frameworks.llamafactory.documents import RowDocuments
    from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
    from template_audit.ids import Ids, Places

LLAMA3_SEPARATOR = "<|end_of_text|>"
OPTIONS = (
    Option("cutoff_len", "int?", None, "Tokens in a block, or the most of an example; null: the release's, 2048."),
    Option("packing", "bool?", None, "Fill blocks with documents; null is true, but true makes blocks one shorter."),
    Option("preprocessing_batch_size", "int", 1000, "Documents that are packed together; the rest of each is dropped."),
    Option(
        "preprocessing_num_workers", "int?", None, "Processes; each gets a part of the data set and drops its rest."
    ),
)
_SLICE_CHARS = 1 << 20  # how much text is tokenized at once


def document_text(converted: Converted, where: str) -> str:
    """The text of a row that pre-training uses: the first message of its prompt, and nothing else.

    Raises EncodingError where the framework raises: a row that its converter emptied, or no text.
    """
    prompt = converted.example.prompt
    if not prompt:
        reason = converted.problem or "it has no message"
        raise EncodingError(f"{where}: LLaMA-Factory stops on this row (IndexError): {reason}.")
    text = prompt[0].content
    if not isinstance(text, str):
        raise EncodingError(f"{where}: LLaMA-Factory stops on this row (TypeError): its text is {text!r:.60}.")
    return text


class LlamaFactoryPretrainEncoder:
    """What one release of LLaMA-Factory makes of documents in stage ``pt``.

    `encoder` gives the template, the release and the tokenizer as the framework changes it, which
    it does in this stage too.
    """

    def __init__(self, encoder: LlamaFactoryEncoder, options: Mapping[str, Any]) -> None:
        """Raises UsageError for numbers that leave no block; EncodingError when there is no BOS to put in."""
        behaviours = self._behaviours = encoder.registry.behaviours
        given = options.get("cutoff_len")
        cutoff_len: int = behaviours.default_cutoff_len if given is None else given
        asked: bool | None = options.get("packing")
        self.packing = asked is None or asked
        lowered = bool(asked and behaviours.packing_lowers_cutoff_len)
        self.block_size = cutoff_len - lowered
        self.batch_size: int = options.get("preprocessing_batch_size", 1000)
        self.workers: int = options.get("preprocessing_num_workers") or 1
        for name, value in (("cutoff_len", self.block_size), ("preprocessing_batch_size", self.batch_size)):
            if value < 1:
                raise UsageError(f"`{name}` leaves {value} tokens or rows to work with; it must be larger.")
        if self.workers < 1:
            raise UsageError("`preprocessing_num_workers` must be at least 1.")
        self.spec = encoder.spec
        self.model = encoder.model
        self.effects = encoder.effects
        self.tokenizer = encoder.tokenizer
        self.options: Mapping[str, Any] = {**options, "cutoff_len": cutoff_len}
        self.notes: tuple[str, ...] = encoder.notes
        if lowered:
            self.notes += (f"`packing: true` lowers cutoff_len by one: blocks have {self.block_size:,} tokens.",)
        self._tokens = IdTokenizer(self.tokenizer)
        template = encoder.template.name
        self._text = LLAMA3_SEPARATOR if template == "llama3" else str(self.tokenizer.eos_token)
        self._with_bos = (
            template == "gemma"
            if behaviours.pretrain_bos == "gemma_template"
            else bool(getattr(self.tokenizer, "add_bos_token", False))
        )
        if self._with_bos and self.tokenizer.bos_token_id is None:
            raise EncodingError("LLaMA-Factory wants to put BOS in, and this tokenizer has none; it stops.")
        self.separator = self._separator()

    def _separator(self) -> Separator:
        ids = tuple(self._tokens.encode([self._text])[0].tolist())
        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        special.update(self.tokenizer.all_special_ids)
        single = len(ids) == 1 and ids[0] in special
        return Separator(self._text, ids, single, trained=self.tokenizer.pad_token_id not in ids)

    def open_documents(
        self,
        names: Sequence[str],
        *,
        dataset_dir: str | Path | Mapping[str, Any] | None = None,
        column: str | None = None,
        max_samples: int | None = None,
        seed: int = 42,
    ) -> RowDocuments:
        """See `PretrainEncoder.open_documents`."""
        from template_audit.frameworks.llamafactory.documents import open_documents

        return open_documents(
            names, self._behaviours, dataset_dir=dataset_dir, column=column, max_samples=max_samples, seed=seed
        )

    def blocks(self, documents: Iterable[str], totals: Totals) -> Iterator[Block]:
        """See `PretrainEncoder.blocks`."""
        count = documents.count() if self.workers > 1 and isinstance(documents, Documents) else None
        for batch in map_batches(documents, self.batch_size, self.workers, count):
            if self.packing:
                yield from self._packed(batch, totals)
            else:
                yield from self._single(batch, totals)

    def _tokenized(self, batch: Iterator[str], totals: Totals) -> Iterator[tuple[int, Ids]]:
        """Number and ids of each document; the batch is tokenized in slices, without offsets."""
        front = str(self.tokenizer.bos_token) if self._with_bos and not self.packing else ""
        for texts in _slices(batch):
            flat, places = self._ids([front + text + self._text for text in texts], totals.documents)
            totals.tokens += len(flat)
            for start, end in pairwise(places.tolist()):
                yield totals.documents, flat[start:end]
                totals.documents += 1
        if self._tokens.note and self._tokens.note not in self.notes:
            self.notes += (self._tokens.note,)

    def _ids(self, texts: list[str], first: int) -> tuple[Ids, Places]:
        if not are_unicode(texts):
            for number, text in enumerate(texts, first + 1):
                _check_unicode(text, number)
        return self._tokens.encode(texts)

    def _packed(self, batch: Iterator[str], totals: Totals) -> Iterator[Block]:
        parts: list[Ids] = []
        spans: list[DocumentSpan] = []
        filled = 0
        for document, tokens in self._tokenized(batch, totals):
            at, length = 0, len(tokens)
            while at < length:
                taken = min(self.block_size - filled, length - at)
                parts.append(tokens[at : at + taken])
                spans.append(DocumentSpan(document, filled, filled + taken, at, length))
                if not at and taken < length:
                    totals.documents_split += 1
                at, filled = at + taken, filled + taken
                if filled == self.block_size:
                    yield self._block(parts, spans, totals)
                    parts, spans, filled = [], [], 0
        totals.tokens_dropped += filled
        totals.documents_dropped += sum(not span.cut_before for span in spans)

    def _single(self, batch: Iterator[str], totals: Totals) -> Iterator[Block]:
        for document, tokens in self._tokenized(batch, totals):
            length, offset = len(tokens), 0
            if length > self.block_size:
                if self.tokenizer.truncation_side == "left":
                    offset = length - self.block_size
                tokens = tokens[offset : offset + self.block_size]
                totals.documents_split += 1
                totals.tokens_dropped += length - self.block_size
            yield self._block([tokens], [DocumentSpan(document, 0, len(tokens), offset, length)], totals)

    def _block(self, parts: list[Ids], spans: list[DocumentSpan], totals: Totals) -> Block:
        ids: list[int] = []
        for part in parts:
            ids += part.tolist()
        replaced = None
        if self.packing and self._with_bos:
            replaced, ids[0] = ids[0], int(self.tokenizer.bos_token_id)
        pad = self.tokenizer.pad_token_id
        labels = [IGNORE if token == pad else token for token in ids] if pad in ids else ids[:]
        block = Block(totals.blocks, ids, labels, tuple(spans), replaced)
        totals.count(block)
        return block


def _slices(texts: Iterator[str]) -> Iterator[list[str]]:
    """Texts in lists of about `_SLICE_CHARS` characters."""
    taken: list[str] = []
    size = 0
    for text in texts:
        taken.append(text)
        size += len(text)
        if size >= _SLICE_CHARS:
            yield taken
            taken, size = [], 0
    if taken:
        yield taken


def _check_unicode(text: str, number: int) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise EncodingError(
            f"Document {number} holds the lone surrogate U+{ord(text[error.start]):04X}, which no tokenizer "
            "can encode; remove it."
        ) from None
