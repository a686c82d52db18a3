"""Pre-training totals over corpora of several sizes: memory, seconds, tokens a second.

    python benchmarks/pretrain_memory.py --model FOLDER [--megabytes 100 1000] [--check]

The corpora are generated (JSON lines, 3 KB of random words a document) and deleted afterwards. Every run
is a process of its own; its memory is its peak.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GROWTH = 1.2
"""How much more memory the largest corpus may take than the smallest."""


def write_corpus(path: Path, megabytes: int) -> None:
    """About `megabytes` MB of documents; their words are drawn from 20,000, common ones more often."""
    rng = random.Random(7)
    letters = "etaoinshrdlucmfwypvbgk"
    words = ["".join(rng.choices(letters, k=rng.randint(2, 9))) for _ in range(20_000)]
    paragraphs = [" ".join(words[int(20_000 * rng.random() ** 3)] for _ in range(120)) for _ in range(2_000)]
    left = megabytes * 1_000_000
    with path.open("w", encoding="utf-8") as file:
        while left > 0:
            line = json.dumps({"text": "\n".join(rng.choices(paragraphs, k=rng.randint(1, 7)))}) + "\n"
            file.write(line)
            left -= len(line)


def measure(model: str, corpus: str) -> dict[str, float]:
    """The totals of one corpus, here."""
    from template_audit import load_model
    from template_audit.pretraining import audit_pretraining, load_pretrain_encoder

    encoder = load_pretrain_encoder("llamafactory:llama3", load_model(model), cutoff_len=1024)
    ready = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, used = time.perf_counter(), time.process_time()
    report = audit_pretraining(encoder, encoder.open_documents([corpus]))
    return {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - used,
        "ready": ready / 1024,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "documents": report.totals.documents,
        "tokens": report.totals.tokens,
        "blocks": report.totals.blocks,
    }


def main() -> int:
    """Run all sizes and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True)
    parser.add_argument("--megabytes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--corpus", help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help="exit with 1 when memory grows with the corpus")
    given = parser.parse_args()
    if given.corpus:
        print(json.dumps(measure(given.model, given.corpus)))
        return 0
    print("| corpus | documents | tokens | blocks | seconds | CPU | tokens/s | memory at the start | peak |")
    print("|---|---|---|---|---|---|---|---|---|")
    peaks = []
    for megabytes in given.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            corpus = Path(folder) / "corpus.jsonl"
            write_corpus(corpus, megabytes)
            command = [sys.executable, __file__, "--model", given.model, "--corpus", str(corpus)]
            one = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        peaks.append(one["peak"])
        print(
            f"| {megabytes:,} MB | {one['documents']:,} | {one['tokens']:,} | {one['blocks']:,} "
            f"| {one['seconds']:.1f} s | {one['cpu']:.1f} s | {one['tokens'] / one['seconds']:,.0f} "
            f"| {one['ready']:,.0f} MiB | {one['peak']:,.0f} MiB |",
            flush=True,
        )
    return 1 if given.check and max(peaks) > GROWTH * peaks[0] else 0


if __name__ == "__main__":
    sys.exit(main())
