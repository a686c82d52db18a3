"""Alpaca rows: `instruction`, `input`, `output`, and optionally `system`, `history` and `tools`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from template_audit.conversation import Conversation, Message
from template_audit.datasets.interface import RowFormat, read_tools, text_field
from template_audit.errors import DataError


class Alpaca:
    """The question is instruction and input, joined by a line break where both have text.

    So does LLaMA-Factory (data/converter.py, AlpacaDatasetConverter). A row without `output`, or
    with null, has no answer; an empty text is an empty answer. An empty `system` is none.
    """

    name = "alpaca"
    fields = "`instruction` and `output`"

    def recognises(self, row: Mapping[str, Any]) -> bool:
        """True when there is an instruction."""
        return "instruction" in row

    def read(self, row: Mapping[str, Any], where: str) -> Conversation:
        """The conversation in a row. Raises DataError."""
        if "instruction" not in row and "input" not in row:
            raise DataError(f"{where}: there is neither `instruction` nor `input`.")
        messages: list[Message] = []
        system = text_field(row, "system", where)
        if system:
            messages.append(Message("system", system))
        for question, answer in _history(row.get("history"), where):
            messages += [Message("user", question), Message("assistant", answer)]
        parts = [text_field(row, "instruction", where), text_field(row, "input", where)]
        messages.append(Message("user", "\n".join(part for part in parts if part)))
        output = text_field(row, "output", where)
        if output is not None:
            messages.append(Message("assistant", output))
        return Conversation(tuple(messages), read_tools(row, where))


def _history(value: Any, where: str) -> list[tuple[str, str]]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise DataError(f"{where}: `history` must be a list of [question, answer] pairs.")
    pairs = []
    for i, pair in enumerate(value):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise DataError(f"{where}: history[{i}] must be a pair of texts, [question, answer].")
        pairs.append((pair[0], pair[1]))
    return pairs


FORMAT: RowFormat = Alpaca()
