"""A seeded sample of the mutants of docs/detection-mutations.md, audited again."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
WANTED = (0.98, 0.90, 0.95)
"""Detected, right rule, right place."""
PER_PAIR = 45


@pytest.fixture(scope="module")
def mutations() -> Iterator[Any]:
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import mutations

        yield mutations
    finally:
        sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def results(mutations: Any) -> list[Any]:
    """A draw from the mutants of four pairs, framework templates and chat templates against themselves."""
    found = []
    for name, template in (
        ("chatml-plain", "chatml"),
        ("qwen25-like", "qwen"),
        ("llama3-like", None),
        ("hermes-like", "cpm4"),
    ):
        pair = mutations.Pair(name, template)
        mutants = mutations.sample(list(pair.mutants()), 1)
        drawn = random.Random(mutations.SEED).sample(mutants, min(PER_PAIR, len(mutants)))
        found += [result for mutant in drawn if (result := mutations.measure(mutant))]
    return found


def test_a_sample_of_mutants_is_caught(results: list[Any]) -> None:
    from mutation_page import shares

    missed = [(r.mutant, r.found, r.right) for r in results if not (r.detected and r.rule and r.place)]
    assert len(results) >= 60
    assert all(share >= wanted for share, wanted in zip(shares(results), WANTED, strict=True)), missed


WHOLE = ("gemma-like", "gemma")
"""The pair that is measured again in full."""


def test_a_pair_of_the_page_has_the_numbers_that_it_says(mutations: Any) -> None:
    """With the sites of `make mutations`, which is 3."""
    from mutation_page import pair_of, pair_row

    found, _ = mutations.measure_pair(*WHOLE, 3)
    name = " × ".join(WHOLE)
    assert {pair_of(result) for result in found} == {name}
    page = (ROOT / "docs" / "detection-mutations.md").read_text(encoding="utf-8")
    assert pair_row(name, found) in page.splitlines(), "run `make mutations`"


def test_the_numbers_of_what_is_detected_are_those_of_the_page(mutations: Any) -> None:
    from mutation_page import summary

    page, detection = (
        (ROOT / "docs" / f"{name}.md").read_text("utf-8") for name in ("detection-mutations", "detection")
    )
    assert summary(page) in detection, "run `make detection`"


def test_the_numbers_of_the_page_reach_what_is_wanted() -> None:
    page = (ROOT / "docs" / "detection-mutations.md").read_text(encoding="utf-8")
    shown = [float(share) / 100 for share in re.findall(r"≥ \d+ % \| ([\d.]+)%", page)]
    assert len(shown) == 3
    assert all(share >= wanted for share, wanted in zip(shown, WANTED, strict=True))


def test_there_are_at_least_twenty_operators_and_their_rules_exist(mutations: Any) -> None:
    from template_audit.rules import all_rules

    operators = [*mutations.CHAT, *mutations.FRAMEWORK, *mutations.LABELS]
    assert len({(operator.kind, operator.name) for operator in operators}) == len(operators)
    assert len({operator.name for operator in operators}) >= 20
    assert {rule for operator in operators for rules in operator.rules.values() for rule in rules} <= set(all_rules())
    assert all(operator.does and operator.rules for operator in operators)


def test_a_mutant_that_changes_nothing_is_left_out(mutations: Any) -> None:
    pair = mutations.Pair("chatml-plain", "chatml")
    same = next(o for o in mutations.CHAT if o.name == "drop-system")
    assert mutations.measure(mutations.Mutant(pair, same, "", pair.model.chat_templates)) is None
