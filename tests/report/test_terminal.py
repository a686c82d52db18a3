"""The terminal report, from a report made by hand."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from template_audit.errors import EncodingError
from template_audit.report import formats, get_format
from template_audit.report.interface import ReportOptions
from template_audit.report.sanitize import is_hidden
from template_audit.report.terminal.screen import ASCII, UNICODE
from template_audit.results import Report
from tests.report.reports import EQUAL, FED, SPLIT, comparison, finding, report


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def written(shown: Report, encoding: str = "utf-8", **options: object) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="")
    get_format("terminal").write(shown, stream, ReportOptions(**options))  # type: ignore[arg-type]
    stream.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("width", [80, 160])
def test_report_without_colour(snapshot: SnapshotAssertion, width: int) -> None:
    assert written(report(), width=width) == snapshot


@pytest.mark.parametrize("width", [80, 160])
def test_report_in_colour(snapshot: SnapshotAssertion, width: int) -> None:
    text = written(report(), width=width, colour=True)
    assert re.sub(r"\x1b\[([0-9;]*)m", r"{\1}", text) == snapshot


def test_verbose_report_in_ascii(snapshot: SnapshotAssertion) -> None:
    text = written(report(report().comparisons[:2], []), "ascii", width=100, verbose=True)  # type: ignore[arg-type]
    assert text == snapshot


def test_pipes_get_no_escape_codes_and_a_hundred_columns() -> None:
    text = written(report())
    assert "\x1b" not in text
    assert max(map(len, text.splitlines()[:-1])) <= 100
    assert "│" in text  # two columns


def test_columns_sets_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    assert "│" not in written(report())


def test_no_color_keeps_bold_and_reverse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    codes = {code for group in re.findall(r"\x1b\[([0-9;]*)m", written(report())) for code in group.split(";")}
    assert codes <= {"0", "1", "2", "4", "7"}
    assert {"4", "7"} <= codes  # trained is underlined, special is reversed


def test_quiet_is_one_line() -> None:
    lines = written(report(), quiet=True).splitlines()
    assert len(lines) == 1
    assert lines[0].endswith("Exit 2.")


def test_the_verdict_is_the_last_line_whatever_the_width() -> None:
    assert written(report(), width=60).splitlines()[-1] == written(report(), quiet=True).strip()


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        ([], "✓ llamafactory@0.9.5:llama3 feeds this model what its chat template shows, in 2 conversations. Exit 0."),
        (
            [finding("a", "warning", "one", "x"), finding("b", "info", "two", "y")],
            "! 1 warning in 1 of 2 conversations: llamafactory@0.9.5:llama3 feeds this model almost what its chat "
            "template shows. Exit 0.",
        ),
        (
            [finding("a", "error", "one", "x"), finding("a", "error", "two", "x"), finding("b", "error", None, "y")],
            "✗ 2 errors in 2 of 2 conversations: llamafactory@0.9.5:llama3 does not feed this model what its chat "
            "template shows. Exit 1.",
        ),
    ],
)
def test_verdicts(findings: list, verdict: str) -> None:  # type: ignore[type-arg]
    shown = report([comparison("one", EQUAL, EQUAL), comparison("two", EQUAL, EQUAL)], findings)
    assert written(shown, quiet=True) == verdict + "\n"


def test_differences_without_errors_or_warnings_are_not_called_equal() -> None:
    shown = report([comparison("one", EQUAL, SPLIT)], [finding("a", "info", "one", "x")])
    assert "No errors or warnings in 1 conversation" in written(shown, quiet=True)
    assert "(0 equal to the token)" in written(shown, quiet=True)


def test_what_could_not_be_evaluated_is_said_first() -> None:
    endless = EncodingError("It ran for 5 seconds.", kind="template-timeout")
    shown = report([comparison("one", endless, EQUAL)], [finding("template-timeout", "error", "one", "x")])
    assert written(shown, quiet=True) == "? 1 of 1 conversation could not be evaluated. Exit 2.\n"


def test_agreeing_conversations_are_one_line_each() -> None:
    text = written(report([comparison("one", EQUAL, EQUAL)], []))
    assert "✓ one  12 tokens, equal\n" in text
    assert "──" not in text


def test_a_cause_with_several_severities_is_said_once() -> None:
    findings = [finding("a", "error", "one", "x"), finding("a", "info", "two", "x")]
    text = written(report([comparison("one", EQUAL, EQUAL), comparison("two", EQUAL, EQUAL)], findings))
    assert text.count("Why a matters.") == 1
    assert "in        one, two" in text
    assert "i a: x" not in text


def test_long_equal_and_long_changed_stretches_are_cut() -> None:
    words = " ".join(f"word{i}" for i in range(2000))
    same = EQUAL.replace("{0:hi}", f"{{0:{words}}}")
    text = written(report([comparison("long", same, same.replace("hello", "goodbye"))], []))
    assert len(text.splitlines()) < 30
    assert "tokens …" in text
    text = written(report([comparison("long", EQUAL, EQUAL.replace("{0:hi}", "{0:hi}" + words))], []))
    assert len(text.splitlines()) < 40


def test_wide_characters_keep_the_columns_straight() -> None:
    from rich.cells import cell_len

    korean = EQUAL.replace("{0:hi}", "{0:" + "한국어 텍스트 " * 20 + "}")
    text = written(report([comparison("wide", korean, korean.replace("assistant", "model"))], []), width=110)
    bars = {cell_len(line[: line.index("│")]) for line in text.splitlines() if "│" in line}
    assert len(bars) == 1
    assert all(cell_len(line) <= 110 for line in text.splitlines()[:-1])


TEXTS = st.text(alphabet=st.characters(codec=None, exclude_characters="{}«»¦"), max_size=30)


@settings(max_examples=60, deadline=None)
@given(TEXTS, TEXTS, st.sampled_from(["utf-8", "ascii", "latin-1", "euc-kr"]), st.integers(10, 200), st.booleans())
def test_no_text_breaks_or_steers_the_report(a: str, b: str, encoding: str, width: int, verbose: bool) -> None:
    notation = FED.replace("2 + 2", a or "x")
    shown = report(
        [comparison(b or "id", notation, notation.replace("user", b or "y"))],
        [finding("rule", "error", b or "id", a, advice=b, why=a)],
    )
    text = written(shown, encoding, width=width, verbose=verbose)
    assert not any(is_hidden(char) for char in text if char != "\n")


def test_ascii_symbols_are_ascii() -> None:
    assert all(getattr(ASCII, name).isascii() for name in UNICODE.__slots__)


def test_formats_are_found_by_folder() -> None:
    assert {"json", "terminal"} <= set(formats())
