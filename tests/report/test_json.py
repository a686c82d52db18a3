"""JSON output: deterministic, lossless, and safe to print."""

from __future__ import annotations

import io
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from template_audit.report.json import dumps, write_json
from template_audit.report.sanitize import is_hidden

TEXTS = st.text(alphabet=st.characters(codec=None))


@settings(deadline=None)
@given(st.dictionaries(TEXTS, st.lists(TEXTS | st.integers() | st.booleans() | st.none())))
def test_json_is_lossless_and_shows_everything(value: dict[str, object]) -> None:
    for ascii_only in (False, True):
        text = dumps(value, ascii_only=ascii_only)
        assert json.loads(text) == value
        assert not any(is_hidden(char) for char in text if char != "\n")
        text.encode("ascii" if ascii_only else "utf-8")


def test_keys_are_sorted_and_readable_text_stays() -> None:
    assert dumps({"b": "한", "a": "\x1b\u202e\udc80\U000e0041"}) == (
        '{\n  "a": "\\u001b\\u202e\\udc80\\udb40\\udc41",\n  "b": "한"\n}\n'
    )


def test_a_stream_of_another_encoding_gets_ascii() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    write_json({"a": "é한"}, stream)
    stream.flush()
    assert raw.getvalue() == b'{\n  "a": "\\u00e9\\ud55c"\n}\n'
