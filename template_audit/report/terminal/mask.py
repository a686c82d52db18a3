"""Which tokens count in the loss, class by class: as the reference implies, and as training has it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from template_audit.findings import MaskRecord
    from template_audit.report.terminal.screen import Screen


def share(trained: int, tokens: int) -> str:
    """``all``, ``none`` or ``some`` of the tokens; empty when there are none."""
    return "" if not tokens else "all" if trained == tokens else "some" if trained else "none"


def differs(row: MaskRecord) -> bool:
    """True when one side trains all, some or none of a class that both have, and the other does not."""
    there, here = share(row.reference_trained, row.reference_tokens), share(row.subject_trained, row.subject_tokens)
    return bool(there and here) and there != here


def show_mask(screen: Screen, rows: Sequence[MaskRecord]) -> None:
    """Print the table: trained tokens of all tokens on both sides, rows that differ marked."""
    cells = [
        (row.kind, _count(row.reference_trained, row.reference_tokens), _count(row.subject_trained, row.subject_tokens))
        for row in rows
    ]
    table = [("tokens", "expected", "fed"), *cells]
    first, second, third = (max(len(cell) for cell in column) for column in zip(*table, strict=True))
    for number, (kind, there, here) in enumerate(table):
        mark = "~" if number and differs(rows[number - 1]) else " "
        line = f"{kind:<{first}}   {there:>{second}}   {here:>{third}}"
        screen.line((f"{mark} ", "warning"), (line, "" if number else "quiet"))


def _count(trained: int, tokens: int) -> str:
    return f"{trained:,} of {tokens:,}" if tokens else "none there"
