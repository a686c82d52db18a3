"""Whole data sets through LLaMA-Factory's SFT encoder: ids and labels in flat arrays.

The same ids, labels, notes and errors as `LlamaFactoryEncoder.encode_batch` gives, conversation by
conversation. Of rows that differ in their texts alone the slots are worked out once, of all others one by
one (`outlines`); all texts of a chunk are tokenized in one call, and put together without a Python
object for each token (`flat`). What cannot be encoded goes the encoder's own way, which says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from template_audit.conversation import Conversation
from template_audit.errors import EncodingError
from template_audit.frameworks.llamafactory.flat import Flat, assemble
from template_audit.frameworks.llamafactory.messages import Example, ExampleRole
from template_audit.frameworks.llamafactory.outlines import (
    Constants,
    Outline,
    Row,
    Screen,
    outline_of,
    placeholders,
    row_of_conversation,
    row_of_example,
    slots_of,
)
from template_audit.frameworks.llamafactory.registry import Special, Token
from template_audit.frameworks.llamafactory.saved_template import special_token
from template_audit.frameworks.llamafactory.slots import Element
from template_audit.frameworks.llamafactory.streams import checked
from template_audit.ids import IdsBatch, joined
from template_audit.model.fast import IdTokenizer, are_unicode
from template_audit.model.tokenizer import encode_texts

if TYPE_CHECKING:
    from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
    from template_audit.ids import Ids

CHUNK = 4096
"""Conversations that are tokenized and put together at once."""


class BatchEncoder:
    """The short way for one encoder. It keeps the outlines and the ids of the template's own texts."""

    def __init__(self, encoder: LlamaFactoryEncoder, use_fastokens: bool | None = None) -> None:
        self.encoder = encoder
        self.tokenizer = IdTokenizer(encoder.tokenizer, use_fastokens)
        self._screen = Screen(encoder.template)
        self._constants = Constants(self._encode, self._look_up)
        self._outlines: dict[tuple[tuple[ExampleRole, ...], bool], Outline | None] = {}
        self._eos: int | None = None
        if encoder.template.efficient_eos:
            found = special_token(Special("eos_token"), encoder.tokenizer)
            self._eos = None if found is None else found[1]

    def encode(self, conversations: Sequence[Conversation]) -> IdsBatch:
        """All conversations, chunk by chunk."""
        chunks = range(0, len(conversations), CHUNK) or (0,)
        return joined([self._encode_chunk(conversations[start : start + CHUNK]) for start in chunks])

    def _encode_chunk(self, conversations: Sequence[Conversation]) -> IdsBatch:
        outlines: list[Outline] = []
        texts: list[str] = []
        short: list[int] = []  # the conversations that go the short way
        others: dict[int, Example | EncodingError] = {}
        notes: dict[int, tuple[str, ...]] = {}
        for index, conversation in enumerate(conversations):
            example = None
            if conversation.row:
                (example,) = self.encoder.examples_of([conversation])
                row = row_of_example(example)
            else:
                row = row_of_conversation(conversation)
            outline = None if row is None else self._outline(row)
            if row is not None and outline is not None and are_unicode(row.values):
                filled = outline.texts(row.values)
            else:
                if example is None:
                    (example,) = self.encoder.examples_of([conversation])
                slots = self._slots(example)
                if slots is None:
                    others[index] = example
                    continue
                outline, filled = slots
            if isinstance(example, Example) and example.notes:
                notes[index] = example.notes
            outlines.append(outline)
            short.append(index)
            texts += filled
        flat = self._flat(outlines, texts)
        if flat is None:
            refused: Sequence[int] = range(len(short))
        else:
            refused = flat.refused
            notes.update({short[k]: (*notes.get(short[k], ()), *made) for k, made in flat.notes.items()})
        if flat is not None and not others and not refused:
            return IdsBatch(flat.ids, flat.labels, flat.offsets, {}, notes, self.tokenizer.name)
        again = [short[k] for k in refused]
        others.update(zip(again, self.encoder.examples_of([conversations[i] for i in again]), strict=True))
        return self._merged(len(conversations), flat, short, others, notes)

    def _outline(self, row: Row) -> Outline | None:
        key = row.roles, bool(row.values[0])
        if key not in self._outlines:
            self._outlines[key] = self._make_outline(*key)
        outline = self._outlines[key]
        return outline if outline is not None and self._screen.passes(row) else None

    def _slots(self, example: Example | EncodingError) -> tuple[Outline, list[str]] | None:
        """An outline for one example alone; None when the encoder's own way has to say what is wrong with it."""
        if isinstance(example, EncodingError) or example.paired:
            return None
        turns = self.encoder.plan(example)
        if isinstance(turns, EncodingError) or (self.encoder.template.efficient_eos and self._eos is None):
            return None
        try:
            outline, texts = slots_of(turns, self._constants)
        except (EncodingError, LookupError):
            return None
        return (outline, texts) if are_unicode(texts) else None

    def _make_outline(self, roles: tuple[ExampleRole, ...], with_system: bool) -> Outline | None:
        turns = self.encoder.plan(placeholders(roles, with_system))
        if isinstance(turns, EncodingError) or (self.encoder.template.efficient_eos and self._eos is None):
            return None
        try:
            return outline_of(turns, self._constants)
        except (EncodingError, LookupError):
            return None

    def _encode(self, text: str) -> list[int]:
        return encode_texts(self.encoder.tokenizer, [text])[0][0]

    def _look_up(self, element: Element) -> list[int | None]:
        if isinstance(element, Token):
            return [self.encoder.tokenizer.convert_tokens_to_ids(element.text)]
        assert isinstance(element, Special)
        found = special_token(element, self.encoder.tokenizer)
        return [] if found is None else [found[1]]

    def _flat(self, outlines: list[Outline], texts: list[str]) -> Flat | None:
        """The rows of the short way; None when there are none, or a text cannot be tokenized."""
        if not outlines:
            return None
        encoder = self.encoder
        try:
            tokens = self.tokenizer.encode(texts)
        except EncodingError:
            return None
        return assemble(outlines, self._constants, tokens, encoder.settings, self._eos, encoder.registry.behaviours)

    def _merged(
        self,
        count: int,
        flat: Flat | None,
        short: list[int],
        others: dict[int, Example | EncodingError],
        notes: dict[int, tuple[str, ...]],
    ) -> IdsBatch:
        """The rows of the short way and `others`, which the encoder itself encodes, in their order."""
        import numpy as np

        empty = np.zeros(0, dtype=np.int32)
        rows: list[tuple[Ids, Ids]] = [(empty, empty)] * count
        if flat is not None:
            bounds = flat.offsets.tolist()
            for k, index in enumerate(short):
                rows[index] = flat.ids[bounds[k] : bounds[k + 1]], flat.labels[bounds[k] : bounds[k + 1]]
        errors: dict[int, EncodingError] = {}
        encoded = self.encoder.encode_ids(list(others.values()))
        for (index, example), result in zip(others.items(), encoded, strict=True):
            rows[index] = empty, empty
            notes.pop(index, None)
            try:
                ids, labels = checked(result, self.encoder.lost_tokens)
            except EncodingError as error:
                errors[index] = error
                continue
            assert isinstance(example, Example)
            assert not isinstance(result, EncodingError)
            rows[index] = np.array(ids, dtype=np.int32), np.array(labels, dtype=np.int32)
            if example.notes or result.notes:
                notes[index] = (*example.notes, *result.notes)
        offsets = np.zeros(count + 1, dtype=np.int64)
        np.cumsum([len(ids) for ids, _ in rows], out=offsets[1:])
        ids_flat = np.concatenate([empty, *(ids for ids, _ in rows)])
        labels_flat = np.concatenate([empty, *(labels for _, labels in rows)])
        return IdsBatch(ids_flat, labels_flat, offsets, errors, dict(sorted(notes.items())), self.tokenizer.name)
