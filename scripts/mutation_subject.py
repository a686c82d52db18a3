"""Operators on what training does: a framework's template, and the labels that come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from mutation_operators import ENDS, START, TEXT, TOOL, Edit, Operator, Words, zones

from template_audit.conversation import Conversation
from template_audit.frameworks.llamafactory.registry import Formatter, Special, TemplateSpec
from template_audit.stream import IGNORE, EncodedStream

_FORMATTERS = ("format_user", "format_assistant", "format_system", "format_function", "format_observation")


def in_slots(edits: Callable[[str, Words], Iterator[Edit]]) -> Callable[[TemplateSpec, Words], Iterator[Edit]]:
    """A text operator on every text slot of a framework's template."""

    def mutate(spec: TemplateSpec, words: Words) -> Iterator[Edit]:
        for name in _FORMATTERS:
            formatter: Formatter = getattr(spec, name)
            for place, slot in enumerate(formatter.slots):
                for site, new in edits(slot, words) if isinstance(slot, str) else ():
                    slots = (*formatter.slots[:place], new, *formatter.slots[place + 1 :])
                    yield f"{site} in {name}", _with_formatter(spec, name, replace(formatter, slots=slots))

    return mutate


def _with_formatter(spec: TemplateSpec, field: str, formatter: Formatter) -> TemplateSpec:
    changes: dict[str, Any] = {field: formatter}
    return replace(spec, **changes)


def _specials(count: int, name: str) -> Callable[[TemplateSpec, Words], Iterator[Edit]]:
    """The slot of the bos or eos token, written `count` times; in all formatters but the prefix."""

    def mutate(spec: TemplateSpec, words: Words) -> Iterator[Edit]:
        for field in (*_FORMATTERS, "format_prefix"):
            formatter: Formatter = getattr(spec, field)
            if Special(name) in formatter.slots:
                slots = tuple(s for slot in formatter.slots for s in [slot] * (count if slot == Special(name) else 1))
                yield f"{name} in {field}", _with_formatter(spec, field, replace(formatter, slots=slots))

    return mutate


def _add_bos(spec: TemplateSpec, words: Words) -> Iterator[Edit]:
    if words.has_bos and not spec.format_prefix.slots:
        yield "format_prefix", replace(spec, format_prefix=Formatter("empty", (Special("bos_token"),)))


def _set(**changes: Any) -> Callable[[TemplateSpec, Words], Iterator[Edit]]:
    """Fields of the template set; nothing where they are so already."""

    def mutate(spec: TemplateSpec, words: Words) -> Iterator[Edit]:
        changed: TemplateSpec = replace(spec, **changes)
        if changed != spec:
            yield ", ".join(f"{name}={value!r}" for name, value in changes.items()), changed

    return mutate


def _tool_format(spec: TemplateSpec, words: Words) -> Iterator[Edit]:
    for other in ("default", "llama3", "mistral"):
        if spec.format_tools.tool_format != other:
            function = replace(spec.format_function, tool_format=other)
            tools = replace(spec.format_tools, tool_format=other)
            yield f"tool format {other}", replace(spec, format_function=function, format_tools=tools)


def _eos_by_label(spec: TemplateSpec, words: Words) -> Iterator[Edit]:
    """efficient_eos as Baichuan has it: no end marker in the text, its id as the next token's label."""
    answer = spec.format_assistant
    content = (slot for slot in answer.slots if isinstance(slot, str) and "{{content}}" in slot)
    texts = tuple(slot[: slot.index("}}") + 2] for slot in content)
    yield "format_assistant", replace(spec, efficient_eos=True, format_assistant=replace(answer, slots=texts))


