"""LLaMA-Factory's dataset_info.json: what a data set's entry says, and where its rows are.

Source: ``get_dataset_list`` and ``DatasetAttr`` (data/parser.py) and ``_load_single_dataset``
(data/loader.py), releases 0.9.0 to 0.9.5.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from template_audit.errors import DataError, UsageError
from template_audit.frameworks import nearest
from template_audit.frameworks.llamafactory.behaviours import Behaviours

DATASET_INFO = "dataset_info.json"
FILE_TYPES: Mapping[str, str] = {
    "arrow": "arrow",
    "csv": "csv",
    "json": "json",
    "jsonl": "json",
    "parquet": "parquet",
    "txt": "text",
}
"""File extension → the reader of 🤗 datasets that the framework picks (extras/constants.py, FILEEXT2TYPE)."""

LoadFrom = Literal["file", "script", "cloud_file", "hf_hub", "ms_hub", "om_hub"]

_COMMON_COLUMNS = ("system", "tools", "images", "videos", "audios", "chosen", "rejected", "kto_tag")
_ALPACA_COLUMNS = ("prompt", "query", "response", "history")
COLUMNS = (*_ALPACA_COLUMNS, "messages", *_COMMON_COLUMNS)
TAGS = ("role_tag", "content_tag", "user_tag", "assistant_tag", "observation_tag", "function_tag", "system_tag")


@dataclass(frozen=True, slots=True)
class DatasetAttributes:
    """One data set's entry with the framework's defaults filled in (``DatasetAttr``).

    `name` is the name that was asked for; `location` is the file, folder, script or repository.
    A column or tag is None when the data set has none.
    """

    name: str
    load_from: LoadFrom
    location: str
    formatting: str = "alpaca"
    ranking: bool = False
    subset: str | None = None
    split: str = "train"
    folder: str | None = None
    num_samples: int | None = None
    system: str | None = None
    tools: str | None = None
    images: str | None = None
    videos: str | None = None
    audios: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    kto_tag: str | None = None
    prompt: str | None = "instruction"
    query: str | None = "input"
    response: str | None = "output"
    history: str | None = None
    messages: str | None = "conversations"
    role_tag: str | None = "from"
    content_tag: str | None = "value"
    user_tag: str | None = "human"
    assistant_tag: str | None = "gpt"
    observation_tag: str | None = "observation"
    function_tag: str | None = "function_call"
    system_tag: str | None = "system"

    @property
    def is_local(self) -> bool:
        """True when the rows are in files of the data set folder."""
        return self.load_from == "file"

    @property
    def split_of_files(self) -> str:
        """The split of the files that `local_files` gives: of the hub's, those of the split that is asked for."""
        return "train" if self.load_from == "hf_hub" else self.split


def read_dataset_info(dataset_dir: str | Path) -> dict[str, Any]:
    """The parsed dataset_info.json of a folder.

    Raises UsageError when the folder has none, DataError when it is not a JSON object.
    """
    path = Path(dataset_dir) / DATASET_INFO
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"Cannot open {path}: {error.strerror}; is `dataset_dir` right?") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(data, dict):
        raise DataError(f"{path} must hold an object that maps data set names to entries.")
    return data


def parse_entry(name: str, entry: Any, behaviours: Behaviours) -> DatasetAttributes:
    """One entry of dataset_info.json.

    Raises DataError when the entry is not an object, names no source, or holds a column or tag that
    is not a string.
    """
    where = f"{DATASET_INFO}: `{name}`"
    if not isinstance(entry, Mapping):
        raise DataError(f"{where} must be an object, got {type(entry).__name__}.")
    load_from, location = _source(where, entry)
    values: dict[str, Any] = {
        "formatting": entry.get("formatting", "alpaca"),
        "ranking": entry.get("ranking", False),
        "subset": entry.get("subset"),
        "split": entry.get("split", "train"),
        "folder": entry.get("folder"),
        "num_samples": entry.get("num_samples"),
    }
    # An entry that lists columns lists all of them: the ones it leaves out are gone, defaults too.
    formatting = values["formatting"]
    columns: tuple[str, ...] = COLUMNS
    tags: tuple[str, ...] = TAGS
    if behaviours.dataset_columns_by_formatting:
        columns = (*_COMMON_COLUMNS, *(_ALPACA_COLUMNS if formatting == "alpaca" else ("messages",)))
        tags = TAGS if formatting == "sharegpt" else ()
    for key, names in (("columns", columns), ("tags", tags)):
        if key in entry and names:
            given = entry[key]
            if not isinstance(given, Mapping):
                raise DataError(f"{where}.{key} must be an object, got {type(given).__name__}.")
            values.update({name: given.get(name) for name in names})
    for key, value in values.items():
        wanted = {"ranking": bool, "num_samples": int}.get(key, str)
        if value is not None and not isinstance(value, wanted):
            raise DataError(f"{where}: `{key}` must be {wanted.__name__}, got {value!r:.60}.")
    return DatasetAttributes(name=name, load_from=load_from, location=location, **values)


