"""Rules of the group Stream that look inside messages: tools, reasoning, fields that get lost."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from template_audit.alignment import Hunk
from template_audit.conversation import ToolCall
from template_audit.rules.evidence import Facts, sentence, show
from template_audit.rules.interface import Case, Hit, rule
from template_audit.rules.sides import Side


@rule(
    "field-dropped",
    severity="error",
    group="Stream",
    reads="structure",
    what="A field of a message is in one stream and not in the other: the text beside a tool call, a call's name or "
    "argument, the reasoning of the last answer.",
    why="The model learns to act without what it is given, or never learns to write what inference expects.",
    advice="Move the text into a message of its own, or use a format and a template that keep the field.",
)
def field_dropped(case: Case) -> Iterator[Hit]:
    facts = case.facts
    for index, message in enumerate(case.conversation.messages):
        if facts.ref.body(index) is None or facts.sub.body(index) is None or facts.is_cut(index):
            continue
        for field, value in (("content", message.content), ("reasoning", message.reasoning)):
            if message.role != "assistant" or not (value and value.strip()):
                continue
            there, here = facts.ref.has(index, field), facts.sub.has(index, field)
            if there == here or (field == "reasoning" and (here or index != facts.last_answer)):
                continue
            yield _lost(facts, index, f"{field} {show(value, 40)}", field, there)
        calls = [part for call in message.tool_calls for part in _parts_of(call)]
        written = [[_spells(side, index, spellings) for _, spellings in calls] for side in (facts.ref, facts.sub)]
        if any(written[0]) != any(written[1]):
            yield _lost(facts, index, f"call of {show(message.tool_calls[0].name, 40)}", "call", any(written[0]))
            continue
        for (name, _), there, here in zip(calls, *written, strict=True):
            if there != here:
                yield _lost(facts, index, name, name.partition(" ")[0] + " of a call", there)


def _lost(facts: Facts, message: int, what: str, key: str, there: bool) -> Hit:
    lost = "is not in training" if there else f"is trained, and {facts.case.reference_name} drops it"
    return Hit(
        f"The {what} of message {message} {lost}.",
        key=f"{key} {'subject' if there else 'reference'}",
        turn=message,
        reference=facts.ref.body(message),
        subject=facts.sub.body(message),
    )


def _parts_of(call: ToolCall) -> Iterator[tuple[str, list[str]]]:
    """What a call consists of, each with the spellings in which it may stand in the text."""
    yield f"name {show(call.name, 40)}", [call.name]
    arguments: Any = call.arguments
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return
    if isinstance(arguments, dict):
        for key, value in arguments.items():
            spellings = [json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(value)[1:-1], value]
            if isinstance(value, str) and value.strip():
                yield f"argument {show(str(key), 40)}", [s for s in spellings if isinstance(s, str)]


def _spells(side: Side, message: int, spellings: list[str]) -> bool:
    text = side.text(side.body(message) or (0, 0))
    return any(spelling in text for spelling in spellings)


@rule(
    "tool-layout-drift",
    severity="error",
    group="Stream",
    reads="structure",
    what="Tool definitions, calls or results are laid out differently.",
    why="The model is taught one calling convention and prompted with another: calls come out in a format that the "
    "server's parser does not know, or not at all.",
    advice="Use the framework's `tool_format` that equals the chat template's, or render tools with the chat template "
    "when the data set is made.",
)
def tool_layout_drift(case: Case) -> Iterator[Hit]:
    facts = case.facts
    if case.conversation.tools and not _prints_tools(facts.ref):
        yield Hit(
            f"{sentence(case.reference_name)} does not write tool definitions"
            + (", training does." if _prints_tools(facts.sub) else ", and neither does training."),
            key="tools",
            severity=None if _prints_tools(facts.sub) else "info",
        )
    parts: dict[str, list[Hunk]] = {}
    for hunk in facts.owned("tool-layout-drift"):
        parts.setdefault(_part(facts, hunk), []).append(hunk)
    for part, hunks in parts.items():
        if part == "definitions" and not _prints_tools(facts.ref):
            continue
        yield _layout(facts, part, hunks)


def _layout(facts: Facts, part: str, hunks: list[Hunk]) -> Hit:
    first = max(hunks, key=lambda h: h.ref_end - h.ref_start + h.sub_end - h.sub_start)
    ref, sub = (first.ref_start, first.ref_end), (first.sub_start, first.sub_end)
    more = f" ({len(hunks)} places differ; this is the longest)" if len(hunks) > 1 else ""
    return Hit(
        f"Tool {part}: training has {show(facts.sub.text(sub))} where {facts.case.reference_name} writes "
        f"{show(facts.ref.text(ref))}{more}.",
        key=part,
        turn=_message_near(facts, first),
        reference=ref,
        subject=sub,
    )


def _prints_tools(side: Side) -> bool:
    return any(piece.origin.field == "tools" for piece in side.stream.pieces)


def _message_near(facts: Facts, hunk: Hunk) -> int | None:
    for side, start in ((facts.ref, hunk.ref_start), (facts.sub, hunk.sub_start)):
        for turn in side.turns.values():
            if turn.start <= start < turn.end:
                return turn.message
    return None


def _part(facts: Facts, hunk: Hunk) -> str:
    """``definitions``, ``calls`` or ``results``, by the nearest tool text."""
    for side, start, end in ((facts.ref, hunk.ref_start, hunk.ref_end), (facts.sub, hunk.sub_start, hunk.sub_end)):
        wide = {origin.field for origin in side.fields((start, end))}
        for field, name in (("tools", "definitions"), ("tool_call", "calls"), ("tool_result", "results")):
            if field in wide:
                return name
    message = _message_near(facts, hunk)
    role = facts.case.conversation.messages[message].role if message is not None else ""
    return {"assistant": "calls", "tool": "results"}.get(role, "definitions")


@rule(
    "thinking-injected",
    severity="warning",
    group="Stream",
    reads="structure",
    what="Training shows thinking (reasoning, or an empty thought) where the chat template shows none.",
    why="The model sees its earlier thoughts in training and not at inference, or learns that an answer begins with a "
    "thought which the template does not ask for.",
    advice="Use the framework's non-thinking template for models without thinking (`…_nothink`), and `mask_history` "
    "for models whose template strips earlier thoughts.",
)
def thinking_injected(case: Case) -> Iterator[Hit]:
    for hunk in case.facts.owned("thinking-injected"):
        text = case.facts.sub.text((hunk.sub_start, hunk.sub_end))
        message = f"Training has {show(text)}{{where}}; {case.reference_name} shows no thinking there."
        yield _thinking(case, hunk, message)


@rule(
    "thinking-stripped",
    severity="info",
    group="Stream",
    reads="structure",
    what="The chat template shows thinking (earlier reasoning, or an empty thought) where training has none.",
    why="The model is trained on answers without the thought that inference puts before them. Most templates strip "
    "earlier thoughts on purpose.",
    advice="Use the framework's reasoning template for a reasoning model.",
)
def thinking_stripped(case: Case) -> Iterator[Hit]:
    for hunk in case.facts.owned("thinking-stripped"):
        text = case.facts.ref.text((hunk.ref_start, hunk.ref_end))
        message = f"{sentence(case.reference_name)} writes {show(text)}{{where}}; training has no thinking there."
        yield _thinking(case, hunk, message)


def _thinking(case: Case, hunk: Hunk, message: str) -> Hit:
    turn = _message_near(case.facts, hunk)
    last = turn is not None and turn == case.facts.last_answer
    where = "" if turn is None else f" in the turn of message {turn}"
    return Hit(
        message.replace("{where}", where),
        key="last" if last else "history",
        turn=turn,
        reference=(hunk.ref_start, hunk.ref_end),
        subject=(hunk.sub_start, hunk.sub_end),
    )
