"""Scanning: every row of a data set through both encoders and every rule, and one report of all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from template_audit.audit import common_options
from template_audit.config import Config
from template_audit.errors import TemplateAuditError, UsageError
from template_audit.findings import Level, Threshold
from template_audit.matching import choose_encoder
from template_audit.scanning.records import ScanRecord
from template_audit.scanning.reporting import Sides, record_of
from template_audit.scanning.rows import (
    FileSource,
    Item,
    MemorySource,
    Repetitions,
    Selection,
    Source,
    digest,
    numbered,
    share_read,
    size_of,
)
from template_audit.scanning.tally import Tally
from template_audit.scanning.work import CHUNK_BYTES, CHUNK_ROWS, Chunk, Pool, Setup, Worker

if TYPE_CHECKING:
    from template_audit.frameworks.interface import Encoder
    from template_audit.model import Model

_MISTRUSTED = (
    "Rows of one structure did not all show the same, so every row went through every rule; please report this with "
    "the model and a few rows."
)
_MUCH = 8 << 20
"""Bytes of data from which on several processes, each with a model of its own, are worth their start."""
_PRUNE = 64  # chunks after which rows that no report shows any more are let go


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a scan is: rows done, the share of the data that was read (None: unknown), seconds."""

    rows: int
    share: float | None
    seconds: float


@dataclass(slots=True)
class Scan:
    """A scan of one model with two encoders, ready to run over rows."""

    model: Model
    sides: Sides
    setup: Setup
    fail_on: Threshold
    here: Worker
    config: Config = field(default_factory=Config)

    def run(
        self,
        sources: Sequence[Source],
        selection: Selection | None = None,
        *,
        jobs: int | None = None,
        part: bool = False,
        progress: Callable[[Progress], None] | None = None,
    ) -> ScanRecord:
        """Scan the rows of `sources`. An interrupt (Ctrl-C) gives the report so far, marked as partial.

        The report does not depend on `jobs`; None is one process for each core, and one for little data.
        `part`: it keeps what merging needs, as that of a shard does.
        Raises DataError when a source cannot be read at all.
        """
        selection = selection or Selection()
        try:
            return self._run(sources, selection, jobs, progress, part)
        except _Mistrusted:
            return self.in_full()._run(sources, selection, jobs, progress, part, (_MISTRUSTED,))

    def in_full(self) -> Scan:
        """The same scan, but every row goes through every rule, whatever its structure."""
        setup = replace(self.setup, by_structure=False)
        examiner = self.here.evaluator.examiner
        return replace(self, setup=setup, here=setup.worker((examiner.reference, examiner.subject)))

    def _run(
        self,
        sources: Sequence[Source],
        selection: Selection,
        jobs: int | None,
        progress: Callable[[Progress], None] | None,
        part: bool,
        notes: tuple[str, ...] = (),
    ) -> ScanRecord:
        began = time.monotonic()
        total, repetitions, kept = Tally(self.setup.ignores), Repetitions(), _Kept()
        sent = 0
        partial = False

        def taken() -> Iterator[tuple[int, str, Item]]:
            nonlocal sent
            for row in numbered(sources, selection):
                sent += 1
                yield row

        size = size_of(sources)
        many = size is None or size >= _MUCH
        with Pool(replace(self.setup, many=many), jobs or (_cores() if many else 1), self.here) as pool:
            try:
                for count, (chunk, done) in enumerate(pool.map(_chunks(taken(), repetitions)), 1):
                    if done.mistrusted:
                        raise _Mistrusted
                    total.merge(done.tally)
                    kept.add(chunk, done.tally)
                    if count % _PRUNE == 0:
                        kept.prune(total)
                    if progress is not None:
                        progress(Progress(total.read, share_read(sources), time.monotonic() - began))
            except KeyboardInterrupt:
                partial = True
        if sum(total.outcomes.values()) != total.read or not (partial or total.read == sent):
            raise TemplateAuditError(
                f"{sent:,} rows were read and {sum(total.outcomes.values()):,} evaluated: the scan lost some, and its "
                "report would be wrong. This is a mistake of template-audit; please report it."
            )
        if partial:
            repetitions.keep(total.read)
        return record_of(
            self.sides,
            self.here.evaluator.examiner,
            total,
            kept.rows,
            repetitions,
            datasets=[(source.name, source.format) for source in sources],
            selection=selection,
            fail_on=self.fail_on,
            partial=partial,
            whole=not part and selection.shard is None,
            notes=notes,
        )


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Mistrusted(Exception):
    """Raised when the findings of a structure did not hold for a row of it."""


