"""How fast whole data sets are encoded, beside LLaMA-Factory's own preprocessing and bare fastokens.

    python benchmarks/encoding.py --lf-python VENV/bin/python --data alpaca_en_demo.json FOLDER:TEMPLATE …
        [--short N] [--long N] [--rounds N] [--output benchmarks/results/encoding.md]

Same rows, same tokenizer, same versions of transformers and tokenizers on both sides, in turn; one
thread per process everywhere. Loading is counted nowhere: the framework's ``Dataset.map`` alone is
timed, and here `encode_ids_batch` from conversations to arrays of ids and labels. The digests of all
ids and labels must be equal, or there is no result.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.beside_llamafactory import OPTIONS, Round, arguments, preprocessed, rate, ratio, write_page
from benchmarks.encoding_rows import Pair, conversation, long_rows, short_rows

CHUNK = 100


def main() -> int:
    """Measure and write the page. Raises SystemExit when ids differ."""
    given = arguments(__doc__, short=20_000, long=1_000)
    kinds = [("short", short_rows(given.data, given.short)), ("4k tokens", long_rows(given.data, given.long))]
    write_page(given, kinds, measured, cells, HEAD)
    return 0


HEAD = """# Encoding whole data sets

`python benchmarks/encoding.py`: rows per second from conversations to ids and labels, beside LLaMA-Factory 0.9.5's own
preprocessing (`Dataset.map` with its SupervisedDatasetProcessor) and bare `fastokens.encode_batch` of the same
strings. Same rows in the same run, the sides in turn; rounds: {rounds} (medians); one thread per process. All ids and
labels were equal (digests).

{day}, {versions}; load average at the end {load:.1f} on {cpus} cores.

Ratios: ours over LLaMA-Factory's with as many processes; CPU is the ratio of CPU time in one process; unaided is ours
without fastokens, in one process; bare/ours is how far from the limit: what is beyond 1 is planning and putting
together. Loading is not counted: fastokens takes one to two seconds for a tokenizer, and 800 rows go ahead of the
measured ones. With two processes rows and ids cross between them, which with fastokens costs more than the second core
gains: one process is faster. In a scan they stay where they are, and it is nearly twice as fast with two (scan.md).

| tokenizer | rows | tokens | LF, 1 | LF, 2 | ours, 1 | ratio | CPU | ours, 2 | ratio | unaided | ratio | bare | /ours |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""


def cells(rounds: Sequence[Round]) -> str:
    """A line of the table, after model and kind of rows."""
    return (
        f"{rate(rounds, 'tokens'):.0f} | {rate(rounds, 'lf1'):,.0f} | {rate(rounds, 'lf2'):,.0f} "
        f"| {rate(rounds, 'ours1'):,.0f} | **{ratio(rounds, 'ours1', 'lf1'):.1f}** | {rate(rounds, 'cpu'):.1f} "
        f"| {rate(rounds, 'ours2'):,.0f} | **{ratio(rounds, 'ours2', 'lf2'):.1f}** "
        f"| {rate(rounds, 'sure1'):,.0f} | {ratio(rounds, 'sure1', 'lf1'):.1f} "
        f"| {rate(rounds, 'bare'):,.0f} | {ratio(rounds, 'bare', 'ours1'):.2f}"
    )


def measured(folder: str, template: str, rows: Sequence[Pair], lf_python: str) -> Round:
    """Rows per second of every side, in one round. Raises SystemExit when ids or labels differ."""
    from template_audit import load_model
    from template_audit.ids import joined
    from template_audit.parallel import EncoderSetup, EncodingPool

    theirs = preprocessed(lf_python, folder, template, rows)
    conversations = [conversation(pair) for pair in rows]
    setup = EncoderSetup(f"llamafactory@0.9.5:{template}", load_model(folder), OPTIONS)
    out = {"tokens": theirs["tokens"] / len(rows), "bare": 0.0}
    out["lf1"], out["lf2"] = (len(rows) / theirs["seconds"][n] for n in ("1", "2"))
    digests = {"LLaMA-Factory": theirs["digest"]}

    for name, switch in (("sure1", "0"), ("ours1", "1")):
        os.environ["TEMPLATE_AUDIT_FASTOKENS"] = switch
        encoder: Any = setup.load()
        encoder.encode_ids_batch(conversations[: 8 * CHUNK])  # what a run does once is done, in two processes too
        used = time.process_time()
        seconds, batch = timed(lambda encoder=encoder: encoder.encode_ids_batch(conversations))
        out["cpu"] = theirs["cpu"] / (time.process_time() - used)
        out[name] = len(rows) / seconds
        digests[f"{name} ({batch.tokenized_by})"] = digest(batch)

    texts: list[str] = []
    tokenizer = encoder.batches.tokenizer
    if tokenizer._fast is not None:
        plain = tokenizer.encode
        tokenizer.encode = lambda given: (texts.extend(given), plain(given))[1]
        encoder.encode_ids_batch(conversations)
        seconds, _ = timed(lambda: tokenizer._fast.encode_batch(texts))
        out["bare"] = len(rows) / seconds

    chunks = [conversations[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    with EncodingPool(setup, 2) as pool:
        pool.wait()
        list(pool.encode(chunks[:8]))
        seconds, batches = timed(lambda: list(pool.encode(chunks)))
    out["ours2"] = len(rows) / seconds
    digests["two processes"] = digest(joined(batches))
    if len(set(digests.values())) > 1:
        raise SystemExit(f"{folder}: ids or labels differ: {digests}")
    return out


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and the result."""
    started = time.perf_counter()
    result = call()
    return time.perf_counter() - started, result


def digest(batch: Any) -> str:
    """Of all ids and labels, as encoding_llamafactory.py makes it."""
    import numpy as np

    made = hashlib.sha256()
    for row in batch:
        ids, labels = row
        made.update(np.array([len(ids)], dtype=np.int32).tobytes() + ids.tobytes() + labels.tobytes())
    return made.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
