"""Rows for benchmarks of encoding: no two alike, so that no cache can answer for a tokenizer."""

from __future__ import annotations

import json
import random
from pathlib import Path

from template_audit.conversation import Conversation, Message

Pair = tuple[str, str]


def short_rows(data: Path, count: int, seed: int = 0) -> list[Pair]:
    """Questions and answers from an alpaca file, in which words and numbers are changed row by row."""
    rows = json.loads(data.read_text("utf-8"))
    dice = random.Random(seed)
    return [_varied(rows[n % len(rows)], n, dice) for n in range(count)]


def long_rows(
    data: Path, count: int, characters: int = 17_000, seed: int = 0, outer: float | None = None
) -> list[Pair]:
    """The same texts put together to rows of about 4,000 tokens, half question and half answer.

    They are cut anywhere, so that a third of the rows ends one of its sides in whitespace: many more
    than in data that people publish, which is mostly trimmed. With `outer` they are trimmed, and
    that share of the rows then has a blank or newlines at one end of one side.
    """
    rows = json.loads(data.read_text("utf-8"))
    dice = random.Random(seed)
    made = []
    for n in range(count):
        sides = []
        for _ in range(2):
            text = ""
            while len(text) < characters // 2:
                text += "\n\n".join(_varied(dice.choice(rows), n, dice)) + "\n\n"
            sides.append(text[: characters // 2])
        if outer is not None:
            sides = [side.strip() for side in sides]
            if dice.random() < outer:
                side, blank = dice.randrange(2), dice.choice((" ", "\n", "\n\n"))
                sides[side] = blank + sides[side] if dice.random() < 0.25 else sides[side] + blank
        made.append((sides[0], sides[1]))
    return made


def conversation(pair: Pair) -> Conversation:
    """A row as a conversation."""
    return Conversation((Message("user", pair[0]), Message("assistant", pair[1])))


def _varied(row: dict[str, str], number: int, dice: random.Random) -> Pair:
    question = row["instruction"] + ("\n" + row["input"] if row["input"] else "")
    return _changed(question, number, dice), _changed(row["output"], number, dice)


def _changed(text: str, number: int, dice: random.Random) -> str:
    """The text with a number and some of its words in another order or spelling."""
    words = text.split(" ")
    for _ in range(max(1, len(words) // 8)):
        at = dice.randrange(len(words))
        other = dice.randrange(len(words))
        words[at], words[other] = words[other], words[at].swapcase()
    words.insert(dice.randrange(len(words) + 1), str(number))
    return " ".join(words)
