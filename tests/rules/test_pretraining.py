"""Each pre-training rule: a case that fires it and a near miss."""

from __future__ import annotations

from typing import Any

import pytest

from template_audit.errors import DataError
from template_audit.pretraining import PretrainEncoder, PretrainReport, audit_pretraining, load_pretrain_encoder
from template_audit.rules import all_rules
from tests.frameworks.llamafactory.data_vectors import model

LONG = ["The tide comes in and goes out again. " * 12, "A short one.", "Another text about the sea. " * 9]
SHORT = ["One.", "Two.", "Three."]
FIRED: set[str] = set()


def report(
    documents: list[str], spec: str = "llamafactory:llama3", name: str = "llama3-like", **options: Any
) -> PretrainReport:
    """The documents in blocks of 64 tokens, unless the options say otherwise."""
    return audit_pretraining(load_pretrain_encoder(spec, model(name), **{"cutoff_len": 64, **options}), documents)


def fires(name: str, found: PretrainReport) -> str:
    """The message of the one finding of this rule."""
    (finding,) = (finding for finding in found.findings if finding.rule == name)
    assert finding.severity == all_rules()[name].severity
    FIRED.add(name)
    return finding.message


def silent(name: str, found: PretrainReport) -> None:
    assert name not in {finding.rule for finding in found.findings}


def test_missing_document_separator() -> None:
    message = fires("missing-document-separator", report(LONG, name="exaone35-like"))
    assert "`<|end_of_text|>`" in message
    assert "ordinary pieces" in message
    silent("missing-document-separator", report(LONG))


def test_separator_is_turn_end() -> None:
    message = fires("separator-is-turn-end", report(LONG, "llamafactory:qwen", "qwen25-like"))
    assert "`<|im_end|>`" in message
    silent("separator-is-turn-end", report(LONG, "llamafactory:llama3", "llama3-like"))


def test_separator_is_turn_end_when_the_template_replaces_eos() -> None:
    message = fires("separator-is-turn-end", report(LONG, "llamafactory:chatml", "base-no-template"))
    assert "The template replaces the eos token" in message


def test_a_model_with_one_end_token_for_both_is_left_alone() -> None:
    silent("separator-is-turn-end", report(LONG, "llamafactory:mistral", "mistral-like"))


def test_separator_untrained() -> None:
    message = fires("separator-untrained", report(LONG, "llamafactory:default", "llama3-like"))
    assert "the framework made it so" in message
    silent("separator-untrained", report(LONG, "llamafactory:llama3", "llama3-like"))


def test_bos_overwrites_token() -> None:
    message = fires("bos-overwrites-token", report(LONG, "llamafactory@0.9.1:gemma", "gemma-like", cutoff_len=32))
    assert "blocks was replaced by `<bos>`" in message
    silent("bos-overwrites-token", report(LONG, "llamafactory@0.9.1:gemma", "gemma-like", packing=False))


def test_remainder_dropped() -> None:
    found = report(LONG, cutoff_len=64)
    message = fires("remainder-dropped", found)
    assert message.startswith(f"{found.totals.tokens_dropped:,} tokens that fill no block are dropped")
    assert "beyond cutoff_len" in fires("remainder-dropped", report(LONG, cutoff_len=64, packing=False))
    silent("remainder-dropped", report(SHORT, cutoff_len=64, packing=False))


def test_no_training_examples() -> None:
    """LLaMA-Factory stops on such a data set with "Cannot find sufficient samples" (data/loader.py)."""
    found = report(SHORT, cutoff_len=2000)
    message = fires("no-training-examples", found)
    assert message.startswith("No block is made of 3 documents with")
    assert "a block takes 2,000 tokens" in message
    assert "3 whole documents" in fires("remainder-dropped", found)
    assert found.exit_code == 1
    silent("no-training-examples", report(SHORT, cutoff_len=2000, packing=False))
    silent("no-training-examples", report(LONG))


def test_a_data_set_without_documents_is_no_clean_one() -> None:
    with pytest.raises(DataError, match="no documents"):
        report([])


def test_document_split() -> None:
    fires("document-split", report(LONG, cutoff_len=64))
    silent("document-split", report(SHORT, cutoff_len=64, packing=False))


def test_cross_document_attention() -> None:
    fires("cross-document-attention", report(LONG, cutoff_len=64))
    silent("cross-document-attention", report(LONG, cutoff_len=64, packing=False))


def test_every_rule_was_fired_and_says_what_to_do() -> None:
    rules = {name: rule for name, rule in all_rules().items() if rule.scope == "pretraining"}
    if FIRED:  # not when this test is run alone
        assert set(rules) == FIRED
    for rule in rules.values():
        assert rule.group == "Pre-training"
        assert rule.what
        assert rule.why
        assert rule.advice


@pytest.fixture(scope="module")
def encoder() -> PretrainEncoder:
    return load_pretrain_encoder("llamafactory:llama3", model("llama3-like"), cutoff_len=64)


class TestReport:
    @pytest.mark.parametrize(("fail_on", "code"), [("never", 0), ("error", 0), ("warning", 0), ("info", 1)])
    def test_exit_code(self, encoder: PretrainEncoder, fail_on: Any, code: int) -> None:
        assert audit_pretraining(encoder, LONG, fail_on=fail_on).exit_code == code

    def test_severities_can_be_replaced(self, encoder: PretrainEncoder) -> None:
        found = audit_pretraining(encoder, LONG, severities={"document-split": "error"})
        assert found.findings[0].rule == "document-split"
        assert found.exit_code == 1

    def test_fingerprints_depend_on_no_numbers(self, encoder: PretrainEncoder) -> None:
        one, other = (audit_pretraining(encoder, documents) for documents in (LONG, LONG[::-1]))
        assert {f.rule: f.fingerprint for f in one.findings} == {f.rule: f.fingerprint for f in other.findings}
