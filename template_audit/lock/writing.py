"""Writing the lock file: whole or not at all, and never over the work of another run."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

from template_audit.errors import UsageError
from template_audit.lock.store import EMPTY, Entry, Lock, read_lock

PATIENCE = 30.0  # seconds to wait for another run; each holds the file for milliseconds
_ABANDONED = 60.0  # seconds after which a temporary file can belong to no run that is alive


def put_entries(path: Path, entries: Sequence[Entry], contents: Mapping[str, Any]) -> Lock:
    """Put `entries` into the lock file at `path`, which is read again for it; returns what was written.

    The file is replaced in one step: a reader, and whoever comes after a crash, finds the old one or
    the new one. Two runs at once both get their entries in. Raises UsageError when the file is broken,
    cannot be written, or another run keeps it for `PATIENCE` seconds.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    if not path.parent.is_dir():
        raise UsageError(f"Cannot write `{path}`: there is no folder {path.parent}.")
    with _guarded(path):
        lock = (read_lock(path) or EMPTY).with_entries(entries, contents)
        _remove_abandoned(path)
        try:
            _replace(path, lock.text())
        except OSError as error:
            raise UsageError(f"Cannot write `{path}`: {error.strerror or error}.") from None
    return lock


@contextmanager
def _guarded(path: Path) -> Iterator[None]:
    """Keep other runs on this machine out. The guard is the system's own, so a killed run leaves nothing locked.

    It lies in the folder for temporary files: a project needs no further file in its .gitignore.
    """
    from filelock import FileLock, Timeout

    user = getattr(os, "getuid", int)()
    name = f"template-audit-{user}-{sha256(os.fsencode(path)).hexdigest()[:16]}.guard"
    guard = FileLock(Path(tempfile.gettempdir()) / name, timeout=PATIENCE)
    try:
        with guard:
            yield
    except Timeout:
        raise UsageError(
            f"Another run of template-audit keeps writing {path}; try again when it has finished."
        ) from None


def _replace(path: Path, text: str) -> None:
    handle, name = tempfile.mkstemp(prefix=_prefix(path), suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    with suppress(OSError, AttributeError):  # not every system opens folders
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _remove_abandoned(path: Path) -> None:
    """Temporary files of runs that were killed."""
    for left in path.parent.iterdir():
        if not (left.name.startswith(_prefix(path)) and left.suffix == ".tmp"):
            continue
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink()


def _prefix(path: Path) -> str:
    return f".{path.name}."


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
