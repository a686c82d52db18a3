"""Broken data: every broken row is reported with its place, and none is lost silently."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from template_audit.datasets import Row, open_source, read_conversations, scan_conversations, stream_rows
from template_audit.errors import DataError, UsageError

ROWS = [{"instruction": f"question {i} é한", "output": "x" * (i % 70), "n": i * 0.1} for i in range(2000)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def good(rows: list[Row]) -> list[Any]:
    return [row.data for row in rows if not isinstance(row.data, DataError)]


def bad(rows: list[Row]) -> list[str]:
    return [str(row.data) for row in rows if isinstance(row.data, DataError)]


def zstd(data: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    # frames of a few rows each, as loggers write them
    parts = [data[i : i + 20_000] for i in range(0, len(data), 20_000)]
    return b"".join(zstandard.compress(part) for part in parts)


@pytest.mark.parametrize("compress", [gzip.compress, zstd], ids=["gz", "zst"])
@pytest.mark.parametrize("layout", ["lines", "array"])
def test_compressed_data_that_is_cut_off(tmp_path: Path, compress: Callable[[bytes], bytes], layout: str) -> None:
    plain = LINES if layout == "lines" else json.dumps(ROWS).encode()
    data = compress(plain)
    path = write(tmp_path / "d.jsonl.x", data)
    assert [row.data for row in stream_rows(path)] == ROWS
    write(path, data[: len(data) // 2])
    rows = list(stream_rows(path))
    found = good(rows)
    assert 100 < len(found) < 2000
    assert found == ROWS[: len(found)]
    assert bad(rows)[-1] == f"{path} is cut off: its compressed data ends too early."
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))


def test_compressed_data_that_is_damaged(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(LINES))
    data[len(data) // 2] ^= 0xFF
    rows = list(stream_rows(write(tmp_path / "d.jsonl.gz", bytes(data))))
    assert "d.jsonl.gz is damaged: its gzip data cannot be decompressed" in bad(rows)[-1]
    frames = bytearray(zstd(LINES))
    frames[-100] ^= 0xFF
    frames[-101] ^= 0xFF
    rows = list(stream_rows(write(tmp_path / "d.jsonl.zst", bytes(frames))))
    assert good(rows) != ROWS
    assert "is damaged" in bad(rows)[-1] or "is cut off" in bad(rows)[-1]


@pytest.mark.parametrize("name", ["d.jsonl.gz", "d.json.zst"])
def test_a_compressed_file_cut_off_at_its_beginning(tmp_path: Path, name: str) -> None:
    data = zstd(LINES) if name.endswith("zst") else gzip.compress(LINES)
    with pytest.raises(DataError, match="is cut off"):
        list(stream_rows(write(tmp_path / name, data[:9])))


def test_an_array_cut_in_the_middle(tmp_path: Path) -> None:
    text = json.dumps(ROWS, indent=1).encode()
    rng = random.Random(1)
    for cut in (1, 2, len(text) - 1, *(rng.randrange(3, len(text)) for _ in range(20))):
        rows = list(stream_rows(write(tmp_path / "d.json", text[:cut])))
        assert good(rows) == ROWS[: len(rows) - 1]
        (error,) = bad(rows)
        line = text[:cut].count(b"\n") + 1
        assert f"d.json:{line}: not valid JSON" in error or f"d.json:{line - 1}: not valid JSON" in error


def test_broken_items_of_an_array_do_not_end_it(tmp_path: Path) -> None:
    text = b'[\n{"a": 1},\n{"a": "\xff"},\n{"a": 2,},\n{"a": "\x00"},\n,\n{"a": ' + b"9" * 5000 + b'},\n{"a": "]}"}\n]'
    rows = list(stream_rows(write(tmp_path / "d.json", text)))
    assert [row.line for row in rows] == [2, 3, 4, 5, 6, 7, 8]
    assert good(rows) == [{"a": 1}, {"a": "]}"}]
    assert [error.split("d.json", 1)[1] for error in bad(rows)] == [
        ": row 2 (line 3) is not UTF-8 text; save the file as UTF-8.",
        ":4: not valid JSON (column 8: Illegal trailing comma before end of object)."
        if "Illegal" in bad(rows)[1]
        else ":4: not valid JSON (column 9: Expecting property name enclosed in double quotes).",
        ":5: not valid JSON (column 8: Invalid control character at).",
        ":6: not valid JSON (column 1: Expecting value).",
        ": row 6: a number has too many digits.",
    ]


def test_text_after_an_array(tmp_path: Path) -> None:
    rows = list(stream_rows(write(tmp_path / "d.json", b'[{"a": 1},\n{"a": 2}]\n[{"a": 3}]')))
    assert good(rows) == [{"a": 1}, {"a": 2}]
    assert "d.json:3: not valid JSON (column 1: Extra data" in bad(rows)[0]


@pytest.mark.parametrize("piece", [1, 2, 7, 64])
def test_arrays_read_in_small_pieces(tmp_path: Path, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a piece ends, rows are those of json.loads."""
    from template_audit.datasets.filetypes import json_array

    monkeypatch.setattr(json_array, "_PIECE", piece)
    values = [
        12,
        -1.5e300,
        True,
        None,
        'a\\"b,]}[{',
        "😀é한",
        {"a": {"b": [1, 2, {"c": "]"}]}},
        [],
        [[1]],
        "",
        123456,
        12,
    ]
    for text in (json.dumps(values), json.dumps(values, indent=3), json.dumps(values, ensure_ascii=False)):
        path = write(tmp_path / "d.json", text.encode())
        assert [row.data for row in stream_rows(path)] == json.loads(text)


