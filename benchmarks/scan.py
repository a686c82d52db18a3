"""How fast whole data sets are scanned, beside LLaMA-Factory's own preprocessing of the same rows.

    python benchmarks/scan.py --lf-python VENV/bin/python --data alpaca_en_demo.json FOLDER:TEMPLATE …
        [--short N] [--long N] [--rounds N] [--output benchmarks/results/scan.md]

The framework's side is that of encoding.py: its ``Dataset.map`` alone, from rows in memory to ids and
labels. Ours is the whole scan: the file is read, every row encoded by both encoders, compared, put
to every rule and counted. On both sides loading is not counted: here the clock starts when half of the
rows are done, when every process has its model, and stops with the last row.

Rows are short ones, such of about 4,000 tokens of which 2 % have whitespace at one end of one side, as in
data that people publish, and such that are cut anywhere: a third of them ends a side in whitespace, which
many templates trim and LLaMA-Factory does not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.encoding_rows import Pair, long_rows, short_rows

OTHER = Path(__file__).with_name("encoding_llamafactory.py")
CUTOFF = 8192


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="FOLDER:TEMPLATE")
    parser.add_argument("--lf-python", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--short", type=int, default=40_000)
    parser.add_argument("--long", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1", TRANSFORMERS_VERBOSITY="error")
    lines = []
    for named in given.models:
        folder, _, template = named.rpartition(":")
        for kind, rows in kinds(given.data, given.short, given.long):
            rounds = [measured(folder, template, rows, given.lf_python) for _ in range(given.rounds)]
            lines.append(line(Path(folder).name, template, kind, rounds))
            print(lines[-1], flush=True)
    page = HEAD.format(
        day=date.today(),
        versions=", ".join(f"{name} {version(name)}" for name in ("transformers", "tokenizers", "fastokens")),
        rounds=given.rounds,
        load=os.getloadavg()[0],
        cpus=os.cpu_count(),
    )
    page += "\n".join(lines) + "\n"
    if given.output:
        given.output.parent.mkdir(exist_ok=True)
        given.output.write_text(page, "utf-8")
    return 0


def kinds(data: Path, short: int, long: int) -> list[tuple[str, list[Pair]]]:
    """The kinds of rows that are measured."""
    return [
        ("short", short_rows(data, short)),
        ("4k tokens", long_rows(data, long, outer=0.02)),
        ("4k tokens, cut anywhere", long_rows(data, long)),
    ]


HEAD = """# Scanning whole data sets

`python benchmarks/scan.py`: rows per second of a full scan (read, both encoders, comparison, every rule, report) beside
LLaMA-Factory 0.9.5's own preprocessing of the same rows (`Dataset.map` with its SupervisedDatasetProcessor), in turn in
one run; medians of {rounds} rounds; one thread per process, loading not counted. {day}, {versions}; load average at the
end {load:.1f} on {cpus} cores. Ratios are over LLaMA-Factory's with as many processes;
`CPU` is the ratio of rows per second of processor time, one process each.

`in full`: rows that went through every rule one by one; the others are known by their structure (docs/scan.md).

| model | rows | LF, 1 | LF, 2 | scan, 1 | ratio | CPU | scan, 2 | ratio | in full |
|---|---|---|---|---|---|---|---|---|---|
"""


def line(model: str, template: str, kind: str, rounds: Sequence[dict[str, float]]) -> str:
    """One line of the table."""

    def rate(name: str) -> float:
        return statistics.median(one[name] for one in rounds)

    def ratio(one: str, other: str) -> float:
        return statistics.median(r[one] / r[other] for r in rounds)

    return (
        f"| {model}, `{template}` | {kind} | {rate('lf1'):,.0f} | {rate('lf2'):,.0f} | {rate('scan1'):,.0f} "
        f"| **{ratio('scan1', 'lf1'):.1f}** | {ratio('scan_cpu', 'lf_cpu'):.1f} "
        f"| {rate('scan2'):,.0f} | **{ratio('scan2', 'lf2'):.1f}** "
        f"| {rate('in_full'):,.0f} of {rate('rows'):,.0f} |"
    )


def measured(folder: str, template: str, rows: Sequence[Pair], lf_python: str) -> dict[str, float]:
    """Rows per second of every side, in one round."""
    from template_audit import load_model
    from template_audit.scanning import open_scan
    from template_audit.scanning.rows import FileSource

    job = {"tokenizer": folder, "template": template, "options": {"cutoff_len": CUTOFF}, "rows": rows}
    answer = subprocess.run(
        [lf_python, str(OTHER)],
        input=json.dumps({**job, "num_proc": [1, 2]}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    told = json.loads(answer)
    theirs = told["seconds"]
    out = {
        "rows": float(len(rows)),
        "lf1": len(rows) / theirs["1"],
        "lf2": len(rows) / theirs["2"],
        "lf_cpu": len(rows) / told["cpu"],
    }
    scan = open_scan(load_model(folder), subject=f"llamafactory@0.9.5:{template}", options={"cutoff_len": CUTOFF})
    for encoder in (scan.sides.reference, scan.sides.subject):
        ready: Any = encoder
        ready.expect_many()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "rows.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for question, reply in rows:
                file.write(json.dumps({"instruction": question, "input": "", "output": reply}) + "\n")
        for jobs in (1, 2):
            seen: list[tuple[int, float, float]] = []
            record = scan.run(
                [FileSource(str(path))],
                jobs=jobs,
                progress=lambda at, seen=seen: seen.append((at.rows, at.seconds, time.process_time())),
            )
            if record.rows.compared != len(rows) or record.notes:
                raise SystemExit(f"{folder}: not every row was compared: {record.rows} {record.notes}")
            (first, begun, cpu), (last, ended, cpu_end) = seen[len(seen) // 2], seen[-1]
            out[f"scan{jobs}"] = (last - first) / (ended - begun)
            if jobs == 1:
                out["scan_cpu"] = (last - first) / (cpu_end - cpu)
    out["in_full"] = scan.here.evaluator.rows_in_full
    return out


if __name__ == "__main__":
    sys.exit(main())
