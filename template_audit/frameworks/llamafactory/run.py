"""Data set rows on their way into the encoder, converted as the framework converts them.

Source: LLaMA-Factory 0.9.5, data/loader.py (``_get_merged_dataset``, ``_load_single_dataset``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from template_audit.conversation import Conversation
from template_audit.datasets import formats
from template_audit.errors import DataError, EncodingError
from template_audit.frameworks.interface import TrainingRun
from template_audit.frameworks.llamafactory.behaviours import Behaviours
from template_audit.frameworks.llamafactory.converters import Stage, check_stage, convert, drop_reason
from template_audit.frameworks.llamafactory.dataset_info import DatasetAttributes, dataset_attributes, local_files
from template_audit.frameworks.llamafactory.messages import ROW_KEY, Example
from template_audit.frameworks.llamafactory.rows import arrow_rows, sampled_rows

if TYPE_CHECKING:
    from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder

_SHAREGPT_ROLES = {
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_OPENAI_ROLES = {
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "function_tag": "assistant",
    "system_tag": "system",
}
# What LLaMA-Factory's data/README.md tells users to put into dataset_info.json for such files
_OPENAI_TAGS = {
    "messages": "messages",
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "observation_tag": "tool",
    "system_tag": "system",
}


def first_rows(run: TrainingRun, behaviours: Behaviours, limit: int) -> list[Conversation]:
    """The first `limit` rows that the run takes of every data set, each named ``data set#row`` (from 1).

    Raises UsageError or DataError for a data set that is unknown, not local, unreadable or of
    another stage.
    """
    out: list[Conversation] = []
    for attributes, rows in _data_sets(run, behaviours):
        taken = list(islice(rows, limit))
        if limit and not taken:
            raise DataError(f"The data set `{attributes.name}` has no rows; LLaMA-Factory stops there.")
        out += [_conversation(row, attributes, behaviours, run.stage, n) for n, row in enumerate(taken, 1)]
    return out


def run_rows(
    run: TrainingRun, behaviours: Behaviours, *, shard: tuple[int, int] = (0, 1)
) -> Iterator[Conversation | DataError]:
    """All rows that the run takes of its data sets, one at a time, each named ``data set#row`` (from 1).

    A row that cannot be read is its DataError; the framework stops there. `shard` is ``(index, count)``: of
    every `count` rows the one at `index`, counted over all data sets. Raises as `first_rows`, but for rows.
    """
    index, count = shard
    before = 0
    for attributes, rows in _data_sets(run, behaviours, strict=False):
        number = 0
        for number, row in enumerate(rows, 1):
            if (before + number - 1) % count != index:
                continue
            if isinstance(row, DataError):
                yield row
            else:
                yield _conversation(row, attributes, behaviours, run.stage, number)
        if not number:
            raise DataError(f"The data set `{attributes.name}` has no rows; LLaMA-Factory stops there.")
        before += number


def _data_sets(
    run: TrainingRun, behaviours: Behaviours, *, strict: bool = True
) -> Iterator[tuple[DatasetAttributes, Iterator[Any]]]:
    """Every data set of the run with the rows that it takes of it; see `rows.read_rows` for `strict`."""
    from numpy.random import RandomState

    random = RandomState(run.seed)
    for attributes in dataset_attributes(run.datasets, run.dataset_dir, behaviours):
        check_stage(attributes, cast(Stage, run.stage))
        folder = str(run.dataset_dir) if not isinstance(run.dataset_dir, Mapping) else "."
        files = local_files(attributes, folder)
        yield (
            attributes,
            sampled_rows(
                files, attributes.split_of_files, attributes.num_samples, run.max_samples, random, strict=strict
            ),
        )


def packing_remark(run: TrainingRun, encoder: LlamaFactoryEncoder) -> str | None:
    """What packing makes of the run's first map batch, in one or two sentences; None without packing.

    Exact for one worker (``preprocessing_num_workers``), which is the framework's default.
    """
    from template_audit.frameworks.llamafactory.packing import DroppedExample, pack

    if run.stage != "sft" or not encoder.settings.packing or not run.datasets:
        return None
    behaviours = encoder.registry.behaviours
    examples = [
        convert(row, attributes, behaviours, attributes.name).example
        for attributes, rows in _data_sets(run, behaviours)
        for row in islice(rows, run.batch_size)
    ][: run.batch_size]
    packed = list(pack(encoder, examples, batch_size=run.batch_size))
    sequences = [item for item in packed if not isinstance(item, DroppedExample)]
    dropped = len(packed) - len(sequences)
    tokens = sum(len(sequence.input_ids) for sequence in sequences)
    padding = sum(sequence.padding for sequence in sequences)
    apart = (
        "neat_packing keeps the examples of a sequence apart"
        if encoder.settings.neat_packing
        else "without neat_packing the examples of a sequence attend to each other"
    )
    length = len(sequences[0].input_ids) if sequences else 0
    return (
        f"Packing makes {len(sequences):,} sequences of {length:,} tokens of the first {len(examples):,} rows, "
        f"{padding / max(tokens, 1):.1%} of it padding, and drops {dropped:,} rows; {apart}."
    )


def _conversation(
    row: dict[str, Any], attributes: DatasetAttributes, behaviours: Behaviours, stage: str, number: int
) -> Conversation:
    """The row as a neutral conversation that brings the framework's own example along."""
    name = f"{attributes.name}#{number}"
    prepared = example_of_row(row, attributes, behaviours, stage, name)
    try:
        neutral = formats()[attributes.formatting].read(_neutral_row(row, attributes), name)
    except DataError as error:
        if isinstance(prepared, Example):
            prepared = EncodingError(f"{error} What LLaMA-Factory makes of such a row is not shown.")
        neutral = Conversation(())
    return replace(neutral, id=name, row={ROW_KEY: prepared})


