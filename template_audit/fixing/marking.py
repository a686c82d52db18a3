"""Where ``{% generation %}`` tags can stand: from trained characters back to the places that wrote them.

Every part of the template is made to announce itself once, with characters that no text has. What was written
between two announcements was written by that part.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from template_audit.fixing.jinja_source import Block, Body, Leaf, Source, Term
from template_audit.frameworks.llamafactory.jinja_tools import literal

_BEGIN, _NUMBER, _END, _BODY = "\ue000", "\ue001", "\ue002", "\ue003"
_ANNOUNCED = re.compile(f"{_BEGIN}(\\d+)\\.(\\d+){_NUMBER}|{_END}|{_BODY}(\\d+){_NUMBER}")
CAPTURED = "answer_text"
"""The name under which a template keeps an answer whose parts are cut after they are written."""
_LOOP = re.compile(r"for\s+(\w+)\s+in\b")


class Segment(NamedTuple):
    """Characters ``text[start:end]`` were written by this term of this leaf."""

    leaf: int
    term: int
    start: int
    end: int


class Entry(NamedTuple):
    """A branch of a block was entered when `at` characters were written."""

    body: int
    at: int


class Cut(NamedTuple):
    """A place inside a term: `offset` characters from its start, or for the end of a mark, from its end."""

    term: int
    offset: int


@dataclass(frozen=True, slots=True)
class Mark:
    """Tags in one body: from child `first` (from the cut on) through child `last` (up to the cut)."""

    body: Body
    first: int
    last: int
    start: Cut | None = None
    stop: Cut | None = None
    only_answers: bool = False
    """True: written twice, for answers with tags and for all else without."""
    captured: tuple[int, int] | None = None
    """Characters before and behind the mark: the text of the children is kept first, and cut then."""

    @property
    def span(self) -> tuple[int, int]:
        """The stretch of the source that is written anew, neighbouring text included."""
        first, last = self.body.children[self.first], self.body.children[self.last]
        before = self.body.children[self.first - 1] if self.first else None
        after = self.body.children[self.last + 1] if self.last + 1 < len(self.body.children) else None
        return (
            before.start if isinstance(before, Leaf) and before.is_text else first.start,
            after.end if isinstance(after, Leaf) and after.is_text else last.end,
        )


def announcing(source: Source) -> str:
    """The template with every part and every branch announcing itself."""
    changes: list[tuple[int, int, str]] = []
    for number, body in enumerate(source.bodies()):
        changes.append((body.start, body.start, f"{{{{- '{_BODY}{number}{_NUMBER}' -}}}}"))
    for number, leaf in enumerate(source.leaves):
        if leaf.captured:
            continue
        parts = []
        for index, term in enumerate(leaf.terms):
            value = literal(term.text) if term.text is not None else source.text[term.start : term.end]
            parts.append(f"{{{{- '{_BEGIN}{number}.{index}{_NUMBER}' -}}}}{{{{- {value} -}}}}{{{{- '{_END}' -}}}}")
        changes.append((leaf.start, leaf.end, "".join(parts)))
    out, at = [], 0
    for start, end, text in sorted(changes):
        out += [source.text[at:start], text]
        at = end
    return "".join([*out, source.text[at:]])


def segments(announced: str) -> tuple[str, list[Segment], list[Entry]]:
    """The text without announcements, who wrote what, and which branches were entered where; all in order."""
    out: list[Segment] = []
    entries: list[Entry] = []
    parts: list[str] = []
    at = length = 0
    opened: tuple[int, int, int] | None = None
    for match in _ANNOUNCED.finditer(announced):
        parts.append(announced[at : match.start()])
        length += match.start() - at
        at = match.end()
        if match[1] is not None:
            opened = (int(match[1]), int(match[2]), length)
        elif match[3] is not None:
            entries.append(Entry(int(match[3]), length))
        elif opened is not None:
            out.append(Segment(opened[0], opened[1], opened[2], length))
            opened = None
    return "".join([*parts, announced[at:]]), out, entries


def captures(source: Source, written: Sequence[Segment], entries: Sequence[Entry], start: int, end: int) -> list[Mark]:
    """Marks that cut the text of a whole branch, the innermost branch first."""
    head = next((s for s in written if s.start <= start < s.end), None)
    tail = next((s for s in written if s.start < end <= s.end), None)
    if head is None or tail is None:
        return []
    numbers = {id(body): number for number, body in enumerate(source.bodies())}
    outer = {id(body) for body, _ in _upwards(source.leaves[tail.leaf])}
    out = []
    for body, _ in _upwards(source.leaves[head.leaf]):
        number = numbers.get(id(body))
        if number is None or id(body) not in outer:
            continue
        begins = [entry.at for entry in entries if entry.body == number]
        begin = max((at for at in begins if at <= start), default=None)
        if begin is None:
            continue
        stop = min((at for at in begins if at >= end), default=None)
        inside = [
            s.end
            for s in written
            if s.start >= begin
            and (stop is None or s.end <= stop)
            and any(other is body for other, _ in _upwards(source.leaves[s.leaf]))
        ]
        close = max(inside, default=end)
        cut = (start - begin, close - end)
        out.append(Mark(body, 0, len(body.children) - 1, captured=cut if any(cut) else None))
    return out


def marks(source: Source, written: Sequence[Segment], start: int, end: int) -> list[Mark]:
    """The marks that begin and end at these characters, likeliest first."""
    full = [segment for segment in written if segment.start < segment.end]
    head = next((s for s in full if s.start <= start < s.end), None)
    tail = next((s for s in full if s.start < end <= s.end), None)
    before = next((s for s in reversed(full) if s.end == start), None)
    after = next((s for s in full if s.start == end), None)
    if head is None or tail is None:
        return []
    # a part that wrote nothing here may write something elsewhere, so the mark may as well begin or end with it
    starts = [(head, False), *((s, False) for s in written if s.start == s.end == start == head.start)]
    stops = [(tail, False), *((s, False) for s in written if s.start == s.end == end == tail.end)]
    starts += [(before, True)] if before is not None and head.start == start else []
    stops += [(after, True)] if after is not None and tail.end == end else []
    out: dict[Mark, None] = {}
    for first, is_before in starts:
        for last, is_after in stops:
            mark = _mark(source, first, is_before, last, is_after, start, end)
            if mark is not None:
                out[mark] = None
    return list(out)


def _mark(
    source: Source, first: Segment, is_before: bool, last: Segment, is_after: bool, start: int, end: int
) -> Mark | None:
    """The mark in the innermost body that holds both ends."""
    one, other = source.leaves[first.leaf], source.leaves[last.leaf]
    places = {id(body): index for body, index in _upwards(one)}
    for body, index in _upwards(other):
        if id(body) not in places:
            continue
        begin, stop = places[id(body)] + is_before, index - is_after
        if begin > stop:
            return None
        opening = Cut(first.term, start - first.start)
        closing = Cut(last.term, last.end - end)
        inside_first = one.parent is body and not is_before
        inside_last = other.parent is body and not is_after
        if (opening.offset and not inside_first and not is_before) or (
            closing.offset and not inside_last and not is_after
        ):
            return None
        return Mark(body, begin, stop, opening if inside_first else None, closing if inside_last else None)
    return None


def _upwards(leaf: Leaf) -> Iterator[tuple[Body, int]]:
    """Every body around a leaf, with the place of the child that holds it."""
    yield leaf.parent, leaf.index
    block = leaf.parent.owner
    while block is not None:
        yield block.parent, block.index
        block = block.parent.owner


def message_name(mark: Mark) -> str | None:
    """The name under which the loop around a mark has the message; None outside of a loop."""
    found = None
    owner = mark.body.owner
    while owner is not None:
        loop = _LOOP.match(owner.head)
        found = loop[1] if loop else found
        owner = owner.parent.owner
    return found


def tagged(source: Source, chosen: Sequence[Mark]) -> str | None:
    """The template with the marks written in; None where they overlap."""
    out, at = [], 0
    for mark in sorted(chosen, key=lambda mark: mark.span):
        start, end = mark.span
        if start < at:
            return None
        out += [source.text[at:start], _written(source, mark)]
        at = end
    return "".join([*out, source.text[at:]])


def _written(source: Source, mark: Mark) -> str:
    children = mark.body.children
    first, last = children[mark.first], children[mark.last]
    neighbours = ["", ""]
    for place, index in ((0, mark.first - 1), (1, mark.last + 1)):
        child = children[index] if 0 <= index < len(children) else None
        if isinstance(child, Leaf) and child.is_text:
            neighbours[place] = _put(_whole(source, child))
    before, inside, after = "", "", ""
    if mark.captured is not None:
        return neighbours[0] + _kept_and_cut(source, mark) + neighbours[1]
    if first is last and isinstance(first, Leaf):
        parts = _split(source, first, mark.start, mark.stop)
        before, inside, after = (_put(part) for part in parts)
    else:
        before, inside = _opened(source, first, mark.start)
        inside += "".join(_raw(source, child) for child in children[mark.first + 1 : mark.last])
        ending, after = _closed(source, last, mark.stop)
        inside += ending
    out = f"{before}{{%- generation -%}}{inside}{{%- endgeneration -%}}{after}"
    if mark.only_answers:
        plain = "".join(_raw(source, child) for child in children[mark.first : mark.last + 1])
        name = message_name(mark)
        out = f"{{%- if {name}['role'] == 'assistant' -%}}{out}{{%- else -%}}{plain}{{%- endif -%}}"
    return neighbours[0] + out + neighbours[1]


def _kept_and_cut(source: Source, mark: Mark) -> str:
    head, tail = mark.captured or (0, 0)
    kept = "".join(_raw(source, child) for child in mark.body.children[mark.first : mark.last + 1])
    inside = _put([f"{CAPTURED}[{head or ''}:{-tail if tail else ''}]"])
    out = _put([f"{CAPTURED}[:{head}]"]) if head else ""
    out += f"{{%- generation -%}}{inside}{{%- endgeneration -%}}"
    out += _put([f"{CAPTURED}[-{tail}:]"]) if tail else ""
    if mark.only_answers:
        asks = f"{{%- if {message_name(mark)}['role'] == 'assistant' -%}}"
        out = f"{asks}{out}{{%- else -%}}{_put([CAPTURED])}{{%- endif -%}}"
    return f"{{%- set {CAPTURED} -%}}{kept}{{%- endset -%}}{out}"


def _raw(source: Source, child: Leaf | Block) -> str:
    """A child as it is; text as an expression, which no neighbouring tag can strip."""
    if isinstance(child, Leaf):
        return _put(_whole(source, child))
    return source.text[child.start : child.end]


def _opened(source: Source, child: Leaf | Block, cut: Cut | None) -> tuple[str, str]:
    if not isinstance(child, Leaf) or cut is None:
        return "", _raw(source, child)
    before, inside, _ = _split(source, child, cut, None)
    return _put(before), _put(inside)


def _closed(source: Source, child: Leaf | Block, cut: Cut | None) -> tuple[str, str]:
    if not isinstance(child, Leaf) or cut is None:
        return _raw(source, child), ""
    _, inside, after = _split(source, child, None, cut)
    return _put(inside), _put(after)


def _whole(source: Source, leaf: Leaf) -> list[str]:
    if leaf.is_text:
        return [literal(leaf.terms[0].text or "")]
    return [source.text[leaf.terms[0].start : leaf.terms[-1].end]]


def _put(expressions: Sequence[str]) -> str:
    return "".join(f"{{{{- {expression} -}}}}" for expression in expressions if expression != "''")


def _split(source: Source, leaf: Leaf, start: Cut | None, stop: Cut | None) -> tuple[list[str], list[str], list[str]]:
    """A leaf's expressions before, inside and after the mark."""
    first = start or Cut(0, 0)
    last = stop or Cut(len(leaf.terms) - 1, 0)
    before = _joined(source, leaf.terms[: first.term])
    after = _joined(source, leaf.terms[last.term + 1 :])
    if first.term == last.term:
        head, middle, tail = _sliced(source, leaf.terms[first.term], first.offset, last.offset)
        return [*before, *head], middle, [*tail, *after]
    head, opening, _ = _sliced(source, leaf.terms[first.term], first.offset, 0)
    _, closing, tail = _sliced(source, leaf.terms[last.term], 0, last.offset)
    inside = [*opening, *_joined(source, leaf.terms[first.term + 1 : last.term]), *closing]
    if not first.offset and not last.offset:
        inside = _joined(source, leaf.terms[first.term : last.term + 1])
    return [*before, *head], inside, [*tail, *after]


def _joined(source: Source, terms: Sequence[Term]) -> list[str]:
    return [source.text[terms[0].start : terms[-1].end]] if terms else []


def _sliced(source: Source, term: Term, head: int, tail: int) -> tuple[list[str], list[str], list[str]]:
    """A term cut `head` characters from its start and `tail` from its end."""
    if term.text is not None:
        stop = len(term.text) - tail
        before, inside, after = (
            [literal(part)] if part else [] for part in (term.text[:head], term.text[head:stop], term.text[stop:])
        )
        return before, inside, after
    text = source.text[term.start : term.end]
    if not head and not tail:
        return [], [text], []
    middle = f"({text})[{head or ''}:{-tail if tail else ''}]"
    return ([f"({text})[:{head}]"] if head else []), [middle], ([f"({text})[-{tail}:]"] if tail else [])
