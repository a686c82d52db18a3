"""The rows of a training run, converted as the framework converts them.

Source: LLaMA-Factory 0.9.5, data/loader.py (``_get_merged_dataset``, ``_load_single_dataset``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, cast

from template_audit.conversation import Conversation, Message, ToolCall
from template_audit.errors import EncodingError
from template_audit.frameworks.interface import TrainingRun
from template_audit.frameworks.llamafactory.behaviours import Behaviours
from template_audit.frameworks.llamafactory.converters import Stage, check_stage, convert, drop_reason
from template_audit.frameworks.llamafactory.dataset_info import DatasetAttributes, dataset_attributes, local_files
from template_audit.frameworks.llamafactory.messages import Example, ExampleMessage
from template_audit.frameworks.llamafactory.rows import read_rows
from template_audit.trace import runs_of

ROW_KEY = "llamafactory"
"""Under this key of `Conversation.row` stands the Example (or the EncodingError) of the framework's converter."""


def first_rows(run: TrainingRun, behaviours: Behaviours, limit: int) -> list[Conversation]:
    """The first `limit` rows of every data set of the run, each named ``data set#row`` (from 1).

    Raises UsageError or DataError for a data set that is unknown, not local, unreadable or of
    another stage.
    """
    out: list[Conversation] = []
    for attributes in dataset_attributes(run.datasets, run.dataset_dir, behaviours):
        check_stage(attributes, cast(Stage, run.stage))
        folder = str(run.dataset_dir) if not isinstance(run.dataset_dir, Mapping) else "."
        wanted = limit if run.max_samples is None else min(limit, run.max_samples)
        rows = read_rows(local_files(attributes, folder), None, attributes.split)
        out += _conversations(islice(rows, wanted), attributes, behaviours, cast(Stage, run.stage))
    return out


def _conversations(
    rows: Iterator[dict[str, Any]], attributes: DatasetAttributes, behaviours: Behaviours, stage: Stage
) -> Iterator[Conversation]:
    for number, row in enumerate(rows, 1):
        name = f"{attributes.name}#{number}"
        try:
            converted = convert(row, attributes, behaviours, name)
            reason = drop_reason(converted, stage)
            if reason is not None:
                raise EncodingError(f"LLaMA-Factory drops {name}: {reason}.", kind="example-dropped")
        except EncodingError as error:
            yield Conversation((), id=name, row={ROW_KEY: error})
        else:
            yield conversation_of(converted.example, name)


def conversation_of(example: Example, name: str) -> Conversation:
    """The neutral conversation that an example of the framework stands for, the example in its `row`.

    Of a preference pair the preferred answer. What the framework's converter put into the system
    text by itself is left out. A function message that is no JSON stays text.
    """
    messages: list[Message] = []
    if example.system_message is not None and example.system:
        own = "".join(text for text, field in _fields(example.system) if field == "system")
        messages.append(Message("system", own))
    messages += [_message(message) for message in (*example.prompt, *example.response[:1])]
    return Conversation(tuple(messages), _tools(example.tools), name, {ROW_KEY: example})


def _fields(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    plain = str.__str__(text)
    for length, origin in runs_of(text):
        yield plain[at : at + length], origin.field
        at += length


def _message(message: ExampleMessage) -> Message:
    content = str.__str__(message.content) if isinstance(message.content, str) else str(message.content)
    if message.role == "observation":
        return Message("tool", content)
    if message.role == "user":
        return Message("user", content)
    calls = _calls(content) if message.role == "function" else ()
    return Message("assistant", None if calls else content, tool_calls=calls)


def _calls(content: str) -> tuple[ToolCall, ...]:
    try:
        data = json.loads(content)
    except ValueError:
        return ()
    calls = data if isinstance(data, list) else [data]
    if not all(isinstance(call, dict) and isinstance(call.get("name"), str) and "arguments" in call for call in calls):
        return ()
    return tuple(ToolCall(call["name"], call["arguments"]) for call in calls)


def _tools(text: str | None) -> tuple[Mapping[str, Any], ...] | None:
    if not text:
        return None
    try:
        tools = json.loads(text)
    except ValueError:
        return None
    return tuple(tools) if isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools) else None
