"""LLaMA-Factory's data set converters: from a row to the example that its processors encode.

Source: data/converter.py of 0.9.2 to 0.9.5, data/aligner.py of 0.9.0 and 0.9.1. Give rows as
`rows.read_rows` does: the framework's have been through an Arrow table, which fills in missing keys.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from template_audit.errors import EncodingError, UsageError
from template_audit.frameworks import nearest
from template_audit.frameworks.llamafactory.behaviours import Behaviours
from template_audit.frameworks.llamafactory.dataset_info import DatasetAttributes
from template_audit.frameworks.llamafactory.messages import TOOL_RESULT_SEPARATOR, Example, ExampleMessage, ExampleRole
from template_audit.stream import DEFAULT_SYSTEM, Origin
from template_audit.trace import Traced, join

Stage = Literal["pt", "sft", "rm", "ppo", "kto"]
Row = Mapping[str, Any]

_THINKING_OFF = "detailed thinking off"
_THINKING_WORDS = ("detailed thinking on", _THINKING_OFF)
_NO_ANSWER = ExampleMessage("assistant", "")


@dataclass(frozen=True, slots=True)
class Converted:
    """A row after its converter. `problem` says why the converter emptied it, None when it did not."""

    example: Example
    problem: str | None = None


def convert(row: Row, attributes: DatasetAttributes, behaviours: Behaviours, where: str = "row") -> Converted:
    """What the data set's converter makes of one row.

    Raises EncodingError where the framework raises, which ends its run: a column or tag that is
    missing, a value of another type. `where` names the row in the sentence.
    """
    name = _converter(attributes.formatting, behaviours)
    try:
        if name == "alpaca":
            converted = Converted(_alpaca(row, attributes))
        elif name == "sharegpt":
            converted = _Conversion(row, attributes, behaviours).sharegpt()
        else:
            converted = _Conversion(row, attributes, behaviours).openai()
    except KeyError as error:
        raise EncodingError(
            f"{where}: LLaMA-Factory's {name} converter finds no {error.args[0]!r} there (KeyError) and stops; "
            "check columns and tags in dataset_info.json."
        ) from None
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise EncodingError(
            f"{where}: LLaMA-Factory's {name} converter stops on this row ({type(error).__name__}: {error})."
        ) from None
    return _refuse_media(converted, row, attributes, where)


def drop_reason(converted: Converted, stage: Stage) -> str | None:
    """Why the processor of a stage skips the row (its log: “Dropped invalid example”), or None.

    Source: ``preprocess_dataset`` of data/processor/{supervised,pairwise,feedback,unsupervised}.py.
    `ppo` is the unsupervised processor.
    """
    if converted.problem is not None:
        return converted.problem
    example = converted.example
    if len(example.prompt) % 2 != 1:
        return f"its prompt has {len(example.prompt)} messages, an even number"
    if stage == "sft" and len(example.response) != 1:
        return "it has no response" if not example.response else f"it has {len(example.response)} responses"
    if stage in ("rm", "kto") and len(example.response) < 2:
        return "it has no pair of responses"
    return None


def check_stage(attributes: DatasetAttributes, stage: Stage) -> None:
    """Raise UsageError when the framework refuses this data set in this stage (data/loader.py)."""
    if (stage == "rm") != attributes.ranking:
        need = "needs a data set with" if stage == "rm" else "takes no data set with"
        raise UsageError(f"Stage {stage} {need} `ranking: true`; `{attributes.name}` does not fit.")


def _converter(formatting: str, behaviours: Behaviours) -> Literal["alpaca", "sharegpt", "openai"]:
    if behaviours.openai_formatting == "sharegpt":
        return "alpaca" if formatting == "alpaca" else "sharegpt"
    known = ["alpaca", "sharegpt", *(["openai"] if behaviours.openai_formatting == "openai" else [])]
    if formatting not in known:
        raise UsageError(
            f"This release of LLaMA-Factory has no converter `{formatting}`; it has {', '.join(known)}."
            + nearest(str(formatting), known)
        )
    return cast('Literal["alpaca", "sharegpt", "openai"]', formatting)


def _refuse_media(converted: Converted, row: Row, attributes: DatasetAttributes, where: str) -> Converted:
    for column in (attributes.images, attributes.videos, attributes.audios):
        if column and row.get(column):
            raise EncodingError(f"{where}: it has {column}, and only text can be audited.", kind="encoding-failed")
    return converted


def _traced(text: Any, origin: Origin) -> Any:
    return Traced(text, origin) if isinstance(text, str) else text


def _with_tag(wanted: bool, answers: tuple[ExampleMessage, ...]) -> tuple[ExampleMessage, ...]:
    """A KTO row as a pair: the answer beside an empty one, which stands second when the answer is wanted."""
    return (*answers, _NO_ANSWER) if wanted else (_NO_ANSWER, *answers)


def _alpaca(row: Row, attributes: DatasetAttributes) -> Example:
    system = row[attributes.system] if attributes.system else ""
    tools = row[attributes.tools] if attributes.tools else ""
    prompt: list[ExampleMessage] = []
    at = 1 if system else 0

    def add(role: ExampleRole, content: Any) -> ExampleMessage:
        return ExampleMessage(role, content, at + len(prompt))

    if attributes.history and isinstance(row[attributes.history], list):
        for old_prompt, old_response in row[attributes.history]:
            prompt.append(add("user", old_prompt))
            prompt.append(add("assistant", old_response))
    parts = [row[column] for column in (attributes.prompt, attributes.query) if column and row[column]]
    prompt.append(add("user", "\n".join(parts)))

    response: tuple[ExampleMessage, ...] = ()
    if attributes.kto_tag and isinstance(row[attributes.kto_tag], bool):
        response = _with_tag(row[attributes.kto_tag], (add("assistant", row[_column(attributes.response)]),))
    elif attributes.ranking and all(
        isinstance(row[_column(column)], str) for column in (attributes.chosen, attributes.rejected)
    ):
        response = tuple(add("assistant", row[_column(key)]) for key in (attributes.chosen, attributes.rejected))
    elif attributes.response and isinstance(row[attributes.response], str):
        response = (add("assistant", row[attributes.response]),)
    return Example(
        prompt=tuple(prompt),
        response=response,
        system=_traced(system, Origin(0, "system")),
        tools=tools,
        system_message=0 if system else None,
    )


def _column(name: str | None) -> str:
    if name is None:
        raise KeyError(None)
    return name


class _Conversion:
    """One row with messages on its way through the sharegpt or the openai converter."""

    def __init__(self, row: Row, attributes: DatasetAttributes, behaviours: Behaviours) -> None:
        self.row = row
        self.attributes = attributes
        self.behaviours = behaviours
        self.role_tag = _column(attributes.role_tag)
        self.content_tag = _column(attributes.content_tag)
        # in the framework's order: of two equal tags (both None, say) the later one counts
        self.roles: dict[Any, Any] = {
            attributes.user_tag: "user",
            attributes.assistant_tag: "assistant",
            attributes.observation_tag: "observation",
            attributes.function_tag: "function",
            attributes.system_tag: "system",
        }
        self.notes: list[str] = []
        self.problem: str | None = None
        messages: Sequence[Row] = row[_column(attributes.messages)]
        self.first = 0
        self.system: Any = None
        self.system_message: int | None = None
        if attributes.system_tag and len(messages) and messages[0][self.role_tag] == attributes.system_tag:
            self.system = _traced(messages[0][self.content_tag], Origin(0, "system"))
            self.system_message = 0
            self.first = 1
            messages = messages[1:]
        self.messages = messages

    def _system_column(self, system: Any) -> None:
        """A system text in a column of its own is the first message of the neutral conversation."""
        self.system = _traced(system, Origin(0, "system"))
        if system:
            self.system_message, self.first = 0, 1

    def sharegpt(self) -> Converted:
        row, attributes = self.row, self.attributes
        if not self.first:
            self._system_column(row[attributes.system] if attributes.system else "")
        tags = (
            (attributes.user_tag, attributes.observation_tag),
            (attributes.assistant_tag, attributes.function_tag),
        )
        aligned: list[ExampleMessage] = []
        for turn, message in enumerate(self.messages):
            role = message[self.role_tag]
            if role not in tags[turn % 2]:
                self._broken("Invalid role tag", self._out_of_turn(turn, role))
                if not self.behaviours.sharegpt_reads_past_bad_role:
                    break
            aligned.append(ExampleMessage(self.roles[role], message[self.content_tag], self.first + turn))
        self._note_unread({self.role_tag, self.content_tag})
        tools = row[attributes.tools] if attributes.tools else ""
        return self._finish(aligned, tags[1], self.system, tools)

    def openai(self) -> Converted:
        row, attributes = self.row, self.attributes
        if not self.first:
            self._system_column(row.get(attributes.system, "") if attributes.system else "")
        aligned = self._openai_messages()
        roles: tuple[tuple[str, str], ...] = (("user", "observation"), ("assistant", "function"))
        for turn, message in enumerate(aligned):
            if message.role not in roles[turn % 2]:
                self._broken("Invalid role tag", self._out_of_turn(turn, message.role))
                break
        self._note_unread({self.role_tag, self.content_tag, "tool_calls"})
        tools = row.get(attributes.tools, "") if attributes.tools else ""
        if isinstance(tools, (dict, list)):
            tools = json.dumps(tools, ensure_ascii=False)
        return self._finish(aligned, roles[1], _openai_system(self.system, tools), tools)

    def _openai_messages(self) -> list[ExampleMessage]:
        attributes = self.attributes
        aligned: list[ExampleMessage] = []
        results: list[tuple[int, Any]] = []
        for index, message in enumerate(self.messages, self.first):
            role, content = message[self.role_tag], message[self.content_tag]
            origin = Origin(index, "content")
            if role in (attributes.assistant_tag, attributes.function_tag):
                calls = message.get("tool_calls")
                if self.behaviours.openai_null_tool_calls_fail and "tool_calls" in message:
                    len(calls)  # type: ignore[arg-type]  # null has no length, and 0.9.4 asks for it
                if calls:
                    if content:
                        self.notes.append(
                            f"The text of message {index} is lost: a message with tool calls keeps only the calls."
                        )
                    content = json.dumps([call["function"] for call in calls], ensure_ascii=False)
                    origin = Origin(index, "tool_call", derived=True)
                    role = attributes.function_tag
            if role == attributes.observation_tag:
                results.append((index, content))
                continue
            if results:
                aligned.append(_joined(results))
                results = []
            aligned.append(ExampleMessage(self.roles[role], _traced(content, origin), index))
        if results:
            lost = ", ".join(str(index) for index, _ in results)
            self.notes.append(f"The tool results of message {lost} are lost: no answer follows them.")
        return aligned

    def _finish(
        self, aligned: list[ExampleMessage], answer_tags: tuple[Any, ...], system: Any, tools: Any
    ) -> Converted:
        attributes, row = self.attributes, self.row
        if (len(aligned) % 2 == 0) == attributes.ranking:
            kind = "an even" if attributes.ranking else "an odd"
            self._broken("Invalid message count", f"it has {kind} number of messages ({len(aligned)})")
        prompt, response = tuple(aligned[:-1]), tuple(aligned[-1:])
        if self.problem is None or self.behaviours.pairwise_bad_role_dropped:
            if attributes.kto_tag and isinstance(row[attributes.kto_tag], bool):
                response = _with_tag(row[attributes.kto_tag], response)
            elif attributes.ranking and all(
                isinstance(row[_column(column)], dict) for column in (attributes.chosen, attributes.rejected)
            ):
                prompt, response = tuple(aligned), self._pair(answer_tags)
        if self.problem is not None:
            prompt, response = (), ()
        example = Example(prompt, response, system, tools, self.system_message, tuple(self.notes))
        return Converted(example, self.problem)

    def _pair(self, answer_tags: tuple[Any, ...]) -> tuple[ExampleMessage, ...]:
        pair = []
        for column in (self.attributes.chosen, self.attributes.rejected):
            answer = self.row[_column(column)]
            role = answer[self.role_tag]
            if role not in answer_tags:
                problem = f"`{column}` is from {role!r}, not from the model"
                if self.behaviours.pairwise_bad_role_dropped:
                    self._broken("Invalid role tag", problem)
                else:
                    self.notes.append(f"Only a warning in LLaMA-Factory's log (“Invalid role tag”): {problem}.")
            at = self.first + len(self.messages)
            pair.append(ExampleMessage(self.roles[role], answer[self.content_tag], at))
        return tuple(pair)

    def _broken(self, log: str, problem: str) -> None:
        if self.problem is None:
            self.problem = f"{problem} (LLaMA-Factory's log: “{log}”)"

    def _out_of_turn(self, turn: int, role: Any) -> str:
        wanted = "the model's" if turn % 2 else "a user's or a tool's"
        return f"turn {turn} is from {role!r} where it must be {wanted}"

    def _note_unread(self, read: set[str]) -> None:
        unread = {
            key: index
            for index, message in reversed(list(enumerate(self.messages, self.first)))
            for key, value in message.items()
            if key not in read and value
        }
        self.notes += [f"`{key}` of a message is not read (first in message {unread[key]})." for key in sorted(unread)]


def _joined(results: list[tuple[int, Any]]) -> ExampleMessage:
    parts: list[str] = []
    for index, content in results:
        if not isinstance(content, str):
            raise TypeError(f"a tool result must be text, got {type(content).__name__}")
        parts += [TOOL_RESULT_SEPARATOR, Traced(content, Origin(index, "tool_result"))]
    return ExampleMessage("observation", join(parts[1:]), results[0][0])


def _openai_system(system: Any, tools: Any) -> Any:
    """0.9.4 and later tell the model not to think, unless tools or the system text say otherwise."""
    if not system:
        return Traced(_THINKING_OFF, DEFAULT_SYSTEM) if not tools else system
    if not isinstance(system, str):
        raise TypeError(f"the system message must be text, got {type(system).__name__}")
    if tools:
        return join([system, Traced("\n", DEFAULT_SYSTEM)])
    if any(words in system for words in _THINKING_WORDS):
        return system
    return join([system, Traced("\n" + _THINKING_OFF, DEFAULT_SYSTEM)])


def plain(example: Example) -> dict[str, Any]:
    """The example under the framework's own names, as plain data (for comparison and for the worker)."""
    return {
        "_prompt": [{"role": message.role, "content": _plain(message.content)} for message in example.prompt],
        "_response": [{"role": message.role, "content": _plain(message.content)} for message in example.response],
        "_system": _plain(example.system),
        "_tools": example.tools,
    }


def _plain(value: Any) -> Any:
    return "".join(value) if isinstance(value, str) else value
