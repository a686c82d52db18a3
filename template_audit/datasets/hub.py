"""Data sets of the Hugging Face hub: which files hold the rows, and fetching them one by one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from template_audit.datasets.compression import plain_path
from template_audit.datasets.filetypes import is_data
from template_audit.datasets.rows import DataFile
from template_audit.datasets.source import DataSource, data_names
from template_audit.errors import DataError, UsageError

TIMEOUT = 10.0
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "dev", "val"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words by which 🤗 datasets takes a file for a part of the data (its data_files.py, SPLIT_KEYWORDS)."""


def hub_source(name: str) -> DataSource:
    """The data set ``[hf://]org/name[@revision][:[config/]split]``.

    Without a split it is ``train``, if there is one, else all files. Splits and configs are those that the
    repository's README.md declares, else files whose path holds the split's name, and folders. A file is
    fetched (into the hub's cache) when its first row is asked for.

    Raises DataError when the repository or the split does not exist, or the hub cannot be reached and the
    cache has no copy; UsageError for a malformed name.
    """
    address, _, wanted = name.removeprefix("hf://").removeprefix("datasets/").partition(":")
    repo, _, revision = address.partition("@")
    listing = _Listing(repo, revision or None)
    config, _, split = wanted.rpartition("/")
    names = _chosen(listing, config, split)
    _check_parts(repo, names)
    files = tuple(DataFile(f"{repo}/{name}", listing.sizes[name], listing.fetcher(name)) for name in names)
    return DataSource(name, repo.rpartition("/")[2], files, listing.commit, listing.notes)


def _check_parts(repo: str, names: list[str]) -> None:
    """Raise DataError when one of several numbered files is not there, as in a cache that holds only some."""
    for name in names:
        part = re.fullmatch(r"(.*-)(\d+)-of-(\d+)(\D.*)", name)
        if part:
            before, number, count, after = part.groups()
            for other in range(int(count)):
                if (needed := f"{before}{other:0{len(number)}}-of-{count}{after}") not in names:
                    raise DataError(f"The data set {repo} lacks {needed} here; load it once with the network on.")


class _Listing:
    """The files of a repository by name with their sizes: the hub's, or those in the local cache."""

    def __init__(self, repo: str, revision: str | None) -> None:
        from huggingface_hub import HfApi, constants, errors

        self.repo, self.revision = repo, revision
        self._next = revision
        self.notes: tuple[str, ...] = ()
        self.folder: Path | None = None
        offline = getattr(constants, "is_offline_mode", None)  # since huggingface_hub 1.0
        if offline() if offline else constants.HF_HUB_OFFLINE:
            self._cached("the hub is off (HF_HUB_OFFLINE)")
            return
        try:
            info = HfApi().dataset_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT)
        except errors.HFValidationError as error:
            raise UsageError(f"`{repo}` is no hub name: {_first_line(error)}") from None
        except errors.HfHubHTTPError as error:
            if _status(error) < 500:
                raise DataError(_refusal(error, repo, revision)) from None
            self._cached(f"{_endpoint()} fails: {_first_line(error)}")
        except Exception as error:  # the network: requests or httpx errors, depending on the release
            self._cached(f"{_endpoint()} cannot be reached: {type(error).__name__}")
        else:
            self.commit = str(info.sha)
            self.sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}

    def _cached(self, why: str) -> None:
        from huggingface_hub import snapshot_download

        try:
            folder = Path(
                snapshot_download(self.repo, repo_type="dataset", revision=self.revision, local_files_only=True)
            )
        except Exception:  # each release has its own error for what is not there
            raise DataError(
                f"The data set {self.repo} is not in the local cache and {why}; load it once with the network on, "
                "or name a local copy."
            ) from None
        self.folder, self.commit = folder, folder.name
        self.notes = (f"The files of {self.repo} are those in the local cache, which may not be all: {why}.",)
        files = (file for file in folder.rglob("*") if file.is_file())
        self.sizes = {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}

    def fetcher(self, name: str) -> Any:
        """A function that brings the file here and gives its path."""

        def fetch() -> Path:
            from huggingface_hub import hf_hub_download

            if self.folder is not None:
                return self.folder / name
            try:  # by the branch's own name once, so that the cache knows it offline; then by the commit
                revision, self._next = self._next, self.commit
                return Path(hf_hub_download(self.repo, name, repo_type="dataset", revision=revision))
            except Exception as error:
                raise DataError(
                    f"{self.repo}/{name} could not be fetched from {_endpoint()} ({_first_line(error)})."
                ) from None

        return fetch


