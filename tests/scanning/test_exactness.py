"""The short ways of a scan give what the rules give: on every row, one by one."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from template_audit import load_encoder, load_model
from template_audit.audit import Examiner
from template_audit.conversation import Conversation, Message
from template_audit.datasets import read_conversations
from template_audit.model import Model
from template_audit.rules import all_rules
from template_audit.scanning import evaluate
from template_audit.scanning.evaluate import Evaluated, Evaluator
from tests.rendering import with_template
from tests.scanning.varied import numbered, spaced, varied

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
ROWS = int(os.environ.get("TEMPLATE_AUDIT_VARIED_ROWS", "60"))

PAIRS = [
    ("qwen25-like", "llamafactory:qwen"),
    ("llama3-like", "llamafactory:llama3"),
    ("exaone35-like", "llamafactory:llama3"),
    ("exaone35-like", "llamafactory:exaone"),
    ("mistral-like", "llamafactory:mistral"),
    ("gemma-like", "llamafactory:gemma"),
    ("chatml-generation", "llamafactory:qwen"),
    ("qwen3-like", "llamafactory:qwen3"),
    ("hermes-like", "llamafactory:alpaca"),
]
REAL = [
    ("qwen2.5-instruct", "llamafactory:qwen"),
    ("exaone-3.5-2.4b-instruct", "llamafactory:llama3"),
    ("mistral-7b-instruct-v0.2", "llamafactory:mistral"),
    ("phi-3-mini", "llamafactory:phi"),
    ("yi-6b-chat", "llamafactory:alpaca"),
]


@cache
def loaded(name: str) -> Model:
    folder = ROOT / "fixtures" / "models" / name
    if not folder.is_dir():
        folder = SHARED / "models" / name
    if not folder.is_dir():
        pytest.skip(f"../shared/models/{name} is absent")
    return load_model(str(folder))


def examiner(model: Model, spec: str, **options: int) -> Examiner:
    return Examiner(model, load_encoder("chat-template", model), load_encoder(spec, model, **options), all_rules(), {})


def both_ways(examined: Examiner, rows: Sequence[Conversation]) -> tuple[list[Evaluated], list[Evaluated], Evaluator]:
    """Every row through every rule; the same by structure and by ids; and who did the latter."""
    whole = Evaluator(examined, lambda number: False, by_structure=False)
    short = Evaluator(examined, lambda number: False)
    chunks = [numbered(rows)[at : at + 64] for at in range(0, len(rows), 64)]
    found = [one for chunk in chunks for one in short.evaluate(chunk)]
    return [one for chunk in chunks for one in whole.evaluate(chunk)], found, short


@pytest.mark.parametrize(("name", "spec"), PAIRS)
def test_varied_rows(name: str, spec: str) -> None:
    rows = [*varied(ROWS, seed=1), *varied(ROWS, seed=2, odd=0.02)]
    expected, found, short = both_ways(examiner(loaded(name), spec), rows)
    wrong = [(row, a, b) for row, a, b in zip(rows, expected, found, strict=True) if a != b]
    assert not wrong, wrong[0]
    assert not short.mistrusted


@pytest.mark.parametrize(("name", "spec"), PAIRS)
def test_rows_with_whitespace_around_their_texts(name: str, spec: str) -> None:
    """All kinds of it, and a few kinds so often that most rows are known by their ids."""
    few = list(spaced(2 * ROWS, seed=4, outer=("", "", " ", "\n"), ends=("", ".", "。", "e\u0301", "\u037e")))
    expected, found, short = both_ways(examiner(loaded(name), spec), [*spaced(ROWS, seed=5), *few])
    wrong = [(a, b) for a, b in zip(expected, found, strict=True) if a != b]
    assert not wrong, wrong[0]
    assert not short.mistrusted


def test_a_system_prompt_that_is_in_the_templates_own_text() -> None:
    """A rule takes the prompt out of what only the template writes, so another cause comes of it."""
    texts = [f"You are helper number {n * 37}." for n in range(60)]
    texts[40:44] = ["3", "2", "Cutting Knowledge", "a"]
    rows = [
        Conversation((Message("system", text), Message("user", f"Hi {n}"), Message("assistant", f"Ho {n}")))
        for n, text in enumerate(texts)
    ]
    expected, found, short = both_ways(examiner(loaded("llama3-like"), "llamafactory:llama3"), rows)
    assert found == expected
    assert len({one.hits for one in expected}) > 1
    assert not short.mistrusted
    assert short.rows_in_full < 20


def test_rows_with_trimmed_texts_are_known_by_their_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """The template trims what LLaMA-Factory copies; rows of one kind of whitespace are looked at twice."""
    rows = [Conversation((Message("user", f"What is {n}?"), Message("assistant", f"It is {n} \n"))) for n in range(90)]
    short = Evaluator(examiner(loaded("llama3-like"), "llamafactory:llama3"), lambda number: False)
    short.evaluate(numbered(rows[:40]))
    monkeypatch.setattr(Evaluator, "_in_full", lambda self, rows, out: pytest.fail("streams") if rows else None)
    found = short.evaluate(numbered(rows[40:]))
    assert {hit.rule for one in found for hit in one.hits} >= {"whitespace-drift"}


@pytest.mark.parametrize(("name", "spec"), PAIRS[:3])
def test_rows_at_the_length_limit(name: str, spec: str) -> None:
    rows = list(varied(ROWS, seed=3, odd=0.02))
    expected, found, _ = both_ways(examiner(loaded(name), spec, cutoff_len=48), rows)
    assert found == expected


@pytest.mark.shared
@pytest.mark.parametrize(("name", "spec"), REAL)
@pytest.mark.parametrize("data", ["alpaca_en_demo.json", "identity.json", "glaive_toolcall_en_demo.json"])
def test_real_data(name: str, spec: str, data: str) -> None:
    if not (SHARED / "data" / data).is_file():
        pytest.skip(f"../shared/data/{data} is absent")
    rows = read_conversations(SHARED / "data" / data, limit=ROWS)
    expected, found, short = both_ways(examiner(loaded(name), spec), rows)
    assert found == expected
    assert not short.mistrusted


@pytest.mark.shared
def test_few_rows_go_through_the_rules() -> None:
    if not (SHARED / "data").is_dir():
        pytest.skip("../shared/data is absent")
    rows = read_conversations(SHARED / "data" / "alpaca_en_demo.json", limit=400)
    short = Evaluator(examiner(loaded("qwen2.5-instruct"), "llamafactory:qwen"), lambda number: False)
    short.evaluate(numbered(rows))
    assert short.rows_in_full < 20


def test_a_wrong_structure_is_noticed() -> None:
    """A row that is looked at both ways and shows something else marks the evaluator."""
    rows = [row for row in varied(400, seed=5, odd=0.0) if len(row.messages) == 2 and row.tools is None]
    short = Evaluator(examiner(loaded("qwen25-like"), "llamafactory:qwen"), lambda number: True)
    short.evaluate(numbered(rows[:40]))
    assert not short.mistrusted
    for known in short._known.values():
        assert known.verdict is not None
        known.verdict = known.verdict._replace(differing=known.verdict.differing + 1)
    short._patterns._by_key.clear()
    short._short = False
    short.evaluate(numbered(rows[40:80]))
    assert short.mistrusted


def test_a_wrong_pattern_is_noticed() -> None:
    """The first rows that fit a pattern are looked at both ways, whatever their numbers."""
    rows = [Conversation((Message("user", f"What is {n}?"), Message("assistant", f"It is {n}."))) for n in range(80)]
    short = Evaluator(examiner(loaded("qwen25-like"), "llamafactory:qwen"), lambda number: False)
    short.evaluate(numbered(rows[:32]))
    (pattern,) = (one for kept in short._patterns._by_key.values() for one in kept)
    pattern.verdict = pattern.verdict._replace(differing=pattern.verdict.differing + 1)
    short.evaluate(numbered(rows[32:]))
    assert pattern.fitted == 48
    assert short.mistrusted


def test_rows_that_are_looked_at_both_ways_do_not_take_the_quick_way_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many rows `encode_batch` has ids from the quick way, which is what is to be checked."""
    rows = [Conversation((Message("user", f"What is {n}?"), Message("assistant", f"It is {n}."))) for n in range(160)]
    short = Evaluator(examiner(loaded("qwen25-like"), "llamafactory:qwen"), lambda number: True)
    short.evaluate(numbered(rows[:32]))

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the quick way")

    for side in (short.examiner.reference, short.examiner.subject):
        monkeypatch.setattr(type(side), "encode_batch", refused)
    assert {found.outcome for found in short.evaluate(numbered(rows[32:]))} == {"compared"}
    (pattern,) = (one for kept in short._patterns._by_key.values() for one in kept)
    assert pattern.fitted == 128
    assert not short.mistrusted


