"""Chunks of rows through evaluators: in this process, or in several with a model each."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.resource_tracker import ensure_running
from typing import TYPE_CHECKING, Any, NamedTuple

from template_audit.audit import Examiner, rules_with
from template_audit.config import Ignore
from template_audit.conversation import Conversation
from template_audit.errors import TemplateAuditError
from template_audit.findings import Level
from template_audit.ids import IdsEncoder
from template_audit.scanning.evaluate import Evaluator
from template_audit.scanning.rows import Item, conversation_of
from template_audit.scanning.tally import Tally

if TYPE_CHECKING:
    from template_audit.frameworks.interface import Encoder
    from template_audit.model import Model

CHECKED = 256
"""One row of so many is looked at both ways (`evaluate.Evaluator`)."""
CHUNK_ROWS, CHUNK_BYTES = 512, 1 << 19
"""What one chunk holds at most: rows, and bytes of data."""


@dataclass(frozen=True, slots=True)
class Setup:
    """All that evaluates rows the same way in any process."""

    model: Model
    reference: str
    reference_options: Mapping[str, Any]
    subject: str
    subject_options: Mapping[str, Any]
    framework_source: str | None = None
    severities: Mapping[str, Level] = field(default_factory=dict)
    ignores: tuple[Ignore, ...] = ()
    seed: int = 0
    by_structure: bool = True
    many: bool = False
    """Whether so many rows will come that whatever takes a second to set up pays."""

    def worker(self, encoders: tuple[Encoder, Encoder] | None = None) -> Worker:
        """An evaluator with a tally, with encoders of its own unless they are there already."""
        from template_audit.frameworks import load_encoder

        if encoders is None:
            encoders = (
                load_encoder(self.reference, self.model, **self.reference_options),
                load_encoder(self.subject, self.model, framework_source=self.framework_source, **self.subject_options),
            )
        if self.many:
            for encoder in encoders:
                if isinstance(encoder, IdsEncoder):
                    encoder.expect_many()
        rules = rules_with(self.severities, "error")
        examiner = Examiner(self.model, *encoders, rules, self.severities)
        return Worker(Evaluator(examiner, _Share(self.seed), self.by_structure), self.ignores)


class _Share:
    """Picks one number of `CHECKED`, by digests of the numbers; for one seed always the same ones."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, number: int) -> bool:
        mixed = (number * 0x9E3779B97F4A7C15 + self.seed * 0xD1B54A32D192ED03) & 0xFFFFFFFFFFFFFFFF
        return ((mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9 >> 40) % CHECKED == 0


class Chunk(NamedTuple):
    """Rows that are evaluated at once, with their numbers and places."""

    rows: list[tuple[int, str, Item]]


class Done(NamedTuple):
    """What was found in a chunk. `mistrusted`: none of it may be used (`evaluate.Evaluator`)."""

    tally: Tally
    in_full: int
    mistrusted: bool


@dataclass(slots=True)
class Worker:
    """Evaluates chunks."""

    evaluator: Evaluator
    ignores: Sequence[Ignore] = ()

    def __call__(self, chunk: Chunk) -> Done:
        tally = Tally(self.ignores)
        before = self.evaluator.rows_in_full
        rows = [(number, conversation_of(item)) for number, _, item in chunk.rows]
        for (number, row), found in zip(rows, self.evaluator.evaluate(rows), strict=True):
            if isinstance(row, Conversation):
                tally.add(number, row.id, found, tools=bool(row.tools))
            else:
                tally.add(number, "", found)
        return Done(tally, self.evaluator.rows_in_full - before, self.evaluator.mistrusted)


class Pool(AbstractContextManager["Pool"]):
    """Evaluates chunks in `jobs` processes; with one job, in this one by `here`."""

    def __init__(self, setup: Setup, jobs: int, here: Worker) -> None:
        self.jobs, self.here = jobs, here
        self._executor: ProcessPoolExecutor | None = None
        if jobs > 1:
            self._executor = ProcessPoolExecutor(
                jobs, mp_context=get_context("spawn"), initializer=_begin, initargs=(setup,)
            )

    def map(self, chunks: Iterator[Chunk]) -> Iterator[tuple[Chunk, Done]]:
        """Every chunk with what was found in it, in order; only a few are held at a time."""
        if self._executor is None:
            for chunk in chunks:
                yield chunk, self.here(chunk)
            return
        waiting: deque[tuple[Chunk, Future[Done]]] = deque()
        try:
            for chunk in chunks:
                with _interrupts_held():  # a process may be started by this
                    future = self._executor.submit(_work, chunk)
                waiting.append((chunk, future))
                while len(waiting) > 2 * self.jobs:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        except BrokenProcessPool:
            raise TemplateAuditError(
                "A process of the scan was killed, most likely for want of memory; try `--jobs 1`."
            ) from None

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """An interrupt waits for the end of the block; processes that are started in it never get one."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    ensure_running()  # the tracker of multiprocessing lets interrupts through again when it is started
    # The mask goes over to the new process. Here, a thread without it may still take the signal.
    caught: list[int] = []
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, lambda number, _: caught.append(number)) if is_main else None
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if is_main:
            signal.signal(signal.SIGINT, handler or signal.default_int_handler)
    if caught:
        signal.raise_signal(signal.SIGINT)


_worker: Callable[[Chunk], Done] | None = None


def _begin(setup: Setup) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _worker = setup.worker()
    gc.freeze()


def _work(chunk: Chunk) -> Done:
    assert _worker is not None
    return _worker(chunk)
