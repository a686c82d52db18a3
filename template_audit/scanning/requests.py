"""From a request to a scan: the sources of rows, whatever they are named by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from template_audit.errors import DataError, UsageError
from template_audit.frameworks import parse_spec
from template_audit.frameworks.interface import Encoder, RunReader, TrainingRun
from template_audit.scanning.rows import ConvertedSource, FileSource, Source

if TYPE_CHECKING:
    from template_audit.conversation import Conversation

_INFO = "dataset_info.json"


def file_sources(datasets: Sequence[str], format: str | None) -> list[Source]:
    """The data sets that need no framework to read them. Raises UsageError and DataError."""
    return [FileSource(name, format) for name in datasets]


def run_source(run: TrainingRun, encoder: Encoder) -> Source:
    """All rows of a training run, read by its framework. Raises UsageError when that reads none, or none are named."""
    from template_audit.frameworks import frameworks

    reader: object = frameworks().get(run.framework)
    if not isinstance(reader, RunReader):
        raise UsageError(f"The rows of a {run.framework} config cannot be read; name them with `--dataset`.")
    if not run.datasets:
        raise UsageError(f"{run.config} names no data set; name one with `--dataset`.")
    rows = reader.run_rows

    def read() -> Iterator[Conversation | DataError]:
        return rows(run, encoder)

    return ConvertedSource(", ".join(run.datasets), run.framework, read)


def described_run(datasets: Sequence[str], info: str, encoder: Encoder, seed: int) -> TrainingRun:
    """A run over data sets that a dataset_info.json describes, for `run_source`.

    `info` is the file or its folder. Raises UsageError for another file.
    """
    path = Path(info)
    folder = path if path.is_dir() else path.parent
    if not path.is_dir() and path.name != _INFO:
        raise UsageError(f"`--dataset-info {info}`: give a {_INFO}, or the folder that it lies in.")
    if not (folder / _INFO).is_file():
        raise UsageError(f"`--dataset-info {info}`: there is no {folder / _INFO}.")
    return TrainingRun(
        framework=parse_spec(encoder.spec).framework,
        stage="sft",
        model=encoder.model.id,
        template=None,
        config=folder / _INFO,
        datasets=tuple(datasets),
        dataset_dir=str(folder),
        seed=seed,
    )


def shard_of(text: str) -> tuple[int, int]:
    """``I/N``, counted from 1, as an index from 0 and a count. Raises UsageError."""
    index, slash, count = text.partition("/")
    if not slash or not index.isdigit() or not count.isdigit() or not 1 <= int(index) <= int(count):
        raise UsageError(f"`--shard {text}`: give I/N, one part of N counted from 1, such as 1/4.")
    return int(index) - 1, int(count)
