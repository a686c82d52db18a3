"""A rule of the group Model files: the tokenizer that is loaded against the one that is stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from template_audit.rules.evidence import count, show
from template_audit.rules.interface import Hit, ModelCase, rule

_SAMPLES = (
    "In 2023 it was 650841823, or 3.14159 of 1,000,000.",
    "  two blanks,\ttab,\n\nlines   and a tail  ",
    "I'll say it's DON'T, l'été; naïve Straße ÇA",
    "ﬁne ① ½ ﾊﾝｶｸ Ａｂｃ １２３ …",
    "e\u0301 \u1112\u1161\u11ab 한국어 日本語、中文。 हिन्दी ру́сский",
    "if x == y_1 and not(z): return {'a': [1, 2]}",
    "https://example.org/?q=a%20b&c=d#e 🙂🇰🇷👩‍👩‍👧",
)
"""Texts at which tokenizers part: digits, whitespace, contractions, compatibility characters, composition, code."""
_LONGEST = 4000


@rule(
    "tokenizer-files-disagree",
    severity="error",
    group="Model files",
    scope="model",
    what="AutoTokenizer gives other ids than the model's tokenizer.json. An error when a conversation of the audit is "
    "affected, a warning when only other text is.",
    why="Transformers builds some tokenizers by their class and drops what tokenizer.json says beside the vocabulary. "
    "Training then reads ids that the model was not made with, and that other programs (tokenizers, llama.cpp, "
    "another release of transformers) do not give.",
    advice="Train and serve with one release of transformers whose tokenizer equals tokenizer.json, or load the file "
    "itself (`PreTrainedTokenizerFast.from_pretrained`).",
)
def tokenizer_files_disagree(case: ModelCase) -> Iterator[Hit]:
    from template_audit.model.filetokenizer import file_tokenizer

    stored = case.model.path / "tokenizer.json"
    file = file_tokenizer(stored, case.model.tokenizer) if stored.is_file() else None
    if file is None:
        return
    told = list(_differing(case.model.tokenizer, file, _texts(case)))
    samples = [] if told else list(_differing(case.model.tokenizer, file, _SAMPLES))
    if told or samples:
        piece, theirs, ours = (told or samples)[0]
        where = f"in {count(len(told), 'conversation')}" if told else "in none of the conversations here"
        yield Hit(
            f"{show(piece)} is {_ids(theirs)} by tokenizer.json and {_ids(ours)} by AutoTokenizer "
            f"({type(case.model.tokenizer).__name__}); the two differ {where}.",
            key="ids",
            severity=None if told else "warning",
        )


def _texts(case: ModelCase) -> Iterator[str]:
    """The text of each conversation as the chat template writes it."""
    for one in case.cases:
        yield one.reference.text[:_LONGEST]


def _differing(tokenizer: Any, file: Any, texts: Iterable[str]) -> Iterator[tuple[str, list[int], list[int]]]:
    """The texts with other ids, each as the word at which they part and its ids on both sides."""
    from template_audit.errors import EncodingError
    from template_audit.model.filetokenizer import encode
    from template_audit.model.tokenizer import encode_texts

    for text in dict.fromkeys(texts):
        try:
            ((ours, spans),) = encode_texts(tokenizer, [text])
            theirs = encode(file, text)
        except EncodingError:
            continue
        if theirs == ours:
            continue
        at = next(
            (i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(map(len, (theirs, ours)))
        )
        yield _word(tokenizer, file, text, spans[at][0] if at < len(spans) else len(text))


def _word(tokenizer: Any, file: Any, text: str, place: int) -> tuple[str, list[int], list[int]]:
    """The shortest stretch around `place` that shows the difference on its own, else the words from there on."""
    from template_audit.model.filetokenizer import encode
    from template_audit.model.tokenizer import encode_texts

    for width in (1, 2, 4, 8, 16, 32):
        for start in (place, max(place - 1, 0), max(place - width, 0)):
            piece = text[start : place + width]
            if piece:
                ((ours, _),) = encode_texts(tokenizer, [piece])
                theirs = encode(file, piece)
                if theirs != ours:
                    return piece, theirs, ours
    ((ours, _),) = encode_texts(tokenizer, [text])
    return text, encode(file, text), ours


def _ids(ids: list[int]) -> str:
    shown = ", ".join(map(str, ids[:6])) + (", …" if len(ids) > 6 else "")
    return f"id{'' if len(ids) == 1 else 's'} {shown}" if ids else "no token"
