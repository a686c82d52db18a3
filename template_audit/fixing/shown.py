"""What a model's chat template shows of itself: the text between the messages, by provenance.

A few clean conversations are rendered with traced text. What came from a message is known, so what stands
between two messages is the template's own, and no text is ever searched for a marker.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from template_audit.conversation import Conversation, Message, ToolCall
from template_audit.errors import EncodingError
from template_audit.model.chat_template import Rendered, Renderer

if TYPE_CHECKING:
    from template_audit.model import Model

Spot = tuple[int, str]
"""A field of a message: its index and the field's name."""

ASK, SAY, ASK_AGAIN, SAY_AGAIN = "first question", "first answer", "second question", "second answer"
SYSTEM, THOUGHT, RESULT = "system words", "some thought", "some result"
TOOLS: tuple[Mapping[str, Any], ...] = (
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Looks a word up.",
            "parameters": {
                "type": "object",
                "properties": {"word": {"type": "string", "description": "The word."}},
                "required": ["word"],
            },
        },
    },
)
CALL = ToolCall("look_up", {"word": "tree"}, id="call00001")
TOOLS_JSON = json.dumps(list(TOOLS), ensure_ascii=False)

_USER, _ANSWER = Message("user", ASK), Message("assistant", SAY)
_FOUR = (_USER, _ANSWER, Message("user", ASK_AGAIN), Message("assistant", SAY_AGAIN))
_THINKING = Message("assistant", SAY, reasoning=THOUGHT)
_CALLING = (
    _USER,
    Message("assistant", "", tool_calls=(CALL,)),
    Message("tool", RESULT, name="look_up", tool_call_id="call00001"),
    Message("assistant", SAY),
)


@dataclass(frozen=True, slots=True)
class Shown:
    """The template's own text in some conversations; None where the template refuses one or hides a message.

    `first` and `later` are before the first and a later question, `answered` between a question and its answer
    (of the first turn, and of the last), `end` after the last answer. `prompt` is what the generation prompt puts
    after a question. `system` is before a system text, and between it and the question; `no_system` is before the
    question after an empty one. `thought` is between question, thought and answer. `tools` is before the system text,
    and between it and the question, when there are tools; `tools_alone` all before the question without a system
    text. `call` is between question and tool result, and `result` between tool result and answer; `result_derived`
    when the result is computed from the message's. `identified` is true when ids of calls are written, which are left
    out here. `trims` are the roles whose text the template trims; `dated` when the text depends on the day, which was
    that of `clock`.
    """

    first: str
    later: str
    answered: tuple[str, str]
    end: str
    prompt: str | None
    system: tuple[str, str] | None
    no_system: str | None
    thought: tuple[str, str] | None
    strips_thoughts: bool
    tools: tuple[str, str] | None
    tools_alone: str | None
    call: str | None
    result: str | None
    result_derived: bool
    identified: bool
    trims: tuple[str, ...]
    dated: bool
    clock: str


def shown(model: Model, clock: str, variables: Mapping[str, Any] | None = None) -> Shown | None:
    """What the template of `model` shows; None when it takes no conversation of two plain turns."""
    renderer = Renderer(model, clock=clock, template_kwargs=variables)
    four = _render(renderer, _FOUR)
    if four is None:
        return None
    between = gaps(four, [(0, "content"), (1, "content"), (2, "content"), (3, "content")])
    if between is None:
        return None
    first, answered, later, answered_last, end = between
    system = _gaps(
        renderer, (Message("system", SYSTEM), _USER, _ANSWER), [(0, "system"), (1, "content"), (2, "content")]
    )
    thought = _gaps(renderer, (_USER, _THINKING), [(0, "content"), (1, "reasoning"), (1, "content")])
    tools = _gaps(renderer, (Message("system", SYSTEM), *_CALLING), [(0, "system"), (1, "content")], TOOLS)
    alone = _gaps(renderer, _CALLING, [(0, "content")], TOOLS)
    calls = _gaps(renderer, _CALLING, [(0, "content"), (2, "tool_result"), (3, "content")], TOOLS, derived=True)
    clean = _gaps(renderer, _CALLING, [(2, "tool_result")], TOOLS)
    return Shown(
        first=first,
        later=later,
        answered=(answered, answered_last),
        end=end,
        prompt=_prompt(renderer),
        system=None if system is None else (system[0], system[1]),
        no_system=_after_empty_system(renderer),
        thought=None if thought is None else (thought[1], thought[2]),
        strips_thoughts=thought is not None and _strips(renderer),
        tools=None if tools is None else (tools[0], tools[1]),
        tools_alone=None if alone is None else alone[0],
        call=None if calls is None else calls[1],
        result=None if calls is None else calls[2],
        result_derived=clean is None,
        identified=_identified(renderer),
        trims=_trims(renderer),
        dated=_dated(model, four, variables),
        clock=clock,
    )


