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

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.beside_llamafactory import OPTIONS, Round, arguments, preprocessed, rate, ratio, write_page
from benchmarks.encoding_rows import Pair, long_rows, short_rows


def main() -> int:
    """Measure and write the page. Raises SystemExit when a row was not compared."""
    given = arguments(__doc__, short=40_000, long=2_000)
    kinds = [
        ("short", short_rows(given.data, given.short)),
        ("4k tokens", long_rows(given.data, given.long, outer=0.02)),
        ("4k tokens, cut anywhere", long_rows(given.data, given.long)),
    ]
    write_page(given, kinds, measured, cells, HEAD)
    return 0


HEAD = """# Scanning whole data sets

`python benchmarks/scan.py`: rows per second of a full scan (read, both encoders, comparison, every rule, report) beside
LLaMA-Factory 0.9.5's own preprocessing of the same rows (`Dataset.map` with its SupervisedDatasetProcessor), in turn in
one run; medians of {rounds} rounds; one thread per process. Of a scan the second half of the rows counts, so that
neither loading nor the first rows of every structure do. {day}, {versions}; load average at the
end {load:.1f} on {cpus} cores. Ratios are over LLaMA-Factory's with as many processes;
`CPU` is the ratio of rows per second of processor time, one process each.

`in full`: rows that went through every rule one by one; the others are known by their structure (docs/scan.md).

| model | rows | LF, 1 | LF, 2 | scan, 1 | ratio | CPU | scan, 2 | ratio | in full |
|---|---|---|---|---|---|---|---|---|---|
"""


def cells(rounds: Sequence[Round]) -> str:
    """A line of the table, after model and kind of rows."""
    return (
        f"{rate(rounds, 'lf1'):,.0f} | {rate(rounds, 'lf2'):,.0f} | {rate(rounds, 'scan1'):,.0f} "
        f"| **{ratio(rounds, 'scan1', 'lf1'):.1f}** | {ratio(rounds, 'scan_cpu', 'lf_cpu'):.1f} "
        f"| {rate(rounds, 'scan2'):,.0f} | **{ratio(rounds, 'scan2', 'lf2'):.1f}** "
        f"| {rate(rounds, 'in_full'):,.0f} of {rate(rounds, 'rows'):,.0f}"
    )


def measured(folder: str, template: str, rows: Sequence[Pair], lf_python: str) -> Round:
    """Rows per second of every side, in one round."""
    from template_audit import load_model
    from template_audit.scanning import open_scan
    from template_audit.scanning.rows import FileSource

    told = preprocessed(lf_python, folder, template, rows)
    theirs = told["seconds"]
    out = {
        "rows": float(len(rows)),
        "lf1": len(rows) / theirs["1"],
        "lf2": len(rows) / theirs["2"],
        "lf_cpu": len(rows) / told["cpu"],
    }
    scan = open_scan(load_model(folder), subject=f"llamafactory@0.9.5:{template}", options=OPTIONS)
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
