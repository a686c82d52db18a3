"""Where each turn of a rendered conversation begins and ends, and which part of it is learnt.

All positions here are characters of the full rendering. Exact knowledge comes from renderings of
``messages[:k]`` that the full text begins with. Where a template makes that impossible (it strips
the thinking of earlier turns, ends a conversation differently, raises), the Origins of the text and
the end marker that the shorter rendering shows decide.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from template_audit.conversation import Conversation
from template_audit.errors import EncodingError
from template_audit.model.chat_template import Prefix, Views
from template_audit.stream import DEFAULT_SYSTEM, LITERAL, Piece, common_prefix

_PROBE = -1  # the index of the system message that `Views.with_system` adds
_BODY = ("content", "reasoning", "tool_call", "tool_result", "system")


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of the full text, and which ids matter: those that stop inference, and all special ones.

    `prompts[k]` are the ids of ``views.prompts[k]``.
    """

    ids: list[int]
    spans: Sequence[tuple[int, int]]
    stops: Collection[int]
    specials: Collection[int]
    prompts: Mapping[int, list[int]]
    starts: list[int] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts", [start for start, _ in self.spans])

    def floor(self, char: int) -> int:
        """`char`, or the start of the token that it would cut in two."""
        index = bisect_left(self.starts, char) - 1
        return self.starts[index] if index >= 0 and self.spans[index][1] > char else char


@dataclass(frozen=True, slots=True)
class Layout:
    """`starts[k]` is where message k's turn begins (and the one before it ends); the last turn ends the text.

    What comes before ``starts[0]`` belongs to no message: BOS, which is `bos` characters long, and a
    default system block. `trained` are the token ranges that the assistant's turns teach. `pieces` are
    those of the rendering, a default system prompt marked as such.
    """

    bos: int
    starts: list[int]
    trained: list[tuple[int, int]]
    pieces: list[Piece]


def lay_out(conversation: Conversation, views: Views, tokens: Tokens, bos: str | None) -> Layout:
    """The turns of a rendered conversation, and the mask that its template implies.

    Of an assistant's turn, everything is trained from the end of the generation prompt up to and
    including the terminator.

    The start is the end of the generation prompt rendered for ``messages[:k]``, if the conversation's
    ids begin with those of the prompt, or its text with the prompt's text. Otherwise it is the end of
    the generation prompt alone (without the messages before it), if that stands in the turn before
    the message's own text; or else of what the turn begins with in common with it, but never inside a
    token or a marker like ``<|user|>``. So a ``<tool_call>`` that the template writes before the
    first argument is trained. If no generation prompt can be rendered at all, the start is the first
    character that came from message k. A token in which prompt and answer have merged is trained,
    unless it is a special one, which has only swallowed a blank.

    The terminator is the first token after the message's last character at which inference stops;
    when there is none, the last special token there; when there is none either, the last character
    of the turn that is not whitespace.
    """
    return _Reader(conversation, views, tokens, bos).layout()


