"""Conversations without their texts: the slots that a template makes of roles alone.

Most rows of a data set differ in nothing but their texts. What the template makes of their roles is
worked out once, by the encoder's own formatting of placeholders, and each row's texts are put in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from template_audit.conversation import Conversation
from template_audit.errors import EncodingError
from template_audit.frameworks.llamafactory.messages import Example, ExampleMessage, ExampleRole
from template_audit.frameworks.llamafactory.mm_text import MEDIA_MARKERS
from template_audit.frameworks.llamafactory.registry import TemplateSpec
from template_audit.frameworks.llamafactory.slots import Element
from template_audit.frameworks.llamafactory.template import Side, is_reasoning
from template_audit.ids import TEXT
from template_audit.trace import Traced

_MOST = 4096
_HOLE = re.compile("\ufdd0(\\d+)\ufdd1")  # noncharacters, which no template writes


class Row(NamedTuple):
    """What a row fills an outline with. `values` are its system text and then every message's."""

    roles: tuple[ExampleRole, ...]
    values: list[str]


@dataclass(frozen=True, slots=True)
class Outline:
    """The slots of all rows with the same roles.

    `segments` are what is tokenized on its own, side by side and in order: the number of a constant,
    or `TEXT`. `sides` are how many segments each side (prompt, answer, prompt, …) has, at least one.
    `holes` make the texts: each is text before, number of a value, text after. `joins`, when it is not
    empty, stands for `holes`: there a text has any number of values, with text around and between them.
    """

    segments: list[int]
    sides: list[int]
    holes: tuple[tuple[str, int, str], ...]
    joins: tuple[tuple[str | int, ...], ...] = ()

    def texts(self, values: list[str]) -> list[str]:
        """The texts of a row, in the order of the `TEXT` segments."""
        if self.joins:
            return ["".join([p if isinstance(p, str) else values[p] for p in parts]) for parts in self.joins]
        return [before + values[hole] + after for before, hole, after in self.holes]


class Constants:
    """The ids of a template's own texts and tokens, by number. Number 0 has no ids."""

    def __init__(self, encode: Callable[[str], list[int]], look_up: Callable[[Element], list[int | None]]) -> None:
        self.ids: list[list[int]] = [[]]
        self._encode, self._look_up = encode, look_up
        self._numbers: dict[Element, int] = {}

    def is_full(self, element: Element) -> bool:
        """True for a text that is not kept, there being so many."""
        return isinstance(element, str) and len(self.ids) >= _MOST and element not in self._numbers

    def number(self, element: Element) -> int:
        """Of a text slot that takes nothing, a `Token` or a `Special`. Raises LookupError for a token without id."""
        if element not in self._numbers:
            found = self._encode(element) if isinstance(element, str) else self._look_up(element)
            ids = [id for id in found if id is not None]
            if len(ids) < len(found):
                raise LookupError(element)
            self._numbers[element] = len(self.ids)
            self.ids.append(ids)
        return self._numbers[element]


def placeholders(roles: Sequence[ExampleRole], with_system: bool) -> Example:
    """An example with a hole in place of every text."""
    messages = [ExampleMessage(role, f"\ufdd0{i + 1}\ufdd1", i) for i, role in enumerate(roles)]
    return Example(tuple(messages[:-1]), tuple(messages[-1:]), "\ufdd00\ufdd1" if with_system else "")


