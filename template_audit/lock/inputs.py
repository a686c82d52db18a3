"""What an entry hangs on, as it is today, found out without transformers and without loading a tokenizer."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from template_audit import __version__
from template_audit.errors import ModelError, TemplateAuditError, UsageError
from template_audit.frameworks import get_framework, parse_spec
from template_audit.frameworks.interface import DataFiles, Described, TrainingRun
from template_audit.lock.layout import digest
from template_audit.lock.outline import settings_of, templates_of
from template_audit.lock.store import Entry, Request
from template_audit.model.hub import current_revision, locate, split_name
from template_audit.model.source import hashed_files, read_ggufs
from template_audit.model.templates import OPTION, read_replacement

if TYPE_CHECKING:
    from template_audit.config import Config
    from template_audit.model.hub import Location

LIBRARIES = ("transformers", "tokenizers", "jinja2")
TOOL = "template-audit"
_OFFLINE = "It may be out of date; with --offline it is taken nevertheless."
_COMMIT = re.compile(r"[0-9a-f]{40}\Z")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a run of `lock` or `check` brings along, beside the entries.

    Relative paths of entries start from the working directory or, where nothing is there, from `folder`,
    that of the lock file. `offline` None leaves it to HF_HUB_OFFLINE. `hashed` keeps the digests of folders
    that were looked at.
    """

    folder: Path
    config: Config
    offline: bool | None = None
    trust_remote_code: bool = False
    hashed: dict[tuple[str, str | None], dict[str, str]] = field(default_factory=dict, repr=False)

    def path(self, name: str) -> str:
        """A model, config or file of an entry as it is found from here."""
        return found_from(name, self.folder)

    @property
    def configuration(self) -> str:
        """A digest of what the configuration makes of findings."""
        ignores = [msgspec.to_builtins(ignore.record()) for ignore in self.config.ignores]
        return digest({"severities": sorted(self.config.severities.items()), "ignores": ignores})


def found_from(name: str, folder: Path) -> str:
    """A path of an entry as it is found from the working directory; `folder` is that of the lock file."""
    given = Path(name).expanduser()
    if not given.is_absolute() and not given.exists() and (folder / given).exists():
        return str(folder / given)
    return name


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model's files today; `files` are sha256 by path."""

    id: str
    revision: str | None
    files: dict[str, str]
    settings: dict[str, Any]
    templates: dict[str, dict[str, list[str]]]


@cache
def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide about texts and ids, without importing them, and of this tool."""
    try:
        return {TOOL: __version__, **{name: version(name) for name in LIBRARIES}}
    except PackageNotFoundError as error:
        raise UsageError(f"The Python package {error.name} is not installed here.") from None


def framework_of(request: Request, spec: str, around: Surroundings) -> dict[str, Any]:
    """What the subject's framework says of itself for the template in `spec`; raises UsageError."""
    asked, resolved = parse_spec(request.encoder), parse_spec(spec)
    source = None if request.framework_source is None else around.path(request.framework_source)
    framework = get_framework(asked.framework, source)
    if isinstance(framework, Described):
        described: dict[str, Any] = msgspec.to_builtins(dict(framework.describe(asked.version, resolved.template)))
        return described
    return {"version": resolved.version} if resolved.version else {}


def all_versions(request: Request, framework: Mapping[str, Any]) -> dict[str, str]:
    """Versions of the libraries, this tool and the subject's framework."""
    own = framework.get("version")
    return {**library_versions(), **({parse_spec(request.encoder).framework: str(own)} if own else {})}


def run_of(request: Request, around: Surroundings) -> TrainingRun | None:
    """The run that the entry's training config describes today. Raises UsageError.

    A folder that is another path from here than from where it was locked keeps its name.
    """
    if request.config is None:
        return None
    from template_audit.training import read_training_run

    run = read_training_run(around.path(request.config), request.overrides)
    if run.stage == "pt":
        raise UsageError(f"{request.config} is a config of stage pt; a lock holds conversations, not packed documents.")
    model = request.model if _same_place(around.path(request.model), around.path(run.model)) else run.model
    data = run.dataset_dir
    return replace(run, model=model, dataset_dir=around.path(data) if isinstance(data, str) else data)


