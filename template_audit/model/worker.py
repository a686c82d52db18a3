"""The process in which chat templates run: one JSON request a line in, one JSON answer a line out.

It is started by `template_audit.model.sandbox`, bounds its own memory, CPU time and files, and
imports jinja2 and the tracing modules only. A request is ``{"jobs": [job, …]}``; every job gets
one answer. See `Job` and `Answer` for what is in them.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NotRequired, TypedDict

from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError

from template_audit.model.environment import ChatEnvironment, OutputTooLarge, TracingEnvironment
from template_audit.model.watching import Unprovable, Watch, WatchingEnvironment, parts_of
from template_audit.stream import Field, Origin, common_prefix
from template_audit.trace import Traced, pieces_of
from template_audit.trace_data import TracedDict, trace

SYSTEM_PROBE = "Be kind."
"""The text of the system message that a view may put before the conversation."""

DEEP = 50
"""Data that is nested deeper than this is to blame when a template recurses too deeply."""
TOO_DEEP = "The conversation's tools or tool calls are nested too deeply."

View = tuple[bool, int, bool, str]
"""What to render: with the probe as system message? how many messages? with the generation prompt?

The last item says when to trace: ``always``, ``never``, or ``unstable``: if the text is no prefix
of the first view's.
"""


class Job(TypedDict):
    """One conversation. `messages` and `variables` are as the template gets them; `seconds` is CPU time."""

    template: str
    messages: list[dict[str, Any]]
    variables: dict[str, Any]
    tools: list[dict[str, Any]] | None
    traced_variables: list[str]
    views: list[View]
    clock: str
    restricted: bool
    seconds: float
    seed: NotRequired[int]
    watch: NotRequired[bool]
    """Instead of text: what the views are made of, as `template_audit.model.watching` has it."""


class Answer(TypedDict):
    """One view, or why it cannot be had.

    The text is that of the job's first view up to character `same`, and then `rest`. `runs` are
    (length, origin) pairs that tile the whole text, the origin being an index into `origins`.
    """

    kind: NotRequired[str]
    message: NotRequired[str]
    same: NotRequired[int]
    rest: NotRequired[str]
    runs: NotRequired[list[tuple[int, int]]]
    origins: NotRequired[list[tuple[int | None, Field, bool]]]
    generated: NotRequired[list[tuple[int, int]]]
    exhausted: NotRequired[bool]
    parts: NotRequired[list[list[Any]]]
    questions: NotRequired[list[Any]]


def main() -> None:
    """Serve until the input ends. The limits are the JSON object in the last argument."""
    limits = json.loads(sys.argv[-1])
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a template might print can look like an answer
    bound(limits)
    environments: dict[tuple[Any, ...], ChatEnvironment] = {}
    answers.write(b"{}\n")
    answers.flush()
    for line in requests:
        for job in json.loads(line)["jobs"]:
            found = (watch if job.get("watch") else render)(job, environments, limits["output"])
            answers.write(json.dumps(found, separators=(",", ":")).encode() + b"\n")
            answers.flush()
            if any(answer.get("exhausted") for answer in found):
                return  # the heap is in pieces: let a fresh process go on


def bound(limits: Mapping[str, int]) -> None:
    """Bound this process, as far as the platform can: address space, files, core dumps, children."""
    try:
        import resource
    except ImportError:  # Windows: only the wall clock and the output size are bounded
        return
    wanted = {
        "RLIMIT_AS": limits["memory"],
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_NOFILE": 16,
        "RLIMIT_NPROC": 0,
    }
    for name, value in wanted.items():
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (AttributeError, ValueError, OSError):
            continue  # not on this platform, or already lower


def bound_cpu(seconds: float) -> None:
    """From now on, let this process have `seconds` more of CPU time; then it is killed."""
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds) + 1, hard))
    except (ImportError, ValueError, OSError):
        return


def render(job: Job, environments: dict[tuple[Any, ...], ChatEnvironment], limit: int) -> list[Answer]:
    """All views of a job. When the first cannot be had, it is the only one."""
    bound_cpu(job["seconds"])
    plain, tracing = _environments(job, environments, limit)
    probe = {"role": "system", "content": SYSTEM_PROBE}
    messages = job["messages"]
    traced_messages = [trace_message(message, index) for index, message in enumerate(messages)]
    traced_probe = TracedDict(probe, content=Traced(SYSTEM_PROBE, Origin(-1, "system")))
    answers: list[Answer] = []
    first: str | None = None
    for with_system, count, prompt, tracing_mode in job["views"]:
        variables = {**job["variables"], "tools": job["tools"], "add_generation_prompt": prompt}
        answer: Answer
        try:
            random.seed(job.get("seed", 0))  # so that a template that rolls dice rolls the same ones twice
            text = plain.run(job["template"], {**variables, "messages": [probe] * with_system + messages[:count]})
            generated = plain.generated
            same = 0 if first is None else common_prefix(first, text)
            answer = {"same": same, "rest": text[same:], "generated": generated}
            if tracing_mode == "always" or (tracing_mode == "unstable" and same < len(text)):
                variables.update(
                    {name: trace(variables[name], Origin(None, "other")) for name in job["traced_variables"]}
                )
                variables["tools"] = trace(job["tools"], Origin(None, "tools"))
                variables["messages"] = [traced_probe] * with_system + traced_messages[:count]
                answer |= _traced(tracing, job, variables, text)
        except RecursionError as error:
            deep = _depth([job["tools"], job["messages"]]) > DEEP
            answer = {"kind": "not-evaluated", "message": TOO_DEEP} if deep else failure(error)
        except Exception as error:
            answer = failure(error)
        answers.append(answer)
        if first is None:
            if "kind" in answer:
                break
            first = text
        if answer.get("exhausted"):
            break
    return answers


def _depth(value: Any) -> int:
    """How many lists and objects lie within each other, at the deepest place."""
    depth, level = 0, [value]
    while level:
        inner: list[Any] = []
        for item in level:
            inner += item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        depth, level = depth + 1, inner
    return depth - 1


def _traced(environment: ChatEnvironment, job: Job, variables: dict[str, Any], text: str) -> Answer:
    """The runs of `text`; none when a traced rendering gives another text, which is then not trusted."""
    random.seed(job.get("seed", 0))
    try:
        traced = environment.run(job["template"], variables)
    except MemoryError:
        return {"exhausted": True}
    except Exception:
        return {}
    if traced != text:
        return {}
    numbers: dict[Origin, int] = {}
    runs = [(end - start, numbers.setdefault(origin, len(numbers))) for start, end, origin in pieces_of(traced)]
    return {"runs": runs, "origins": list(numbers)}


def watch(job: Job, environments: dict[tuple[Any, ...], ChatEnvironment], limit: int) -> list[Answer]:
    """What every view of a job is made of, in one answer; the answer is empty when that cannot be told."""
    bound_cpu(job["seconds"])
    plain, _ = _environments(job, environments, limit)
    key = (WatchingEnvironment, job["clock"], job["restricted"])
    if key not in environments:
        clock = datetime.fromisoformat(job["clock"])
        environments[key] = WatchingEnvironment(clock=clock, limit=limit, restricted=job["restricted"])
    texts = [content if isinstance(content := message.get("content"), str) else None for message in job["messages"]]
    watched = Watch(texts)
    messages = [
        {**message, "content": watched.text(k)} if texts[k] is not None else message
        for k, message in enumerate(job["messages"])
    ]
    parts: list[list[Any]] = []
    try:
        for _, count, prompt, _ in job["views"]:
            variables = {**job["variables"], "tools": job["tools"], "add_generation_prompt": prompt}
            random.seed(0)
            text = plain.run(job["template"], {**variables, "messages": job["messages"][:count]})
            random.seed(0)
            made = environments[key].run(job["template"], {**variables, "messages": messages[:count]})
            if str.__ne__(made, text) or "".join(map(watched.value, parts_of(made))) != text:
                return [{}]
            parts.append(list(parts_of(made)))
    except MemoryError:
        return [{"exhausted": True}]
    except (Exception, Unprovable):
        return [{}]
    return [{"parts": parts, "questions": list(watched.questions)}]


def _environments(
    job: Job, environments: dict[tuple[Any, ...], ChatEnvironment], limit: int
) -> tuple[ChatEnvironment, ChatEnvironment]:
    found = []
    for kind in (ChatEnvironment, TracingEnvironment):
        key = (kind, job["clock"], job["restricted"])
        if key not in environments:
            environments[key] = kind(
                clock=datetime.fromisoformat(job["clock"]), limit=limit, restricted=job["restricted"]
            )
        found.append(environments[key])
    return found[0], found[1]


_FIELDS: dict[str, Field] = {
    "role": "role",
    "content": "content",
    "reasoning_content": "reasoning",
    "reasoning": "reasoning",
    "thinking": "reasoning",
    "tool_calls": "tool_call",
}
_CONTENT: dict[str, Field] = {"system": "system", "tool": "tool_result"}


def trace_message(message: Mapping[str, Any], index: int) -> TracedDict:
    """A message whose values remember that they are message `index`, and which field."""
    made = TracedDict()
    made._origin = Origin(index, "other", derived=True)
    for key, value in message.items():
        field = _FIELDS.get(key, "other")
        if field == "content":
            field = _CONTENT.get(message.get("role", ""), "content")
        made[Traced(key, Origin(index, "other"))] = trace(value, Origin(index, field))
    return made


def failure(error: Exception) -> Answer:
    """What went wrong, as the kind that `EncodingError` takes, and a sentence."""
    detail = f"{error}"[:500].rstrip(".")
    if isinstance(error, MemoryError):
        too_large = "it needs more memory than it may have"
        return {
            "kind": "template-too-large",
            "message": f"The chat template was stopped: {too_large}.",
            "exhausted": True,
        }
    if isinstance(error, RecursionError):
        return {"kind": "template-too-large", "message": "The chat template was stopped: it recurses too deeply."}
    if isinstance(error, (OutputTooLarge, OverflowError)):
        return {"kind": "template-too-large", "message": f"The chat template was stopped: {detail}."}
    if isinstance(error, SecurityError):
        message = f"The chat template reaches for what the sandbox forbids: {detail}."
        return {"kind": "unsafe-template-access", "message": message}
    if isinstance(error, (TemplateSyntaxError, SyntaxError)):
        message = f"The chat template does not compile: {(error.msg if isinstance(error, SyntaxError) else detail)} "
        message += f"(line {error.lineno})."
        return {"kind": "template-broken", "message": message}
    if type(error) is TemplateError:
        return {"kind": "role-unsupported", "message": f"The chat template refuses this conversation: {detail}."}
    named = f"{type(error).__name__}: {detail}" if detail else type(error).__name__
    line = _line(error)
    where = f" (line {line} of the template)" if line else ""
    return {"kind": "role-unsupported", "message": f"The chat template fails on this conversation: {named}{where}."}


def _line(error: Exception) -> int | None:
    """The template's line that was being rendered."""
    line, frame = None, error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == "<template>":
            line = frame.tb_lineno
        frame = frame.tb_next
    return line