FRAMEWORK: tuple[Operator, ...] = (
    *(Operator(name, does, "framework template", rules, in_slots(edits)) for name, does, rules, edits in TEXT),
    *(
        Operator(name, does, "framework template", rules, mutate, quotes)
        for name, does, rules, mutate, quotes in (
            ("drop-eos", "takes out the eos slot", zones(rest=ENDS), _specials(0, "eos_token"), ""),
            (
                "double-eos",
                "writes the eos slot twice",
                zones(rest="duplicate-turn-end"),
                _specials(2, "eos_token"),
                "",
            ),
            ("drop-bos", "takes out the bos slot", zones(rest="missing-bos"), _specials(0, "bos_token"), ""),
            ("double-bos", "writes the bos slot twice", zones(rest="double-bos"), _specials(2, "bos_token"), ""),
            ("add-bos", "gives the template a bos slot", zones(rest="bogus-bos"), _add_bos, ""),
            (
                "default-system",
                "has another default system prompt, or one at all",
                zones(rest="system-prompt-drift"),
                _set(default_system="You are a mutant."),
                "",
            ),
            (
                "no-default-system",
                "has no default system prompt",
                zones(rest="system-prompt-drift"),
                _set(default_system=""),
                "",
            ),
            (
                "unknown-stop-word",
                "replaces eos by a stop word that the model does not have",
                zones(rest="vocabulary-grows wrong-turn-end"),
                _set(stop_words=("<|mutant|>",), replace_eos=True),
                "<|mutant|>",
            ),
            (
                "efficient-eos",
                "trains the end as the label of the next token, and writes it at the end",
                zones(rest=f"{ENDS} label-shifted trained-after-turn-end"),
                _set(efficient_eos=True),
                "",
            ),
            (
                "eos-by-label",
                "writes no end marker, and trains it as the label of the next token",
                zones(rest="missing-turn-end"),
                _eos_by_label,
                "",
            ),
            (
                "system-in-question",
                "writes the system text into the first question",
                zones(rest=f"{START} {TOOL}"),
                _set(kind="llama2"),
                "",
            ),
            (
                "empty-thoughts",
                "puts an empty thought into answers",
                zones(rest="thinking-injected"),
                _set(kind="reasoning", enable_thinking=True),
                "",
            ),
            ("tool-format", "lays tools out in another format", zones(rest=f"{TOOL} field-dropped"), _tool_format, ""),
        )
    ),
)


# --- labels --------------------------------------------------------------------------------------------------

Labels = list[int]


class _Places:
    """Where things are in a stream, from its labels, pieces and turns alone."""

    def __init__(self, stream: EncodedStream, conversation: Conversation) -> None:
        self.stream = stream
        self.runs: list[tuple[int, int]] = []
        for i, label in enumerate(stream.labels):
            if label == IGNORE:
                continue
            if self.runs and self.runs[-1][1] == i:
                self.runs[-1] = (self.runs[-1][0], i + 1)
            else:
                self.runs.append((i, i + 1))
        roles = [message.role for message in conversation.messages]
        self.roles = [
            "" if o.message is None or o.field in ("literal", "role", "other") else roles[o.message]
            for o in stream.origins
        ]

    def end(self, run: tuple[int, int]) -> int:
        """The last token of a trained run that is more than whitespace: the end marker."""
        return next(i for i in range(run[1] - 1, run[0] - 1, -1) if self.stream.token_text(i).strip())

    def said(self, role: str) -> Iterator[int]:
        """Tokens that hold text of this role."""
        return (i for i, one in enumerate(self.roles) if one == role)


def _labels(change: Callable[[_Places, Labels], None]) -> Callable[[EncodedStream, Conversation], Labels]:
    def mutate(stream: EncodedStream, conversation: Conversation) -> Labels:
        labels = list(stream.labels)
        change(_Places(stream, conversation), labels)
        return labels

    return mutate


def _mask(labels: Labels, indices: Iterable[int]) -> None:
    for i in indices:
        labels[i] = IGNORE


def _train(at: _Places, labels: Labels, indices: Iterable[int]) -> None:
    for i in indices:
        labels[i] = at.stream.input_ids[i]


