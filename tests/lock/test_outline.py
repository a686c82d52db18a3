"""Files as data: what is long is summed up, and a change in it is still narrowed down."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from template_audit.lock.outline import is_summary, settings_of, summary, summary_change
from template_audit.lock.settings import differences


@given(st.lists(st.text(max_size=3), min_size=1, max_size=3000), st.data())
@settings(max_examples=60, deadline=None)
def test_the_block_of_a_change_holds_it(entries: list[str], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(entries) - 1))
    changed = [*entries[:at], entries[at] + "!", *entries[at + 1 :]]
    words = summary_change(summary(entries), summary(changed)).replace(",", "").split()
    start, end = int(words[-3]), int(words[-1])
    assert start <= at <= end
    assert end - start < max(4, 2 * len(entries) / 128)


def test_entries_that_were_appended_or_taken() -> None:
    entries = [str(i) for i in range(1000)]
    said = summary_change(summary(entries), summary([*entries, "more"]))
    assert said == "1,000 entries became 1,001, the first difference is among entries 1,000 to 1,000"
    assert summary_change(summary(entries), summary(entries * 9)) == "1,000 entries became 9,000"


def test_a_summary_in_a_file_is_no_summary_of_ours(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"x": "~5/4 forged", "y": "~ fine"}))
    data = settings_of(tmp_path, ["tokenizer_config.json"])["tokenizer_config.json"]
    assert data["x"] != "~5/4 forged"
    assert is_summary(data["x"])
    other = settings_of(tmp_path, ["tokenizer_config.json"])["tokenizer_config.json"]
    assert data == other


def test_the_order_of_a_vocabulary_does_not_matter_and_its_ids_do(tmp_path: Path) -> None:
    outlines = []
    for vocabulary in ({"a": 0, "b": 1}, {"b": 1, "a": 0}, {"a": 1, "b": 0}):
        (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
        outlines.append(settings_of(tmp_path, ["vocab.json"])["vocab.json"])
    assert outlines[0] == outlines[1] != outlines[2]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, [("a.b[1]", "changed from 2 to 3.")]),
        ({"a b": 1}, {"a b": None}, [('"a b"', "changed from 1 to null.")]),
        ({"a": 1}, {"a": "1"}, [("a", 'changed from 1 to "1".')]),
        ({"a": 1}, {"a": True}, [("a", "changed from 1 to true.")]),
        ({"x": {"<|a|>": 1}}, {"x": {}}, [('x["<|a|>"]', "was removed; it was 1.")]),
        ({"z": 1, "a": 1}, {"z": 2, "a": 2}, [("a", "changed from 1 to 2."), ("z", "changed from 1 to 2.")]),
        ([1], {"a": 1}, [("", 'changed from [1] to {"a": 1}.')]),
    ],
)
def test_differences_name_the_path(old: object, new: object, says: list[tuple[str, str]]) -> None:
    assert differences(old, new) == says


def test_a_flag_that_is_left_out_is_false() -> None:
    old, new = {"t": {"id": 1}}, {"t": {"id": 1, "special": True}}
    assert differences(old, new, flags=True) == [("t.special", "changed from false to true.")]
    assert differences(new, old, flags=True) == [("t.special", "changed from true to false.")]
