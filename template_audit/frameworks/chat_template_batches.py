"""Whole data sets through the chat template: ids and labels in flat arrays.

The same ids, labels, notes and errors as `ChatTemplateEncoder.encode_in_full` gives. Of every structure
of conversations the template is watched once (`template_audit.model.watching`); all others of the
structure are then filled in and tokenized without rendering. The first rows of every structure, and
a share of the later ones, are rendered all the same and compared; a structure that fails is never
filled in again. Rows of other kinds (tool calls, reasoning, templates that look into texts) are
rendered and traced one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from template_audit.conversation import Conversation
from template_audit.errors import EncodingError
from template_audit.ids import IdsBatch, gather, is_regular, joined, lay_segments
from template_audit.model.chat_outlines import ChatOutline, Cutter
from template_audit.model.fast import IdTokenizer, are_unicode
from template_audit.model.skeletons import Skeleton, Structure, skeleton_of, structure_of, views_of
from template_audit.model.tokenizer import encode_texts
from template_audit.stream import IGNORE, EncodedStream

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from template_audit.frameworks.chat_template import ChatTemplateEncoder
    from template_audit.ids import Ids, Places

CHUNK = 2048
"""Conversations that are tokenized and put together at once."""

_WORTH = 4  # rows from which watching the template pays
_VARIANTS = 6  # how often a structure is watched, when texts make the template take other paths
_FIRST, _EVERY = 4, 512  # rows compared at the beginning of a structure, and then one of how many


class _Filled(NamedTuple):
    """Rows in flat arrays, and those that have to be rendered after all."""

    ids: Ids
    labels: Ids
    offsets: Places
    refused: list[int]
    regular: NDArray[np.bool_]
    """Rows in which every turn has trained tokens, from the end of its prompt on (`is_regular`)."""


class _Known:
    """What is known of one structure: `missed` rows were of no variant when they came."""

    def __init__(self) -> None:
        self.variants: list[_Variant] = []
        self.watched = 0
        self.missed = 0

    @property
    def is_due(self) -> bool:
        """True when it pays to watch the template once more."""
        return self.watched < _VARIANTS and self.missed >= _WORTH * (self.watched + 1)


class _Variant:
    """One path of the template through a structure. Never used again once it is `banned`."""

    def __init__(self, known: _Known, skeleton: Skeleton, outline: ChatOutline) -> None:
        self.known = known
        self.skeleton = skeleton
        self.outline = outline
        self.rows = 0
        self.banned = False

    def ban(self) -> None:
        """Use it no more, and watch the template no more at this structure."""
        self.banned = True
        self.known.watched = _VARIANTS


class ChatBatchEncoder:
    """The short way for one chat-template encoder. `notes` say for the report where it failed."""

    def __init__(self, encoder: ChatTemplateEncoder, use_fastokens: bool | None = None) -> None:
        self.encoder = encoder
        tokenizer = encoder.model.tokenizer
        self.tokenizer = IdTokenizer(tokenizer, use_fastokens)
        self.notes: list[str] = []
        self._cutter: Cutter | None = None
        if self.tokenizer.name != "transformers":
            self._cutter = Cutter(tokenizer, encoder.stops, encoder.specials)
        self._known: dict[Structure, _Known] = {}

    def encode(self, conversations: Sequence[Conversation]) -> IdsBatch:
        """All conversations, chunk by chunk."""
        chunks = range(0, len(conversations), CHUNK) or (0,)
        return joined([self._encode_chunk(conversations[start : start + CHUNK]) for start in chunks])

    def _encode_chunk(self, conversations: Sequence[Conversation]) -> IdsBatch:
        texts: list[list[str]] = [[] for _ in conversations]
        variants: list[_Variant | None] = [None] * len(conversations)
        if self._cutter is not None and self._cutter.usable:
            self._choose(conversations, texts, variants)
        chosen = {index: variant for index, variant in enumerate(variants) if variant is not None}
        short = list(chosen)
        flat = self._fill([(variant, texts[index]) for index, variant in chosen.items()])
        ids, labels, offsets, refused, regular = flat
        sample = self._sample(list(chosen.values()))
        others = sorted({*(i for i, variant in enumerate(variants) if variant is None), *(short[k] for k in refused)})
        compared = sorted({short[k] for k in sample} - set(others))
        surely = self.encoder.encode_in_full([conversations[i] for i in (*others, *compared)], keep_errors=True)
        places = {index: k for k, index in enumerate(short)}
        wrong = [
            index
            for index, stream in zip(compared, surely[len(others) :], strict=True)
            if not _equal(stream, ids, labels, offsets, places[index])
        ]
        if wrong:
            for index in wrong:
                chosen[index].ban()
            self.notes.append(
                f"Row `{conversations[wrong[0]].id}` is not what the chat template was expected to make of it; all "
                "rows like it are rendered one by one from here on."
            )
            return self._encode_chunk(conversations)
        if not others:
            return IdsBatch(ids, labels, offsets, {}, {}, self.tokenizer.name, regular)
        return self._merged(flat, places, dict(zip(others, surely, strict=False)), conversations)

    def _choose(
        self, conversations: Sequence[Conversation], texts: list[list[str]], variants: list[_Variant | None]
    ) -> None:
        """Find for every conversation the variant that holds for it, watching the template where it pays."""
        left: dict[Structure, list[int]] = {}
        for index, conversation in enumerate(conversations):
            structure = structure_of(conversation)
            if structure is None or structure[0][0] == "assistant":
                continue
            texts[index] = [message.content or "" for message in conversation.messages]
            if not are_unicode(texts[index]):
                continue
            left.setdefault(structure, []).append(index)
        for structure, rows in left.items():
            known = self._known.setdefault(structure, _Known())
            left[structure] = [index for index in rows if not self._find(known, index, texts, variants)]
            known.missed += len(left[structure])
        while due := {s: rows for s, rows in left.items() if rows and self._known[s].is_due}:
            self._watch(due, conversations)
            for structure, rows in due.items():
                known = self._known[structure]
                left[structure] = [index for index in rows if not self._find(known, index, texts, variants)]

    def _find(self, known: _Known, index: int, texts: list[list[str]], variants: list[_Variant | None]) -> bool:
        for variant in known.variants:
            if not variant.banned and variant.skeleton.holds(texts[index]):
                variants[index] = variant
                return True
        return False

    def _watch(self, left: dict[Structure, list[int]], conversations: Sequence[Conversation]) -> None:
        """Watch the template at the first row of every structure that is left."""
        assert self._cutter is not None
        examples = [(structure, conversations[rows[0]]) for structure, rows in left.items()]
        answers = self.encoder.renderer.watch([(one, views_of(structure[0])) for structure, one in examples])
        for (structure, _), answer in zip(examples, answers, strict=True):
            known = self._known[structure]
            known.watched += 1
            skeleton = None if answer is None else skeleton_of(structure[0], answer)
            try:
                outline = None if skeleton is None else self._cutter.outline(skeleton, self._encode)
            except EncodingError:
                outline = None
            if skeleton is not None and outline is not None:
                known.variants.append(_Variant(known, skeleton, outline))

    def _encode(self, text: str) -> list[int]:
        return encode_texts(self.encoder.model.tokenizer, [text])[0][0]

    def _sample(self, variants: Sequence[_Variant]) -> list[int]:
        """Which of the rows are compared with their traced rendering."""
        sample = []
        for k, variant in enumerate(variants):
            if variant.rows < _FIRST or variant.rows % _EVERY == 0:
                sample.append(k)
            variant.rows += 1
        return sample

    def _fill(self, rows: Sequence[tuple[_Variant, list[str]]]) -> _Filled:
        """The rows, filled in and tokenized."""
        import numpy as np

        if not rows:
            empty = np.zeros(0, dtype=np.int32)
            return _Filled(empty, empty, np.zeros(1, dtype=np.int64), [], np.zeros(0, dtype=bool))
        assert self._cutter is not None
        outlines = [variant.outline for variant, _ in rows]
        texts = [text for variant, values in rows for text in variant.outline.fill(values)]
        heads = [text for variant, values in rows for text in variant.outline.fill_heads(values)]
        try:
            tokens, shown = self.tokenizer.encode(texts), self.tokenizer.encode(heads)
        except EncodingError:
            empty = np.zeros(0, dtype=np.int32)
            nothing = np.zeros(len(rows) + 1, dtype=np.int64)
            return _Filled(empty, empty, nothing, list(range(len(rows))), np.zeros(len(rows), dtype=bool))
        segments = [segment for outline in outlines for segment in outline.segments]
        pool, starts, lengths = lay_segments(segments, self._cutter.constants, tokens)
        ids: Ids = gather(pool, starts, lengths)
        places = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=places[1:])
        counts = np.array([len(outline.segments) for outline in outlines], dtype=np.int64)
        first = np.zeros(len(counts) + 1, dtype=np.int64)
        np.cumsum(counts, out=first[1:])
        trained = [turn for outline in outlines for turn in outline.trained]
        turns = np.array([len(outline.trained) for outline in outlines], dtype=np.int64)
        rows_of_turns = np.repeat(np.arange(len(outlines)), turns)
        begin = places[first[rows_of_turns] + np.array([turn.first for turn in trained], dtype=np.int64)]
        end = places[first[rows_of_turns] + np.array([turn.last for turn in trained], dtype=np.int64)]
        end += np.array([turn.end for turn in trained], dtype=np.int64)
        refused: list[int] = []
        if heads:
            turn_first = np.cumsum(turns) - turns
            of_heads = [turn_first[row] + head.turn for row, outline in enumerate(outlines) for head in outline.heads]
            where = np.array(of_heads, dtype=np.int64)
            sizes = shown[1][1:] - shown[1][:-1]
            room = len(ids) - begin[where]
            seen = gather(ids, begin[where], np.minimum(sizes, room))
            if len(seen) != len(shown[0]):  # some prompt is longer than all that follows it
                refused = list(range(len(rows)))
            else:
                differs = np.zeros(len(seen) + 1, dtype=np.int64)
                np.cumsum(seen != shown[0], out=differs[1:])
                wrong = differs[shown[1][1:]] != differs[shown[1][:-1]]
                refused = np.unique(rows_of_turns[where[wrong]]).tolist()
                begin[where] += sizes
        edges = np.zeros(len(ids) + 1, dtype=np.int64)
        np.add.at(edges, begin, 1)
        np.add.at(edges, np.maximum(begin, end), -1)
        labels = np.where(np.cumsum(edges[:-1]) > 0, ids, np.int32(IGNORE))
        offsets: Places = places[first]
        on = np.append(labels != IGNORE, False)
        on[1:] &= ~on[:-1].copy()  # where runs of trained tokens begin, but for those at the end of a row before
        begun = np.zeros(len(on) + 1, dtype=np.int64)
        np.cumsum(on, out=begun[1:])
        regular = begun[offsets[1:]] - begun[offsets[:-1]] == turns
        return _Filled(ids, labels, offsets, refused, regular)

    def _merged(
        self,
        flat: _Filled,
        places: dict[int, int],
        others: dict[int, EncodedStream | EncodingError],
        conversations: Sequence[Conversation],
    ) -> IdsBatch:
        import numpy as np

        count = len(conversations)
        regular = np.zeros(count, dtype=bool)
        empty = np.zeros(0, dtype=np.int32)
        rows: list[tuple[Ids, Ids]] = [(empty, empty)] * count
        bounds = flat.offsets.tolist()
        for index, k in places.items():
            rows[index] = flat.ids[bounds[k] : bounds[k + 1]], flat.labels[bounds[k] : bounds[k + 1]]
            regular[index] = flat.regular[k]
        errors: dict[int, EncodingError] = {}
        notes: dict[int, tuple[str, ...]] = {}
        for index, stream in others.items():
            if isinstance(stream, EncodingError):
                errors[index] = stream
                rows[index] = empty, empty
                continue
            rows[index] = np.array(stream.input_ids, dtype=np.int32), np.array(stream.labels, dtype=np.int32)
            regular[index] = is_regular(conversations[index], stream)
            if stream.notes:
                notes[index] = stream.notes
        offsets = np.zeros(count + 1, dtype=np.int64)
        np.cumsum([len(ids) for ids, _ in rows], out=offsets[1:])
        ids = np.concatenate([empty, *(ids for ids, _ in rows)])
        labels = np.concatenate([empty, *(labels for _, labels in rows)])
        return IdsBatch(ids, labels, offsets, errors, notes, self.tokenizer.name, regular)


def _equal(stream: EncodedStream | EncodingError, ids: Ids, labels: Ids, offsets: Places, row: int) -> bool:
    if isinstance(stream, EncodingError) or stream.notes:
        return False
    own = slice(int(offsets[row]), int(offsets[row + 1]))
    return (ids[own].tolist(), labels[own].tolist()) == (stream.input_ids, stream.labels)
