"""Foreign text must neither steer a terminal nor hide from its reader."""

from __future__ import annotations

import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from template_audit.report.sanitize import is_hidden, one_line, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text <|im_end|>", "plain text <|im_end|>"),
        ("안녕 ｜▁é🙂", "안녕 ｜▁é🙂"),
        ("\x1b[31mred\x1b[0m", "<U+001B>[31mred<U+001B>[0m"),
        ("\x1b]0;title\x07", "<U+001B>]0;title<U+0007>"),
        ("\x9b31m", "<U+009B>31m"),  # the one-character form of ESC [
        ("a\rb", "a<U+000D>b"),
        ("a\nb\tc", "a<U+000A>b<U+0009>c"),
        ("a\x7fb", "a<U+007F>b"),
        ("user\u202etxt.exe", "user<U+202E>txt.exe"),
        ("\u2066x\u2069", "<U+2066>x<U+2069>"),
        ("zero\u200bwidth\ufeff", "zero<U+200B>width<U+FEFF>"),
        ("no\u00a0break", "no<U+00A0>break"),
        ("tag\U000e0041", "tag<U+E0041>"),
        ("half\udc80", "half<U+DC80>"),
        ("\u3164\u115f\u2800", "<U+3164><U+115F><U+2800>"),
        ("heart\ufe0f", "heart<U+FE0F>"),
        ("line\u2028sep", "line<U+2028>sep"),
        ("\ue000", "<U+E000>"),
        ("é" + "\u0301" * 6, "é" + "\u0301" * 4 + "<U+0301>" * 2),
    ],
)
def test_hidden_characters_are_shown(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_kept_characters_stay() -> None:
    assert visible("a\nb\x1b", keep="\n") == "a\nb<U+001B>"


def test_characters_that_the_encoding_lacks_are_shown_as_code_points() -> None:
    assert visible("é한🙂", encoding="ascii") == "<U+00E9><U+D55C><U+1F642>"
    assert visible("é한", encoding="latin-1") == "é<U+D55C>"


def test_an_unknown_encoding_is_taken_for_ascii_only() -> None:
    assert visible("é", encoding="no-such-encoding") == "<U+00E9>"


def test_one_line_joins_and_cuts() -> None:
    assert one_line("  a \n\n  b\r\nc ") == "a b c"
    assert one_line("x" * 50, limit=10) == "x" * 9 + "…"
    assert one_line("x" * 50, limit=10, encoding="ascii") == "x" * 7 + "..."


def test_every_control_and_format_character_of_unicode_is_hidden() -> None:
    chars = (chr(code) for code in range(sys.maxunicode + 1))
    wanted = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
    missed = [f"U+{ord(c):04X}" for c in chars if unicodedata.category(c) in wanted and c != " " and not is_hidden(c)]
    assert missed == []


@given(st.text(alphabet=st.characters(codec=None)), st.sampled_from(["utf-8", "ascii", "latin-1", "euc-kr"]))
def test_what_is_visible_can_be_written_and_holds_nothing_hidden(text: str, encoding: str) -> None:
    shown = visible(text, encoding=encoding)
    shown.encode(encoding)
    assert not any(is_hidden(char) for char in shown)
