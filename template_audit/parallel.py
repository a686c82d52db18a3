"""Encoding with several processes: conversations in, ids and labels out, in order.

Every process loads the encoder for itself (it is started afresh, not forked: tokenizers and their
thread pools do not survive a fork), so it pays from some ten thousand rows on.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from template_audit.conversation import Conversation
from template_audit.errors import UsageError
from template_audit.ids import IdsBatch, IdsEncoder

if TYPE_CHECKING:
    from threading import Barrier

    from template_audit.model import Model


@dataclass(frozen=True, slots=True)
class EncoderSetup:
    """What an encoder is loaded from, in any process: the arguments of `load_encoder`."""

    spec: str
    model: Model
    options: Mapping[str, Any] = field(default_factory=dict)
    framework_source: str | None = None

    def load(self) -> IdsEncoder:
        """The encoder, made ready for many conversations. Raises UsageError for one that gives no ids alone."""
        from template_audit.frameworks import load_encoder

        encoder = load_encoder(self.spec, self.model, framework_source=self.framework_source, **self.options)
        if not isinstance(encoder, IdsEncoder):
            raise UsageError(f"`{self.spec}` cannot be run in several processes.")
        encoder.expect_many()
        return encoder


class EncodingPool:
    """Processes with an encoder each. Use it as a context manager."""

    def __init__(self, setup: EncoderSetup, workers: int) -> None:
        self.workers = workers
        context = get_context("spawn")
        self._executor = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_begin, initargs=(setup, context.Barrier(workers))
        )

    def wait(self) -> None:
        """Return when every process has loaded. Nothing may be under way."""
        for meeting in [self._executor.submit(_meet) for _ in range(self.workers)]:
            meeting.result()

    def encode(self, chunks: Iterable[Sequence[Conversation]]) -> Iterator[IdsBatch]:
        """Every chunk encoded, in order. Only a few chunks are held at a time."""
        waiting: deque[Future[IdsBatch]] = deque()
        for chunk in chunks:
            waiting.append(self._executor.submit(_encode, chunk))
            while len(waiting) > 2 * self.workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)


_encoder: IdsEncoder | None = None
_barrier: Barrier | None = None


def _begin(setup: EncoderSetup, barrier: Barrier) -> None:
    global _encoder, _barrier
    _barrier = barrier
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("RAYON_NUM_THREADS", "1")
    _encoder = setup.load()


def _meet() -> None:
    assert _barrier is not None
    _barrier.wait()  # which holds this process until all others are here


def _encode(chunk: Sequence[Conversation]) -> IdsBatch:
    assert _encoder is not None
    return _encoder.encode_ids_batch(chunk)