def test_a_line_that_is_no_utf8_and_a_line_of_nul_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n\x00\x00\x00\n{"a": "\x00"}\n{"a": 2}\n')
    rows = list(stream_rows(path))
    assert good(rows) == [{"a": 1}, {"a": 2}]
    assert [error.split("d.jsonl", 1)[1] for error in bad(rows)] == [
        ":2 is not UTF-8 text (byte 8 of the line); save the file as UTF-8.",
        ":3: not valid JSON (column 1: Expecting value).",
        ":4: not valid JSON (column 8: Invalid control character at).",
    ]


def test_one_line_of_fifty_megabytes(tmp_path: Path) -> None:
    long = "y" * (50 << 20)
    data = b'{"a": 1}\n{"a": "' + long.encode() + b'"}\n{"a": "' + long.encode() + b'\n{"a": 2}\n'
    rows = list(stream_rows(write(tmp_path / "d.jsonl", data)))
    assert good(rows) == [{"a": 1}, {"a": long}, {"a": 2}]
    assert len(bad(rows)) == 1
    assert len(bad(rows)[0]) < 300
    array = write(tmp_path / "d.json", b'[{"a": "' + long.encode() + b'"}, {"a": 2}]')
    assert [len(str(row.data["a"])) for row in stream_rows(array)] == [50 << 20, 1]


def test_a_row_that_is_too_long_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from template_audit.datasets.filetypes import json_array, json_file

    for module in (json_file, json_array):
        monkeypatch.setattr(module, "MOST", 5_000_000)
    data = b'{"a": 1}\n{"a": "' + b"y" * 6_000_000 + b'"}\n{"a": 2}\n'
    rows = list(stream_rows(write(tmp_path / "d.jsonl", data)))
    assert good(rows) == [{"a": 1}, {"a": 2}]
    assert "d.jsonl:2: the line is longer than" in bad(rows)[0]
    rows = list(stream_rows(write(tmp_path / "d.json", b'[{"a": 1}, {"a": "' + b"y" * 20_000_000 + b'"}, {"a": 2}]')))
    assert good(rows) == [{"a": 1}]
    assert "d.json: row 2: the row is longer than" in bad(rows)[0]