class _Reader:
    def __init__(self, conversation: Conversation, views: Views, tokens: Tokens, bos: str | None) -> None:
        self.roles = [message.role for message in conversation.messages]
        self.views, self.tokens = views, tokens
        self.text = views.full.text
        self.pieces = views.full.pieces
        self.bos = self._leading_bos(bos)
        count = len(self.roles)
        self.own: list[list[Piece]] = [[] for _ in range(count)]  # every piece of message k, its role included
        self.body: list[list[Piece]] = [[] for _ in range(count)]  # what the message says
        for piece in self.pieces:
            if piece.origin.message is not None:
                self.own[piece.origin.message].append(piece)
                if piece.origin.field in _BODY:
                    self.body[piece.origin.message].append(piece)
        self.tails: dict[str, str] = {}
        self.headers: dict[str, str] = {}

    def _leading_bos(self, bos: str | None) -> int:
        """The length of BOS, if the text begins with it and every turn does not (as with ``<|im_start|>``)."""
        if not bos or not self.text.startswith(bos):
            return 0
        written = sum(self.text.count(bos, p.start, p.end) for p in self.pieces if p.origin == LITERAL)
        return len(bos) if written == 1 else 0

    def layout(self) -> Layout:
        default, block, head = _default_system(self.views)
        starts = self._starts(block, head)
        prompts = self._generation_prompts(starts)
        ends = [*starts[1:], len(self.text)]
        trained = [
            self._trained(k, starts[k], ends[k], prompts) for k, role in enumerate(self.roles) if role == "assistant"
        ]
        return Layout(self.bos, starts, trained, _marked(self.pieces, default))

    # Turns -----------------------------------------------------------------------------------

    def _starts(self, block: int | None, head: int | None) -> list[int]:
        count = len(self.roles)
        found: list[int | None] = [None] * count
        for k in range(1, count):
            found[k] = self._exact(k)
        for k in range(1, count):
            start, end = found[k - 1] if k > 1 else 0, found[k]
            if start is not None and end is not None:
                self._learn(k - 1, start, end, with_header=k > 1)
        if count > 1 and (last := found[-1]) is not None:
            self._learn(count - 1, last, len(self.text), with_header=True)
        starts = [self._first(block, head)]
        for k in range(1, count):
            position = found[k]
            starts.append(max(starts[-1], self._estimate(k, starts[-1]) if position is None else position))
        return starts

    def _exact(self, k: int) -> int | None:
        prefix = self.views.prefixes[k]
        if isinstance(prefix, EncodingError) or prefix.same < len(prefix.text):
            return None
        said, next_said = self.body[k - 1], self.body[k]
        holds = (not said or said[0].start < prefix.same) and (not next_said or prefix.same <= next_said[0].start)
        return prefix.same if holds else None

    def _learn(self, k: int, start: int, end: int, with_header: bool) -> None:
        """Keep the header and the end marker of a turn whose place is known."""
        inside = [piece for piece in self.body[k] if start <= piece.start < end]
        if inside:
            self.tails.setdefault(self.roles[k], self.text[inside[-1].end : end])
            if with_header:
                header = self.text[start : inside[0].start]
                self.headers[self.roles[k]] = min(header, self.headers.get(self.roles[k], header), key=len)

    def _first(self, block: int | None, head: int | None) -> int:
        """Where the first message's turn begins: after BOS and a default system block."""
        if self.roles[0] == "system":
            return self.bos
        limit = self.own[0][0].start if self.own[0] else len(self.text)
        header = _probed_header(self.views) or self.headers.get(self.roles[0])
        if head is None and header and self.body[0] and self.text.endswith(header, 0, self.body[0][0].start):
            head = self.body[0][0].start - len(header)
        if head is None and block is not None:
            head = self._after_stop(block, limit)
        return head if head is not None and head <= limit else min(self.bos, limit)

    def _estimate(self, k: int, after: int) -> int:
        """Where turn k begins, when no prefix tells: somewhere between two messages' own text."""
        later = [pieces[0].start for pieces in self.own[k:] if pieces and pieces[0].start >= after]
        prompt = self.views.prompts.get(k)
        if isinstance(prompt, Prefix) and prompt.same == len(prompt.text) >= after:
            later.append(prompt.same)
        upper = min(later, default=len(self.text))
        lower = max((p.end for pieces in self.own[:k] for p in pieces if p.start < upper), default=after)
        lower = min(max(lower, after), upper)
        tail = self._shown_tail(k) or self.tails.get(self.roles[k - 1], "")
        shared = common_prefix(tail, self.text[lower:upper])
        if tail and shared == len(tail):
            return self._skip_newlines(lower + shared, upper)
        header = self.headers.get(self.roles[k])
        if header and self.body[k] and self.text.endswith(header, lower, self.body[k][0].start):
            return self.body[k][0].start - len(header)
        stop = self._after_stop(lower, upper)
        if stop is not None:
            return stop
        if shared:
            return self._skip_newlines(self._whole(lower, lower + shared), upper)
        if not self.own[k - 1]:
            return after  # it left no trace
        whole = not self.own[k] or self.own[k][0].origin.field in _BODY
        return max(lower, self.tokens.floor(upper)) if whole else lower

    def _after_stop(self, lower: int, upper: int) -> int | None:
        """Behind the first token between the two positions at which inference stops, and behind white space."""
        for index in range(*token_range(self.tokens, lower, upper)):
            end = self.tokens.spans[index][1]
            if self.tokens.ids[index] in self.tokens.stops and not self.text[upper:end].strip():
                return self._skip_newlines(min(end, upper), upper)
        return None

    def _shown_tail(self, k: int) -> str:
        """What the rendering of ``messages[:k]`` ends with, after the last character of message k−1."""
        prefix = self.views.prefixes[k]
        if isinstance(prefix, EncodingError):
            return ""
        last = max((piece.end for piece in prefix.pieces if piece.origin.message == k - 1), default=None)
        return "" if last is None else prefix.text[last:]

    def _skip_newlines(self, position: int, limit: int) -> int:
        while position < limit and self.text[position] in "\r\n":
            position += 1
        return position

    def _whole(self, start: int, end: int) -> int:
        """`end`, or less: not before `start`, and neither within a token nor within a marker such as ``<|user|>``."""
        end = max(start, self.tokens.floor(end))
        opened = max(self.text.rfind(char, start, end) for char in "<[")
        return end if opened < 0 or any(char in self.text[opened:end] for char in ">]") else opened

    # Labels ----------------------------------------------------------------------------------

    def _generation_prompts(self, starts: list[int]) -> dict[int, str]:
        """The generation prompt proper, for every assistant message before which it could be seen."""
        found: dict[int, str] = {}
        for k, prompt in self.views.prompts.items():
            prefix = self.views.prefixes[k]
            if isinstance(prompt, EncodingError):
                continue
            if prompt.same >= starts[k]:
                found[k] = prompt.text[starts[k] :]
            elif isinstance(prefix, Prefix) and prompt.text.startswith(prefix.text):
                found[k] = prompt.text[len(prefix.text) :]
        return found

    def _trained(self, k: int, start: int, stop: int, prompts: dict[int, str]) -> tuple[int, int]:
        """The trained tokens of turn k, which is the text from `start` to `stop`."""
        shown = self.tokens.prompts.get(k)
        if shown and self.tokens.ids[: len(shown)] == shown:
            first = len(shown)
            start = self.tokens.starts[first] if first < len(self.tokens.starts) else stop
        else:
            start = self._trained_from(k, start, stop, prompts)
            first = bisect_left(self.tokens.starts, start)
            while (
                first
                and self.tokens.spans[first - 1][1] > start
                and self.tokens.ids[first - 1] not in self.tokens.specials
            ):
                first -= 1
        return first, max(first, self._terminator(k, start, stop))

    def _trained_from(self, k: int, start: int, stop: int, prompts: dict[int, str]) -> int:
        prompt = self.views.prompts.get(k)
        if isinstance(prompt, Prefix) and prompt.same == len(prompt.text) and start <= prompt.same <= stop:
            return prompt.same
        said = next((piece.start for piece in self.body[k] if start <= piece.start < stop), None)
        shown = prompts.get(k) or next(iter(prompts.values()), "")
        whole = self.text.find(shown, start, stop if said is None else said) if shown else -1
        if whole >= 0:
            return whole + len(shown)
        shared = common_prefix(shown, self.text[start:stop])
        if shared:
            end = self._whole(start, start + shared)
            return end if said is None else min(end, said)
        return start if said is None else said

    def _terminator(self, k: int, start: int, stop: int) -> int:
        """The index behind the last trained token of turn k, whose trained text begins at `start`."""
        said = max((piece.end for piece in self.body[k] if start <= piece.start < stop), default=start)
        said = min(max(said, start), stop)
        special = None
        for index in range(*token_range(self.tokens, said, stop)):
            if self.tokens.ids[index] in self.tokens.stops:
                return index + 1
            if self.tokens.ids[index] in self.tokens.specials:
                special = index + 1
        if special is not None:
            return special
        end = max(said, start + len(self.text[start:stop].rstrip()))
        return bisect_left(self.tokens.starts, end)


