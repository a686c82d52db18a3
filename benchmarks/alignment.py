"""Alignment of long streams: seconds and peak memory of each case, in a process of its own.

    python benchmarks/alignment.py [--tokens 1000000] [--check]

The streams are generated: what is measured is `template_audit.alignment.compare` alone. Memory is the
growth of the process's peak during the comparison, and the whole process beside it.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module

from template_audit.alignment import compare
from template_audit.stream import IGNORE, LITERAL, EncodedStream, Origin, Piece

SECONDS, GIB = 5.0, 1.0
"""The limits for a million tokens a side."""


def stream(words: list[str], *, message: int | None = None) -> EncodedStream:
    """A stream of one token a word, its id made of the word; literal text, or the content of one message."""
    ids, spans, at = [], [], 0
    known: dict[str, int] = {}
    for word in words:
        ids.append(known.setdefault(word, hash_of(word)))
        spans.append((at, at + len(word)))
        at += len(word)
    origin = LITERAL if message is None else Origin(message, "content")
    return EncodedStream(ids, [IGNORE] * len(ids), "".join(words), spans, [Piece(0, at, origin)] if at else [])


def hash_of(word: str) -> int:
    """An id that does not change from one process to the next."""
    return int.from_bytes(word.encode()[-7:], "big")


def changed(words: list[str], share: float, seed: int, *, how: str = "replace") -> list[str]:
    """The words with `share` of them replaced, left out or doubled."""
    rng = random.Random(seed)
    out: list[str] = []
    for word in words:
        if rng.random() >= share:
            out.append(word)
            continue
        kind = rng.choice(("replace", "drop", "add")) if how == "edit" else how
        if kind == "replace":
            out.append(f" x{rng.randrange(30_000)}")
        elif kind == "add":
            out += [word, f" x{rng.randrange(30_000)}"]
    return out


def text(count: int, vocabulary: int = 30_000, seed: int = 1) -> list[str]:
    """Random words; common ones are common, as in languages."""
    rng = random.Random(seed)
    return [f" w{int(vocabulary * rng.random() ** 3)}" for _ in range(count)]


Streams = tuple[EncodedStream, EncodedStream]


def one_percent(count: int) -> Streams:
    """1 % of the tokens are others."""
    words = text(count)
    return stream(words), stream(changed(words, 0.01, 2))


def one_percent_edits(count: int) -> Streams:
    """1 % of the tokens are replaced, left out or doubled."""
    words = text(count)
    return stream(words), stream(changed(words, 0.01, 2, how="edit"))


def one_percent_of_one_message(count: int) -> Streams:
    """The same inside one message's content."""
    words = text(count)
    return stream(words, message=0), stream(changed(words, 0.01, 2, how="edit"), message=0)


def few_words(count: int) -> Streams:
    """1 % edits, and no more than 200 different words: hardly any is unique anywhere."""
    words = text(count, vocabulary=200)
    return stream(words), stream(changed(words, 0.01, 2, how="edit"))


def nothing_in_common(count: int) -> Streams:
    """No word of one side is on the other."""
    return stream(text(count)), stream([word.replace("w", "v") for word in text(count, seed=3)])


def same_words_in_another_order(count: int) -> Streams:
    """The words of one side shuffled."""
    words = text(count)
    other = words[:]
    random.Random(4).shuffle(other)
    return stream(words), stream(other)


def one_token_again_and_again(count: int) -> Streams:
    """One token a million times, and a little less often, with another one in the middle."""
    return stream([" a"] * count), stream([" a"] * (count // 2) + [" b"] + [" a"] * (count // 2 - 10))


def a_period_shifted(count: int) -> Streams:
    """Two words in turn, a word later on one side, and 1 % others."""
    words = [" a", " b"] * (count // 2)
    return stream(words), stream(changed(words[1:], 0.01, 5))


def tiny_pieces(count: int) -> Streams:
    """Every other token is a message of its own; 1 % of the text between them differs."""
    words = text(count)
    other = [new if i % 2 else word for i, (word, new) in enumerate(zip(words, changed(words, 0.01, 2), strict=True))]
    return pieced(words), pieced(other)


def pieced(words: list[str]) -> EncodedStream:
    """A stream in which every other token is the content of another message."""
    one = stream(words)
    pieces = [
        Piece(start, end, LITERAL if i % 2 else Origin(i // 2, "content")) for i, (start, end) in enumerate(one.spans)
    ]
    return EncodedStream(one.input_ids, one.labels, one.text, one.spans, pieces)


def single_characters(count: int) -> Streams:
    """The same text, on one side a token for every character."""
    words = text(count // 4)
    whole = stream(words)
    letters = stream(list("".join(words)))
    return whole, letters


CASES: dict[str, Callable[[int], Streams]] = {
    case.__name__: case
    for case in (
        one_percent,
        one_percent_edits,
        one_percent_of_one_message,
        few_words,
        nothing_in_common,
        same_words_in_another_order,
        one_token_again_and_again,
        a_period_shifted,
        tiny_pieces,
        single_characters,
    )
}


def measure(name: str, count: int) -> dict[str, object]:
    """Run one case here."""
    reference, subject = CASES[name](count)
    import_module("rapidfuzz.distance")  # so that its import is not measured

    before = peak()
    start, used = time.perf_counter(), time.process_time()
    alignment = compare(reference, subject)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    equal = sum(hunk.ref_end - hunk.ref_start for hunk in alignment.hunks if hunk.kind == "equal")
    return {
        "case": name,
        "tokens": len(reference),
        "seconds": seconds,
        "cpu": used,
        "grown": peak() - before,
        "peak": peak(),
        "hunks": len(alignment.hunks),
        "equal": equal / len(reference),
    }


def peak() -> float:
    """The process's peak memory in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def main() -> int:
    """Run every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--case", choices=list(CASES))
    parser.add_argument("--check", action="store_true", help="exit with 1 when a limit is passed")
    given = parser.parse_args()
    if given.case:
        print(json.dumps(measure(given.case, given.tokens)))
        return 0
    print(
        "| case | tokens | seconds | CPU | memory grown | process | hunks | equal |\n|---|---|---|---|---|---|---|---|"
    )
    failed = False
    for name in CASES:
        command = [sys.executable, __file__, "--case", name, "--tokens", str(given.tokens)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        one = json.loads(done.stdout)
        failed |= one["seconds"] > SECONDS or one["peak"] > GIB
        print(
            f"| {name.replace('_', ' ')} | {one['tokens']:,} "
            f"| {one['seconds']:.2f} s | {one['cpu']:.2f} s | {one['grown']:.2f} GiB "
            f"| {one['peak']:.2f} GiB | {one['hunks']:,} | {one['equal']:.1%} |",
            flush=True,
        )
    return 1 if given.check and failed else 0


if __name__ == "__main__":
    sys.exit(main())
