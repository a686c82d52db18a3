"""The converters alpaca, sharegpt and openai, held against the real ones of every release."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from template_audit.errors import EncodingError, UsageError
from template_audit.frameworks.llamafactory.behaviours import Behaviours
from template_audit.frameworks.llamafactory.converters import check_stage, convert, drop_reason, plain
from template_audit.frameworks.llamafactory.dataset_info import DatasetAttributes
from template_audit.stream import Origin
from template_audit.trace import pieces_of
from tests.frameworks.llamafactory import data_vectors as vectors

NOW = Behaviours()
ALPACA = DatasetAttributes("x", "file", "x.json")
SHAREGPT = DatasetAttributes("x", "file", "x.json", formatting="sharegpt")
OPENAI = DatasetAttributes(
    "x",
    "file",
    "x.json",
    formatting="openai",
    messages="messages",
    tools="tools",
    role_tag="role",
    content_tag="content",
    user_tag="user",
    assistant_tag="assistant",
    observation_tag="tool",
    function_tag="function",
)


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path in vectors.RECORDS for name in vectors.record(path)["converted"]]
)
def test_rows_are_converted_as_by_the_real_package(path: Path, name: str) -> None:
    data = vectors.record(path)
    version = data["versions"]["llamafactory"]
    recorded = data["converted"][name]
    _, attributes = vectors.located(data, name, version)
    given = vectors.read(data, name, version, None if name.startswith("own") else 100)
    assert len(given) == len(recorded)
    for number, (row, expected) in enumerate(zip(given, recorded, strict=True)):
        try:
            found = vectors.digest(plain(convert(row, attributes, vectors.behaviours(version)).example))
        except (EncodingError, UsageError):
            found = "!"
        assert found == expected[0 if expected.startswith("!") else slice(None)], f"{name}, row {number}"


def _messages(*pairs: tuple[str, Any], role: str = "from", content: str = "value") -> list[dict[str, Any]]:
    return [{role: sender, content: text} for sender, text in pairs]


def _openai(*pairs: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": _messages(*pairs, role="role", content="content"), "tools": None}


class TestDropped:
    """Why a row is dropped is said in the words of the framework's log."""

    @pytest.mark.parametrize(
        ("messages", "reason"),
        [
            ((("human", "a"), ("human", "b")), "turn 1 is from 'human' where it must be the model's.*Invalid role tag"),
            ((("gpt", "a"), ("human", "b")), "turn 0 is from 'gpt' where it must be a user's or a tool's"),
            ((("human", "a"), ("gpt", "b"), ("human", "c")), r"an odd number of messages \(3\).*Invalid message count"),
            ((), "its prompt has 0 messages"),
        ],
    )
    def test_sharegpt(self, messages: tuple[tuple[str, str], ...], reason: str) -> None:
        converted = convert({"conversations": _messages(*messages)}, SHAREGPT, NOW)
        found = drop_reason(converted, "sft")
        assert found is not None
        assert re.search(reason, found)
        assert converted.example.response == ()

    def test_stages_want_their_answers(self) -> None:
        row = {"instruction": "a", "input": "", "output": "b"}
        converted = convert(row, ALPACA, NOW)
        assert drop_reason(converted, "sft") is None
        assert drop_reason(converted, "ppo") is None
        assert drop_reason(converted, "kto") == "it has no pair of responses"
        assert drop_reason(convert({**row, "output": None}, ALPACA, NOW), "sft") == "it has no response"

    def test_stage_and_ranking_must_agree(self) -> None:
        check_stage(ALPACA, "sft")
        with pytest.raises(UsageError, match="Stage rm needs"):
            check_stage(ALPACA, "rm")


class TestLost:
    """What the conversion loses is noted."""

    def test_text_beside_tool_calls(self) -> None:
        call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
        row = _openai(("user", "q"), ("assistant", "I look."))
        row["messages"][1]["tool_calls"] = [call]
        example = convert(row, OPENAI, NOW).example
        assert example.notes == ("The text of message 1 is lost: a message with tool calls keeps only the calls.",)
        assert example.response[0].role == "function"
        assert example.response[0].content == '[{"name": "f", "arguments": "{}"}]'

    def test_results_that_nothing_follows(self) -> None:
        example = convert(_openai(("user", "q"), ("assistant", "a"), ("tool", "r")), OPENAI, NOW).example
        assert example.notes == ("The tool results of message 2 are lost: no answer follows them.",)

    def test_keys_that_are_not_read(self) -> None:
        row = {"conversations": [*_messages(("human", "q")), {"from": "gpt", "value": "a", "reasoning": "hm"}]}
        assert convert(row, SHAREGPT, NOW).example.notes == (
            "`reasoning` of a message is not read (first in message 1).",
        )


class TestOrigins:
    """Text remembers the message that it came from."""

    def test_the_system_text_and_what_the_converter_adds(self) -> None:
        example = convert(_openai(("system", "Be brief."), ("user", "q"), ("assistant", "a")), OPENAI, NOW).example
        assert example.system == "Be brief.\ndetailed thinking off"
        assert [(piece.origin, piece.end) for piece in pieces_of(example.system)] == [
            (Origin(0, "system"), 9),
            (Origin(None, "default_system"), 31),
        ]
        assert [message.message for message in (*example.prompt, *example.response)] == [1, 2]

    def test_joined_tool_results(self) -> None:
        row = _openai(("user", "q"), ("assistant", "c"), ("tool", "r1"), ("tool", "r2"), ("assistant", "a"))
        joined = convert(row, OPENAI, NOW).example.prompt[2]
        assert joined.content == "r1\n</tool_response>\n<tool_response>\nr2"
        assert [piece.origin.message for piece in pieces_of(joined.content)] == [2, None, 3]


class TestErrors:
    """Where the framework raises, one sentence says what it stumbled over."""

    @pytest.mark.parametrize(
        ("row", "attributes", "message"),
        [
            ({"text": "a"}, ALPACA, "row 7: .*alpaca converter finds no 'instruction' there"),
            ({"instruction": 3, "input": "", "output": ""}, ALPACA, "stops on this row .TypeError"),
            ({"conversations": [{"role": "human"}]}, SHAREGPT, "finds no 'from' there"),
            ({"conversations": None}, SHAREGPT, "stops on this row .TypeError"),
        ],
    )
    def test_rows(self, row: dict[str, Any], attributes: DatasetAttributes, message: str) -> None:
        with pytest.raises(EncodingError, match=message):
            convert(row, attributes, NOW, "row 7")

    def test_images_are_refused(self) -> None:
        attributes = DatasetAttributes("x", "file", "x", images="images")
        row = {"instruction": "a", "input": "", "output": "b", "images": ["a.png"]}
        with pytest.raises(EncodingError, match="only text can be audited"):
            convert(row, attributes, NOW)
        assert convert({**row, "images": []}, attributes, NOW).problem is None

    def test_an_unknown_formatting_is_an_error_with_the_nearest(self) -> None:
        attributes = DatasetAttributes("x", "file", "x", formatting="sharegtp")
        with pytest.raises(UsageError, match=r"no converter `sharegtp`.*Did you mean `sharegpt`"):
            convert({}, attributes, NOW)