def _default_system(views: Views) -> tuple[tuple[int, int] | None, int | None, int | None]:
    """The range of a default system prompt, where a system message's text would end, and where its turn would.

    Known for sure when a system message's text takes the place of that range and changes nothing
    else in the whole rendering.
    """
    probe, alone = views.with_system, views.only_system
    if not isinstance(probe, Prefix):
        return None, None, None
    spots = [piece for piece in probe.pieces if piece.origin.message == _PROBE and piece.origin.field == "system"]
    if len(spots) != 1 or spots[0].origin.derived:
        return None, None, None
    start, end, _ = spots[0]
    text = views.full.text
    size = len(text) - len(probe.text) + (end - start)
    if size < 0 or not text.startswith(probe.text[:start]) or not text.endswith(probe.text[end:]):
        return None, None, None
    if any(p.origin != LITERAL for p in views.full.pieces if p.start < start + size and p.end > start):
        return None, None, None
    head = None
    if isinstance(alone, Prefix) and probe.text.startswith(alone.text) and len(alone.text) >= end:
        head = len(alone.text) - (end - start) + size
    return ((start, start + size) if size else None), start + size, head


def _probed_header(views: Views) -> str | None:
    """What the first message's own text comes after, when a system turn stands before it."""
    probe, alone = views.with_system, views.only_system
    if not isinstance(probe, Prefix) or not isinstance(alone, Prefix) or not probe.text.startswith(alone.text):
        return None
    said = next((p.start for p in probe.pieces if p.origin.message == 0 and p.origin.field in _BODY), -1)
    return probe.text[len(alone.text) : said] if said >= len(alone.text) else None


def _marked(pieces: list[Piece], default: tuple[int, int] | None) -> list[Piece]:
    """The pieces, the literal text in the range `default` marked as a default system prompt."""
    if default is None:
        return pieces
    out: list[Piece] = []
    for start, end, origin in pieces:
        low, high = max(start, default[0]), min(end, default[1])
        if low >= high:
            out.append(Piece(start, end, origin))
            continue
        cut = (Piece(start, low, origin), Piece(low, high, DEFAULT_SYSTEM), Piece(high, end, origin))
        out += [piece for piece in cut if piece.start < piece.end]
    return out


def token_range(tokens: Tokens, start: int, end: int) -> tuple[int, int]:
    """The tokens that begin in ``[start, end)``, as a half-open range."""
    return bisect_left(tokens.starts, start), bisect_left(tokens.starts, end)
