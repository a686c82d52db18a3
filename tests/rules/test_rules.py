"""Every rule fires where it should, alone, and stays silent on its near miss."""

from __future__ import annotations

import subprocess
import sys

import pytest

from template_audit.rules import GROUPS, all_rules
from tests.rules.cases import ALSO, CASES

ELSEWHERE = {
    "nondeterministic-template": "tests/rules/test_with_models.py",
    "generation-mask-wrong": "tests/rules/test_with_models.py",
    "tokenizer-files-disagree": "tests/rules/test_tokenizer_files.py",
}
"""Rules that need a real encoder."""


@pytest.mark.parametrize("name", CASES)
def test_fires(name: str) -> None:
    fires, _ = CASES[name]
    severity = "info" if all_rules()[name].severity == "info" else None
    assert name in fires.rules(*([severity] if severity else []))
    assert fires.rules() - ALSO.get(name, set()) == ({name} if severity is None else set())


@pytest.mark.parametrize("name", CASES)
def test_near_miss(name: str) -> None:
    _, near_miss = CASES[name]
    severities = ("info", "warning", "error") if all_rules()[name].severity == "info" else ()
    assert name not in near_miss.rules(*severities)


def test_every_rule_of_a_conversation_or_a_model_has_a_case() -> None:
    names = {name for name, rule in all_rules().items() if rule.scope in ("conversation", "model")}
    assert names - set(CASES) - set(ELSEWHERE) == set()


def test_the_catalogue_is_complete_prose() -> None:
    for name, rule in all_rules().items():
        assert rule.group in GROUPS, name
        for text in (rule.what, rule.why, rule.advice):
            assert text[:1].isupper() or text[:1] == "`", (name, text)
            assert text.endswith((".", ".)")), (name, text)


def test_listing_rules_imports_nothing_heavy() -> None:
    code = (
        "import sys; from template_audit.rules import all_rules; all_rules();"
        "print([m for m in ('transformers', 'tokenizers', 'rapidfuzz', 'rich', 'jinja2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