def outline_of(turns: Sequence[tuple[Side, Side]], constants: Constants) -> Outline:
    """The outline of formatted `placeholders`. Raises LookupError for a token that the tokenizer does not have."""
    segments: list[int] = []
    sides: list[int] = []
    joins: list[tuple[str | int, ...]] = []
    for side in (side for turn in turns for side in turn):
        before = len(segments)
        for element in (element for block in side for element in block.elements if element):
            if not isinstance(element, str):
                segments.append(constants.number(element))
                continue
            parts = _HOLE.split(str.__str__(element))
            if len(parts) == 1:
                segments.append(constants.number(parts[0]))
            else:
                segments.append(TEXT)
                joins.append(tuple(int(part) if i % 2 else part for i, part in enumerate(parts)))
        if len(segments) == before:
            segments.append(0)
        sides.append(len(segments) - before)
    if all(len(parts) == 3 for parts in joins):
        return Outline(segments, sides, cast(tuple[tuple[str, int, str], ...], tuple(joins)))
    return Outline(segments, sides, (), tuple(joins))


def slots_of(turns: Sequence[tuple[Side, Side]], constants: Constants) -> tuple[Outline, list[str]]:
    """The outline of one formatted example, good for it alone, and its texts. Raises LookupError as `outline_of`."""
    segments: list[int] = []
    sides: list[int] = []
    texts: list[str] = []
    for side in (side for turn in turns for side in turn):
        before = len(segments)
        for element in (element for block in side for element in block.elements if element):
            if isinstance(element, Traced) or constants.is_full(element):
                segments.append(TEXT)
                texts.append(str.__str__(cast(str, element)))
            else:
                segments.append(constants.number(element))
        if len(segments) == before:
            segments.append(0)
        sides.append(len(segments) - before)
    return Outline(segments, sides, ()), texts


class Screen:
    """Tells the rows that an outline serves from those whose texts change the slots."""

    def __init__(self, spec: TemplateSpec) -> None:
        plugin = spec.mm_plugin
        self._anywhere = MEDIA_MARKERS if plugin is not None and plugin.name != "base" else ()
        self._reasoning = is_reasoning(spec)
        words = [word.strip() for word in spec.thought_words] if self._reasoning else []
        self._in_answers = (*self._anywhere, *words)
        self._in_prompts = (*self._anywhere, "{{idx}}")  # which the user's slots replace in the text, too

    def passes(self, row: Row) -> bool:
        """True when all depends on the roles alone."""
        values = row.values
        for text in values[1::2]:
            for marker in self._in_prompts:
                if marker in text:
                    return False
        for text in values[2::2]:
            for marker in self._in_answers:
                if marker in text:
                    return False
            if self._reasoning and text[:1] == "\n":  # which taking out a thought would strip
                return False
        return True


def row_of_conversation(conversation: Conversation) -> Row | None:
    """The row of a plain conversation, user and assistant in turns; None for any other."""
    messages = conversation.messages
    if conversation.tools is not None or not messages:
        return None
    values = [""]
    at = 0
    if messages[0].role == "system":
        values[0] = messages[0].content or ""
        at = 1
    for message in messages[at:]:
        text = message.content
        role = "assistant" if len(values) % 2 == 0 else "user"
        if message.role != role or text is None or message.tool_calls or message.reasoning:
            return None
        values.append(text)
    return Row(_alternating(len(values) - 1), values) if len(values) > 2 and len(values) % 2 else None


def row_of_example(example: Example | EncodingError) -> Row | None:
    """The row of an SFT example without tools and tool calls; None for any other."""
    if isinstance(example, EncodingError) or example.tools or example.paired or len(example.response) != 1:
        return None
    values = [str.__str__(example.system or "")]
    roles: list[ExampleRole] = []
    for message in (*example.prompt, *example.response):
        if type(message.content) is not str:
            return None
        roles.append(message.role)
        values.append(message.content)
    if len(roles) % 2 or any(role != "assistant" for role in roles[1::2]):
        return None
    return None if any(role not in ("user", "observation") for role in roles[0::2]) else Row(tuple(roles), values)


_ALTERNATING: dict[int, tuple[ExampleRole, ...]] = {}


def _alternating(count: int) -> tuple[ExampleRole, ...]:
    if count not in _ALTERNATING:
        _ALTERNATING[count] = ("user", "assistant") * (count // 2)
    return _ALTERNATING[count]
