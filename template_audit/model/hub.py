"""From a model's name to a folder: local, or fetched from the hub by huggingface_hub."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from template_audit.errors import ModelError, UsageError

SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
    "*.model",
    "*.tiktoken",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "additional_chat_templates/*.jinja",
    "adapter_config.json",
)
"""What is fetched and hashed: every file that may matter to a tokenizer or a template."""

MAX_FILE = 100 << 20  # the largest tokenizer.json in use is a third of this
TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Location:
    """Where a model's files are.

    `repo` is the hub's id, None for a folder; `local_only` says that the hub must not be asked, or
    cannot be. `gguf` is the name of the file in `path` that the tokenizer comes from, if it is one.
    """

    id: str
    path: Path
    repo: str | None = None
    revision: str | None = None
    local_only: bool = True
    gguf: str | None = None
    notes: tuple[str, ...] = ()


def is_small_file(name: str) -> bool:
    """True for a path inside a repository that `SMALL_FILES` names (no weights, no indices)."""
    return not name.endswith(".index.json") and any(
        fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for pattern in SMALL_FILES
    )


def split_name(name: str, revision: str | None) -> tuple[str, str | None]:
    """``[hf://]org/name[@rev]`` and ``--revision`` as (repository id, revision). Raises UsageError."""
    repo, _, rev = name.removeprefix("hf://").partition("@")
    if rev and revision and rev != revision:
        raise UsageError(f"MODEL asks for revision `{rev}` and --revision for `{revision}`; give one of them.")
    return repo.rstrip("/"), rev or revision or None


def locate(name: str | Path, revision: str | None, offline: bool | None) -> Location:
    """Find a model: an existing folder or .gguf file first, as transformers does, else a hub repository.

    Raises ModelError when there is no such model or it cannot be reached, UsageError when `name` is malformed.
    """
    text = str(name)
    path = Path(text).expanduser()
    if text and path.exists():
        if revision is not None:
            raise UsageError(f"{text} is local, so --revision {revision} does not apply to it.")
        return _local(text, path)
    if isinstance(name, Path) or text.startswith(("/", "./", "../", "~")) or text.endswith(".gguf") or "\\" in text:
        raise ModelError(f"There is no folder {text}.")
    repo, rev = split_name(text, revision)
    if not repo or repo.count("/") > 1:
        raise UsageError(f"`{text}` is neither a folder here nor a hub name such as org/name or org/name@revision.")
    return _fetch(repo, rev, offline)


def _local(name: str, path: Path) -> Location:
    if path.is_dir():
        return Location(name, path, gguf=_only_gguf(path))
    if path.suffix == ".gguf":
        return Location(name, path.parent, gguf=path.name)
    raise ModelError(f"{name} is a file; name the model's folder, or a .gguf.")


def _only_gguf(folder: Path) -> str | None:
    """The one .gguf of a folder that has no other tokenizer."""
    if has_tokenizer_files(file.name for file in folder.iterdir()):
        return None
    found = sorted(file.name for file in folder.glob("*.gguf"))
    if len(found) > 1:
        raise ModelError(f"{folder} holds no tokenizer files but {len(found)} .gguf files; name one of them.")
    return found[0] if found else None


def has_tokenizer_files(names: Iterable[str]) -> bool:
    """True when one of `names` is a vocabulary that a tokenizer can be built from."""
    patterns = ("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json", "*.model", "*.model.v*", "*.tiktoken")
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _fetch(repo: str, revision: str | None, offline: bool | None) -> Location:
    from huggingface_hub import HfApi, constants, errors

    if offline or (offline is None and _hub_is_offline(constants)):
        found = _cached(repo, revision)
        if found is None:
            raise ModelError(
                f"{_title(repo, revision)} is not in the local cache and the hub is off (HF_HUB_OFFLINE); "
                "load it once with the network on."
            )
        return found
    try:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=TIMEOUT)
        names = [f.rfilename for f in info.siblings or () if is_small_file(f.rfilename) and (f.size or 0) <= MAX_FILE]
        path = _download(repo, revision, str(info.sha), names)
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        if error_status(error) < 500:
            raise ModelError(_refusal(error, repo, revision)) from None
        return _cached_instead(repo, revision, error)
    except Exception as error:  # the network: requests or httpx errors, depending on the release
        return _cached_instead(repo, revision, error)
    return Location(repo, path, repo, str(info.sha), local_only=False)


