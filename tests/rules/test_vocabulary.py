"""What is said of added tokens hangs on the rows of the embedding, which config.json may tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from template_audit.audit import audit
from template_audit.findings import Finding
from template_audit.frameworks.interface import TokenizerEffects
from tests.builders import Tokenizer
from tests.rules.cases import PLAIN, Pair
from tests.test_audit import loaded

SIZE = len(Tokenizer())


def found(config: dict[str, Any]) -> list[Finding]:
    pair = Pair(PLAIN, effects=TokenizerEffects(added_tokens=("<|added|>",)), model={"config": config})
    return [finding for finding in pair.findings() if finding.rule == "vocabulary-grows"]


@pytest.mark.parametrize("config", [{}, {"vocab_size": "many"}, {"vocab_size": True}, {"text_config": None}])
def test_without_a_number_of_rows(config: dict[str, Any]) -> None:
    (finding,) = found(config)
    assert finding.severity == "error"
    assert "config.json" not in finding.message


def test_no_row_is_left() -> None:
    (finding,) = found({"vocab_size": SIZE})
    assert finding.severity == "error"
    assert f"the embedding has {SIZE:,} rows by config.json" in finding.message


@pytest.mark.parametrize(("spare", "severity"), [(64, "warning"), (0, "error")])
def test_a_padded_embedding_takes_the_token(spare: int, severity: str) -> None:
    model = loaded("qwen25-like")
    rows = len(model.tokenizer) + spare
    report = audit(replace(model, config={"vocab_size": rows}), subject="llamafactory:llama3")
    grown = [finding for finding in report.findings if finding.rule == "vocabulary-grows"]
    assert {finding.severity for finding in grown} == {severity}
    assert all(("so training runs" in finding.message) == bool(spare) for finding in grown)
