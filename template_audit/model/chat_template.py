"""Traced rendering: a model's chat template, the text it gives, and where each character came from.

The text is that of ``tokenizer.apply_chat_template(messages, tools=…, tokenize=False, **kwargs)`` of
the installed transformers, byte for byte, except that the clock of ``strftime_now`` stands still.
Templates run in a worker process; see `template_audit.model.sandbox`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from template_audit.conversation import Conversation
from template_audit.errors import NOT_EVALUATED, EncodingError, UsageError
from template_audit.model.sandbox import Sandbox, failed, shared_sandbox
from template_audit.stream import Origin, Piece

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from template_audit.model import Model
    from template_audit.model.worker import Answer, Job, View

PINNED_CLOCK = "2024-07-26T12:00:00"
"""What ``strftime_now`` tells unless another clock is given, so that a rendering can be repeated."""

UNKNOWN = Origin(None, "other", derived=True)
"""The Origin of text whose tracing failed: it came from somewhere, and nothing more is known."""

_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
_NO_VARIABLES = frozenset(
    (
        *("conversation", "messages", "tools", "chat_template", "add_generation_prompt", "continue_final_message"),
        *("tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict", "tokenizer_kwargs"),
        *("return_assistant_tokens_mask", "sanitize_control_tokens"),
    )
)
_DIALECTS: dict[type, Dialect] = {}


class Dialect(NamedTuple):
    """In what the releases of transformers differ, as far as a template can tell."""

    drops_none: bool
    """A message key whose value is None is left out (5.2x)."""
    aliases_reasoning: bool
    """Reasoning is there as ``reasoning_content`` and as ``thinking``, whatever it was called (5.2x)."""
    restricts_globals: bool
    """``dict`` and ``namespace`` are narrower than Python's and Jinja's (5.2x)."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered template. `pieces` tile `text`.

    `generation_ranges` are the character ranges that ``{% generation %}`` tags mark, as transformers
    5.x counts them. `traced` is False when the tracing failed: the text is right all the same, and
    all of it is of Origin `UNKNOWN`.
    """

    text: str
    pieces: list[Piece]
    generation_ranges: list[tuple[int, int]]
    traced: bool


class Prefix(NamedTuple):
    """``messages[:k]`` rendered. It begins with `same` characters of the full text.

    `pieces` tile `text` when it is no prefix of the full text, and are empty when it is one.
    """

    text: str
    same: int
    pieces: list[Piece]


@dataclass(frozen=True, slots=True)
class Views:
    """One conversation rendered whole and in parts.

    `prompts[k]` is ``messages[:k]`` with the generation prompt, for every assistant message k.
    `prefixes[k]` is ``messages[:k]`` without it, for ``0 < k < len(messages)``. For a conversation
    without a system message `with_system` is the same conversation after a system message with the
    text `worker.SYSTEM_PROBE` (its message index is −1), and `only_system` is that message alone.
    """

    full: Rendered
    prompts: dict[int, Prefix | EncodingError]
    prefixes: dict[int, Prefix | EncodingError]
    with_system: Prefix | EncodingError | None
    only_system: Prefix | EncodingError | None


class Renderer:
    """Renders conversations with one model's chat template.

    `template_name` picks a named template; otherwise transformers' choice is followed. `clock` is an
    ISO date and time. `template_kwargs` are template variables, as `apply_chat_template` takes them.
    Raises UsageError for a clock that is none, and for a variable that a template cannot have.
    """

    def __init__(
        self,
        model: Model,
        *,
        template_name: str | None = None,
        clock: str = PINNED_CLOCK,
        template_kwargs: Mapping[str, Any] | None = None,
        sandbox: Sandbox | None = None,
    ) -> None:
        self.model = model
        self._name = template_name
        self._seed = 0
        self._clock = _clock(clock)
        self._kwargs = _plain(_checked(template_kwargs or {}))
        self._sandbox = sandbox or shared_sandbox()
        if model.chat_templates:
            self._sandbox.start()
        self._dialect = dialect(model.tokenizer)

    def with_seed(self, seed: int) -> Renderer:
        """The same renderer with other dice, for templates that choose at random."""
        other = copy.copy(self)
        other._seed = seed
        return other

    def template(self, has_tools: bool) -> str:
        """The template in use. Raises EncodingError (``template-missing``) when there is none."""
        model, name = self.model, self._name
        template = model.chat_templates.get(name) if name else model.template_for(has_tools)
        if template is not None:
            return template
        if model.chat_templates:
            raise EncodingError(
                f"{model.id} has several chat templates ({', '.join(sorted(model.chat_templates))}), none of them the "
                "default; name one, as in chat-template:NAME.",
                "template-missing",
            )
        raise EncodingError(f"{model.id} has no chat template; give one with --chat-template FILE.", "template-missing")

    def render(self, conversation: Conversation, *, add_generation_prompt: bool = False) -> Rendered:
        """The whole conversation. Raises EncodingError when the template does, or hits a limit."""
        view: View = (False, len(conversation.messages), add_generation_prompt, "always")
        (answers,) = self._sandbox.run([self._job(conversation, [view])])
        if isinstance(answers, EncodingError):
            raise answers
        return _rendered(answers[0])

    def render_all(self, conversations: Sequence[Conversation]) -> list[Views | EncodingError]:
        """Every conversation, whole and in parts, or why it cannot be rendered."""
        jobs: list[Job | EncodingError] = []
        for conversation in conversations:
            try:
                jobs.append(self._job(conversation, _views(conversation)))
            except EncodingError as error:
                jobs.append(error)
            except RecursionError:
                from template_audit.model.worker import TOO_DEEP

                jobs.append(EncodingError(TOO_DEEP, NOT_EVALUATED))
        answered = iter(self._sandbox.run([job for job in jobs if not isinstance(job, EncodingError)]))
        results = [job if isinstance(job, EncodingError) else next(answered) for job in jobs]
        return [
            answers if isinstance(answers, EncodingError) else _collected(conversation, answers)
            for conversation, answers in zip(conversations, results, strict=True)
        ]

    def watch(self, wanted: Sequence[tuple[Conversation, list[View]]]) -> list[Answer | None]:
        """What the views of each conversation are made of (`worker.watch`); None when it cannot be rendered."""
        jobs: list[Job | None] = []
        for conversation, views in wanted:
            try:
                jobs.append({**self._job(conversation, views), "watch": True})
            except (EncodingError, RecursionError):
                jobs.append(None)
        answered = iter(self._sandbox.run([job for job in jobs if job is not None]))
        found = [None if job is None else next(answered) for job in jobs]
        return [answers[0] if isinstance(answers, list) else None for answers in found]

    def _job(self, conversation: Conversation, views: list[View]) -> Job:
        if not conversation.messages:
            raise EncodingError("The conversation has no messages.")
        # An empty list of tools is passed as None, as users do who have none: some templates
        # (Llama 3.1) ask `tools is not none`, and would announce tools that are not there.
        tools = _plain(conversation.tools) or None
        return {
            "template": self.template(has_tools=tools is not None),
            "messages": [self._message(_plain(message)) for message in conversation.openai_messages()],
            "variables": {"documents": None, **self.model.tokenizer.special_tokens_map, **self._kwargs},
            "traced_variables": sorted(self._kwargs),
            "tools": tools,
            "views": views,
            "clock": self._clock,
            "restricted": self._dialect.restricts_globals,
            "seconds": 0.0,
            "seed": self._seed,
        }

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        if self._dialect.drops_none:
            message = {key: value for key, value in message.items() if value is not None}
        if self._dialect.aliases_reasoning:
            reasoning = next((message[key] for key in _REASONING_KEYS if message.get(key) is not None), None)
            if reasoning is not None:
                message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
        return message


def dialect(tokenizer: PreTrainedTokenizerBase) -> Dialect:
    """The dialect of the installed transformers, found out by rendering a small template with it."""
    kind = type(tokenizer)
    if kind not in _DIALECTS:
        message = {"role": "user", "content": "", "name": None, "reasoning_content": ""}
        probe = "{{ 'name' in messages[0] }} {{ 'thinking' in messages[0] }} {{ dict }}"
        try:
            seen = tokenizer.apply_chat_template([message], chat_template=probe, tokenize=False).split(" ", 2)
            _DIALECTS[kind] = Dialect(seen[0] == "False", seen[1] == "True", "class 'dict'" not in seen[2])
        except Exception:  # a tokenizer with an apply_chat_template of its own, which no template can follow
            _DIALECTS[kind] = Dialect(True, True, True)
    return _DIALECTS[kind]


def _views(conversation: Conversation) -> list[View]:
    """The views of `Views`, in the order in which `_collected` takes them."""
    count = len(conversation.messages)
    views: list[View] = [(False, count, False, "always")]
    views += [(False, k, True, "never") for k in _assistants(conversation)]
    views += [(False, k, False, "unstable") for k in range(1, count)]
    if conversation.system is None:
        views += [(True, count, False, "always"), (True, 0, False, "never")]
    return views


def _collected(conversation: Conversation, answers: list[Answer]) -> Views:
    full = _rendered(answers[0])
    rest = iter([_prefix(full.text, answer) for answer in answers[1:]])
    missing = EncodingError("The worker ran out of memory before this.", "template-too-large")
    prompts = {k: next(rest, missing) for k in _assistants(conversation)}
    prefixes = {k: next(rest, missing) for k in range(1, len(conversation.messages))}
    return Views(full, prompts, prefixes, next(rest, None), next(rest, None))


def _assistants(conversation: Conversation) -> list[int]:
    """Assistant messages before which there is something to show."""
    return [k for k, message in enumerate(conversation.messages) if message.role == "assistant" and k]


def _rendered(answer: Answer) -> Rendered:
    text = answer["rest"]
    ranges = [(start, end) for start, end in answer["generated"]]
    traced = "runs" in answer
    return Rendered(text, _pieces(answer) if traced else [Piece(0, len(text), UNKNOWN)], ranges, traced)


def _prefix(full: str, answer: Answer) -> Prefix | EncodingError:
    if "kind" in answer:
        return failed(answer)
    return Prefix(full[: answer["same"]] + answer["rest"], answer["same"], _pieces(answer) if "runs" in answer else [])


def _pieces(answer: Answer) -> list[Piece]:
    origins = [Origin(*origin) for origin in answer["origins"]]
    pieces, pos = [], 0
    for length, number in answer["runs"]:
        pieces.append(Piece(pos, pos + length, origins[number]))
        pos += length
    return pieces


def _clock(clock: str) -> str:
    try:
        return datetime.fromisoformat(clock).isoformat()
    except ValueError:
        raise UsageError(f"Option `clock` takes an ISO date and time such as {PINNED_CLOCK}, got {clock!r}.") from None


def _checked(kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in kwargs:
        if name in _NO_VARIABLES:
            raise UsageError(f"`{name}` cannot be given as a template variable: it is set for each conversation.")
    return kwargs


def _plain(value: Any) -> Any:
    """JSON types only. Raises EncodingError for anything else."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    raise EncodingError(
        f"A {type(value).__name__} cannot be given to a chat template; write it as text.", NOT_EVALUATED
    )
