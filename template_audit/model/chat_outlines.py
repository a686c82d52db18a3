"""From a template's skeleton to tokens: where a rendering can be cut, and which of its tokens are trained.

A tokenizer takes its special tokens out of a text before anything else, so what stands between two of
them is tokenized as if it stood alone. Between them a rendering is cut; what is the template's own is
tokenized once. The trained tokens are those of `template_audit.model.turns.lay_out`, for the plain
case in which each can be told from the skeleton: the conversation's ids begin with the generation
prompt's, and a special token stands behind the answer. Every other case is declined.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from template_audit.ids import TEXT
from template_audit.model.skeletons import Part, Skeleton, common_place, filled

_UNEVEN = (b"Metaspace", b"Prepend", b'"Strip"', b"BertNormalizer", b"BertPreTokenizer", b"UnicodeScripts")
"""Parts of a tokenizer that may treat the beginning of a text in another way than its middle."""

Place = tuple[int, int]
"""A position in a skeleton: the part, and the character in it."""


class Range(NamedTuple):
    """Trained tokens: from segment `first` (behind its head, if it has one) to before token `end` of segment `last`."""

    first: int
    last: int
    end: int


class Head(NamedTuple):
    """What a generation prompt ends with, inside a segment that goes on with the answer: the turn's number
    in `trained`, the segment, and the text. The answer is trained from where the head ends.
    """

    turn: int
    segment: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True, eq=False)
class ChatOutline:
    """A skeleton in segments: the number of a constant, or `TEXT`, whose texts are made of `texts` in order.

    With the ids of a `Head` the text of its segment has to begin, for `trained` to be right. After the
    texts of the segments come those of the heads that hold texts of the conversation.
    """

    segments: list[int]
    texts: tuple[tuple[Part, ...], ...]
    trained: tuple[Range, ...]
    heads: tuple[Head, ...]

    def fill(self, texts: Sequence[str]) -> list[str]:
        """The texts of the segments of a conversation."""
        return [filled(parts, texts) for parts in self.texts]

    def fill_heads(self, texts: Sequence[str]) -> list[str]:
        """The texts of the heads."""
        return [filled(head.parts, texts) for head in self.heads]


class _Segment(NamedTuple):
    number: int
    start: Place
    parts: tuple[Part, ...]


class Cutter:
    """Makes outlines for one tokenizer. `constants` are the ids of the template's texts, by number.

    `stops` are the ids that stop inference, `specials` those of all special tokens.
    """

    def __init__(self, tokenizer: Any, stops: Collection[int], specials: Collection[int]) -> None:
        self.constants: list[list[int]] = [[]]
        self._numbers: dict[str, int] = {}
        self._stops, self._specials = stops, specials
        added = dict(tokenizer.added_tokens_decoder.items())
        self._any = re.compile("|".join(re.escape(t.content) for t in added.values() if t.content) or r"(?!)")
        safe = _standing_alone(added.values())
        # A stop that is no added token could be made of ordinary text.
        self.usable = bool(safe) and _is_even(tokenizer) and set(stops) <= set(added) and set(specials) <= set(added)
        self._cut = re.compile("(" + "|".join(re.escape(t) for t in sorted(safe, key=len, reverse=True)) + ")")

    def outline(self, skeleton: Skeleton, encode: Callable[[str], list[int]]) -> ChatOutline | None:
        """The outline of a skeleton; None when one of its trained tokens cannot be told."""
        if not self.usable:
            return None
        segments = self._segments(skeleton.full, encode)
        trained: list[Range] = []
        heads: list[Head] = []
        for k, prompt in skeleton.prompts.items():
            found = self._first(prompt, skeleton.full, segments, encode)
            end = self._end(k, skeleton, segments, encode) if found else None
            if found is None or end is None:
                return None
            begin, head = found
            if head:
                heads.append(Head(len(trained), begin, head))
            trained.append(Range(begin, *end))
        texts = tuple(segment.parts for segment in segments if segment.number == TEXT)
        return ChatOutline([segment.number for segment in segments], texts, tuple(trained), tuple(heads))

    def _segments(self, parts: Sequence[Part], encode: Callable[[str], list[int]]) -> list[_Segment]:
        segments: list[_Segment] = []
        open_parts: list[Part] = []
        start: Place = (0, 0)

        def close(then: Place) -> None:
            nonlocal start
            if len(open_parts) == 1 and isinstance(open_parts[0], str):
                segments.append(_Segment(self._number(open_parts[0], encode), start, tuple(open_parts)))
            elif open_parts:
                segments.append(_Segment(TEXT, start, tuple(open_parts)))
            open_parts.clear()
            start = then

        for index, part in enumerate(parts):
            if not isinstance(part, str):
                open_parts.append(part)
                continue
            at = 0
            for number, piece in enumerate(self._cut.split(part)):
                if number % 2:
                    close((index, at))
                    segments.append(_Segment(self._number(piece, encode), (index, at), (piece,)))
                    start = (index, at + len(piece))
                elif piece:
                    open_parts.append(piece)
                at += len(piece)
        close((len(parts), 0))
        return segments

    def _number(self, text: str, encode: Callable[[str], list[int]]) -> int:
        if text not in self._numbers:
            self.constants.append(encode(text))
            self._numbers[text] = len(self.constants) - 1
        return self._numbers[text]

    def _first(
        self,
        prompt: Sequence[Part],
        full: Sequence[Part],
        segments: Sequence[_Segment],
        encode: Callable[[str], list[int]],
    ) -> tuple[int, tuple[Part, ...]] | None:
        """The segment in which the answer begins, and the end of the prompt in it."""
        if common_place(prompt, full) is None:
            return None
        shown = [(segment.number, segment.parts) for segment in self._segments(prompt, encode)]
        whole = [(segment.number, segment.parts) for segment in segments]
        if shown == whole[: len(shown)]:
            return (len(shown), ()) if len(shown) < len(segments) else None
        if not shown or shown[:-1] != whole[: len(shown) - 1] or len(shown) > len(whole):
            return None
        return len(shown) - 1, shown[-1][1]

    def _end(
        self, k: int, skeleton: Skeleton, segments: Sequence[_Segment], encode: Callable[[str], list[int]]
    ) -> tuple[int, int] | None:
        """The segment and token behind the last trained one of turn k."""
        full = skeleton.full
        said = [index for index, part in enumerate(full) if not isinstance(part, str) and part[0] == k]
        begin = common_place(skeleton.prompts[k], full)
        stop = self._turn_end(k, skeleton)
        if not said or begin is None or stop is None or not begin <= (said[0], 0) <= (said[-1], 0) < stop:
            return None
        if any(not isinstance(part, str) for part in full[said[-1] + 1 : stop[0]]):
            return None
        at = max(i for i, segment in enumerate(segments) if segment.start <= (said[-1], 0))
        holder = segments[at]
        tail = holder.parts[-1] if isinstance(holder.parts[-1], str) else ""
        if isinstance(holder.parts[-1], str) and self._any.search(tail):
            return None
        if not isinstance(holder.parts[-1], str) and holder.parts[-1] != full[said[-1]]:
            return None
        special: tuple[int, int] | None = None
        for index in range(at + 1, len(segments)):
            segment = segments[index]
            if segment.number == TEXT or segment.start >= stop:
                break
            if _after(segments, index) > stop and self._any.search(str(segment.parts[0])):
                return None
            for token, id in enumerate(self.constants[segment.number]):
                if id in self._stops:
                    return index, token + 1
                if id in self._specials:
                    special = index, token + 1
        return special

    @staticmethod
    def _turn_end(k: int, skeleton: Skeleton) -> Place | None:
        """Where turn k ends and the next begins; None where `lay_out` has to search for it."""
        full = skeleton.full
        if k == len(skeleton.prefixes):
            return len(full), 0
        prefix = skeleton.prefixes[k + 1]
        place = common_place(prefix, full)
        later = [i for i, part in enumerate(full) if not isinstance(part, str) and part[0] > k]
        earlier = [i for i, part in enumerate(full) if not isinstance(part, str) and part[0] <= k]
        if not later or not earlier or earlier[-1] > later[0]:
            return None
        if place is not None:
            return place if (earlier[-1], 0) < place <= (later[0], 0) else None
        # Not a prefix: the end marker that it shows behind the answer, if it stands there in the full text too.
        own = [i for i, part in enumerate(prefix) if not isinstance(part, str)]
        tail = prefix[own[-1] + 1] if own and own[-1] + 2 == len(prefix) else ""
        between = full[earlier[-1] + 1] if earlier[-1] + 2 == later[0] else ""
        hole = prefix[own[-1]] if own else ""
        if isinstance(hole, str) or hole[0] != k or not isinstance(tail, str) or not isinstance(between, str):
            return None
        return (earlier[-1] + 1, len(tail)) if tail and between.startswith(tail) else None


def _after(segments: Sequence[_Segment], index: int) -> Place:
    """Where the next segment begins; in the last one, no further than any place in the skeleton."""
    return segments[index + 1].start if index + 1 < len(segments) else segments[index].start


def _standing_alone(tokens: Iterable[Any]) -> list[str]:
    """The special tokens whose texts become that token wherever they stand, and touch nothing around them."""
    tokens = list(tokens)
    texts = [token.content for token in tokens if token.content]
    beginnings = {text[:end] for text in texts for end in range(1, len(text))}
    endings = {text[start:] for text in texts for start in range(1, len(text))}
    inner = "\0".join(text[1:] for text in texts)
    alone = []
    for token in tokens:
        text = token.content
        if not text or not token.special or token.lstrip or token.rstrip or token.single_word or token.normalized:
            continue
        overlaps = text in beginnings or text in inner or any(text[:end] in endings for end in range(1, len(text) + 1))
        if not overlaps:
            alone.append(text)
    return alone


def _is_even(tokenizer: Any) -> bool:
    """True when what follows a special token is tokenized as if it stood alone."""
    if getattr(tokenizer, "split_special_tokens", False):
        return False
    backend = tokenizer.backend_tokenizer
    for part in (backend.normalizer, backend.pre_tokenizer):
        state = b"" if part is None else part.__getstate__()
        if any(name in state for name in _UNEVEN):
            return False
    return backend.pre_tokenizer is not None
