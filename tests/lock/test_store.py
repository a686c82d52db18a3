"""The file itself: the same bytes for the same data, whatever text is in it, and one sentence for a broken one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from template_audit.conversation import Conversation
from template_audit.errors import EncodingError, UsageError
from template_audit.lock.layout import WIDTH, digest, dumps
from template_audit.lock.store import (
    EMPTY,
    SCHEMA_VERSION,
    Entry,
    LockedConversation,
    LockedEncoder,
    LockedModel,
    Request,
    Side,
    content_of,
    conversation_of,
    parse_lock,
    read_lock,
)
from template_audit.report.sanitize import is_hidden
from template_audit.stream import EncodedStream

HOSTILE = "\x1b[2J::error::]]><script>alert(1)</script>\u202e\u200b\ud800\r\n\x7f\x00`'\"\\ “é” ﷽" + "A" * 2000


def entry(text: str = "plain", model: str = "org/name", encoder: str = "llamafactory:chatml") -> Entry:
    """An entry with `text` wherever text can be."""
    side = Side(text=text.split("\n"), ids=[1, 2, 3], trained=[(1, 3)])
    return Entry(
        request=Request(model=model, encoder=encoder, options={"default_system": text}),
        model=LockedModel(
            model, None, {"tokenizer.json": "0" * 64}, "T", 3, {"eos_token": (text, 2)}, {"default": "x"}
        ),
        versions={"transformers": "5.6.0"},
        settings={"tokenizer_config.json": {"eos_token": text}},
        templates={"chat_template.jinja": {"default": text.split("\n")}},
        framework={"version": "0.9.5"},
        data={},
        reference=LockedEncoder("chat-template", {}, text),
        subject=LockedEncoder(encoder, {}, text),
        configuration="",
        conversations=[LockedConversation(text, digest({"messages": []}), side, side)],
        findings=[],
    ).sealed()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(), inner, max_size=5),
    max_leaves=30,
)


@given(json_values)
@settings(max_examples=200, deadline=None)
def test_the_layout_is_json_and_keeps_every_value_and_the_order_of_keys(value: Any) -> None:
    text = dumps(value)
    assert json.dumps(json.loads(text)) == json.dumps(value)
    assert text.endswith("\n")


def test_numbers_stand_on_one_line_and_what_is_short_does_too() -> None:
    value = {
        "ids": list(range(300)),
        "ranges": [[1, 2], [3, 4]],
        "short": {"b": 1, "a": [None]},
        "long": ["x" * 70] * 3,
    }
    lines = dumps(value).splitlines()
    assert any(line.startswith(' "ids": [0, 1, 2') and line.rstrip(",").endswith("299]") for line in lines)
    assert ' "short": {"b": 1, "a": [null]},' in lines
    assert all(len(line) <= WIDTH for line in lines if "ids" not in line)


@given(st.text(alphabet=st.characters(), max_size=60))
@settings(max_examples=150, deadline=None)
def test_any_text_survives_and_none_of_it_is_hidden(text: str) -> None:
    _survives(text)


def test_hostile_text_survives_and_is_inert() -> None:
    _survives(HOSTILE)


def _survives(text: str) -> None:
    lock = EMPTY.with_entries([entry(text, model=text or "m")], {digest({"messages": []}): {"messages": []}})
    written = lock.text()
    written.encode("utf-8")
    assert not any(is_hidden(char) for char in written if char != "\n")
    read = parse_lock(written, "x.lock")
    assert read == lock
    assert read.text() == written
    assert read.entries[0].digest == read.entries[0].seal()


def test_entries_are_sorted_and_replace_those_of_the_same_key() -> None:
    one, two = entry(model="b"), entry(model="a")
    other = entry(model="b", encoder="llamafactory:qwen")
    lock = EMPTY.with_entries([one, other], {}).with_entries([two], {})
    assert [e.request.model for e in lock.entries] == ["a", "b", "b"]
    changed = msgspec.structs.replace(one, versions={"transformers": "6"}).sealed()
    again = lock.with_entries([changed], {})
    assert len(again.entries) == 3
    assert changed in again.entries
    assert again.text() == EMPTY.with_entries([changed, two, other], {}).text()


def test_conversations_that_no_entry_uses_are_dropped() -> None:
    key = digest({"messages": []})
    lock = EMPTY.with_entries([entry()], {key: {"messages": []}, "unused": {"messages": [1]}})
    assert set(lock.conversations) == {key}


STREAM = EncodedStream([5, 6, 7, 8], [-100, 6, -100, 8], "a\nb", [(0, 1)] * 4, [])


def test_labels_are_ranges_where_they_can_be() -> None:
    side = Side.of(STREAM)
    assert side.trained == [(1, 2), (3, 4)]
    assert side.all_labels == STREAM.labels
    assert side.whole_text == "a\nb"


@pytest.mark.parametrize("labels", [[5, 9, -100, 8], [-100, 6, -100, 8, 9], [-100]])
def test_labels_that_are_no_ranges_are_kept_as_they_are(labels: list[int]) -> None:
    side = Side.of(EncodedStream([5, 6, 7, 8], labels, "a", [(0, 1)] * 4, []))
    assert side.all_labels == labels
    assert msgspec.convert(msgspec.to_builtins(side), Side) == side


def test_a_refusal_is_kept_with_its_kind() -> None:
    side = Side.of(EncodingError("No system turns.", kind="role-unsupported"))
    assert (side.error, side.kind, side.ids) == ("No system turns.", "role-unsupported", [])


def test_a_conversation_comes_back_as_it_was() -> None:
    given = {
        "messages": [
            {"role": "system", "content": ""},
            {"role": "user", "content": "Weather?", "name": "ann"},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "Look.",
                "tool_calls": [
                    {"id": "1", "function": {"name": "w", "arguments": {"z": 1, "a": 2}}},
                    {"function": {"name": "w", "arguments": '{"z": 1}'}},
                ],
            },
            {"role": "tool", "content": "rain", "tool_call_id": "1"},
        ],
        "tools": [{"z": 1, "a": {"y": 1, "b": 2}}],
    }
    conversation = Conversation.from_openai(given, id="c")
    content = json.loads(dumps(content_of(conversation)))
    again = conversation_of(content, "c", "here")
    assert again == conversation
    assert json.dumps(again.openai_messages()) == json.dumps(conversation.openai_messages())  # keys in their order
    assert again.tools is not None
    assert json.dumps(again.tools) == json.dumps(conversation.tools)
    for tools in (None, ()):
        bare = Conversation(conversation.messages[:2], tools, "d", {"format": "openai", "data": {"b": 1, "a": 2}})
        assert conversation_of(content_of(bare), "d", "here") == bare


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "x.lock, line 1, column 1: the lock file is empty"),
        ("{", "x.lock, line 1, column 2: the lock file is not valid JSON"),
        ('{"schema_version": 1,\n<<<<<<< HEAD\n', "x.lock, line 2: there are markers of a merge conflict"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 5000, "too many digits"),
        ("[]", "is no lock file of template-audit"),
        ("{}", "has no `schema_version`"),
        ('{"schema_version": "1"}', "has no `schema_version`"),
        ('{"schema_version": true}', "has no `schema_version`"),
        ('{"schema_version": 0}', "has no `schema_version`"),
        (f'{{"schema_version": {SCHEMA_VERSION + 1}}}', "was written by a newer template-audit"),
        ('{"schema_version": 1}', "x.lock: the file: object missing required field `entries`"),
        (
            '{"schema_version": 1, "entries": [{"request": {"model": 1}}]}',
            "x.lock: entries[0].request.model: expected",
        ),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_broken_file_is_one_sentence(text: str, says: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_lock(text, "x.lock")
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_two_entries_of_one_key_are_refused() -> None:
    data = json.loads(EMPTY.with_entries([entry()], {}).text())
    data["entries"] *= 2
    with pytest.raises(UsageError, match="has two entries for org/name"):
        parse_lock(json.dumps(data), "x.lock")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "none.lock") is None
    with pytest.raises(UsageError, match="Cannot read the lock file"):
        read_lock(tmp_path)
    (tmp_path / "bytes.lock").write_bytes(b"{\xff")
    with pytest.raises(UsageError, match=r"is not UTF-8 text \(byte 1\)"):
        read_lock(tmp_path / "bytes.lock")
