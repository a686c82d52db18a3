"""The pages of the rules: complete, the same as the catalogue, and written in real tokens."""

from __future__ import annotations

import json
import re
import runpy

import pytest

from template_audit.cli import main
from template_audit.rules import all_rules
from template_audit.rules.interface import _pages
from template_audit.rules.pages import incident_url, page
from tests.test_audit import ROOT

FOLDER = ROOT / "docs" / "rules"


def test_the_published_pages_are_those_of_the_catalogue() -> None:
    """After a change: python scripts/write_rule_docs.py."""
    pages = runpy.run_path(str(ROOT / "scripts" / "write_rule_docs.py"))["pages"]()
    assert {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()} == pages


def test_every_rule_has_an_example_and_nothing_else_has() -> None:
    assert set(_pages()) == set(all_rules())
    for name, entry in _pages().items():
        assert set(entry) <= {"example", "incidents"}, name
        assert entry["example"].strip(), name
        assert all(len(row) <= 120 for row in entry["example"].splitlines()), name


@pytest.mark.parametrize("name", all_rules())
def test_a_page_says_what_the_rule_says(name: str) -> None:
    rule = all_rules()[name]
    text = page(rule)
    for part in (rule.what, rule.why, rule.advice, rule.example, *map(incident_url, rule.incidents)):
        assert part in text


def test_incidents_are_references() -> None:
    for name, rule in all_rules().items():
        for incident in rule.incidents:
            assert re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", incident), (name, incident)
        assert len(set(rule.incidents)) == len(rule.incidents)


def test_examples_are_written_in_real_tokens() -> None:
    """Each marker is in a fixture's tokenizer, which has the real ones, or in a template of LLaMA-Factory."""
    registries = ROOT / "template_audit" / "frameworks" / "llamafactory" / "registries"
    known = "".join(path.read_text("utf-8") for path in registries.iterdir())
    for path in (ROOT / "fixtures" / "models").glob("*/tokenizer.json"):
        known += "".join(token["content"] + "\n" for token in json.loads(path.read_text("utf-8"))["added_tokens"])
    for name, rule in all_rules().items():
        for marker in re.findall(r"<\|\w+\|>|</?\w+>|\[/?INST\]", rule.example):
            assert marker in known, (name, marker)


def test_rules_name_prints_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "turn-end-untrained"]) == 0
    out = capsys.readouterr().out
    rule = all_rules()["turn-end-untrained"]
    assert all(row in out for row in rule.example.splitlines())
    assert all(incident_url(incident) in out for incident in rule.incidents)
    assert main(["rules", "turn-end-untrained", "--format", "json"]) == 0
    (data,) = json.loads(capsys.readouterr().out)["rules"]
    assert (data["example"], tuple(data["incidents"])) == (rule.example, rule.incidents)
