"""Memory and time of a scan over generated rows: flat in their number, and linear.

    python benchmarks/scan_memory.py MODEL --encoder SPEC [--rows 10000 100000 1000000] [--jobs 2]
        [--folder DIR] [--output benchmarks/results/scan_memory.md]

Rows of about 1 KB are written once for every size, no two alike. The scan runs as a command of its
own, as a user starts it; every 50 ms the resident memory of its whole process tree is summed (pages
that processes share are counted for each of them, so the true peak is lower).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = """
the a of to and in is that for it as with on be at by this have from or one had not but what all were when we there can
an your which their said if do will each about how up out them then she many some river model answer question method
result number system water people language history science energy market
"""
WORDS = tuple(TEXT.split())


def main() -> int:
    """Measure every size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="scan-memory-"))
    lines = []
    for count in given.rows:
        path = folder / f"rows-{count}.jsonl"
        if not path.exists():
            generate(path, count)
        seconds, peak, report = measured(given.model, given.encoder, path, given.jobs)
        assert report["rows"]["read"] == count, report["rows"]
        megabytes = path.stat().st_size / 1e6
        lines.append(
            f"| {count:,} | {megabytes:,.0f} MB | {peak / 2**20:,.0f} MiB | {seconds:,.1f} s | {count / seconds:,.0f} |"
        )
        print(lines[-1], flush=True)
    page = HEAD.format(day=date.today(), jobs=given.jobs, load=os.getloadavg()[0], cpus=os.cpu_count())
    page += "\n".join(lines) + "\n"
    if given.output:
        given.output.parent.mkdir(exist_ok=True)
        given.output.write_text(page, "utf-8")
    return 0


HEAD = """# Memory of a scan

`python benchmarks/scan_memory.py`: a whole `template-audit scan` with {jobs} processes over generated rows of about
1 KB, start and report included. {day}; load average at the end {load:.1f} on {cpus} cores.

| rows | data | peak memory, all processes | time | rows/s |
|---|---|---|---|---|
"""


def generate(path: Path, count: int) -> None:
    """Rows of questions and answers, one in 500 with something that a rule finds."""
    draw = random.Random(count)
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            question = f"{number}: " + " ".join(draw.choices(WORDS, k=30))
            answer = " ".join(draw.choices(WORDS, k=140)) + ("." if number % 500 else " {{name}}")
            file.write(json.dumps({"instruction": question, "input": "", "output": answer}) + "\n")


def measured(model: str, encoder: str, path: Path, jobs: int) -> tuple[float, int, dict[str, dict[str, int]]]:
    """Seconds, peak bytes and report of one scan."""
    command = [sys.executable, "-m", "template_audit", "scan", model, "--encoder", encoder, "--dataset", str(path)]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "report.json"
        began = time.monotonic()
        process = subprocess.Popen(
            [*command, "--jobs", str(jobs), "--format", "json", "--output", str(output)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, sum(map(resident, tree(process.pid))))
            time.sleep(0.05)
        seconds = time.monotonic() - began
        return seconds, peak, json.loads(output.read_text("utf-8"))


def tree(root: int) -> list[int]:
    """A process and all that come from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int(entry.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def resident(pid: int) -> int:
    """Resident bytes of a process; 0 when it has gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


if __name__ == "__main__":
    sys.exit(main())
