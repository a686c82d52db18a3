"""Texts that try to act where they are printed, and reports that are full of one of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

from template_audit.findings import (
    SCHEMA_VERSION,
    ConversationRecord,
    EncoderRecord,
    Evidence,
    FileRecord,
    FindingRecord,
    Location,
    ModelRecord,
    ReportRecord,
    Summary,
    SuppressedRecord,
    TokenizerRecord,
)

STRINGS = {
    "escape sequences": "\x1b[2J\x1b]0;owned\x07\x1b[31mred\x9b31m",
    "controls": "a\x00b\x08c\x0bd\x0ce\x7ff\x85g\r\nh\ti\x1cj",
    "workflow command": "::error file=x,line=1::pwned",
    "workflow command on a line of its own": "text\n::error::pwned\n::add-mask::a\r::set-output name=x::y",
    "log commands": "##[error]pwned ##vso[task.setvariable variable=x]y ##teamcity[buildStatus text='x']",
    "percent": "%0A::error::x %25 100% :, ,title=x::",
    "end of CDATA": "]]><failure/>&amp;&#0;<!--",
    "html": "<script>alert(1)</script><img src=x onerror=alert(1)>&lt;",
    "markdown": "`` ``` **b** [l](javascript:alert(1)) ![i](http://x.test/p) <http://x.test> @octocat #1 | x |\n# h",
    "backticks": "`",
    "template": "{{ 7*7 }} {0} ${{ secrets.TOKEN }} $(id) `id`",
    "bidi": "\u202eevil\u2066a\u2069\u200f\u061c",
    "zero width": "a\u200bb\u200cc\u200dd\u2060e\ufefff\u00adg\u3164h\u2800i",
    "tags and selectors": "\U000e0041\U000e0042x\ufe0f\U000e0100",
    "lone surrogates": "\ud800x\udc80y\udfff",
    "no characters": "\ufffe\uffff\U0010ffff\ue000\ufdd0",
    "line separators": "a\u2028::error::b\u2029c",
    "marks": "e" + "\u0301" * 200,
    "a megabyte": "A" * 1_000_000,
    "a megabyte of brackets": "<|" * 500_000,
    "empty": "",
    "blanks": "   ",
    "quotes": "\"'\\\"'\\u0000\\",
}


def hostile_report(text: str, **fields: Any) -> ReportRecord:
    """A record that has `text` in every place that a model, a data set or a configuration can fill."""
    where = Location(text or "x", 3)
    findings = [finding("token-drift", "error", text, location=where), finding("lock-drift", "warning", None, text)]
    values: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "model": ModelRecord(text, text, [FileRecord(text, "0" * 64)], TokenizerRecord("Tokenizer", 5)),
        "versions": {"transformers": "5.0.0", "x": text},
        "reference": EncoderRecord("chat-template", {"x": text}, text, [text]),
        "subject": EncoderRecord(f"llamafactory:{text}", {"x": text}, text, [text]),
        "conversations": [
            ConversationRecord(text, True, None, False, 5, 6),
            ConversationRecord(f"{text} (2)", False, text, None, None, None),
            ConversationRecord(f"{text} (3)", True, text, None, None, None),
        ],
        "findings": [with_text(one, text) for one in findings],
        "summary": Summary(1, 1, 0, 3, 2, 0),
        "exit_code": 2,
        "suppressed": [SuppressedRecord(with_text(finding("double-bos", "error", text), text), text)],
        "known": [with_text(finding("missing-bos", "error", text), text)],
        "gone": [with_text(finding("bogus-bos", "info", text), text)],
        **fields,
    }
    return ReportRecord(**values)


def finding(rule: str, severity: Any, where: str | None, name: str = "", **fields: Any) -> FindingRecord:
    """A finding that says nothing hostile."""
    values: dict[str, Any] = {
        "message": f"What {rule} found.",
        "turn": None,
        "role": None,
        "reference": None,
        "subject": None,
        "why": f"Why {rule} matters.",
        "advice": f"What to do about {rule}.",
        "fingerprint": f"{rule}/{where}"[:100].encode("ascii", "backslashreplace").decode(),
        "cause": rule + name[:5].encode("ascii", "backslashreplace").decode(),
        **fields,
    }
    return FindingRecord(rule=rule, severity=severity, conversation=where, **values)


def with_text(one: FindingRecord, text: str) -> FindingRecord:
    """The finding with `text` in its message, its evidence and its advice."""
    import msgspec

    side = Evidence(0, 2, [1, 2], text)
    changes = {"message": text, "advice": text, "why": text, "role": text, "reference": side, "subject": side}
    return msgspec.structs.replace(one, **changes)


def strings_in(value: Any) -> Iterator[str]:
    """Every text in a parsed JSON document, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings_in(item)


_LOG = re.compile(r"##\[|##vso\[|##teamcity\[", re.I)


def obeyed(text: str) -> list[tuple[str, dict[str, str], str]]:
    """What a build server would obey in a log: commands with properties and data, decoded.

    A line that begins, after blanks, with ``::command properties::`` (ActionCommand.TryParseV2 of actions/runner),
    and ``##[`` or its like anywhere in a line.
    """
    found = []
    for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if "##" in line and _LOG.search(line):
            found.append(("log command", {}, line))
        if not line.lstrip().startswith("::"):
            continue
        head, closed, data = line.lstrip()[2:].partition("::")
        if not closed:
            continue
        name, _, rest = head.partition(" ")
        pairs = [pair.partition("=") for pair in rest.split(",") if pair]
        found.append((name, {key.strip(): _decoded(value) for key, _, value in pairs}, _decoded(data)))
    return found


def _decoded(text: str) -> str:
    for code, char in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        text = text.replace(code, char)
    return text


def parsed_lines(text: str) -> list[Any]:
    """JSON lines, each parsed."""
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.split("\n")[:-1]]


def xml(text: str) -> ElementTree.Element:
    """The document, by the standard library's parser (expat)."""
    return ElementTree.fromstring(text)


def spans_of_html(tokens: Sequence[Any]) -> Iterator[Any]:
    """All tokens of a parsed Markdown document, inline ones in their place."""
    for token in tokens:
        if token.children:
            yield from spans_of_html(token.children)
        else:
            yield token