def _chosen(listing: _Listing, config: str, split: str) -> list[str]:
    names = data_names(list(listing.sizes))
    if not names:
        raise DataError(
            f"The data set {listing.repo} holds no files of rows; they are read from JSON, JSON lines and Parquet."
        )
    parts = _declared(listing, config, names) or _by_name(names, config)
    if split and split not in parts and not config:  # `name:config`
        of_config = _declared(listing, split, names, strict=True) or _by_folder(names, split)
        if of_config:
            return of_config.get("train") or [name for part in of_config.values() for name in part]
    if not split:
        return parts.get("train") or [name for part in parts.values() for name in part]
    if split not in parts:
        raise DataError(f"The data set {listing.repo} has no split `{split}`; it has {', '.join(parts) or 'none'}.")
    return parts[split]


def _declared(listing: _Listing, config: str, names: list[str], *, strict: bool = False) -> dict[str, list[str]]:
    """Files by split as the README.md says; empty when it says nothing of data files."""
    if "README.md" not in listing.sizes:
        return {}
    configs = [entry for entry in _front_matter(listing.fetcher("README.md")()) if isinstance(entry, Mapping)]
    by_name = {str(entry.get("config_name")): entry for entry in configs if entry.get("data_files")}
    if config or strict:
        entry = by_name.get(config)
    else:
        marked = next((entry for entry in by_name.values() if entry.get("default")), None)
        entry = marked or by_name.get("default") or next(iter(by_name.values()), None)
    return _split_files(entry, names) if entry else {}


def _front_matter(path: Path) -> list[Any]:
    import yaml

    text = path.read_text(encoding="utf-8", errors="replace")
    block = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.S)
    try:
        data = yaml.safe_load(block.group(1)) if block else None
    except yaml.YAMLError:
        return []
    configs = data.get("configs") if isinstance(data, Mapping) else None
    return configs if isinstance(configs, list) else []


def _split_files(entry: Mapping[str, Any], names: list[str]) -> dict[str, list[str]]:
    given = entry["data_files"]
    parts = given if isinstance(given, list) else [given]
    found: dict[str, list[str]] = {}
    for part in parts:
        split, patterns = ("train", part)
        if isinstance(part, Mapping):
            split, patterns = str(part.get("split", "train")), part.get("path")
        folder = str(entry.get("data_dir") or "").strip("/")
        for pattern in patterns if isinstance(patterns, list) else [patterns]:
            full = f"{folder}/{pattern}" if folder else str(pattern)
            found.setdefault(split, []).extend(name for name in names if _matches(name, full))
    return {split: list(dict.fromkeys(files)) for split, files in found.items() if files}


def _matches(name: str, pattern: str) -> bool:
    """As shells match: ``*`` stays within a folder, ``**`` does not."""
    if "**" in pattern:
        return fnmatchcase(name, pattern.replace("**/", "*")) or fnmatchcase(name, pattern)
    return fnmatchcase(name, pattern) and name.count("/") == pattern.count("/")


def _by_name(names: Iterable[str], config: str) -> dict[str, list[str]]:
    if config:
        return _by_folder(list(names), config)
    found: dict[str, list[str]] = {}
    for name in names:
        words = re.split(r"[-._ /]", plain_path(Path(name)).with_suffix("").as_posix().lower())
        split = next((split for split, known in _SPLITS.items() if any(word in known for word in words)), None)
        found.setdefault(split or words[-1], []).append(name)
    if not set(found) & set(_SPLITS):  # nothing tells parts: all of it is what is trained
        return {"train": list(names), **{part: files for part, files in found.items() if part}}
    return found


def _by_folder(names: list[str], folder: str) -> dict[str, list[str]]:
    inside = [name for name in names if name.startswith((f"{folder}/", f"data/{folder}/"))]
    return _by_name(inside, "") if inside and not is_data(Path(folder).suffix) else {}


def _refusal(error: Exception, repo: str, revision: str | None) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return (
            f"The data set {repo} is gated: accept its terms on {_endpoint()}/datasets/{repo} and set HF_TOKEN to a "
            "token that may read it."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"The data set {repo} has no revision `{revision}`; name a branch, a tag or a commit of it."
    if isinstance(error, errors.RepositoryNotFoundError) or _status(error) in (401, 404):
        return (
            f"There is no data set {repo} on {_endpoint()} ({_status(error)}), nor a file or folder of that name here; "
            "check the spelling, and if it is private set HF_TOKEN to a token that may read it."
        )
    return f"{_endpoint()} refused the data set {repo}: {_first_line(error)}"


def _status(error: Exception) -> int:
    return getattr(getattr(error, "response", None), "status_code", 400)


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__
