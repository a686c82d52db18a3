"""Streams from a readable notation, for tests that need no model.

    <|im_start|>user\n{0:hi}<|im_end|>\n<|im_start|>assistant\n«{1:hello}<|im_end|>»\n

``{0:hi}`` is the content of message 0; ``{1.reasoning:…}`` another field of it; ``{default_system:…}``
a system prompt that nobody gave; everything else is the template's literal. ``«…»`` is trained. ``¦``
forces a token boundary. Ids come from a toy vocabulary: known markers are one token each, other
text is cut into words (with the blank before them), runs of newlines and single characters, never
across a forced boundary or the edge of a special token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from template_audit.conversation import Conversation
from template_audit.errors import EncodingError
from template_audit.frameworks.interface import TokenizerEffects
from template_audit.model import Model
from template_audit.stream import IGNORE, EncodedStream, Origin, Piece, Prompt, Turn

SPECIALS = ("<s>", "</s>", "<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<|eot_id|>", "<think>", "</think>")
ADDED = ("<|added|>",)
"""Tokens that an encoder adds: one token each, with ids beyond the vocabulary."""
_PART = re.compile(r"\{(?:(\d+)(?:\.(\w+))?|(default_system|tools)):((?:[^{}]|\{[^{}]*\})*)\}", re.S)


class Vocabulary:
    """Token text to id; ids are given out in the order of first use, specials first."""

    size = 1_000_000  # tests of long streams use thousands of words

    def __init__(self, specials: Sequence[str] = SPECIALS, added: Sequence[str] = ADDED) -> None:
        self.specials = tuple(specials)
        self.ids: dict[str, int] = {text: self.size + k for k, text in enumerate(added)}
        for text in self.specials:
            self[text]
        whole = sorted((*specials, *added), key=len, reverse=True)
        self._cut = re.compile("(" + "|".join(map(re.escape, whole)) + ")")
        self._words = re.compile(r"\n+| ?\w+|.", re.S)
        self._whole = frozenset(whole)

    def __getitem__(self, text: str) -> int:
        return self.ids.setdefault(text, len(self.ids) + 10)

    def split(self, text: str) -> list[str]:
        return [
            token
            for part in self._cut.split(text)
            for token in ([part] if part in self._whole else self._words.findall(part))
        ]


VOCABULARY = Vocabulary()


def stream(
    notation: str,
    *,
    roles: str = "",
    vocabulary: Vocabulary = VOCABULARY,
    prompts: bool = False,
    notes: Iterable[str] = (),
) -> EncodedStream:
    """An EncodedStream from the notation. `roles` has one letter per message: s, u, a, t (default: uaua…).

    With `prompts` inference shows, before each answer, the text up to its first trained character.
    """
    roles = roles or _alternating(notation)
    text, pieces, trained, cuts = "", [], [], {0}
    for value, origin, flags in _parts(notation):
        start = len(text)
        for char, flag in zip(value, flags, strict=True):
            if char == "¦":
                cuts.add(len(text))
            else:
                text += char
                trained.append(flag)
        if len(text) > start:
            pieces.append(Piece(start, len(text), origin))
    ids: list[int] = []
    labels: list[int] = []
    spans: list[tuple[int, int]] = []
    edges = [*sorted(cuts - {0, len(text)}), len(text)]
    at = 0
    for edge in edges:
        for token in vocabulary.split(text[at:edge]):
            ids.append(vocabulary[token])
            labels.append(ids[-1] if trained[at] else IGNORE)
            spans.append((at, at + len(token)))
            at += len(token)
    built = EncodedStream(ids, labels, text, spans, pieces, notes=tuple(notes))
    built.turns.extend(_turns(built, roles))
    if prompts:
        built.prompts.extend(_prompts(built, roles))
    return built


def _alternating(notation: str) -> str:
    last = max((origin.message for _, origin, _ in _parts(notation) if origin.message is not None), default=1)
    return ("ua" * last)[: last + 1] if last > 1 else "ua"


def _parts(notation: str) -> Iterable[tuple[str, Origin, list[bool]]]:
    on = False

    def take(raw: str) -> tuple[str, list[bool]]:
        nonlocal on
        kept, flags = "", []
        for char in raw:
            if char in "«»":
                on = char == "«"
            else:
                kept += char
                flags.append(on)
        return kept, flags

    at = 0
    for match in _PART.finditer(notation):
        value, flags = take(notation[at : match.start()])
        yield value, Origin(None, "literal"), flags
        message, name, alone, body = match.groups()
        value, flags = take(body)
        field: Any = alone or name or "content"
        yield value, Origin(None if alone else int(message), field), flags
        at = match.end()
    value, flags = take(notation[at:])
    yield value, Origin(None, "literal"), flags


def _prompts(built: EncodedStream, roles: str) -> Iterable[Prompt]:
    before = 0
    for turn in built.turns:
        if turn.message is not None and roles[turn.message] == "a":
            first = next((i for i in range(turn.start, turn.end) if built.labels[i] != IGNORE), turn.end)
            before = built.spans[first][0] if first < len(built) else len(built.text)
            yield Prompt(turn.message, built.text[:before], built.input_ids[:first])


_NAMES = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
_END = re.compile(r"(<\|im_end\|>|</s>|<\|eot_id\|>|<end>)+\n?|\n(?=\[|<)")


def _turns(built: EncodedStream, roles: str) -> Iterable[Turn]:
    """Turns end at the first end marker after a body; what precedes the first header is no message's."""
    bodies: dict[int, list[int]] = {}
    for piece in built.pieces:
        if piece.origin.message is not None:
            span = bodies.setdefault(piece.origin.message, [piece.start, piece.end])
            span[1] = piece.end
    first = True
    at = 0
    for message, (start, end) in sorted(bodies.items()):
        if first:
            head = built.text[:start]
            marks = [m.end() for m in _END.finditer(head)]
            bos = 3 if head.startswith("<s>") else 0
            at = max([bos, *marks]) if marks else bos
            if at:
                yield _turn(built, None, "system" if marks else "", 0, at)
            first = False
        match = _END.match(built.text, end)
        stop = match.end() if match else end
        if message == max(bodies):
            stop = len(built.text)
        yield _turn(built, message, _NAMES[roles[message]], at, stop)
        at = stop


