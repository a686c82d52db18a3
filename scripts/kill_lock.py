"""Kill `template-audit lock` at random moments: the old file or the new one must be left, never half of one.

    python scripts/kill_lock.py [--kills 200] [--commands 40] [--seed 1]

Most kills hit a process that does nothing but write (one large file, then another, and so on), so that
the moment falls into a write; `--commands` of them hit the whole command, anywhere between its start and its
end. Exits with 1 when a file is found that is neither of the two.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "fixtures" / "models" / "chatml-plain"
WRITER = """
import sys
from pathlib import Path
from template_audit.lock.store import read_lock
from template_audit.lock.writing import put_entries
path, *others = map(Path, sys.argv[1:])
locks = [read_lock(other) for other in others]
print("ready", flush=True)
while True:
    for lock in locks:
        put_entries(path, lock.entries, lock.conversations)
"""


def command(path: Path, *options: str) -> list[str]:
    """A `lock` of the fixture model."""
    start = [sys.executable, "-m", "template_audit", "lock", str(MODEL), "--no-config", "--lock", str(path)]
    return [*start, "--conversation", "single", *options]


def two_states(folder: Path) -> tuple[Path, Path]:
    """Lock files of the same entry in two states; the conversation of the second is a long one."""
    for name, probe in (("one", "single"), ("two", "over-long")):
        arguments = [
            part if part != "single" else probe for part in command(folder / name, "--encoder", "llamafactory:chatml")
        ]
        subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return folder / "one", folder / "two"


def kill(process: subprocess.Popen[str], after: float) -> None:
    """SIGKILL, so many seconds from now; nothing when the process has ended by then."""
    time.sleep(after)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def kill_writers(one: Path, two: Path, kills: int, chance: random.Random) -> tuple[int, int]:
    """Kill a process that keeps writing one lock file and the other in turn.

    Returns how many kills left a temporary file, and how many a broken lock file.
    """
    folder = one.parent
    good = {one.read_bytes(), two.read_bytes()}
    path = folder / "killed.lock"
    path.write_bytes(one.read_bytes())
    interrupted = broken = 0
    for _ in range(kills):
        arguments = [sys.executable, "-c", WRITER, str(path), str(one), str(two)]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert process.stdout is not None
        process.stdout.readline()
        kill(process, chance.uniform(0, 0.3))
        broken += path.read_bytes() not in good
        left = [file for file in folder.iterdir() if file.suffix == ".tmp"]
        interrupted += bool(left)
        for file in left[:-3]:  # a few stay, as they would
            file.unlink()
    return interrupted, broken


def kill_commands(folder: Path, kills: int, chance: random.Random) -> tuple[int, int]:
    """Kill whole `lock` commands; returns how many had written, and how many broke the lock."""
    path = folder / "commands.lock"
    first, second = ("--encoder", "llamafactory:chatml"), ("--encoder", "llamafactory:qwen")
    subprocess.run(command(path, *first), check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    old = path.read_bytes()
    start = time.perf_counter()
    subprocess.run(command(path, *second), check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    length = time.perf_counter() - start
    new = path.read_bytes()
    written = broken = 0
    for _ in range(kills):
        path.write_bytes(old)
        kill(
            subprocess.Popen(command(path, *second), stdout=subprocess.PIPE, text=True, cwd=ROOT),
            chance.uniform(0, length),
        )
        found = path.read_bytes()
        written += found == new
        broken += found not in (old, new)
    return written, broken


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Kill lock at random moments.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--commands", type=int, default=40, help="how many of them hit the whole command")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(arguments)
    chance = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writers = max(given.kills - given.commands, 0)
        interrupted, broken = kill_writers(*two_states(folder), writers, chance)
        print(f"{writers} kills of a writing process: {interrupted} left a temporary file, {broken} a broken lock file")
        written, damaged = kill_commands(folder, given.commands, chance) if given.commands else (0, 0)
        print(f"{given.commands} kills of the whole command: {written} had written, {damaged} left a broken lock file")
    return int(bool(broken or damaged))


if __name__ == "__main__":
    sys.exit(main())
