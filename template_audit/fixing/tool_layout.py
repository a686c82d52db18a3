"""How a chat template writes tools, in the framework's words: tool formats, or slots around the JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from template_audit.fixing.shown import CALL, TOOLS, TOOLS_JSON, Shown
from template_audit.frameworks.llamafactory.encoder import FRAMEWORK_RAISES
from template_audit.frameworks.llamafactory.registry import Formatter, Registry, TemplateSpec
from template_audit.frameworks.llamafactory.tool_formats import FORMATS, Call, Marker, Release
from template_audit.stream import Origin
from template_audit.trace import join

_CONTENT = "{{content}}"
_MARKER = Marker(Origin(None, "tools"))


def with_tools(spec: TemplateSpec, seen: Shown, registry: Registry, clock: str) -> tuple[TemplateSpec, list[str]]:
    """`spec` with the formatters for tools, calls and results that fit, and what of them does not fit, in sentences."""
    missing: list[str] = []
    if seen.call is None and seen.tools is None and seen.tools_alone is None:
        return spec, missing
    release = Release(registry.tool_prompts, datetime.fromisoformat(clock), registry.behaviours)
    formats = [name for name in registry.tool_formats if name in FORMATS]
    tools = _tools(spec, seen, formats, release)
    if tools is None and not _written(seen):
        tools = spec.format_tools
        missing.append("Tool definitions: the chat template writes none; LLaMA-Factory adds them to the system text.")
    if tools is None:
        missing.append(
            "Tool definitions: no tool format of this release writes them as the chat template does, or where it does."
        )
    fits = tools is not None
    spec = replace(spec, format_tools=tools or spec.format_tools)
    if seen.call is None:
        return spec, [
            *missing,
            "Tool calls and results: the chat template does not show them in a way that can be taken apart.",
        ]
    found = _calls(spec, seen, formats, release)
    if CALL.name not in seen.call:
        missing.append("Tool calls: the chat template writes none; LLaMA-Factory does.")
        function, after = spec.format_function, _behind_the_answer(spec, seen.call)
    elif found is None:
        missing.append("Tool calls: no tool format of this release writes them as the chat template does.")
        function = replace(spec.format_function, tool_format=spec.format_tools.tool_format or "default")
        after = _behind_the_answer(spec, seen.call)
    else:
        function, after = found
        if not fits:  # definitions and calls of one family are nearer to each other than to any other
            spec = replace(spec, format_tools=Formatter("tool", (), function.tool_format))
    spec = replace(spec, format_function=function)
    if seen.result is None:
        return spec, [*missing, "Tool results: the chat template does not show them in a way that can be taken apart."]
    if seen.identified:
        missing.append("Tool results: the chat template writes the ids of calls, which LLaMA-Factory does not have.")
    if seen.result_derived:
        missing.append("Tool results: the chat template writes them as JSON, the framework as they are.")
    tail = seen.result
    head = _answer_head(spec)
    if head and tail.endswith(head):
        tail = tail[: len(tail) - len(head)]
    return replace(spec, format_observation=Formatter("string", (f"{after}{_CONTENT}{tail}",))), missing


def _answer_parts(spec: TemplateSpec) -> tuple[str, str]:
    slot = spec.format_assistant.slots[0]
    before, _, after = slot.partition(_CONTENT) if isinstance(slot, str) else ("", "", "")
    return before, after


def _answer_head(spec: TemplateSpec) -> str:
    return _answer_parts(spec)[0]


def _answer_end(spec: TemplateSpec) -> str:
    return _answer_parts(spec)[1]


def _behind_the_answer(spec: TemplateSpec, call: str) -> str:
    """What stands between the end of a call's turn and the tool's result; all behind the header if no call is there."""
    end = _answer_end(spec)
    if end:
        return call.rpartition(end)[2]
    return "" if CALL.name in call else call.removeprefix(_prompt_tail(spec) + _answer_head(spec))


def _prompt_tail(spec: TemplateSpec) -> str:
    slot = spec.format_user.slots[-1]
    return slot.rpartition(_CONTENT)[2] if isinstance(slot, str) else ""


def _written(seen: Shown) -> bool:
    """True when tool definitions are in the text at all."""
    for text in (seen.tools_alone, seen.tools[0] + seen.tools[1] if seen.tools else None):
        if text is not None and CALL.name in text:
            return True
    return False


def _definitions(name: str, release: Release) -> str | None:
    try:
        return str.__str__(join(FORMATS[name].tools(list(TOOLS), _MARKER, release)))
    except FRAMEWORK_RAISES:
        return None


def _call_text(name: str, release: Release) -> str | None:
    try:
        call = Call(CALL.name, json.dumps(CALL.arguments, ensure_ascii=False))
        return str.__str__(join(FORMATS[name].calls([call], _MARKER, release)))
    except FRAMEWORK_RAISES:
        return None


def _tools(spec: TemplateSpec, seen: Shown, formats: list[str], release: Release) -> Formatter | None:
    """The formatter whose text stands between system text and question, exactly."""
    places: list[str] = []
    if seen.tools is not None and seen.system is not None and seen.tools[0] == seen.system[0]:
        after = seen.system[1]
        if seen.tools[1].endswith(after):
            places.append(seen.tools[1][: len(seen.tools[1]) - len(after)])
    if not places and seen.tools_alone is not None:
        places += _alone(spec, seen)
    for text in places:
        for name in formats:
            if _definitions(name, release) == text:
                return Formatter("tool", (), name)
        before, json_text, after = text.partition(TOOLS_JSON)
        if json_text and _CONTENT not in before + after:
            return Formatter("string", (f"{before}{_CONTENT}{after}",))
    return None


def _alone(spec: TemplateSpec, seen: Shown) -> Iterator[str]:
    """The text of the definitions where there is no system text: what the system slot would be given."""
    slot = spec.format_system.slots[0]
    if not isinstance(slot, str) or seen.tools_alone is None:
        return
    before, _, after = slot.partition(_CONTENT)
    text = seen.tools_alone
    question = spec.format_user.slots[0]
    head = question.partition(_CONTENT)[0] if isinstance(question, str) else ""
    prefix = "" if spec.default_system else seen.first.removesuffix(head)
    start = text.find(before + spec.default_system, len(prefix) if text.startswith(prefix) else 0)
    end = text.rfind(after + head)
    if 0 <= start < end:
        yield text[start + len(before + spec.default_system) : end]


def _calls(spec: TemplateSpec, seen: Shown, formats: list[str], release: Release) -> tuple[Formatter, str] | None:
    """The function formatter, and what stands between the call's end and the result."""
    assert seen.call is not None
    tail, end = _prompt_tail(spec), _answer_end(spec)
    if not seen.call.startswith(tail):  # a call is written like an earlier answer
        tail = next((text for text in seen.answered if seen.call.startswith(text)), "")
    answer = seen.call[len(tail) :]
    for name in formats:
        text = _call_text(name, release)
        before, found, after = answer.partition(text) if text else ("", "", "")
        if not found or _CONTENT in before + after:
            continue
        if end in after:
            inner, _, rest = after.partition(end)
            return Formatter("function", (f"{before}{_CONTENT}{inner}{end}",), name), rest
        return Formatter("function", (f"{before}{_CONTENT}",), name), after
    return None