def _halves(at: _Places, labels: Labels) -> None:
    for start, end in at.runs:
        _mask(labels, range((start + at.end((start, end))) // 2, at.end((start, end))))


def _thought(at: _Places, labels: Labels) -> None:
    thought = [i for i, origin in enumerate(at.stream.origins) if origin.field == "reasoning" and labels[i] != IGNORE]
    _mask(labels, thought[: len(thought) // 2])


def _behind(at: _Places, labels: Labels) -> None:
    for run in at.runs:
        ahead = range(run[1], len(labels))
        heavy = next((i for i in ahead if at.stream.token_text(i).strip()), None)
        _train(at, labels, range(run[1], len(labels) if heavy is None else heavy + 1))


def _headers(at: _Places, labels: Labels) -> None:
    for start, _ in at.runs:
        before = start - 1
        while before > 0 and not at.stream.token_text(before).strip():
            before -= 1
        _train(at, labels, range(max(before, 0), start))


def _wrong(at: _Places, labels: Labels) -> None:
    start, end = at.runs[-1]
    labels[(start + end) // 2] = at.stream.input_ids[0]


_LABELS: tuple[tuple[str, str, str, Callable[[_Places, Labels], None]], ...] = (
    ("shift-left", "every label is that of the next token", "label-shifted", lambda at, labels: _rotate(labels, 1)),
    ("shift-right", "every label is that of the token before", "label-shifted", lambda at, labels: _rotate(labels, -1)),
    ("wrong-label", "one label is another token's", "label-shifted", _wrong),
    (
        "mask-terminators",
        "the end marker of every answer is masked",
        "turn-end-untrained",
        lambda at, labels: _mask(labels, map(at.end, at.runs)),
    ),
    (
        "mask-first-terminator",
        "the end marker of the first answer is masked",
        "turn-end-untrained",
        lambda at, labels: _mask(labels, map(at.end, at.runs[:1])),
    ),
    (
        "mask-last-terminator",
        "the end marker of the last answer is masked",
        "turn-end-untrained",
        lambda at, labels: _mask(labels, map(at.end, at.runs[-1:])),
    ),
    (
        "train-user",
        "the users' text is trained",
        "prompt-trained",
        lambda at, labels: _train(at, labels, at.said("user")),
    ),
    (
        "train-first-user-token",
        "the first token of the first question is trained",
        "prompt-trained",
        lambda at, labels: _train(at, labels, list(at.said("user"))[:1]),
    ),
    (
        "train-system",
        "the system text is trained",
        "prompt-trained",
        lambda at, labels: _train(at, labels, at.said("system")),
    ),
    (
        "train-tool-results",
        "tool results are trained",
        "prompt-trained",
        lambda at, labels: _train(at, labels, at.said("tool")),
    ),
    ("train-header", "the last tokens of each answer's header are trained", "header-trained", _headers),
    (
        "mask-all",
        "nothing is trained",
        "no-trained-tokens",
        lambda at, labels: _mask(labels, range(len(labels))),
    ),
    (
        "train-all",
        "everything is trained",
        "all-tokens-trained",
        lambda at, labels: _train(at, labels, range(len(labels))),
    ),
    ("mask-half", "the second half of every answer is masked", "answer-partly-trained", _halves),
    (
        "mask-first-token",
        "the first token of every answer is masked",
        "answer-partly-trained reasoning-partly-trained generation-prompt-drift",
        lambda at, labels: _mask(labels, [start for start, _ in at.runs]),
    ),
    (
        "mask-first-answer",
        "the first of several answers is masked (which is a choice, and so info)",
        "history-untrained",
        lambda at, labels: _mask(labels, range(*at.runs[0])) if len(at.runs) > 1 else None,
    ),
    ("mask-half-thought", "the first half of a thought is masked", "reasoning-partly-trained", _thought),
    ("train-behind", "what follows an end marker is trained", "trained-after-turn-end", _behind),
)


def _rotate(labels: Labels, by: int) -> None:
    labels[:] = labels[by:] + labels[:by]
    labels[-1 if by > 0 else 0] = IGNORE


LABELS: tuple[Operator, ...] = tuple(
    Operator(
        name,
        does,
        "labels",
        zones(rest=rules),
        _labels(change),
        severity="info" if rules == "history-untrained" else "warning",
    )
    for name, does, rules, change in _LABELS
)