def gaps(rendered: Rendered, spots: Sequence[Spot], *, derived: bool = False) -> list[str] | None:
    """The text before, between and after the fields in `spots`; None unless each stands there once and in order.

    A field whose text was computed from the message's counts only with `derived`.
    """
    out, at = [], 0
    for message, field in spots:
        own = [p for p in rendered.pieces if p.origin.message == message and p.origin.field == field]
        if not own or own[0].start < at or (not derived and any(piece.origin.derived for piece in own)):
            return None
        if sum(piece.end - piece.start for piece in own) != own[-1].end - own[0].start:
            return None
        out.append(_own_text(rendered, at, own[0].start))
        at = own[-1].end
    return [*out, _own_text(rendered, at, len(rendered.text))]


def _own_text(rendered: Rendered, start: int, end: int) -> str:
    """The text of a stretch without what came from other values of messages, such as the ids of calls."""
    kept = [
        rendered.text[max(piece.start, start) : min(piece.end, end)]
        for piece in rendered.pieces
        if piece.start < end
        and start < piece.end
        and not (piece.origin.message is not None and piece.origin.field == "other")
    ]
    return "".join(kept)


def _identified(renderer: Renderer) -> bool:
    rendered = _render(renderer, _CALLING, TOOLS)
    return rendered is not None and any(p.origin.message == 2 and p.origin.field == "other" for p in rendered.pieces)


def _render(
    renderer: Renderer,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]] | None = None,
    prompt: bool = False,
) -> Rendered | None:
    conversation = Conversation(tuple(messages), tools=None if tools is None else tuple(tools))
    try:
        rendered = renderer.render(conversation, add_generation_prompt=prompt)
    except EncodingError:
        return None
    return rendered if rendered.traced else None


def _gaps(
    renderer: Renderer,
    messages: Sequence[Message],
    spots: Sequence[Spot],
    tools: Sequence[Mapping[str, Any]] | None = None,
    derived: bool = False,
) -> list[str] | None:
    rendered = _render(renderer, messages, tools)
    return None if rendered is None else gaps(rendered, spots, derived=derived)


def _prompt(renderer: Renderer) -> str | None:
    rendered = _render(renderer, [_USER], prompt=True)
    found = None if rendered is None else gaps(rendered, [(0, "content")])
    return found[1] if found else None


def _after_empty_system(renderer: Renderer) -> str | None:
    """What stands before the question after an empty system message."""
    found = _gaps(renderer, [Message("system", ""), _USER, _ANSWER], [(1, "content")])
    return found[0] if found else None


def _strips(renderer: Renderer) -> bool:
    """True when the thought of an earlier answer is left out."""
    rendered = _render(renderer, [_USER, _THINKING, Message("user", ASK_AGAIN), Message("assistant", SAY_AGAIN)])
    return rendered is not None and not any(piece.origin.field == "reasoning" for piece in rendered.pieces)


def _trims(renderer: Renderer) -> tuple[str, ...]:
    """The roles whose text loses the whitespace at its ends."""
    found = []
    for role in ("system", "user", "assistant"):
        messages = [Message("system", SYSTEM), _USER, _ANSWER] if role == "system" else [_USER, _ANSWER]
        padded = [Message(m.role, f"\n {m.content} \n") if m.role == role else m for m in messages]
        rendered = _render(renderer, padded)
        index = next(i for i, m in enumerate(messages) if m.role == role)
        if rendered is None:
            continue
        own = [p for p in rendered.pieces if p.origin.message == index and p.origin.field in ("content", "system")]
        if own and sum(p.end - p.start for p in own) < len(padded[index].content or ""):
            found.append(role)
    return tuple(found)


def _dated(model: Model, today: Rendered, variables: Mapping[str, Any] | None) -> bool:
    another = _render(Renderer(model, clock="2031-03-09T17:45:10", template_kwargs=variables), _FOUR)
    return another is not None and another.text != today.text
