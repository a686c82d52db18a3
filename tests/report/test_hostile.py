"""Every format × every hostile text: valid for its own parser, and nothing in it acts."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from template_audit.report import formats, get_format
from template_audit.report.interface import RecordFormat, ReportOptions
from template_audit.report.sanitize import is_hidden
from tests.report.hostile import STRINGS, hostile_report, obeyed, parsed_lines, spans_of_html, strings_in, xml

SCHEMAS = Path(__file__).parent / "schemas"
MACHINE = sorted(name for name, form in formats().items() if isinstance(form, RecordFormat))
SIZE = 1 << 20


@pytest.fixture(autouse=True)
def _no_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


def written(name: str, *texts: str, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="")
    form = get_format(name)
    assert isinstance(form, RecordFormat)
    form.write_records([hostile_report(text) for text in texts], stream, ReportOptions())
    stream.flush()
    return raw.getvalue().decode(encoding)


@cache
def sarif_validator() -> jsonschema.Draft4Validator:
    schema = json.loads((SCHEMAS / "sarif-2.1.0-rtm.5.json").read_text(encoding="utf-8"))
    return jsonschema.Draft4Validator(schema, format_checker=jsonschema.FormatChecker())


@cache
def junit_schema() -> Any:
    etree = pytest.importorskip("lxml.etree")
    return etree.XMLSchema(etree.parse(str(SCHEMAS / "junit.xsd")))


def check_json(text: str) -> None:
    json.loads(text)


def check_json_lines(text: str) -> None:
    assert parsed_lines(text)


def check_sarif(text: str) -> None:
    log = json.loads(text)
    sarif_validator().validate(log)
    assert not any(is_hidden(char) for string in strings_in(log) for char in string if char != "\n")
    for result in log["runs"][0]["results"]:
        assert "](" not in result["message"]["text"]


def check_junit(text: str) -> None:
    etree = pytest.importorskip("lxml.etree")
    junit_schema().assertValid(etree.fromstring(text.encode("utf-8"), etree.XMLParser(huge_tree=False)))
    root = xml(text)
    assert {element.tag for element in root.iter()} <= {
        *("testsuites", "testsuite", "testcase", "properties", "property"),
        *("failure", "error", "skipped", "system-out"),
    }
    assert all(len(suite.findall("testcase/failure")) <= 2 for suite in root)


def check_gitlab(text: str) -> None:
    for issue in json.loads(text):
        assert issue.keys() == {"description", "check_name", "fingerprint", "severity", "location"}
        assert issue["severity"] in ("info", "minor", "major", "critical", "blocker")
        assert isinstance(issue["location"]["lines"]["begin"], int)
        assert not any(is_hidden(char) for string in strings_in(issue) for char in string)


def check_markdown(text: str) -> None:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": True, "linkify": False}).enable(["table", "strikethrough"])
    outside = ""
    for token in spans_of_html(parser.parse(text)):
        assert token.type not in ("link_open", "image", "fence", "code_block")
        if token.type in ("html_block", "html_inline"):
            assert token.content.strip() in ("<details><summary>Why, and what to do</summary>", "</details>")
        elif token.type == "text":
            outside += token.content + "\n"
    for sign in ("@", "http", "javascript", "pwned", "octocat", "#1", "<", "AAAA"):
        assert sign not in outside
    assert len(text.encode("utf-8")) <= 65_000


def check_github(text: str) -> None:
    lines = text.rstrip("\n").split("\n")
    commands = obeyed(text)
    assert len(commands) == sum(line.startswith("::") for line in lines)
    for name, properties, data in commands:
        assert name in ("error", "warning", "notice")
        assert properties.keys() <= {"title", "file", "line"}
        assert not any(is_hidden(char) for value in (*properties.values(), data) for char in value if char != "\n")
    assert all(line.startswith(("::", "template-audit: ")) for line in lines)


CHECKS: dict[str, Callable[[str], None]] = {
    "github": check_github,
    "gitlab": check_gitlab,
    "json": check_json,
    "json-lines": check_json_lines,
    "junit": check_junit,
    "markdown": check_markdown,
    "sarif": check_sarif,
}


def check(name: str, text: str) -> None:
    CHECKS[name](text)
    assert not any(is_hidden(char) for char in set(text) - {"\n"})
    if name != "github":
        assert obeyed(text) == []


def test_every_format_for_machines_is_checked() -> None:
    assert sorted(CHECKS) == MACHINE


@pytest.mark.parametrize("kind", STRINGS)
@pytest.mark.parametrize("name", MACHINE)
def test_hostile_text(name: str, kind: str) -> None:
    text = written(name, STRINGS[kind])
    check(name, text)
    if name not in ("json", "json-lines"):
        assert len(text) < SIZE
    if kind == "a megabyte" and name not in ("json", "json-lines"):
        assert "more characters)" in text


@pytest.mark.parametrize("name", MACHINE)
def test_hostile_texts_at_once(name: str) -> None:
    check(name, written(name, *(text for text in STRINGS.values() if len(text) < SIZE // 2)))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-16", "cp949"])
@pytest.mark.parametrize("name", MACHINE)
def test_a_stream_of_any_encoding(name: str, encoding: str) -> None:
    texts = [text for text in STRINGS.values() if len(text) < 1000]
    check(name, written(name, *texts, "한국어 – é ✓", encoding=encoding))


@pytest.mark.parametrize("name", MACHINE)
@settings(max_examples=25, deadline=None)
@given(st.text(alphabet=st.characters(codec=None), max_size=40))
def test_any_text(name: str, text: str) -> None:
    check(name, written(name, text))


@pytest.mark.parametrize("name", ["json", "json-lines"])
@pytest.mark.parametrize("kind", STRINGS)
def test_json_loses_nothing(name: str, kind: str) -> None:
    text = written(name, STRINGS[kind])
    assert STRINGS[kind] in strings_in(parsed_lines(text) if name == "json-lines" else json.loads(text))
