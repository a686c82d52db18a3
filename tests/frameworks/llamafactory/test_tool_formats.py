"""Tool definitions and calls in every tool format, against the texts of the real LLaMA-Factory 0.9.5."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from template_audit.frameworks.llamafactory.registry import Formatter, load_registry
from template_audit.frameworks.llamafactory.sft import infer_seqlen
from template_audit.frameworks.llamafactory.slots import ThoughtWords, fill_function, tools_text
from template_audit.frameworks.llamafactory.tool_formats import FORMATS, Release
from template_audit.stream import Origin
from template_audit.trace import pieces_of
from tests.frameworks.llamafactory.vectors import recorded, recorder

PARTS = recorded("vectors_parts.json")
REGISTRY = load_registry("0.9.5")
RELEASE = Release(REGISTRY.tool_prompts, datetime(2024, 7, 26, 12), REGISTRY.behaviours)
WORDS = ThoughtWords(("<think>\n", "\n</think>\n\n"), ("<tool_call>", "</tool_call>"))


def check(wanted: str, write: Any) -> None:
    if wanted.startswith("!"):
        with pytest.raises((KeyError, TypeError, ValueError, AttributeError, RuntimeError)) as error:
            write()
        assert recorder().error_code(error.value) == wanted
    else:
        assert str(write()) == wanted


def test_every_format_of_the_release_is_there() -> None:
    assert set(FORMATS) == set(REGISTRY.tool_formats) == set(PARTS["formats"])


@pytest.mark.parametrize("name", FORMATS)
def test_definitions(name: str) -> None:
    for case, wanted in PARTS["formats"][name]["tools"].items():
        check(wanted, lambda case=case: tools_text(Formatter("tool", (), name), PARTS["tools"][case], RELEASE))


@pytest.mark.parametrize("name", FORMATS)
def test_calls(name: str) -> None:
    formatter = Formatter("function", ("{{content}}",), name)
    for case, wanted in PARTS["formats"][name]["calls"].items():
        content = PARTS["calls"][case]
        check(wanted, lambda content=content: fill_function(formatter, content, 1, WORDS, RELEASE)[0])


def test_a_call_keeps_its_origin() -> None:
    formatter = Formatter("function", ("<a>{{content}}</a>",), "qwen3_5")
    (text,) = fill_function(formatter, '{"name": "find", "arguments": {"q": "tea"}}', 3, WORDS, RELEASE)
    assert isinstance(text, str)
    origins = {str(text[p.start : p.end]): p.origin for p in pieces_of(text)}
    assert origins["find"] == Origin(3, "tool_call")
    assert origins["tea"] == Origin(3, "tool_call", derived=True)
    assert "".join(origins) == text


def test_definitions_keep_their_origin() -> None:
    tools = '[{"name": "find", "description": "Finds", "parameters": {"properties": {}}}]'
    text = tools_text(Formatter("tool", (), "default"), tools, RELEASE)
    fields = {str(text[p.start : p.end]): p.origin.field for p in pieces_of(text)}
    assert fields["find"] == fields["Finds"] == "tools"
    assert text.startswith("You have access to the following tools:\n> Tool Name: find\n")


def test_the_date_is_the_clock_s() -> None:
    tools = '[{"name": "find", "parameters": {}}]'
    release = RELEASE._replace(clock=datetime(2031, 2, 3))
    assert "Today Date: 03 Feb 2031\n" in tools_text(Formatter("tool", (), "llama3"), tools, release)


def test_truncated_lengths() -> None:
    table = [[*infer_seqlen(s, t, c)] for s in range(24) for t in range(24) for c in range(1, 50)]
    assert recorder().digest(table) == PARTS["lengths"]