def _same_place(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def data_of(request: Request, run: TrainingRun | None, around: Surroundings) -> dict[str, str]:
    """sha256 of the training config and of the files that its rows come from."""
    if run is None or request.config is None:
        return {}
    framework = get_framework(run.framework)
    files = [Path(around.path(request.config))]
    if request.rows != 0 and isinstance(framework, DataFiles):
        files += framework.data_files(run, parse_spec(request.encoder).version)
    names = [request.config, *(_in_folder(path, around.folder) for path in files[1:])]
    return {name: sha256_of(path) for name, path in zip(names, files, strict=True)}


def _in_folder(path: Path, folder: Path) -> str:
    """A path that was found by way of the lock file's folder, as it is from there."""
    here = Path.cwd() == folder
    return str(path if here or not path.is_relative_to(folder) else path.relative_to(folder))


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes. Raises UsageError when it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from None


def read_model_files(request: Request, around: Surroundings) -> ModelFiles:
    """The files of the entry's model, fetched if need be, and what is in them. Raises ModelError or UsageError."""
    location = locate(around.path(request.model), request.revision, around.offline)
    if location.notes and not _COMMIT.match(split_name(request.model, request.revision)[1] or ""):
        raise ModelError(f"{request.title}: {' '.join(location.notes)} {_OFFLINE}")
    files = _digests(location, request, around)
    plain = [name for name in files if "#" not in name and not name.startswith(OPTION)]
    settings = {} if location.gguf else settings_of(location.path, plain)
    templates = {} if location.gguf else templates_of(location.path)
    for source in read_ggufs(location)[0]:
        templates.setdefault(source.place, {})[source.name] = source.template.split("\n")
    if request.chat_template is not None:
        replaced = read_replacement(Path(around.path(request.chat_template)))
        place = f"{OPTION} {request.chat_template}"
        templates[place] = {name: text.split("\n") for name, text in replaced.items()}
    name = location.id if location.repo is not None else request.model
    return ModelFiles(name, location.revision, files, settings, templates)


def _digests(location: Location, request: Request, around: Surroundings) -> dict[str, str]:
    files = [*hashed_files(location, with_code=around.trust_remote_code), *read_ggufs(location)[1]]
    found = {file.path: file.sha256 for file in files}
    if request.chat_template is not None:
        found[f"{OPTION} {request.chat_template}"] = sha256_of(Path(around.path(request.chat_template)))
    return dict(sorted(found.items()))


def is_hub_model(request: Request, around: Surroundings) -> bool:
    """True when the entry's model is a repository of the hub, and no folder or file here."""
    name = around.path(request.model)
    local = name.startswith(("/", "./", "../", "~")) or name.endswith(".gguf") or "\\" in name
    return not local and not Path(name).expanduser().exists()


def check_there(entry: Entry, around: Surroundings) -> None:
    """Raise ModelError when a folder or file that was locked is gone: the hub is not asked for its name."""
    if entry.model.revision is None and is_hub_model(entry.request, around):
        raise ModelError(f"There is no folder or file {entry.request.model} here; it was one when it was locked.")


def same_model(entry: Entry, around: Surroundings) -> bool:
    """True when the model's files are those of the entry.

    A folder's are hashed. A commit of the hub never changes, so of a hub model the commit is compared
    and no file is looked at; where the entry names a full commit, nobody is asked. Raises ModelError
    when the model, or the hub, cannot be reached.
    """
    request = entry.request
    check_there(entry, around)
    if is_hub_model(request, around):
        repo, revision = split_name(request.model, request.revision)
        if not (revision and _COMMIT.match(revision) and revision == entry.model.revision):
            revision = current_revision(repo, revision, around.offline)
        replaced = {} if request.chat_template is None else _replacement(request, around)
        return revision == entry.model.revision and replaced.items() <= entry.model.files.items()
    place = (around.path(request.model), request.chat_template)
    if place not in around.hashed:  # several entries have one model
        around.hashed[place] = _digests(locate(place[0], None, True), request, around)
    return around.hashed[place] == entry.model.files


def _replacement(request: Request, around: Surroundings) -> dict[str, str]:
    assert request.chat_template is not None
    return {f"{OPTION} {request.chat_template}": sha256_of(Path(around.path(request.chat_template)))}


def unchanged(entry: Entry, around: Surroundings) -> bool:
    """True when nothing that the entry hangs on is different today, so that its results are known.

    Raises ModelError when the model cannot be reached; any other trouble is no answer, so False.
    """
    if entry.digest != entry.seal() or entry.configuration != around.configuration:
        return False
    request = entry.request
    try:
        framework = framework_of(request, entry.subject.spec, around)
        if framework != entry.framework or all_versions(request, framework) != entry.versions:
            return False
        if data_of(request, run_of(request, around), around) != entry.data:
            return False
    except TemplateAuditError:
        return False
    return same_model(entry, around)
