"""A scan from rows to report: sums that can be added in any order, shards, samples, broken rows, interrupts."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from template_audit import load_model
from template_audit.cli import main
from template_audit.config import Config, Ignore
from template_audit.errors import DataError, UsageError
from template_audit.model import Model
from template_audit.report.json import dumps
from template_audit.scanning.merging import merge
from template_audit.scanning.records import ScanRecord, scan_schema
from template_audit.scanning.rows import FileSource, Item, Repetitions, Selection, digest, draw
from template_audit.scanning.scans import Scan, open_scan
from template_audit.scanning.structure import plain_row
from template_audit.scanning.work import _interrupts_held
from tests.scanning.varied import varied

ROOT = Path(__file__).parents[2]
QWEN = str(ROOT / "fixtures" / "models" / "qwen25-like")


@cache
def model(name: str = "qwen25-like") -> Model:
    return load_model(str(ROOT / "fixtures" / "models" / name))


def scan(**request: Any) -> Scan:
    return open_scan(model(), subject="llamafactory:llama3", **request)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 varied rows, some of them twice, two of them broken."""
    path = tmp_path_factory.mktemp("rows") / "varied.jsonl"
    rows = [
        {"messages": row.openai_messages(), **({"tools": list(row.tools)} if row.tools else {})}
        for row in varied(110, 7)
    ]
    lines = [json.dumps(row) for row in [*rows, rows[3], rows[40], rows[3]]]
    lines.insert(20, "{not json")
    lines.insert(50, json.dumps({"messages": [{"role": "wizard", "content": "x"}]}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def text(record: ScanRecord) -> str:
    return dumps(msgspec.to_builtins(record))


@cache
def whole(path: Path) -> ScanRecord:
    return scan().run([FileSource(str(path))])


def test_no_row_is_lost(data: Path) -> None:
    record = whole(data)
    rows = record.rows
    assert rows.read == 115
    assert rows.whole
    assert rows.bad == 2
    assert [(bad.row, bad.where.rpartition(":")[2]) for bad in record.bad_rows] == [(21, "21"), (51, "51")]
    assert "wizard" in record.bad_rows[1].reason
    assert record.exit_code == 2


def test_repeated_rows_are_found(data: Path) -> None:
    record = whole(data)
    assert record.duplicates.rows >= 3
    assert (114, 43) not in [(one.row, one.of) for one in record.duplicates.first]
    assert {(113, 4), (115, 4)} <= {(one.row, one.of) for one in record.duplicates.first}


def test_findings_name_rows_with_evidence(data: Path) -> None:
    record = whole(data)
    lines = data.read_text(encoding="utf-8").splitlines()
    answers = {number: line.count('"role": "assistant"') for number, line in enumerate(lines, 1)}
    for lost in (21, 46, 51):  # broken, dropped for its odd number of messages, broken
        del answers[lost]
    ends = next(finding for finding in record.findings if finding.rule == "wrong-turn-end")
    assert (ends.rows, ends.times) == (len(answers), sum(answers.values()))
    assert [(row.row, row.times) for row in ends.first] == [(number, answers[number]) for number in (1, 2, 3)]
    assert [row.times for row in ends.worst] == sorted(answers.values(), reverse=True)[:3]
    assert ends.first[0].finding.subject is not None
    assert sum(one.rows for one in record.tokens.lengths) == sum(one.rows for one in record.tokens.trained_share)


def test_the_report_fits_its_published_schema(data: Path) -> None:
    published = json.loads((ROOT / "docs" / "schema" / "scan.schema.json").read_text(encoding="utf-8"))
    assert published == scan_schema()
    value = json.loads(text(whole(data)))
    jsonschema.validate(value, published)
    assert msgspec.json.decode(text(whole(data)), type=ScanRecord) == whole(data)


def test_the_number_of_processes_changes_nothing(data: Path) -> None:
    assert text(scan().run([FileSource(str(data))], jobs=2)) == text(whole(data))


@pytest.mark.parametrize("count", [2, 5])
def test_shards_make_the_whole(data: Path, count: int) -> None:
    running = scan()
    parts = [running.run([FileSource(str(data))], Selection(shard=(index, count))) for index in range(count)]
    again = [msgspec.json.decode(text(part), type=ScanRecord) for part in parts]
    assert text(merge(again[::-1])) == text(whole(data))
    assert text(merge([merge(again[1:]), again[0]])) == text(whole(data))


def test_several_data_sets_are_counted_through(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps([{"instruction": f"Say {n}.", "output": str(n)} for n in range(7)]), encoding="utf-8")
    sources = [str(other), str(data), str(other)]
    running = scan()
    record = running.run([FileSource(name) for name in sources])
    assert record.rows.read == 7 + 115 + 7
    parts = [running.run([FileSource(n) for n in sources], Selection(shard=(i, 3))) for i in range(3)]
    assert text(merge(parts)) == text(record)
    assert {(one.row, one.of) for one in record.duplicates.first} >= {(n, n - 122) for n in range(123, 126)}


def test_what_cannot_be_merged(data: Path) -> None:
    running = scan()
    part = running.run([FileSource(str(data))], Selection(shard=(0, 2)))
    other = running.run([FileSource(str(data))], Selection(shard=(0, 3)))
    with pytest.raises(UsageError, match="whole data set"):
        merge([whole(data)])
    with pytest.raises(UsageError, match="twice"):
        merge([part, part])
    with pytest.raises(UsageError, match="of shard"):
        merge([part, other, part])
    with pytest.raises(UsageError, match="another scan"):
        merge([part, msgspec.structs.replace(part, seed=3)])


def test_a_sample_is_the_same_for_every_shard(data: Path) -> None:
    running = scan()
    chosen = Selection(sample=30, seed=4)
    record = running.run([FileSource(str(data))], chosen)
    assert record.rows.read == 30
    parts = [running.run([FileSource(str(data))], Selection(sample=30, seed=4, shard=(i, 2))) for i in range(2)]
    assert text(merge(parts)) == text(record)
    assert draw(100, 10, 1) == draw(100, 10, 1) != draw(100, 10, 2)
    assert running.run([FileSource(str(data))], Selection(sample=999)).rows.read == 115


def test_the_first_rows(data: Path) -> None:
    record = scan().run([FileSource(str(data))], Selection(max_rows=10))
    assert record.rows.read == 10
    assert scan().run([FileSource(str(data))], Selection(max_rows=10, sample=4)).rows.read == 4


class _Stops:
    """A source whose reader is interrupted."""

    def __init__(self, path: Path, after: int, error: BaseException) -> None:
        self.source, self.after, self.error = FileSource(str(path)), after, error
        self.name, self.format, self.share_read = self.source.name, self.source.format, None

    def rows(self, wanted: Callable[[int], bool]) -> Iterator[tuple[int, str, Item]]:
        for number, where, item in self.source.rows(wanted):
            if number > self.after:
                raise self.error
            yield number, where, item

    def count(self) -> int:
        return self.source.count()


def test_an_interrupt_gives_the_report_so_far(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("template_audit.scanning.scans.CHUNK_ROWS", 10)
    record = scan().run([_Stops(data, 55, KeyboardInterrupt())], jobs=1)
    assert record.partial
    assert record.exit_code == 2
    assert record.rows.read == 50
    assert record.rows.whole
    expected = scan().run([FileSource(str(data))], Selection(max_rows=50))
    assert record.findings == expected.findings
    assert record.duplicates == expected.duplicates


def _blocks_interrupts() -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="needs POSIX signals")
def test_processes_that_are_starting_get_no_interrupt() -> None:
    """An interrupt that comes while a process imports its modules printed a traceback from there."""
    executor = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
    begun: list[Future[bool]] = []

    def interrupted() -> None:
        with _interrupts_held():
            os.kill(os.getpid(), signal.SIGINT)
            begun.append(executor.submit(_blocks_interrupts))

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert begun[0].result()
    assert not _blocks_interrupts()
    executor.shutdown()


def test_nothing_compared_is_no_praise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": 5, "output": "x"}\n', encoding="utf-8")
    assert main(["scan", QWEN, "--encoder", "llamafactory:qwen", "--dataset", str(path), "--jobs", "1"]) == 2
    out = " ".join(capsys.readouterr().out.split())
    assert "feeds this model" not in out
    assert "No row was compared" in out


def test_ignored_findings_do_not_count(data: Path) -> None:
    rules = sorted({one.rule for one in whole(data).rules})
    config = Config(ignores=tuple(Ignore(rule, "On purpose.") for rule in rules))
    record = scan(config=config).run([FileSource(str(data))])
    assert record.findings == []
    assert sum(one.rows for one in record.ignored) > 0
    one = Config(ignores=(Ignore("wrong-turn-end", "On purpose.", probe="varied#1"),))
    before = {rule.rule: rule.rows for rule in whole(data).rules}
    after = {rule.rule: rule.rows for rule in scan(config=one).run([FileSource(str(data))]).rules}
    assert after == {**before, "wrong-turn-end": before["wrong-turn-end"] - 1}


def test_a_difference_between_the_ways_makes_the_scan_go_the_long_one(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deaf(*arguments: Any) -> Any:
        plain = plain_row(*arguments)
        return None if plain is None else plain._replace(structure=b"all alike")

    monkeypatch.setattr("template_audit.scanning.evaluate.plain_row", deaf)
    monkeypatch.setattr("template_audit.scanning.work.CHECKED", 1)
    monkeypatch.setattr("template_audit.scanning.evaluate.pattern_of", lambda *arguments: None)
    record = scan().run([FileSource(str(data))])
    assert record.notes
    assert "every row went through every rule" in record.notes[0]
    assert text(msgspec.structs.replace(record, notes=[])) == text(whole(data))


def test_many_causes_are_bounded_and_mergeable(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("template_audit.scanning.tally.CAUSES", 2)
    monkeypatch.setattr("template_audit.scanning.merging.CAUSES", 2)
    running = scan()
    record = running.run([FileSource(str(data))])
    assert record.more_causes
    parts = [running.run([FileSource(str(data))], Selection(shard=(i, 3))) for i in range(3)]
    assert text(merge(parts)) == text(record)
    exact = {(one.rule, one.cause): one.rows for one in whole(data).findings}
    assert all(exact[one.rule, one.cause] == one.rows for one in record.findings)
    assert record.rules == whole(data).rules


def test_an_empty_file_and_no_format(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="holds no"):
        FileSource(str(empty))


def test_repetitions() -> None:
    seen = Repetitions()
    for number, value in enumerate([b"a", b"b", b"a", b"c", b"b", b"a"], 1):
        seen.add(number, value * 16)
    assert seen.found(10) == (3, [(3, 1), (5, 2), (6, 1)])
    assert seen.found(1) == (3, [(3, 1)])
    seen.keep(4)
    assert seen.found(10) == (1, [(3, 1)])
    assert Repetitions().found(5) == (0, [])


def test_digests_tell_rows_apart() -> None:
    rows = list(varied(50, 11))
    assert digest(1, rows[0])[0] == digest(2, rows[0])[0]
    assert digest(1, DataError("x"))[0] != digest(2, DataError("x"))[0]
    distinct = {(one.messages, json.dumps(one.tools)) for one in rows}
    assert len({digest(n, one)[0] for n, one in enumerate(rows)}) == len(distinct)