@dataclass(slots=True)
class _Kept:
    """The rows that the report may show, by number."""

    rows: dict[int, tuple[str, Item]] = field(default_factory=dict)

    def add(self, chunk: Chunk, tally: Tally) -> None:
        shown = tally.shown()
        for number, where, item in chunk.rows:
            if number in shown:
                self.rows[number] = (where, item)

    def prune(self, total: Tally) -> None:
        shown = total.shown()
        self.rows = {number: row for number, row in self.rows.items() if number in shown}


def _chunks(rows: Iterator[tuple[int, str, Item]], repetitions: Repetitions) -> Iterator[Chunk]:
    """Rows in chunks of bounded size; every row's digest is noted on the way."""
    held: list[tuple[int, str, Item]] = []
    size = 0
    for number, where, item in rows:
        row_digest, length = digest(number, item)
        repetitions.add(number, row_digest)
        held.append((number, where, item))
        size += length
        if len(held) >= CHUNK_ROWS or size >= CHUNK_BYTES:
            yield Chunk(held)
            held, size = [], 0
    if held:
        yield Chunk(held)


def open_scan(
    model: Model,
    *,
    subject: str | Encoder = "llamafactory",
    reference: str | Encoder = "chat-template",
    options: Mapping[str, Any] | None = None,
    reference_options: Mapping[str, Any] | None = None,
    severities: Mapping[str, Level] | None = None,
    config: Config | None = None,
    fail_on: Threshold | None = None,
    subject_why: str | None = None,
    framework_source: str | None = None,
    seed: int = 0,
) -> Scan:
    """Load both encoders for `model`. Arguments are those of `template_audit.audit.audit`.

    Raises UsageError for an unknown rule, severity, encoder, template or option.
    """
    from template_audit.audit import rules_with

    config = config or Config()
    fail_on = fail_on or config.fail_on or "error"
    severities = {**config.severities, **(severities or {})}
    rules_with(severities, fail_on)
    theirs, reference_why = choose_encoder(
        reference, model, **{**common_options(reference, options or {}), **(reference_options or {})}
    )
    ours, chosen_why = choose_encoder(subject, model, framework_source=framework_source, **(options or {}))
    ignores = tuple(ignore for ignore in config.ignores if ignore.concerns(model.id, ours.spec))
    setup = Setup(
        model,
        theirs.spec,
        dict(theirs.options),
        ours.spec,
        dict(ours.options),
        framework_source,
        severities,
        ignores,
        seed,
    )
    sides = Sides(model, theirs, reference_why, ours, subject_why or chosen_why)
    return Scan(model, sides, setup, fail_on, setup.worker((theirs, ours)), config)


def scan(
    model: Model,
    datasets: Sequence[str],
    *,
    format: str | None = None,
    selection: Selection | None = None,
    jobs: int | None = None,
    **request: Any,
) -> ScanRecord:
    """Scan `datasets` (files, folders, data sets of the hub) for `model`; `request` is what `open_scan` takes.

    Raises UsageError and DataError for what cannot be scanned at all.
    """
    sources = [FileSource(name, format) for name in datasets]
    return open_scan(model, **request).run(sources, selection, jobs=jobs)


def scan_rows(
    scan: Scan, rows: Iterable[tuple[int, Mapping[str, Any]]], *, format: str, name: str = "rows"
) -> ScanRecord:
    """Scan rows that are in memory, with their numbers in the whole, as a part that `merge` takes.

    `format` is alpaca, sharegpt or openai. With all parts `merge(parts, whole=True)` gives the report of a
    scan of everything. Raises UsageError for an unknown format.
    """
    from template_audit.datasets import formats
    from template_audit.frameworks import nearest

    if format not in formats():
        raise UsageError(
            f"Unknown row format `{format}`; known are {', '.join(formats())}.{nearest(format, list(formats()))}"
        )
    return scan.run([MemorySource(name, format, list(rows))], jobs=1, part=True)