def test_rows_of_several_kinds_and_missing_columns(tmp_path: Path) -> None:
    rows = [
        {"instruction": "a", "output": "b"},
        {"conversations": [{"from": "human", "value": "x"}]},
        {},
        3,
        None,
        {"instruction": "c"},
    ]
    path = write(tmp_path / "d.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    found = list(scan_conversations(path))
    assert len(found) == len(rows)
    assert [type(result).__name__ for result in found] == ["Conversation", *["DataError"] * 4, "Conversation"]
    assert "d.jsonl:2: there is neither `instruction` nor `input`." in str(found[1])
    assert "d.jsonl:4: expected an object, got int." in str(found[3])


@pytest.mark.parametrize("name", ["d.json", "d.jsonl", "d.json.gz", "d.jsonl.zst"])
@pytest.mark.parametrize("data", [b"", b"\n \n", b"\xef\xbb\xbf"])
def test_an_empty_file(tmp_path: Path, name: str, data: bytes) -> None:
    if name.endswith("gz"):
        data = gzip.compress(data)
    path = write(tmp_path / name, data)
    assert list(stream_rows(path)) == []
    with pytest.raises(DataError, match="holds no conversations"):
        read_conversations(path)


def test_folders(tmp_path: Path) -> None:
    for name, text in {
        "b.jsonl": b'{"a": 2}\n{"a": 3}\n',
        "a.json": b'[{"a": 1}]',
        "sub/c.json": b"[{",
        "z.parquet": b"PAR1 and nothing",
        "t.csv": b"a\n1\n",
        ".hidden/d.json": b"[0]",
        ".e.json": b"[0]",
        "README.md": b"# text",
        "dataset_info.json": b"{}",
    }.items():
        write(tmp_path / "set" / name, text)
    source = open_source(tmp_path / "set")
    rows = list(source.rows())
    assert source.stem == "set"
    assert good(rows) == [{"a": 1}, {"a": 2}, {"a": 3}]
    assert [row.number for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [error.split("/set/")[1].split(" ")[0] for error in bad(rows)] == ["sub/c.json:1:", "t.csv:", "z.parquet"]
    assert source.position == source.size
    (tmp_path / "none").mkdir()
    write(tmp_path / "none" / "README.md", b"")
    with pytest.raises(DataError, match="none is a folder without data"):
        list(stream_rows(tmp_path / "none"))


def test_wrong_suffixes(tmp_path: Path) -> None:
    assert len(list(stream_rows(write(tmp_path / "a.json", LINES)))) == 2000
    assert len(list(stream_rows(write(tmp_path / "b.jsonl", json.dumps(ROWS).encode())))) == 2000
    assert len(list(stream_rows(write(tmp_path / "c.json", gzip.compress(LINES))))) == 2000
    assert len(list(stream_rows(write(tmp_path / "d.jsonl.gz", LINES)))) == 2000
    with pytest.raises(DataError, match=r"e\.parquet is no Parquet file"):
        list(stream_rows(write(tmp_path / "e.parquet", LINES)))
    with pytest.raises(DataError, match="is UTF-16 text; save it as UTF-8"):
        list(stream_rows(write(tmp_path / "f.json", LINES.decode().encode("utf-16"))))


def test_the_first_row_broken_in_lines_under_another_name(tmp_path: Path) -> None:
    rows = list(stream_rows(write(tmp_path / "a.json", b'{"a": 1\n{"a": 2}\n{"a": 3}\n')))
    assert good(rows) == [{"a": 2}, {"a": 3}]
    assert "a.json:1: not valid JSON" in bad(rows)[0]


class TestParquet:
    @pytest.fixture(autouse=True)
    def _pyarrow(self) -> None:
        pytest.importorskip("pyarrow")

    def _written(self, path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path, **options)
        return path

    def test_rows_are_those_that_were_written(self, tmp_path: Path) -> None:
        rows = [{"messages": [{"role": "user", "content": str(i)}], "n": i} for i in range(1300)]
        path = self._written(tmp_path / "d.parquet", rows, row_group_size=600)
        found = list(stream_rows(path))
        assert [row.data for row in found] == rows
        assert found[700].where == f"{path}: row 701"
        assert [len(c.messages) for c in read_conversations(path)] == [1] * 1300

    def test_a_damaged_row_group_costs_its_own_rows(self, tmp_path: Path) -> None:
        rng = random.Random(2)
        rows = [{"text": "".join(rng.choices("abcdefgh", k=60))} for _ in range(900)]
        path = self._written(tmp_path / "d.parquet", rows, row_group_size=300, compression="zstd", use_dictionary=False)
        from pyarrow.parquet import ParquetFile

        column = ParquetFile(path).metadata.row_group(1).column(0)
        data = bytearray(path.read_bytes())
        middle = column.data_page_offset + column.total_compressed_size // 2
        data[middle : middle + 64] = bytes(64)
        path.write_bytes(bytes(data))
        found = list(stream_rows(path))
        assert [row.number for row in found] == list(range(1, 901))
        assert good(found[:300]) + good(found[600:]) == rows[:300] + rows[600:]
        assert len(bad(found)) == 300
        assert "row 301: its part of the Parquet file is damaged" in bad(found)[0]

    def test_a_file_cut_off(self, tmp_path: Path) -> None:
        path = self._written(tmp_path / "d.parquet", [{"a": 1}] * 100)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(DataError, match=r"d\.parquet is a damaged Parquet file"):
            list(stream_rows(path))

    def test_text_that_is_not_utf8_costs_its_own_row(self, tmp_path: Path) -> None:
        import pyarrow
        from pyarrow import parquet

        array = pyarrow.array([b"a", b"\xff", b"c"]).view(pyarrow.string())
        parquet.write_table(pyarrow.table({"text": array}), tmp_path / "d.parquet")
        rows = list(stream_rows(tmp_path / "d.parquet"))
        assert good(rows) == [{"text": "a"}, {"text": "c"}]
        assert "d.parquet: row 2 holds what is no value of its column" in bad(rows)[0]


@pytest.mark.parametrize(("name", "package"), [("d.parquet", "pyarrow"), ("d.jsonl.zst", "zstandard")])
def test_a_missing_package_is_named(tmp_path: Path, name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    data = b"PAR1" if package == "pyarrow" else b"\x28\xb5\x2f\xfd"
    with pytest.raises(UsageError, match=rf"`{package}`: pip install 'template-audit\[data\]'"):
        list(stream_rows(write(tmp_path / name, data)))


class TestShards:
    @pytest.mark.parametrize("name", ["a.json", "b.jsonl", "c.jsonl.gz"])
    def test_shards_part_the_rows(self, tmp_path: Path, name: str) -> None:
        data = json.dumps(ROWS).encode() if name == "a.json" else LINES
        path = write(tmp_path / name, gzip.compress(data) if name.endswith("gz") else data)
        source = open_source(path)
        parts = [list(source.rows((k, 3))) for k in range(3)]
        assert [row.number for row in parts[1]] == list(range(2, 2001, 3))
        assert sorted((row for part in parts for row in part), key=lambda row: row.number) == list(source.rows())
        assert source.count() == 2000
        assert [row.number for row in source.rows(wanted={5, 7}.__contains__)] == [5, 7]

    def test_rows_of_another_shard_are_not_decoded(self, tmp_path: Path) -> None:
        path = write(tmp_path / "d.jsonl", b'{"a": 1}\nbroken\n{"a": 3}\n')
        assert bad(list(stream_rows(path, shard=(0, 2)))) == []

    def test_a_shard_that_does_not_exist(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no shard 3 of 3"):
            list(stream_rows(write(tmp_path / "d.jsonl", LINES), shard=(3, 3)))


def test_memory_of_an_array_is_flat(tmp_path: Path) -> None:
    import tracemalloc

    def peak(count: int) -> int:
        path = write(tmp_path / "d.json", json.dumps([{"text": "z" * 900}] * count).encode())
        tracemalloc.start()
        assert sum(1 for _ in stream_rows(path)) == count
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(10)
    assert peak(40_000) < 1.3 * peak(10_000)
