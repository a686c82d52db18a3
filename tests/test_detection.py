"""The incident corpus and the pairs that agree: the numbers of docs/detection.md, computed again."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from template_audit.alignment import compare
from template_audit.rules import all_rules
from template_audit.rules.interface import Case
from tests.builders import StandInEncoder, conversation, model, stream

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import detection  # noqa: E402 - a script, found by the line above

INCIDENTS = detection.incidents()
ABOUT_THE_MODEL = {"missing-generation-tags", "pad-equals-eos", "eos-mismatch", "nondeterministic-template"}
"""Rules that look at the model's files; their findings stay when the trainer makes no mistake."""


@cache
def outcomes() -> tuple[detection.Outcome, ...]:
    return tuple(map(detection.run, INCIDENTS))


@cache
def agreements() -> tuple[detection.Agreement, ...]:
    return tuple(detection.agreements())


def test_the_corpus_is_large_and_names_its_sources() -> None:
    assert len(INCIDENTS) >= 40
    assert {incident.framework for incident in INCIDENTS} >= {
        *("llamafactory", "trl", "axolotl", "unsloth", "ms-swift", "vllm", "llama.cpp", "transformers")
    }
    names = [(incident.framework, incident.id) for incident in INCIDENTS]
    assert len(set(names)) == len(names)
    for incident in INCIDENTS:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", incident.source), incident.source
        assert incident.said
        assert incident.expected
        assert {wanted["rule"] for wanted in incident.expected} <= set(all_rules())


def test_recall() -> None:
    missed = [f"{o.incident.framework}/{o.incident.id}: {list(o.missed)}" for o in outcomes() if not o.caught]
    assert detection.recall(outcomes()) >= 0.95, missed


def test_nobody_is_falsely_accused() -> None:
    assert len(agreements()) >= 15
    found = [f"{pair.name}: {f.conversation} {f.rule}: {f.message}" for pair in agreements() for f in pair.accusations]
    assert found == []


def test_most_rules_of_single_conversations_are_seen() -> None:
    """What is not here has no public incident that a stream can show."""
    expected = {wanted["rule"] for incident in INCIDENTS for wanted in incident.expected}
    assert len(expected) >= 30


def test_the_page_has_these_numbers() -> None:
    def without_versions(text: str) -> list[str]:
        return [line for line in text.splitlines() if not re.match(r"\d{4}-\d\d-\d\d, ", line)]

    page = detection.REPORT.read_text(encoding="utf-8")
    again = detection.report_text(outcomes(), agreements())
    assert without_versions(page) == without_versions(again), "run `make detection`"


def test_what_is_caught_is_the_fault() -> None:
    """The same case with the trainer's mistakes taken out: what had to be found is not found."""
    cleared = 0
    for incident in INCIDENTS:
        described = incident.subject.get("described", {})
        if not described.get("faults"):
            continue
        subject = {"described": {**described, "faults": []}}
        found = detection.run(replace(incident, subject=subject))
        still = [wanted["rule"] for wanted in incident.expected if wanted not in found.missed]
        assert set(still) <= ABOUT_THE_MODEL, incident.id
        cleared += 1
    assert cleared >= 30


@pytest.mark.parametrize(
    ("trained", "found"),
    [("<think>\nthought\n</think>", False), ("<think>\nthought\n", True), ("", False)],
)
def test_a_thought_without_its_end_is_partly_trained(trained: str, found: bool) -> None:
    plain = (
        "<|im_start|>user\n{0:hi}<|im_end|>\n<|im_start|>assistant\n"
        "<think>\n{1.reasoning:thought}\n</think>\n\n{1:hello}<|im_end|>\n"
    )
    rest = "\n\n{1:hello}<|im_end|>"
    marked = plain.replace(rest, f"«{rest}»")
    if trained:
        told = trained.replace("thought", "{1.reasoning:thought}")
        marked = marked.replace(told, f"«{told}»", 1)
    toy, one = model(), stream(marked)
    encoder = StandInEncoder("toy", toy, one)
    case = Case(toy, conversation(plain), encoder, encoder, one, one, compare(one, one))
    hits = list(all_rules()["reasoning-partly-trained"].check(case))
    assert bool(hits) is found


def test_placeholders_of_the_old_identity_data() -> None:
    incident = next(i for i in INCIDENTS if i.id == "identity-placeholders")
    found = [f.message for f in detection.run(incident).report.findings if f.rule == "unfilled-placeholder"]
    assert found == [
        "`<NAME>` in message 1 was never filled in.",
        "`<AUTHOR>` in message 1 was never filled in.",
    ]