def _source(where: str, entry: Mapping[str, Any]) -> tuple[LoadFrom, str]:
    sources: tuple[tuple[str, LoadFrom], ...] = (
        ("hf_hub_url", "hf_hub"),  # before the others, as when neither USE_MODELSCOPE_HUB nor USE_OPENMIND_HUB is set
        ("ms_hub_url", "ms_hub"),
        ("om_hub_url", "om_hub"),
        ("script_url", "script"),
        ("cloud_file_name", "cloud_file"),
        ("file_name", "file"),
    )
    for key, load_from in sources:
        if key in entry:
            if not isinstance(entry[key], str):
                raise DataError(f"{where}.{key} must be a string, got {entry[key]!r:.60}.")
            return load_from, entry[key]
    raise DataError(f"{where} names no source; it needs `file_name`.")


def dataset_attributes(
    names: Sequence[str], dataset_dir: str | Path | Mapping[str, Any], behaviours: Behaviours
) -> list[DatasetAttributes]:
    """The entries of these data sets.

    `dataset_dir` is the folder that holds dataset_info.json, the already parsed object, or the word
    ``ONLINE`` (every name is then a repository of the hub). Raises UsageError for an unknown name,
    with the nearest one.
    """
    if not names:  # the framework opens the file, and goes on when there is none
        return []
    if dataset_dir == "ONLINE":
        return [DatasetAttributes(name=name, load_from="hf_hub", location=name) for name in names]
    if isinstance(dataset_dir, str) and dataset_dir.startswith("REMOTE:"):
        raise UsageError(f"dataset_dir {dataset_dir} is on the hub; download it and give the folder.")
    info = dataset_dir if isinstance(dataset_dir, Mapping) else read_dataset_info(dataset_dir)
    place = DATASET_INFO if isinstance(dataset_dir, Mapping) else Path(dataset_dir) / DATASET_INFO
    found = []
    for name in names:
        if name not in info:
            known = [str(key) for key in info]
            raise UsageError(f"There is no data set `{name}` in {place}.{nearest(name, known)}")
        found.append(parse_entry(name, info[name], behaviours))
    return found


def attributes_of_file(path: str | Path, behaviours: Behaviours, **columns: Any) -> DatasetAttributes:
    """The entry that a file has in the dataset_info.json beside it, else the defaults with `columns`.

    `columns` are fields of DatasetAttributes (``formatting``, ``prompt``, …) for a file that no
    entry names. Raises UsageError for a field that does not exist.
    """
    path = Path(path)
    known = [field.name for field in fields(DatasetAttributes)]
    for key in columns:
        if key not in known:
            raise UsageError(f"A data set has no field `{key}`.{nearest(key, known)}")
    if not columns and (path.parent / DATASET_INFO).is_file():
        for name, entry in read_dataset_info(path.parent).items():
            if isinstance(entry, Mapping) and entry.get("file_name") == path.name:
                parsed = parse_entry(name, entry, behaviours)
                if parsed.is_local:
                    return parsed
    return replace(DatasetAttributes(name=path.stem, load_from="file", location=path.name), **columns)


def local_files(attributes: DatasetAttributes, dataset_dir: str | Path) -> list[Path]:
    """The files that hold this data set's rows, in the order in which the framework reads them.

    A folder's files come in the order of the file system, as ``os.listdir`` gives them. Those of a
    repository of the Hugging Face hub (`subset`, `split`) are fetched into its cache. Raises UsageError
    when the data set is elsewhere, and DataError when a file is missing or its type is none that the
    framework reads.
    """
    if attributes.load_from == "hf_hub":
        return _hub_files(attributes)
    if not attributes.is_local:
        source = {"script": "a loading script", "cloud_file": "cloud storage"}.get(attributes.load_from, "a model hub")
        raise UsageError(
            f"The data set `{attributes.name}` comes from {source} ({attributes.location}), not from a local file; "
            "download it and point `file_name` at the copy."
        )
    place = Path(dataset_dir) / attributes.location
    if place.is_dir():
        files = [place / name for name in os.listdir(place)]
    elif place.is_file():
        files = [place]
    else:
        raise DataError(f"The data set `{attributes.name}` needs the file {place}, which does not exist.")
    if not files:
        raise DataError(f"The folder {place} of data set `{attributes.name}` is empty.")
    types = {path: FILE_TYPES.get(path.suffix[1:]) for path in files}
    for path, type_ in types.items():
        if type_ is None:
            raise DataError(f"LLaMA-Factory does not read {path}; it reads {', '.join(FILE_TYPES)}.")
    if len(set(types.values())) > 1:
        raise DataError(f"The files of {place} are of different types; LLaMA-Factory wants one type in a folder.")
    return files


def _hub_files(attributes: DatasetAttributes) -> list[Path]:
    from template_audit.datasets import open_source

    config = attributes.subset or attributes.folder
    wanted = f"{config}/{attributes.split}" if config else attributes.split
    return [file.fetch() for file in open_source(f"hf://{attributes.location}:{wanted}").files]
