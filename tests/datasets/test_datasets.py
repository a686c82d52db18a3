"""Rows of every format, told apart, read, and refused with the place named."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from template_audit import read_conversations
from template_audit.conversation import Message, ToolCall
from template_audit.datasets import formats, iter_conversations, scan_conversations
from template_audit.errors import DataError, UsageError

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "fixtures" / "conversations"
SHARED = ROOT.parent / "shared" / "data"

ALPACA = {"instruction": "Add.", "input": "2+2", "output": "4"}
SHAREGPT = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}
OPENAI = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}


def said(sender: str, value: Any) -> dict[str, Any]:
    return {"conversations": [{"from": sender, "value": value}]}


def write(path: Path, data: Any) -> Path:
    path.write_text(data if isinstance(data, str) else json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return path


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def first(tmp_path: Path, row: Any, format: str | None = None) -> tuple[Message, ...]:
    return read_conversations(write(tmp_path / "rows.json", [row]), format)[0].messages


def test_formats_are_found_by_folder() -> None:
    assert set(formats()) == {"alpaca", "openai", "sharegpt"}


@pytest.mark.parametrize(("row", "name"), [(ALPACA, "alpaca"), (SHAREGPT, "sharegpt"), (OPENAI, "openai")])
def test_format_is_told_from_the_first_row(tmp_path: Path, row: Any, name: str) -> None:
    found = read_conversations(write(tmp_path / "d.json", [row, row]))
    assert [conversation.id for conversation in found] == ["d#1", "d#2"]
    assert found[1].row == {"format": name, "data": row}


def test_format_is_told_past_broken_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", "{oops\n" + lines(ALPACA))
    results = list(scan_conversations(path))
    assert isinstance(results[0], DataError)
    assert not isinstance(results[1], DataError)
    assert results[1].id == "d#2"


# --- alpaca -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instruction", "given", "question"),
    [
        ("Add.", "2+2", "Add.\n2+2"),
        ("Add.", "", "Add."),
        ("Add.", None, "Add."),
        ("", "2+2", "2+2"),
        (" a ", " b ", " a \n b "),
    ],
)
def test_alpaca_question(tmp_path: Path, instruction: str, given: str | None, question: str) -> None:
    row = {"instruction": instruction, "input": given, "output": "4"}
    assert first(tmp_path, row) == (Message("user", question), Message("assistant", "4"))


def test_alpaca_history_and_system(tmp_path: Path) -> None:
    row = {**ALPACA, "system": "Be brief.", "history": [["1+1", "2"], ["1+2", "3"]]}
    assert [(m.role, m.content) for m in first(tmp_path, row)] == [
        ("system", "Be brief."),
        ("user", "1+1"),
        ("assistant", "2"),
        ("user", "1+2"),
        ("assistant", "3"),
        ("user", "Add.\n2+2"),
        ("assistant", "4"),
    ]


def test_alpaca_empty_system_is_none_and_missing_answer_is_no_answer(tmp_path: Path) -> None:
    assert [m.role for m in first(tmp_path, {"instruction": "a", "system": "", "history": None})] == ["user"]
    assert [m.role for m in first(tmp_path, {"instruction": "a", "output": None})] == ["user"]
    assert first(tmp_path, {"instruction": "a", "output": ""})[-1] == Message("assistant", "")


# --- sharegpt ---------------------------------------------------------------------------------------


def test_sharegpt_roles_and_columns(tmp_path: Path) -> None:
    call = {"name": "f", "arguments": {"x": [1, "é"]}}
    row = {
        "conversations": [
            {"from": "human", "value": "go"},
            {"from": "function_call", "value": json.dumps(call)},
            {"from": "observation", "value": "done"},
            {"from": "gpt", "value": "<think>\nhm\n</think>\n\nYes."},
        ],
        "system": "Sys.",
        "tools": '[{"name": "f"}]',
    }
    conversation = read_conversations(write(tmp_path / "d.json", [row]))[0]
    assert conversation.messages == (
        Message("system", "Sys."),
        Message("user", "go"),
        Message("assistant", tool_calls=(ToolCall("f", {"x": [1, "é"]}),)),
        Message("tool", "done"),
        Message("assistant", "<think>\nhm\n</think>\n\nYes."),
    )
    assert conversation.tools == ({"name": "f"},)


def test_sharegpt_thought_before_a_call_is_reasoning(tmp_path: Path) -> None:
    value = '<think>\nWhich city?\n</think>\n\n[{"name": "a", "arguments": "{}"}, {"name": "b", "arguments": {}}]'
    row = {"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": value}]}
    message = first(tmp_path, row)[1]
    assert message.reasoning == "Which city?"
    assert message.tool_calls == (ToolCall("a", "{}"), ToolCall("b", {}))
    assert message.content is None


@pytest.mark.parametrize(
    ("tools", "expected"), [(None, None), ("", ()), ("[]", ()), ([], ()), ([{"name": "f"}], ({"name": "f"},))]
)
def test_tools_column(tmp_path: Path, tools: Any, expected: Any) -> None:
    assert read_conversations(write(tmp_path / "d.json", [{**SHAREGPT, "tools": tools}]))[0].tools == expected
    assert read_conversations(write(tmp_path / "e.json", [SHAREGPT]))[0].tools is None


def test_sharegpt_system_message_wins_over_the_column(tmp_path: Path) -> None:
    messages = [{"from": "system", "value": ""}, *SHAREGPT["conversations"]]
    assert first(tmp_path, {"conversations": messages, "system": "column"})[0] == Message("system", "")


def test_roles_out_of_order_are_read(tmp_path: Path) -> None:
    twice = {"conversations": [{"from": "human", "value": "a"}, {"from": "human", "value": "b"}]}
    assert [m.content for m in first(tmp_path, twice)] == ["a", "b"]


# --- openai -----------------------------------------------------------------------------------------


def test_openai_reasoning_and_calls(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": "t", "reasoning_content": "r", "tool_calls": [call]},
        {"role": "tool", "content": "x", "tool_call_id": "c1", "name": "f"},
    ]
    assert first(tmp_path, {"messages": messages, "tools": None}) == (
        Message("user", "ab"),
        Message("assistant", "t", reasoning="r", tool_calls=(ToolCall("f", '{"a": 1}', "c1"),)),
        Message("tool", "x", name="f", tool_call_id="c1"),
    )


def test_openai_inline_thought_stays_inline(tmp_path: Path) -> None:
    message = first(tmp_path, {"messages": [{"role": "assistant", "content": "<think>a</think>b"}]})[0]
    assert (message.content, message.reasoning) == ("<think>a</think>b", None)


def test_parts_with_values(tmp_path: Path) -> None:
    parts = [
        {"type": "reasoning", "value": "why"},
        {"type": "tool_call", "value": '{"name": "f", "arguments": {"a": 1}}'},
        {"type": "tool_call", "value": '{"name": "g", "arguments": {}}'},
    ]
    row = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "value": "q"}]},
            {"role": "assistant", "content": parts},
        ]
    }
    assert first(tmp_path, row) == (
        Message("user", "q"),
        Message("assistant", reasoning="why", tool_calls=(ToolCall("f", {"a": 1}), ToolCall("g", {}))),
    )


# --- kinds of files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["one.json", "two.jsonl"])
def test_json_lines_by_name_or_by_content(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, lines(OPENAI, OPENAI) + "\n\n" + lines(OPENAI))
    assert [c.id.split("#")[1] for c in iter_conversations(path)] == ["1", "2", "3"]


@pytest.mark.parametrize("text", [json.dumps([ALPACA, ALPACA]), json.dumps([ALPACA, ALPACA], indent=1)])
@pytest.mark.parametrize("name", ["d.json", "d.jsonl", "d"])
def test_json_array_under_any_name(tmp_path: Path, name: str, text: str) -> None:
    assert len(read_conversations(write(tmp_path / name, "\ufeff" + text))) == 2


def test_json_lines_of_bare_lists(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", lines(OPENAI["messages"]))
    conversation = read_conversations(path)[0]
    assert len(conversation.messages) == 2
    assert conversation.row == {"format": "openai", "data": OPENAI}


def test_one_conversation_files(tmp_path: Path) -> None:
    for name, data, expected in [
        ("a.json", {**OPENAI, "id": "mine"}, "mine"),
        ("b.json", OPENAI, "b"),
        ("c.json", OPENAI["messages"], "c"),
        ("d.json", SHAREGPT, "d"),
        ("e.json", SHAREGPT["conversations"], "e"),
    ]:
        path = write(tmp_path / name, json.dumps(data, indent=2))
        (conversation,) = read_conversations(path)
        assert (conversation.id, conversation.row) == (expected, None)
        assert [m.content for m in conversation.messages] == ["hi", "hello"]


def test_limit_reads_no_further(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", lines(*[ALPACA] * 200) + "broken\n")
    assert len(read_conversations(path, limit=150)) == 150
    with pytest.raises(DataError, match=r"d\.jsonl:201: not valid JSON"):
        read_conversations(path)


def test_fixtures_read() -> None:
    counts = {
        path.name: len(read_conversations(path))
        for path in sorted((FIXTURES / "datasets").glob("*[ait].json"))
        if path.name != "dataset_info.json"
    }
    assert counts == {"alpaca.json": 7, "openai.json": 6, "sharegpt.json": 7}
    for path in sorted(FIXTURES.glob("*.json")):
        (conversation,) = read_conversations(path)
        assert conversation.id == json.loads(path.read_text(encoding="utf-8"))["id"]


@pytest.mark.shared
def test_shared_data_sets_read() -> None:
    if not SHARED.is_dir():
        pytest.skip("../shared/data is not there")
    counts = {}
    for name in (
        "identity.json",
        "alpaca_en_demo.json",
        "glaive_toolcall_en_demo.json",
        "reason_tool_use_demo_50.jsonl",
    ):
        found = read_conversations(SHARED / name)
        roles = Counter(message.role for conversation in found for message in conversation.messages)
        calls = sum(len(message.tool_calls) for conversation in found for message in conversation.messages)
        counts[name] = (len(found), roles["user"], roles["assistant"], roles["tool"], calls)
    # Counted in the files with json alone: rows, then messages by `from`, `role` and part type.
    assert counts == {
        "identity.json": (91, 91, 91, 0, 0),
        "alpaca_en_demo.json": (999, 999, 999, 0, 0),
        "glaive_toolcall_en_demo.json": (300, 746, 957, 211, 211),
        "reason_tool_use_demo_50.jsonl": (50, 70, 112, 42, 68),
    }


# --- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "format", "sentence"),
    [
        ([], None, "d.json holds no conversations."),
        ("", None, "d.json holds no conversations."),
        ("[1, 2]", None, "d.json: row 1: expected an object, got int."),
        ('[{"a": 1},\n', None, "d.json:2: not valid JSON"),
        ([{"text": "x"}], None, "d.json: row 1: cannot tell the format of a row with `text`"),
        ([ALPACA, {"input": 3, "instruction": "a"}], None, "d.json: row 2: `input` must be text, got int."),
        ([ALPACA, {"output": "a"}], None, "d.json: row 2: there is neither `instruction` nor `input`."),
        ([{**ALPACA, "history": [["a"]]}], None, "history[0] must be a pair of texts"),
        ([{**ALPACA, "history": "a"}], None, "`history` must be a list"),
        ([SHAREGPT, {"conversations": []}], None, "row 2: `conversations` must be a non-empty list"),
        ([SHAREGPT, said("bot", "x")], None, "row 2: conversations[0].from must be one of human"),
        ([said("human", None)], None, "conversations[0].value must be text, got NoneType."),
        ([said("function_call", "f(x)")], None, "conversations[0].value is not valid JSON"),
        ([said("function_call", "[1]")], None, "a tool call must be an object with a `name`"),
        ([{**SHAREGPT, "tools": "{"}], None, "row 1: `tools` is not valid JSON"),
        ([{**SHAREGPT, "tools": [1]}], None, "row 1: `tools` must be a list of tool objects"),
        ([{"messages": [{"role": "poet", "content": "x"}]}], None, "row 1: messages[0].role must be one of"),
        ([{"messages": [{"role": "user", "content": 1}]}], None, "messages[0].content must be a string"),
        ([{"messages": [{"role": "user", "content": [{"type": "a", "value": ""}]}]}], None, "[0].type must be text"),
        ([{"messages": "x"}], "openai", "row 1: `messages` must be a non-empty list"),
        ([ALPACA], "sharegpt", "row 1: `conversations` must be a non-empty list"),
        ("[" * 200_000, None, "nested too deeply"),
        ('{"messages": ' + "9" * 5000 + "}", None, "a number has too many digits"),
    ],
)  # fmt: skip
def test_bad_rows_are_named(tmp_path: Path, data: Any, format: str | None, sentence: str) -> None:
    path = write(tmp_path / "d.json", data)
    with pytest.raises(DataError) as error:
        read_conversations(path, format)
    assert sentence in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_bad_line_is_named_by_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", lines(ALPACA) + "\n" + lines({**ALPACA, "output": 1}) + "{\n" + lines(ALPACA))
    results = list(scan_conversations(path))
    assert [str(r).split(" ", 1)[0] if isinstance(r, DataError) else r.id for r in results] == [
        "d#1",
        f"{path}:3:",
        f"{path}:4:",
        "d#4",
    ]


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "latin.json").write_bytes(b'[{"instruction": "\xe9", "output": ""}]')
    (tmp_path / "rows.csv").write_text("a,b")
    (tmp_path / "empty").mkdir()
    for name, sentence in [
        ("missing.json", "No such file"),
        ("latin.json", "is not UTF-8 text"),
        ("rows.csv", "rows are read from JSON"),
        ("empty", "is a folder without data"),
    ]:
        with pytest.raises(DataError, match=sentence):
            read_conversations(tmp_path / name)


def test_unknown_format_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Unknown row format `sharegtp`.*Did you mean `sharegpt`"):
        read_conversations(write(tmp_path / "d.json", [ALPACA]), "sharegtp")
