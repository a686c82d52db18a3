"""What benchmarks beside LLaMA-Factory share: their arguments, the framework's side of a round, medians, the page."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.encoding_rows import Pair

OPTIONS = {"cutoff_len": 8192}
"""Of the framework, on both sides."""
Round = dict[str, float]
"""What was measured in one round, by name."""
Measure = Callable[[str, str, Sequence[Pair], str], Round]
"""One round for a tokenizer's folder, a template, rows, and the Python in whose environment LLaMA-Factory is."""


def arguments(description: str | None, *, short: int, long: int) -> argparse.Namespace:
    """The command line: `models` (FOLDER:TEMPLATE), `lf_python`, `data`, `short`, `long`, `rounds`, `output`.

    One thread per process is set in the environment, for all processes that are started from here.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="FOLDER:TEMPLATE")
    parser.add_argument("--lf-python", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--short", type=int, default=short)
    parser.add_argument("--long", type=int, default=long)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    os.environ.update(TOKENIZERS_PARALLELISM="false", RAYON_NUM_THREADS="1", TRANSFORMERS_VERBOSITY="error")
    return parser.parse_args()


def write_page(
    given: argparse.Namespace,
    kinds: Sequence[tuple[str, Sequence[Pair]]],
    measured: Measure,
    cells: Callable[[Sequence[Round]], str],
    head: str,
) -> None:
    """Measure every model with every kind of rows, print the lines of the table, and write the page where asked.

    `cells` are those of a line after model and kind; `head` is formatted with the day, versions, rounds,
    load average and cores.
    """
    lines = []
    for named in given.models:
        folder, _, template = named.rpartition(":")
        for kind, rows in kinds:
            rounds = [measured(folder, template, rows, given.lf_python) for _ in range(given.rounds)]
            lines.append(f"| {Path(folder).name}, `{template}` | {kind} | {cells(rounds)} |")
            print(lines[-1], flush=True)
    page = head.format(
        day=date.today(),
        versions=", ".join(f"{name} {version(name)}" for name in ("transformers", "tokenizers", "fastokens")),
        rounds=given.rounds,
        load=os.getloadavg()[0],
        cpus=os.cpu_count(),
    )
    if given.output:
        given.output.parent.mkdir(exist_ok=True)
        given.output.write_text(page + "\n".join(lines) + "\n", "utf-8")


def rate(rounds: Sequence[Round], name: str) -> float:
    """The median of a number over the rounds."""
    return statistics.median(one[name] for one in rounds)


def ratio(rounds: Sequence[Round], name: str, other: str) -> float:
    """The median of the ratios of two numbers, round by round."""
    return statistics.median(one[name] / one[other] for one in rounds)


def preprocessed(lf_python: str, folder: str, template: str, rows: Sequence[Pair]) -> dict[str, Any]:
    """The answer of encoding_llamafactory.py for one process and two. Raises CalledProcessError."""
    job = {"tokenizer": folder, "template": template, "options": OPTIONS, "rows": rows, "num_proc": [1, 2]}
    command = [lf_python, str(Path(__file__).with_name("encoding_llamafactory.py"))]
    done = subprocess.run(command, input=json.dumps(job), stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