def _turn(built: EncodedStream, message: int | None, role: str, start: int, end: int) -> Turn:
    inside = [i for i, span in enumerate(built.spans) if start <= span[0] < end]
    first, last = (inside[0], inside[-1] + 1) if inside else (len(built.spans), len(built.spans))
    return Turn(message, role, first, last, start, end)


def conversation(notation: str = "", *, roles: str = "", id: str = "test", **changes: Any) -> Conversation:
    """A Conversation whose messages hold what the notation puts into their fields."""
    roles = roles or _alternating(notation)
    fields: dict[int, dict[str, str]] = {}
    for value, origin, _ in _parts(notation):
        if origin.message is not None:
            fields.setdefault(origin.message, {})[origin.field] = value.replace("¦", "")
    rows: list[dict[str, Any]] = []
    for index, role in enumerate(roles):
        found = fields.get(index, {})
        row: dict[str, Any] = {
            "role": _NAMES[role],
            "content": found.get("content", found.get("system", found.get("tool_result", ""))),
        }
        if "reasoning" in found:
            row["reasoning_content"] = found["reasoning"]
        if "tool_call" in found:
            row["tool_calls"] = [{"function": {"name": "f", "arguments": found["tool_call"]}}]
        rows.append({**row, **changes.get(f"m{index}", {})})
    return Conversation.from_openai({"messages": rows, "tools": changes.get("tools"), "id": id})


class Tokenizer:
    """The attributes of a tokenizer that rules look at."""

    def __init__(
        self,
        vocabulary: Vocabulary = VOCABULARY,
        *,
        bos: str | None = "<s>",
        eos: str | None = "<|im_end|>",
        pad: str | None = "<pad>",
        unk: str | None = "<unk>",
    ) -> None:
        self.vocabulary = vocabulary
        self.bos_token, self.eos_token, self.pad_token, self.unk_token = bos, eos, pad, unk
        self.chat_template = "{{ messages }}"
        self.special_tokens_map: dict[str, str] = {}

    def _id(self, token: str | None) -> int | None:
        return None if token is None else self.vocabulary.ids.get(token)

    def convert_tokens_to_ids(self, token: str) -> int | None:
        return self.get_vocab().get(token, self.unk_token_id)

    def convert_ids_to_tokens(self, token: int) -> str:
        return next(text for text, id in self.vocabulary.ids.items() if id == token)

    bos_token_id = property(lambda self: self._id(self.bos_token))
    eos_token_id = property(lambda self: self._id(self.eos_token))
    pad_token_id = property(lambda self: self._id(self.pad_token))
    unk_token_id = property(lambda self: self._id(self.unk_token))

    @property
    def all_special_ids(self) -> list[int]:
        return [id for id, token in self.added_tokens_decoder.items() if token.special]

    @property
    def added_tokens_decoder(self) -> dict[int, Any]:
        return {
            self.vocabulary.ids[text]: SimpleNamespace(content=text, special=text not in ("<think>", "</think>"))
            for text in self.vocabulary.specials
        }

    def get_vocab(self) -> dict[str, int]:
        return {text: id for text, id in self.vocabulary.ids.items() if text in self.vocabulary.specials}

    def __len__(self) -> int:
        return self.vocabulary.size


def model(
    *,
    tokenizer: Tokenizer | None = None,
    template: str | None = "{{ messages }}",
    generation_config: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Model:
    """A Model around a toy tokenizer."""
    return Model(
        id=fields.pop("id", "toy"),
        revision=None,
        path=Path("toy"),
        files=(),
        tokenizer=tokenizer or Tokenizer(),  # type: ignore[arg-type]
        chat_templates={} if template is None else {"default": template},
        template_sources=fields.pop("template_sources", ()),
        generation_config=generation_config or {},
        **fields,
    )


class StandInEncoder:
    """An encoder that answers from a table of streams by conversation id."""

    def __init__(
        self,
        spec: str,
        model: Model,
        streams: Mapping[str, EncodedStream | EncodingError] | EncodedStream | EncodingError,
        *,
        effects: TokenizerEffects | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.spec, self.model = spec, model
        self.options = options or {}
        self.effects = effects or TokenizerEffects()
        self.notes: tuple[str, ...] = ()
        self._streams = streams

    def encode(self, conversation: Conversation) -> EncodedStream:
        found = self._streams[conversation.id] if isinstance(self._streams, Mapping) else self._streams
        if isinstance(found, EncodingError):
            raise found
        return found

    def encode_batch(
        self, conversations: Sequence[Conversation], *, keep_errors: bool = False
    ) -> list[EncodedStream | EncodingError]:
        out: list[EncodedStream | EncodingError] = []
        for conversation in conversations:
            try:
                out.append(self.encode(conversation))
            except EncodingError as error:
                if not keep_errors:
                    raise
                out.append(error)
        return out
