"""The documents of a pre-training run: data sets by name or file, one text a row.

Source: data/loader.py (``_get_merged_dataset``: data sets one after another, ``max_samples`` of each).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from template_audit.errors import UsageError
from template_audit.frameworks.llamafactory.behaviours import Behaviours
from template_audit.frameworks.llamafactory.converters import check_stage, convert
from template_audit.frameworks.llamafactory.dataset_info import (
    FILE_TYPES,
    DatasetAttributes,
    attributes_of_file,
    dataset_attributes,
    local_files,
)
from template_audit.frameworks.llamafactory.pretrain import document_text
from template_audit.frameworks.llamafactory.rows import count_rows, read_rows, sampled_rows

TEXT_COLUMN = "text"
SEED = 42
"""The seed of a run that sets none (transformers' TrainingArguments)."""


class RowDocuments:
    """The texts of data sets, read row by row; see `template_audit.pretraining.Documents`."""

    def __init__(
        self,
        parts: Sequence[tuple[DatasetAttributes, list[Path]]],
        behaviours: Behaviours,
        max_samples: int | None = None,
        seed: int = SEED,
    ) -> None:
        """`parts` are the data sets with their files, in order."""
        self._parts = parts
        self._behaviours = behaviours
        self._limit = max_samples
        self._seed = seed
        self._starts: list[tuple[int, str]] = []

    def __iter__(self) -> Iterator[str]:
        """The texts. Raises EncodingError where the framework stops on a row."""
        from numpy.random import RandomState

        random = RandomState(self._seed)
        number = 0
        self._starts = []
        for attributes, files in self._parts:
            self._starts.append((number, attributes.name))
            rows = sampled_rows(files, attributes.split_of_files, attributes.num_samples, self._limit, random)
            for row_number, row in enumerate(rows, 1):
                where = f"{attributes.name}#{row_number}"
                yield document_text(convert(row, attributes, self._behaviours, where), where)
                number += 1

    def count(self) -> int:
        """The number of documents; reads the files."""
        counts = [attributes.num_samples or count_rows(files) for attributes, files in self._parts]
        return sum(counts if self._limit is None else (min(count, self._limit) for count in counts))

    def name(self, document: int) -> str:
        """``data set#row`` (from 1) of a document that was read already; of a sample, the place in it."""
        start, name = max((start for start in self._starts if start[0] <= document), default=(0, "document"))
        return f"{name}#{document - start + 1}"


def open_documents(
    names: Sequence[str],
    behaviours: Behaviours,
    *,
    dataset_dir: str | Path | Mapping[str, Any] | None = None,
    column: str | None = None,
    max_samples: int | None = None,
    seed: int = SEED,
) -> RowDocuments:
    """The documents of data sets, each a file (or a folder of files), or a name in `dataset_dir`.

    A file is read as its entry in the dataset_info.json beside it says, else `column` holds the
    text, by default ``text``. Raises UsageError or DataError for what cannot be found or read.
    """
    parts = []
    for name in names:
        attributes, folder = _find(name, behaviours, dataset_dir, column)
        check_stage(attributes, "pt")
        parts.append((attributes, local_files(attributes, folder)))
    return RowDocuments(parts, behaviours, max_samples, seed)


def _find(
    name: str, behaviours: Behaviours, dataset_dir: str | Path | Mapping[str, Any] | None, column: str | None
) -> tuple[DatasetAttributes, str | Path]:
    path = Path(name)
    if path.exists():
        return _of_file(path, behaviours, column), path.parent
    if dataset_dir is None:
        kind = "file" if path.suffix[1:] in FILE_TYPES or "/" in name else "file or folder"
        raise UsageError(
            f"There is no {kind} `{name}`; for a data set's name in dataset_info.json give --dataset-dir too."
        )
    attributes = dataset_attributes([name], dataset_dir, behaviours)[0]
    if column is not None:
        attributes = replace(attributes, prompt=column)
    return attributes, "." if isinstance(dataset_dir, Mapping) else dataset_dir


def _of_file(path: Path, behaviours: Behaviours, column: str | None) -> DatasetAttributes:
    if column is None:
        attributes = attributes_of_file(path, behaviours)
        if attributes.prompt != DatasetAttributes.__dataclass_fields__["prompt"].default:
            return attributes
        row: dict[str, Any] = next(read_rows(local_files(attributes, path.parent), 1), {})
        if attributes.formatting != "alpaca" or not row or attributes.prompt in row:
            return attributes
        if TEXT_COLUMN not in row:
            raise UsageError(f"{path} has no column `{TEXT_COLUMN}`; give --column, one of {', '.join(row)}.")
        column = TEXT_COLUMN
    return attributes_of_file(path, behaviours, prompt=column, query=None, response=None)
