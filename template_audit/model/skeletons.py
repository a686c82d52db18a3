"""What a chat template makes of all conversations of one structure: its text with holes for theirs.

A `Skeleton` is learnt from one conversation by the worker (`template_audit.model.watching`), and
holds for every other with the same structure whose texts give the same answers to the questions
that the template asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from template_audit.conversation import Conversation

if TYPE_CHECKING:
    from template_audit.model.worker import Answer, View

Hole: TypeAlias = tuple[int, tuple[tuple[str, str | None], ...]]
"""The text of a message, and what is stripped from it, step by step."""
Part: TypeAlias = str | Hole
Structure: TypeAlias = tuple[tuple[str, ...], str | None]
"""The roles, and the tools as JSON."""
_Test: TypeAlias = Callable[[Sequence[str]], bool]


@dataclass(frozen=True, slots=True)
class Skeleton:
    """`full` is the whole rendering, `prompts[k]` and `prefixes[k]` those of ``messages[:k]`` with and without
    the generation prompt. `tests` say whether it holds for a conversation with these texts.
    """

    full: tuple[Part, ...]
    prompts: Mapping[int, tuple[Part, ...]]
    prefixes: Mapping[int, tuple[Part, ...]]
    tests: tuple[_Test, ...]

    def holds(self, texts: Sequence[str]) -> bool:
        """True when the template makes this of a conversation of the structure with these texts."""
        for test in self.tests:  # noqa: SIM110 - a generator would double the time
            if not test(texts):
                return False
        return True


def structure_of(conversation: Conversation) -> Structure | None:
    """The structure of a conversation in which every message is a text and nothing else; None for any other."""
    roles = []
    for message in conversation.messages:
        if not message.content or message.tool_calls or message.reasoning is not None:
            return None
        if message.name is not None or message.tool_call_id is not None:
            return None
        roles.append(message.role)
    if not roles:
        return None
    tools = None if not conversation.tools else json.dumps(conversation.tools, default=repr)
    return tuple(roles), tools


def views_of(roles: Sequence[str]) -> list[View]:
    """What is rendered of a structure: all of it, the generation prompts, and the prefixes."""
    count = len(roles)
    views: list[View] = [(False, count, False, "never")]
    views += [(False, k, True, "never") for k in _assistants(roles)]
    return views + [(False, k, False, "never") for k in range(1, count)]


def skeleton_of(roles: Sequence[str], answer: Answer) -> Skeleton | None:
    """What the worker found out; None when it found nothing."""
    if "parts" not in answer:
        return None
    views = iter([tuple(map(_part, parts)) for parts in answer["parts"]])
    full = next(views)
    prompts = {k: next(views) for k in _assistants(roles)}
    prefixes = {k: next(views) for k in range(1, len(roles))}
    tests = [_test(*question) for question in answer["questions"]]
    tests += [_is_not_empty(part) for part in full if not isinstance(part, str)]
    return Skeleton(full, prompts, prefixes, tuple(tests))


def filled(parts: Sequence[Part], texts: Sequence[str]) -> str:
    """The text of `parts` with the conversation's texts."""
    return "".join([part if isinstance(part, str) else value(part, texts) for part in parts])


def value(hole: Hole, texts: Sequence[str]) -> str:
    """The text that stands in a hole."""
    text = texts[hole[0]]
    for how, argument in hole[1]:
        text = getattr(text, how)(argument)
    return text


def common_place(parts: Sequence[Part], whole: Sequence[Part]) -> tuple[int, int] | None:
    """Where in `whole` a text ends that it always begins with, as part and character; None when it need not."""
    for index, part in enumerate(parts):
        if index >= len(whole):
            return None
        if part != whole[index]:
            here = whole[index]
            if index == len(parts) - 1 and isinstance(part, str) and isinstance(here, str) and here.startswith(part):
                return index, len(part)
            return None
    return len(parts), 0


def _assistants(roles: Sequence[str]) -> list[int]:
    return [k for k, role in enumerate(roles) if role == "assistant" and k]


def _part(part: Any) -> Part:
    if isinstance(part, str):
        return part
    message, steps = part
    return message, tuple((how, argument) for how, argument in steps)


def _is_not_empty(hole: Hole) -> _Test:
    if not hole[1]:
        message = hole[0]
        return lambda texts: bool(texts[message])
    return lambda texts: bool(value(hole, texts))


def _test(how: str, parts: Sequence[Any], args: Sequence[Any], answer: Any) -> _Test:
    text = tuple(map(_part, parts))
    given = tuple(tuple(arg) if isinstance(arg, list) else arg for arg in args)
    if how == "bool":
        return lambda texts: bool(filled(text, texts)) is answer
    method = getattr(str, how)
    if len(text) == 1 and not isinstance(text[0], str) and not text[0][1]:
        message = text[0][0]
        return lambda texts: method(texts[message], *given) == answer
    return lambda texts: method(filled(text, texts), *given) == answer
