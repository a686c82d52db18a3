"""The mask that the reference implies against the one that training uses, by class of tokens."""

from __future__ import annotations

import io

import pytest

from template_audit.audit import audit
from template_audit.findings import MaskRecord
from template_audit.probes import probe
from template_audit.report.interface import ReportOptions
from template_audit.report.terminal import FORMAT
from template_audit.results import Report
from tests.builders import StandInEncoder, conversation, model, stream
from tests.rules.cases import HEAD, USER
from tests.test_audit import loaded


def report_of(reference: str, subject: str | None = None, roles: str = "") -> Report:
    toy = model()
    ours = stream(subject or reference, roles=roles)
    return audit(
        toy,
        reference=StandInEncoder("chat-template", toy, stream(reference, roles=roles, prompts=True)),
        subject=StandInEncoder("stand-in", toy, ours),
        conversations=[conversation(reference, roles=roles)],
    )


def rows(report: Report) -> dict[str, tuple[int, int, int, int]]:
    """By class: trained and all tokens of the reference, then of the subject."""
    return {
        row.kind: (row.reference_trained, row.reference_tokens, row.subject_trained, row.subject_tokens)
        for row in report.mask()
    }


PLAIN = USER + HEAD + "«{1:hello there}<|im_end|>»\n"
"""<|im_start|> user ↵ hi <|im_end|> ↵ · <|im_start|> assistant ↵ · hello there · <|im_end|> · ↵"""


def test_classes_of_a_plain_answer() -> None:
    assert rows(report_of(PLAIN)) == {
        "content": (2, 2, 2, 2),
        "header": (0, 3, 0, 3),
        "turn end": (1, 1, 1, 1),
        "trailing whitespace": (0, 1, 0, 1),
        "other roles": (0, 6, 0, 6),
    }


@pytest.mark.parametrize(
    ("subject", "kind", "trained"),
    [
        (PLAIN.replace("<|im_end|>»\n", "»<|im_end|>\n"), "turn end", 0),
        (PLAIN.replace("<|im_end|>»\n", "<|im_end|>\n»"), "trailing whitespace", 1),
        (PLAIN.replace("<|im_start|>assistant\n«", "<|im_start|>«assistant\n"), "header", 2),
        (PLAIN.replace("{0:hi}", "«{0:hi}»"), "other roles", 1),
        (PLAIN.replace("«{1:hello there}", "{1:hello« there}"), "content", 1),
    ],
)
def test_what_training_does_to_one_class_is_in_its_row(subject: str, kind: str, trained: int) -> None:
    found, plain = rows(report_of(PLAIN, subject)), rows(report_of(PLAIN))
    assert found[kind][2] == trained
    assert {k: v for k, v in found.items() if k != kind} == {k: v for k, v in plain.items() if k != kind}


def test_the_end_of_the_text_is_no_other_role_s() -> None:
    """Phi 3 writes an eos token behind the end of the last turn."""
    whole = rows(report_of(PLAIN.replace("<|im_end|>»\n", "<|im_end|>\n</s>»")))
    assert whole["turn end"] == (2, 2, 2, 2)
    assert whole["other roles"] == (0, 6, 0, 6)


def test_thoughts_have_their_markers_and_calls_theirs() -> None:
    thought = "<think>\n{1.reasoning:hm}\n</think>\n\n"  # <think> ↵ hm ↵ </think> ↵↵
    found = rows(report_of(USER + HEAD + f"«{thought}" + "{1:hello}<|im_end|>»\n"))
    assert found["reasoning"] == (6, 6, 6, 6)
    assert found["header"] == (0, 3, 0, 3)
    call = "call{1.tool_call: f}!"  # call, a blank with f, !
    found = rows(report_of(USER + HEAD + f"«{call}<|im_end|>»\n"))
    assert found["tool call"] == (3, 3, 3, 3)
    assert "content" not in found


def test_a_header_that_the_framework_counts_to_the_question() -> None:
    """LLaMA-Factory 0.9.5: the answer's turn begins behind its header, on both sides the same classes."""
    report = audit(loaded("qwen25-like"), subject="llamafactory:qwen", conversations=[probe("multi-turn")])
    found = rows(report)
    assert report.comparisons[0].agrees
    assert {kind: row[1] for kind, row in found.items()} == {kind: row[3] for kind, row in found.items()}
    assert found["header"] == (0, 9, 0, 9)  # three times <|im_start|> assistant ↵
    assert found["trailing whitespace"] == (0, 3, 3, 3)  # which LLaMA-Factory trains


def test_the_record_has_it_and_what_is_empty_is_left_out() -> None:
    report = report_of(PLAIN)
    assert report.to_dict()["mask"][0] == {
        "kind": "content",
        "reference_trained": 2,
        "reference_tokens": 2,
        "subject_trained": 2,
        "subject_tokens": 2,
    }
    assert report.mask()[0] == MaskRecord("content", 2, 2, 2, 2)


def printed(report: Report, *, verbose: bool, width: int) -> str:
    out = io.StringIO()
    FORMAT.write(report, out, ReportOptions(verbose=verbose, width=width, colour=False))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 160])
def test_the_terminal_shows_it_when_a_class_differs(width: int) -> None:
    different = report_of(PLAIN, PLAIN.replace("<|im_end|>»\n", "»<|im_end|>\n"))
    text = printed(different, verbose=False, width=width)
    assert "~ turn end                1 of 1   0 of 1\n" in text
    assert "  content                 2 of 2   2 of 2\n" in text
    table = text.partition("trained tokens, by class")[2].partition("findings")[0].splitlines()
    assert max(map(len, table)) <= width


@pytest.mark.parametrize("subject", [PLAIN, PLAIN.replace("<|im_end|>»\n", "<|im_end|>\n»")])
def test_and_otherwise_only_when_everything_is_shown(subject: str) -> None:
    """Whitespace behind an answer, which does no harm, is no reason."""
    report = report_of(PLAIN, subject)
    assert "trained tokens, by class" not in printed(report, verbose=False, width=80)
    assert "trained tokens, by class" in printed(report, verbose=True, width=80)
