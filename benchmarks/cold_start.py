"""How long a cold start takes, beside the least that any tool of this kind must do.

    python benchmarks/cold_start.py [FOLDER ...] [--rounds N] [--check]

The yardstick is a bare Python process that imports AutoTokenizer, loads the same folder and applies its
chat template once. Both run in turn (A B A B …) so that the machine's moods hit them alike; what counts
is the median of the paired ratios. ``--check`` exits with 1 when a limit is exceeded.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RATIO_LIMIT = 1.5
LISTING_LIMIT = 0.3  # seconds

BARE = """
import sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
if tokenizer.chat_template:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    tokenizer.apply_chat_template(messages, tokenize=False)
"""


class Line(NamedTuple):
    """One line of the table; times in seconds, `ratio` None where only the time counts."""

    what: str
    bare: float | None
    ours: float
    ratio: float | None
    limit: float

    @property
    def ok(self) -> bool:
        return (self.ours if self.ratio is None else self.ratio) <= self.limit


def run(arguments: Sequence[str]) -> float:
    """Seconds that one process takes. Findings (exit 1) are no failure here; exit 2 is."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=ROOT)
    seconds = time.perf_counter() - start
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(arguments)!r:.80} failed: {done.stderr.decode(errors='replace').strip()[-300:]}")
    return seconds


def paired(folder: Path, rounds: int) -> Line:
    """The audit of `folder` beside the bare process, `rounds` times in turn."""
    bare, ours = [], []
    for _ in range(rounds):
        bare.append(run(["-c", BARE, str(folder)]))
        ours.append(run(["-m", "template_audit", str(folder)]))
    ratio = statistics.median(b / a for a, b in zip(bare, ours, strict=True))
    return Line(folder.name, statistics.median(bare), statistics.median(ours), ratio, RATIO_LIMIT)


def listing(command: str, rounds: int) -> Line:
    """The quickest run of a command that must not need transformers; whatever else runs only adds to it."""
    seconds = min(run(["-m", "template_audit", command]) for _ in range(rounds))
    return Line(command, None, seconds, None, LISTING_LIMIT)


def default_folders() -> list[Path]:
    """The real tokenizers beside the repository when they are there, else the fixtures."""
    real = [ROOT.parent / "shared" / "models" / name for name in ("exaone-3.5-2.4b-instruct", "qwen2.5-instruct")]
    found = [folder for folder in real if folder.is_dir()]
    return found or sorted(path for path in (ROOT / "fixtures" / "models").iterdir() if path.is_dir())[:3]


def show(lines: Sequence[Line]) -> None:
    """Print the table."""
    width = max(len(line.what) for line in lines)
    print(f"{'':{width}}  {'bare':>7}  {'ours':>7}  {'ratio':>6}  limit")
    for line in lines:
        bare = "" if line.bare is None else f"{line.bare:.2f} s"
        ratio = "" if line.ratio is None else f"{line.ratio:.2f}"
        limit = f"{line.limit} s" if line.ratio is None else f"{line.limit}"
        verdict = "ok" if line.ok else "TOO SLOW"
        print(f"{line.what:{width}}  {bare:>7}  {line.ours:5.2f} s  {ratio:>6}  {limit:<6} {verdict}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Cold-start times as paired ratios.")
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--check", action="store_true", help="exit with 1 when a limit is exceeded")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    folders = [folder.resolve() for folder in arguments.folders] or default_folders()
    run(["-c", BARE, str(folders[0])])  # warm the file cache for both
    lines = [listing(command, arguments.rounds) for command in ("--help", "rules", "encoders")]
    lines += [paired(folder, arguments.rounds) for folder in folders]
    show(lines)
    return int(arguments.check and not all(line.ok for line in lines))


if __name__ == "__main__":
    sys.exit(main())