def current_revision(repo: str, revision: str | None, offline: bool | None = None) -> str:
    """The commit that `revision` of a hub repository names today; offline, the one in the local cache.

    One request, and no file is fetched. Raises ModelError when the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi, constants, errors

    if offline or (offline is None and _hub_is_offline(constants)):
        found = _cached(repo, revision)
        if found is None or found.revision is None:
            raise ModelError(f"{_title(repo, revision)} is not in the local cache, and the hub is not to be asked.")
        return found.revision
    try:
        return str(HfApi().model_info(repo, revision=revision, timeout=TIMEOUT).sha)
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        if error_status(error) < 500:
            raise ModelError(_refusal(error, repo, revision)) from None
        reason = f"{type(error).__name__}: {_first_line(error)}"
    except Exception as error:  # the network: requests or httpx errors, depending on the release
        reason = f"{type(error).__name__}: {_first_line(error)}"
    raise ModelError(
        f"{_endpoint()} could not be asked for {_title(repo, revision)} ({reason}); check the network, or say "
        "--offline to hold the copy in the local cache against the lock."
    )


def error_status(error: Exception) -> int:
    """The HTTP status behind a hub error, 400 when there is none."""
    return getattr(getattr(error, "response", None), "status_code", 400)


def _hub_is_offline(constants: Any) -> bool:
    check = getattr(constants, "is_offline_mode", None)  # since huggingface_hub 1.0
    return bool(check() if check else constants.HF_HUB_OFFLINE)


def _download(repo: str, revision: str | None, commit: str, names: list[str]) -> Path:
    """Fetch `names` into the cache; returns the snapshot folder.

    File by file: `snapshot_download` would leave a listing of all files in the cache, and later
    offline loads would find the snapshot incomplete for want of the weights.
    """
    from concurrent.futures import ThreadPoolExecutor

    from huggingface_hub import hf_hub_download

    if not has_tokenizer_files(names) and "tokenizer_config.json" not in names:
        hint = " (only weights as GGUF? download the file and name it)" if not names else ""
        raise ModelError(f"{_title(repo, revision)} holds no tokenizer{hint}.")
    # The branch's own name once, so that the cache knows it offline; the commit for all others.
    folder = Path(hf_hub_download(repo, names[0], revision=revision)).parent
    depth = names[0].count("/")
    folder = folder.parents[depth - 1] if depth else folder
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: hf_hub_download(repo, name, revision=commit), names))
    return folder if folder.name == commit else folder.parent / commit


def _cached(repo: str, revision: str | None) -> Location | None:
    from huggingface_hub import errors, try_to_load_from_cache

    for name in (
        "tokenizer_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "config.json",
        "vocab.json",
        "vocab.txt",
    ):
        try:
            found = try_to_load_from_cache(repo, name, revision=revision)
        except errors.HFValidationError as error:
            raise UsageError(f"`{repo}` is no hub name: {_first_line(error)}") from None
        if isinstance(found, str):
            folder = Path(found).parent
            names = [file.name for file in folder.iterdir()]
            if has_tokenizer_files(names) or "tokenizer_config.json" in names:  # else other programs' leavings
                return Location(repo, folder, repo, folder.name)
    return None


def _cached_instead(repo: str, revision: str | None, error: Exception) -> Location:
    found = _cached(repo, revision)
    why = f"{type(error).__name__}: {_first_line(error)}"
    if found is None:
        raise ModelError(
            f"{_title(repo, revision)} could not be fetched from {_endpoint()} ({why}); "
            "check the network, or name a local folder."
        ) from None
    note = f"The hub could not be reached ({type(error).__name__}); this is the copy in the local cache."
    return Location(found.id, found.path, found.repo, found.revision, notes=(note,))


def _refusal(error: Exception, repo: str, revision: str | None) -> str:
    from huggingface_hub import errors

    status = error_status(error)
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{repo} is gated ({status}): accept its terms on {_endpoint()}/{repo} and set HF_TOKEN to a token "
            "that may read it."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision `{revision}`; name a branch, a tag or a full commit hash of it."
    if status == 401 and "credentials" in _server_message(error):
        return f"{_endpoint()} refused the token for {repo} (401): set HF_TOKEN to a valid one, or unset it."
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:  # 401 is the answer without a token
        return (
            f"There is no model {repo} on {_endpoint()} ({status}), nor a folder of that name here; check the "
            "spelling, and if the model is private set HF_TOKEN to a token that may read it."
        )
    if isinstance(error, errors.HFValidationError):
        return f"`{repo}` is no hub name: {_first_line(error)}"
    if isinstance(error, errors.DisabledRepoError):
        return f"Access to {repo} is disabled on {_endpoint()}."
    return f"{_endpoint()} refused {_title(repo, revision)}: {_first_line(error)}"


def _server_message(error: Exception) -> str:
    headers = getattr(getattr(error, "response", None), "headers", {})
    return str(headers.get("X-Error-Message", ""))


def _title(repo: str, revision: str | None) -> str:
    return f"{repo}@{revision}" if revision else repo


def _endpoint() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else "no further word"
