"""Where a release's source lies: a package folder, a checkout, an environment or a wheel, read and never run.

Every read is bounded, so that a hostile tree can neither exhaust memory nor make us wait.
"""

from __future__ import annotations

import ast
import hashlib
import re
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from template_audit.errors import UsageError

PACKAGES = ("llamafactory", "llmtuner")
MAX_FILE = 1_000_000
"""Bytes of one source file; the largest of any release is 130 kB."""
MAX_FILES = 5_000

_LAYOUTS = (
    "",
    "{package}",
    "src/{package}",
    "lib/python3*/site-packages/{package}",
    "Lib/site-packages/{package}",
    "lib64/python3*/site-packages/{package}",
)


@dataclass
class SourceTree:
    """One release's package, with paths relative to the package folder (``data/template.py``)."""

    where: str
    """What the user named, for error sentences."""
    package: str
    version_hint: str | None = None
    """The version that the wheel's or the installed copy's metadata gives."""
    _folder: Path | None = None
    _wheel: zipfile.ZipFile | None = None
    _members: dict[str, zipfile.ZipInfo] = field(default_factory=dict)
    _texts: dict[str, str | None] = field(default_factory=dict)
    _trees: dict[str, ast.Module] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    """sha256 of every file that was read."""

    def text(self, path: str) -> str | None:
        """The text of a file, None when there is none. Raises UsageError when it is too large or not UTF-8."""
        if path not in self._texts:
            data = self._bytes(path)
            if data is None:
                self._texts[path] = None
            else:
                self.digests[path] = hashlib.sha256(data).hexdigest()
                try:
                    self._texts[path] = data.decode("utf-8")
                except UnicodeDecodeError:
                    raise self.error(path, 1, "is not UTF-8 text") from None
        return self._texts[path]

    def append(self, path: str, text: str) -> None:
        """Read `text` as the end of a file; the file's digest stays that of the file itself."""
        self._texts[path] = f"{self.text(path) or ''}\n{text}"

    def peek(self, path: str) -> str:
        """The text of a file that may turn out not to matter: it is not recorded as read."""
        return (self._bytes(path) or b"").decode("utf-8", "replace")

    def tree(self, path: str) -> ast.Module | None:
        """The parsed file, None when there is none. Raises UsageError when Python's parser refuses it."""
        if path not in self._trees:
            text = self.text(path)
            if text is None:
                return None
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # a release's own odd escapes are not our user's business
                    self._trees[path] = ast.parse(text)
            except SyntaxError as error:
                raise self.error(path, error.lineno or 1, f"is not Python that can be read ({error.msg})") from None
            except (RecursionError, MemoryError, ValueError):
                raise self.error(path, 1, "is nested too deeply to be read") from None
        return self._trees[path]

    def first(self, *paths: str) -> str | None:
        """The first of these paths that exists."""
        return next((path for path in paths if self.text(path) is not None), None)

    def python_files(self) -> list[str]:
        """Every ``.py`` file of the package, sorted."""
        if self._wheel is not None:
            return sorted(path for path in self._members if path.endswith(".py"))
        assert self._folder is not None
        found: list[str] = []
        for entry in self._folder.rglob("*.py"):
            found.append(entry.relative_to(self._folder).as_posix())
            if len(found) > MAX_FILES:
                raise UsageError(f"{self.where} holds more than {MAX_FILES} Python files; name the package folder.")
        return sorted(found)

    def stamp(self) -> tuple[tuple[str, int, int], ...]:
        """Name, time and size of the wheel or of every source file: differs when the source was changed."""
        if self._wheel is not None:
            files = {self.where: Path(self.where)}
        else:
            assert self._folder is not None
            files = {path: self._folder / path for path in self.python_files()}
        stats = ((name, file.stat()) for name, file in files.items() if file.is_file())
        return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)

    def error(self, path: str, line: int, what: str) -> UsageError:
        """The one sentence for something in this source that cannot be read."""
        return UsageError(f"Cannot read the LLaMA-Factory source {self.where}: {path} line {line} {what}.")

    def _bytes(self, path: str) -> bytes | None:
        if self._wheel is not None:
            if path not in self._members:
                return None
            try:
                with self._wheel.open(self._members[path]) as stream:
                    data = stream.read(MAX_FILE + 1)
            except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
                raise self.error(path, 1, f"is damaged inside the wheel ({error})") from None
        else:
            assert self._folder is not None
            file = self._folder / path
            try:
                if not file.is_file():
                    return None
                with file.open("rb") as stream:
                    data = stream.read(MAX_FILE + 1)
            except OSError as error:
                raise self.error(path, 1, f"cannot be opened ({error.strerror})") from None
        if len(data) > MAX_FILE:
            raise self.error(path, 1, f"is larger than {MAX_FILE} bytes")
        return data


def open_source(path: str | Path) -> SourceTree:
    """Find LLaMA-Factory below `path`. Raises UsageError, saying what was looked for, when it is not there.

    `path` is the package folder, a folder that holds it (an unpacked wheel, site-packages, a checkout with
    ``src/``, a virtual environment) or a ``.whl`` file. Older releases call the package ``llmtuner``.
    """
    named = Path(path).expanduser()
    if named.is_file():
        if named.suffix in (".whl", ".zip"):
            return _open_wheel(named)
        if named.name == "template.py":
            return _open_folder(named.resolve().parent.parent, named)
        raise UsageError(
            f"{named} is neither a wheel nor a folder; --framework-source takes a .whl, an installed copy, "
            "an unpacked release or a checkout."
        )
    if not named.is_dir():
        raise UsageError(f"There is no {named}; --framework-source takes an existing wheel, copy or checkout.")
    for layout in _LAYOUTS:
        for package in PACKAGES if layout else ("",):
            pattern = layout.format(package=package)
            for folder in sorted(named.glob(pattern)) if pattern else [named]:
                if (folder / "data" / "template.py").is_file():
                    return _open_folder(folder, named)
    raise UsageError(
        f"{named} holds no LLaMA-Factory: neither data/template.py nor llamafactory/, src/llamafactory/ "
        "or llmtuner/ with one is there."
    )


def _open_folder(folder: Path, named: Path) -> SourceTree:
    package = folder.resolve().name
    hint = None
    for info in sorted(folder.parent.glob("*.dist-info")):
        match = re.fullmatch(rf"{re.escape(package)}-([^-]+)\.dist-info", info.name)
        hint = match.group(1) if match else hint
    return SourceTree(str(named), package if package in PACKAGES else PACKAGES[0], hint, _folder=folder)


def _open_wheel(file: Path) -> SourceTree:
    try:
        wheel = zipfile.ZipFile(file)
        entries = wheel.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise UsageError(f"{file} is not a wheel that can be opened ({error}).") from None
    if len(entries) > MAX_FILES:
        raise UsageError(f"{file} holds more than {MAX_FILES} files; that is no LLaMA-Factory wheel.")
    hint = None
    for package in PACKAGES:
        members: dict[str, zipfile.ZipInfo] = {}
        for entry in entries:
            parts = PurePosixPath(entry.filename).parts
            if package in parts[:-1]:
                members["/".join(parts[parts.index(package) + 1 :])] = entry
            elif parts and parts[0].endswith(".dist-info"):
                hint = parts[0].removesuffix(".dist-info").partition("-")[2] or hint
        if "data/template.py" in members:
            return SourceTree(str(file), package, hint, _wheel=wheel, _members=members)
    raise UsageError(f"{file} holds no LLaMA-Factory: there is no llamafactory/data/template.py in it.")
