"""dataset_info.json: entries, where their rows are, and what is wrong with them, in one sentence."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from template_audit.errors import DataError, UsageError
from template_audit.frameworks.llamafactory import dataset_info as info
from template_audit.frameworks.llamafactory import rows
from template_audit.frameworks.llamafactory.behaviours import Behaviours
from tests.frameworks.llamafactory import data_vectors as vectors

NOW = Behaviours()


@pytest.mark.parametrize("path", vectors.RECORDS, ids=lambda path: path.stem)
def test_entries_are_parsed_as_by_the_real_package(path: Path) -> None:
    data = vectors.record(path)
    entries = info.read_dataset_info(vectors.OWN)
    for name, recorded in data["dataset_info"].items():
        parsed = info.parse_entry(name, entries[name], vectors.behaviours(data["versions"]["llamafactory"]))
        for key, value in recorded.items():
            assert getattr(parsed, "location" if key == "dataset_name" else key) == value, (name, key)


class TestEntries:
    def test_an_unknown_data_set_is_an_error_with_the_nearest(self) -> None:
        with pytest.raises(UsageError, match=r"no data set `alpace`.*Did you mean `alpaca`"):
            info.dataset_attributes(["alpace"], vectors.OWN, NOW)

    def test_online_takes_every_name_for_a_repository(self) -> None:
        found = info.dataset_attributes(["org/name"], "ONLINE", NOW)[0]
        assert (found.load_from, found.location) == ("hf_hub", "org/name")

    @pytest.mark.parametrize(
        ("name", "place"),
        [("on_modelscope", "a model hub"), ("by_script", "a loading script")],
    )
    def test_what_is_not_local_is_said_in_one_sentence(self, name: str, place: str) -> None:
        attributes = info.dataset_attributes([name], vectors.OWN, NOW)[0]
        with pytest.raises(UsageError, match=f"`{name}` comes from {place}"):
            info.local_files(attributes, vectors.OWN)

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ([], "`x` must be an object, got list"),
            ({}, "`x` names no source"),
            ({"file_name": 3}, r"`x`\.file_name must be a string"),
            ({"file_name": "a.json", "columns": ["text"]}, r"`x`\.columns must be an object"),
            ({"file_name": "a.json", "columns": {"prompt": 1}}, "`prompt` must be str"),
            ({"file_name": "a.json", "ranking": "yes"}, "`ranking` must be bool"),
        ],
    )
    def test_a_malformed_entry_is_an_error_that_names_the_key(self, entry: Any, message: str) -> None:
        with pytest.raises(DataError, match=message):
            info.parse_entry("x", entry, NOW)

    def test_a_run_without_data_sets_needs_no_dataset_info(self, tmp_path: Path) -> None:
        assert info.dataset_attributes([], tmp_path, NOW) == []

    def test_a_folder_without_dataset_info_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="is `dataset_dir` right"):
            info.read_dataset_info(tmp_path)
        (tmp_path / "dataset_info.json").write_text("{")
        with pytest.raises(DataError, match="not valid JSON"):
            info.read_dataset_info(tmp_path)

    def test_a_file_finds_its_entry(self) -> None:
        assert info.attributes_of_file(vectors.OWN / "documents.jsonl", NOW).prompt == "text"
        assert info.attributes_of_file(vectors.OWN / "alpaca_kto.json", NOW).kto_tag == "kto_tag"

    def test_a_file_without_entry_takes_the_columns_that_are_given(self, tmp_path: Path) -> None:
        assert info.attributes_of_file(tmp_path / "a.jsonl", NOW, prompt="body").prompt == "body"
        with pytest.raises(UsageError, match=r"no field `promt`.*`prompt`"):
            info.attributes_of_file(tmp_path / "a.jsonl", NOW, promt="body")


class TestFiles:
    def _files(self, folder: Path, name: str) -> list[Path]:
        return info.local_files(info.DatasetAttributes("x", "file", name), folder)

    def test_missing_and_unreadable_types(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="does not exist"):
            self._files(tmp_path, "a.json")
        (tmp_path / "a.xml").write_text("")
        with pytest.raises(DataError, match=r"does not read .*a\.xml; it reads arrow, csv"):
            self._files(tmp_path, "a.xml")

    def test_a_folder_must_hold_one_type(self, tmp_path: Path) -> None:
        (tmp_path / "d").mkdir()
        with pytest.raises(DataError, match="is empty"):
            self._files(tmp_path, "d")
        (tmp_path / "d" / "a.json").write_text("[]")
        (tmp_path / "d" / "b.jsonl").write_text("")
        assert len(self._files(tmp_path, "d")) == 2
        (tmp_path / "d" / "c.txt").write_text("")
        with pytest.raises(DataError, match="different types"):
            self._files(tmp_path, "d")


class TestRows:
    def test_missing_keys_are_filled_as_arrow_does(self) -> None:
        given = [{"a": [{"x": 1}]}, {"a": [{"y": 2.5, "x": 3}, None], "b": "t"}]
        assert rows.arrow_rows(given) == [
            {"a": [{"x": 1, "y": None}], "b": None},
            {"a": [{"x": 3, "y": 2.5}, None], "b": "t"},
        ]

    def test_integers_among_floats_are_floats(self) -> None:
        assert rows.arrow_rows([{"a": [{"x": 1}, {"x": 0.5}, {"x": None}]}]) == [
            {"a": [{"x": 1.0}, {"x": 0.5}, {"x": None}]}
        ]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('{"a": 1}\n{"a": \n', "a.jsonl:2: not valid JSON"),
            ('{"a": 1}\n\n3\n', "a.jsonl:3: expected an object, got int"),
            ('[{"a": 1}, 3]', "row 2: expected an object, got int"),
            ('[{"a": 1}', "a.jsonl:1: not valid JSON"),
        ],
    )
    def test_bad_json_names_file_and_line(self, text: str, message: str, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            list(rows.read_rows([path]))

    def test_bytes_that_are_no_utf8(self, tmp_path: Path) -> None:
        path = tmp_path / "a.jsonl"
        path.write_bytes(b'{"a": "\xff"}\n')
        with pytest.raises(DataError, match="not UTF-8"):
            list(rows.read_rows([path]))

    def test_limit_and_split(self) -> None:
        path = vectors.OWN / "documents.jsonl"
        assert [row["text"] for row in rows.read_rows([path], 2)] == [
            json.loads(line)["text"] for line in path.read_text().splitlines()[:2]
        ]
        with pytest.raises(UsageError, match="`test` is not supported"):
            list(rows.read_rows([path], split="test"))

    def test_other_types_need_datasets(self, tmp_path: Path) -> None:
        if find_spec("datasets") is not None:
            pytest.skip("the package `datasets` is installed")
        (tmp_path / "a.csv").write_bytes(b"")
        with pytest.raises(UsageError, match="reading csv files needs the package `datasets`"):
            list(rows.read_rows([tmp_path / "a.csv"]))

    @pytest.mark.parametrize(
        ("first", "second", "sentence"),
        [  # each pair stops load_dataset of datasets 4.0.0 with an ArrowInvalid or ArrowTypeError
            ("x", 1, "`a` is a number, and text before"),
            (0.5, "x", "`a` is text, and a number before"),
            (1, True, "`a` is true or false, and a number before"),
            (["x"], [1], "`a[0]` is a number, and text before"),
            ([{"b": {"c": []}}], [{"b": {"c": {}}}], "`a[0].b.c` is an object, and a list before"),
        ],
    )
    def test_values_of_different_kinds_stop_the_framework(
        self, first: Any, second: Any, sentence: str, tmp_path: Path
    ) -> None:
        given = [{"a": first}, {"a": None}, {"a": second}, {"a": first}]
        (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
        with pytest.raises(DataError, match=re.escape(f"a.jsonl:3: {sentence}; LLaMA-Factory stops")):
            next(rows.read_rows([tmp_path / "a.jsonl"], 1))
        found = list(rows.read_rows([tmp_path / "a.jsonl"], strict=False))
        assert [row for row in found if not isinstance(row, DataError)] == [given[0], given[1], given[3]]

    @pytest.mark.parametrize("pair", [(1, 0.5), ([], ["x"]), ({}, {"k": 1}), (None, "x")])
    def test_values_that_arrow_takes_together(self, pair: tuple[Any, Any], tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text("".join(json.dumps({"a": value}) + "\n" for value in pair))
        assert len(list(rows.read_rows([tmp_path / "a.jsonl"]))) == 2

    def test_parquet_and_arrays_are_streamed(self, tmp_path: Path) -> None:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        given = [{"a": [{"x": i, "y": None if i % 2 else "z"}]} for i in range(1200)]
        parquet.write_table(pyarrow.Table.from_pylist(given), tmp_path / "a.parquet")
        (tmp_path / "a.json").write_text(json.dumps(given))
        for name in ("a.parquet", "a.json"):
            assert list(rows.read_rows([tmp_path / name])) == given
            assert rows.count_rows([tmp_path / name]) == 1200
            assert list(rows.read_rows([tmp_path / name], 900, wanted={3, 899, 901}.__contains__)) == [
                given[2],
                given[898],
            ]

    @pytest.mark.parametrize(
        ("workers", "size", "expected"),
        [
            (1, 4, ["0123", "4567", "89"]),
            (3, 4, ["0123", "456", "789"]),  # 10 rows: parts of 4, 3 and 3
            (3, 2, ["01", "23", "45", "6", "78", "9"]),
            (20, 4, list("0123456789")),
        ],
    )
    def test_map_batches(self, workers: int, size: int, expected: list[str]) -> None:
        for count in (None, 10):
            found = rows.map_batches("0123456789", size, workers, count)
            assert ["".join(batch) for batch in found] == expected