TURNS = "{% for m in messages %}<|im_start|>{{ m.role }}\n@<|im_end|>\n{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n@{% endif %}"
SAME_IDS = {
    "the prompt looks at a length": TURNS.replace("@", "{{ m.content }}")
    + PROMPT.replace("@", "{% if messages[-1].content|length > 20 %}Sure{% endif %}"),
    "the end of a prefix looks at a word": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% if not loop.last or 'yes' not in m.content %}<|im_end|>\n{% endif %}{% endfor %}" + PROMPT.replace("@", ""),
    "composed": TURNS.replace("@", "{{ m.content.replace('e\u0301', '\u00e9') }}") + PROMPT.replace("@", ""),
    "decomposed": TURNS.replace("@", "{{ m.content.replace('\u00e9', 'e\u0301') }}") + PROMPT.replace("@", ""),
}


@pytest.mark.parametrize("template", SAME_IDS.values(), ids=SAME_IDS)
def test_rows_whose_ids_do_not_tell_what_is_found(template: str) -> None:
    """The conversation's ids are the same; what inference shows, or the text that has these ids, is not."""
    words = ("Hello there", "What is up?", "and a text that is longer than that", "yes", "\u00e9", "e\u0301")
    chance = random.Random(3)
    rows = [
        Conversation((Message("user", chance.choice(words)), Message("assistant", chance.choice(words))), id=f"row#{i}")
        for i in range(1, 201)
    ]
    full, short, evaluator = both_ways(
        examiner(with_template(loaded("qwen25-like"), template), "llamafactory:qwen"), rows
    )
    assert full == short
    assert not evaluator.mistrusted


def test_a_row_that_is_too_large_is_not_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "LARGEST", 100)
    rows = [Conversation((Message("user", "a" * size), Message("assistant", "b"))) for size in (99, 100)]
    found = Evaluator(examiner(loaded("qwen25-like"), "llamafactory:qwen"), lambda number: False).evaluate(
        numbered(rows)
    )
    assert [one.outcome for one in found] == ["compared", "not_evaluated"]
    assert found[1].subject is None
    assert "such rows are not encoded" in (found[1].reason or "")
