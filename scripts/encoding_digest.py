"""Hold every fast way of encoding against the encoder's own way, by a digest over all ids and labels.

    python scripts/encoding_digest.py FOLDER --encoder llamafactory:qwen --data alpaca_en_demo.json [--rows 100000]

The rows are varied alpaca rows: with and without a system text, one turn and two, some cut to
`cutoff_len`. The own way goes conversation by conversation through slots, spans and Origins; the fast
ways are `encode_ids_batch` with fastokens and without, in this process and in two others. Exits with
1 when one digest differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from template_audit import load_model
from template_audit.conversation import Conversation, Message
from template_audit.errors import EncodingError
from template_audit.parallel import EncoderSetup, EncodingPool

CHUNK = 1000


def conversations(data: Path, count: int) -> Iterator[Conversation]:
    """The rows, one like no other."""
    rows: list[dict[str, str]] = json.loads(data.read_text("utf-8"))
    for n in range(count):
        row = rows[n % len(rows)]
        question = f"{row['instruction']}\n{row['input']} ({n})"
        messages = [Message("system", f"You are assistant number {n % 97}.")] if n % 3 == 0 else []
        messages += [Message("user", question), Message("assistant", f"{row['output']} {n * 7919 % 10007}")]
        if n % 5 == 0:
            messages += [Message("user", question[::-1]), Message("assistant", f"{n}: no.\n")]
        yield Conversation(tuple(messages), id=str(n))


def chunks(data: Path, count: int) -> Iterator[list[Conversation]]:
    """The rows in chunks of `CHUNK`."""
    chunk: list[Conversation] = []
    for conversation in conversations(data, count):
        chunk.append(conversation)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def own_way(encoder: Any, given: Iterable[list[Conversation]]) -> Iterator[tuple[Any, Any] | EncodingError]:
    """Ids and labels of every row by the encoder's own way."""
    for chunk in given:
        for stream in encoder.encode_in_full(chunk, keep_errors=True):
            yield stream if isinstance(stream, EncodingError) else (stream.input_ids, stream.labels)


def digest(rows: Iterable[tuple[Any, Any] | EncodingError]) -> tuple[str, int]:
    """Of all ids and labels, errors included; and how many tokens."""
    import numpy as np

    made = hashlib.sha256()
    tokens = 0
    for row in rows:
        if isinstance(row, EncodingError):
            made.update(f"{row.kind}: {row}".encode())
            continue
        ids, labels = (np.asarray(part, dtype=np.int32) for part in row)
        made.update(np.array([len(ids)], dtype=np.int32).tobytes() + ids.tobytes() + labels.tobytes())
        tokens += len(ids)
    return made.hexdigest(), tokens


def main() -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--encoder", default="llamafactory")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--cutoff-len", type=int, default=512)
    given = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    options = {"cutoff_len": given.cutoff_len} if given.encoder.startswith("llamafactory") else {}
    setup = EncoderSetup(given.encoder, load_model(given.folder), options)
    encoder: Any = setup.load()
    found: dict[str, str] = {}

    def note(name: str, rows: Iterable[tuple[Any, Any] | EncodingError]) -> None:
        started = time.perf_counter()
        found[name], tokens = digest(rows)
        print(f"{found[name]}  {name}: {tokens:,} tokens, {time.perf_counter() - started:.0f} s", flush=True)

    note("own way", own_way(encoder, chunks(given.data, given.rows)))
    for fast in ("1", "0"):
        os.environ["TEMPLATE_AUDIT_FASTOKENS"] = fast
        with_what = "with fastokens" if fast == "1" else "without fastokens"
        one: Any = setup.load()
        note(
            f"one process {with_what}",
            (row for chunk in chunks(given.data, given.rows) for row in one.encode_ids_batch(chunk)),
        )
        with EncodingPool(setup, 2) as pool:
            pool.wait()
            note(
                f"two processes {with_what}",
                (row for batch in pool.encode(chunks(given.data, given.rows)) for row in batch),
            )
        if one.batches.tokenizer.note:
            print(one.batches.tokenizer.note)
    equal = len(set(found.values())) == 1
    print(f"{given.rows:,} rows of {given.folder} as {encoder.spec}: {'all equal' if equal else 'DIFFERENT'}")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