def example_of_row(
    row: Mapping[str, Any], attributes: DatasetAttributes, behaviours: Behaviours, stage: str, name: str
) -> Example | EncodingError:
    """What the framework's converter makes of a row, or why it drops it or stops."""
    try:
        converted = convert(row, attributes, behaviours, name)
    except EncodingError as error:
        return error
    reason = drop_reason(converted, cast(Stage, stage))
    if reason is not None:
        return EncodingError(f"LLaMA-Factory drops {name}: {reason}.", kind="example-dropped")
    return replace(converted.example, stage=stage)


def example_of_foreign_row(
    format: str, data: Mapping[str, Any], behaviours: Behaviours, name: str
) -> Example | EncodingError | None:
    """The same for a row that was read without a dataset_info.json; None for a format that is not the framework's.

    Columns and tags are those that the framework's documentation gives for the format.
    """
    if format not in ("alpaca", "sharegpt", "openai"):
        return None
    messages = ""
    if format == "sharegpt":
        messages = next((key for key in ("conversations", "messages", "conversation") if key in data), "")
    given = tuple(key for key in ("system", "tools", "history") if key in data)
    attributes = _documented_attributes(format, given, messages)
    columns = (attributes.prompt, attributes.query, attributes.response) if format == "alpaca" else ()
    row = {**{column: None for column in columns if column}, **arrow_rows([dict(data)])[0]}
    return example_of_row(row, attributes, behaviours, "sft", name)


@cache
def _documented_attributes(format: str, columns: tuple[str, ...], messages: str) -> DatasetAttributes:
    """What the documentation says of a format, for rows with these optional columns."""
    given: dict[str, Any] = {key: key for key in columns}
    if format == "openai":
        given = {**_OPENAI_TAGS, **given}
    elif format == "sharegpt":
        given["messages"] = messages
    return replace(DatasetAttributes(name=format, load_from="file", location=format), formatting=format, **given)


def _neutral_row(row: Mapping[str, Any], attributes: DatasetAttributes) -> dict[str, Any]:
    """The row under the names that this package's own readers know. Of a preference pair, the preferred answer."""
    common = {key: row.get(column) for key in ("system", "tools") if (column := getattr(attributes, key))}
    answer = row.get(attributes.chosen) if attributes.ranking and attributes.chosen else None
    if attributes.formatting == "alpaca":
        named = {"instruction": attributes.prompt, "input": attributes.query, "output": attributes.response}
        named["history"] = attributes.history
        out = {**common, **{key: row.get(column) for key, column in named.items() if column}}
        return out if answer is None else {**out, "output": answer}
    openai = attributes.formatting == "openai"
    tags = _OPENAI_ROLES if openai else _SHAREGPT_ROLES
    roles = {getattr(attributes, tag): role for tag, role in tags.items() if getattr(attributes, tag)}
    given = row.get(attributes.messages or "")
    messages = [*(given if isinstance(given, list) else []), *([answer] if answer else [])]
    role_key, content_key = ("role", "content") if openai else ("from", "value")
    neutral = []
    for message in messages:
        if not isinstance(message, dict):
            raise DataError(f"A message must be an object, got {type(message).__name__}.")
        sender, content = message.get(attributes.role_tag or ""), message.get(attributes.content_tag or "")
        read = (attributes.role_tag, attributes.content_tag)
        rest = {key: value for key, value in message.items() if key not in read}
        role = roles.get(sender, sender) if isinstance(sender, str) else sender
        neutral.append({**rest, role_key: role, content_key: content})
    if openai and common.get("system") and (not neutral or neutral[0][role_key] != "system"):
        neutral.insert(0, {"role": "system", "content": common["system"]})
    return {**common, "messages" if openai else "conversations": neutral}
