"""The lock file is whole at every moment, and two runs at once lose nothing."""

from __future__ import annotations

import os
import random
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from scripts import kill_lock
from template_audit.errors import UsageError
from template_audit.lock import writing
from template_audit.lock.store import Lock, read_lock
from template_audit.lock.writing import put_entries
from tests.lock.test_store import entry

ROOT = Path(__file__).resolve().parents[2]


def lock_at(path: Path) -> Lock:
    lock = read_lock(path)
    assert lock is not None
    return lock


def test_killed_at_any_moment_the_old_or_the_new_file_is_there(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    put_entries(one, [entry("short")], {})
    put_entries(two, [msgspec.structs.replace(entry("short"), settings={"x": list(range(200_000))}).sealed()], {})
    chance = random.Random(5)
    for _ in range(12):  # until a kill has fallen into a write: how often it does hangs on the machine
        interrupted, broken = kill_lock.kill_writers(one, two, 8, chance)
        assert broken == 0
        if interrupted:
            return
    pytest.fail("no kill fell into a write")


def test_entries_of_threads_and_of_processes_all_get_in(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    threads = [threading.Thread(target=put_entries, args=(path, [entry(model=f"model-{i}")], {})) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lock_at(path).entries) == 12


def test_two_commands_at_once_are_both_right(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    processes = [
        subprocess.Popen(
            kill_lock.command(path, "--encoder", f"llamafactory:{name}"), stdout=subprocess.DEVNULL, cwd=ROOT
        )
        for name in ("chatml", "qwen")
    ]
    assert [process.wait() for process in processes] == [0, 0]
    assert [one.request.encoder for one in lock_at(path).entries] == ["llamafactory:chatml", "llamafactory:qwen"]


def test_a_run_that_keeps_the_file_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PATIENCE", 0.1)
    with writing._guarded(tmp_path / "x.lock"):
        failed: list[str] = []

        def other() -> None:
            try:
                put_entries(tmp_path / "x.lock", [entry()], {})
            except UsageError as error:
                failed.append(str(error))

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert failed
    assert "Another run of template-audit keeps writing" in failed[0]


def test_the_mode_stays_and_a_link_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.lock", tmp_path / "link.lock"
    put_entries(real, [entry()], {})
    umask = os.umask(0o022)
    os.umask(umask)
    assert stat.S_IMODE(real.stat().st_mode) == 0o666 & ~umask
    real.chmod(0o640)
    link.symlink_to(real)
    put_entries(link, [entry(model="other")], {})
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert len(lock_at(real).entries) == 2


def test_leavings_of_killed_runs_are_removed_when_they_are_old(tmp_path: Path) -> None:
    path = tmp_path / "x [1].lock"
    old, young, other = (tmp_path / name for name in (".x [1].lock.abc.tmp", ".x [1].lock.def.tmp", ".y.lock.abc.tmp"))
    for file in (old, young, other):
        file.write_text('{"schema_version": 1, "entr')
    os.utime(old, (time.time() - 3600,) * 2)
    put_entries(path, [entry()], {})
    assert len(lock_at(path).entries) == 1
    assert not old.exists()
    assert young.exists()
    assert other.exists()


def test_a_broken_lock_file_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    path.write_text("{")
    with pytest.raises(UsageError, match="not valid JSON"):
        put_entries(path, [entry()], {})
    assert path.read_text() == "{"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no folder"):
        put_entries(tmp_path / "none" / "x.lock", [entry()], {})
    if os.getuid() == 0 or sys.platform == "win32":
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="Cannot write"):
        put_entries(tmp_path / "x.lock", [entry()], {})
    tmp_path.chmod(0o700)
