"""A pre-training stream on the terminal: totals, findings, and any block with its documents."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from rich.text import Text

from template_audit.findings import by_cause
from template_audit.report.terminal.findings import show_findings
from template_audit.report.terminal.ignored import show_ignored, show_known
from template_audit.report.terminal.screen import Screen, style, wrap
from template_audit.report.terminal.summary import plural
from template_audit.report.terminal.tokens import special_ids
from template_audit.stream import IGNORE

if TYPE_CHECKING:
    from template_audit.blocks import Block, DocumentSpan
    from template_audit.pretraining import PretrainReport

_LABEL = 20
ASKED_FOR = "It was asked for."
_COLOURS = ("cyan", "magenta", "yellow", "green", "blue")
_SHORT = 320  # characters of a document that are shown unless everything is wanted


def show_pretraining(screen: Screen, report: PretrainReport, *, verbose: bool = False, quiet: bool = False) -> None:
    """Print the whole report; `quiet` leaves the totals, `verbose` shows the block's text in full."""
    if not quiet:
        _header(screen, report)
        screen.line()
    _totals(screen, report)
    if report.block is not None:
        _block(screen, report, report.block, verbose)
    if not quiet and report.findings:
        screen.heading("findings")
        show_findings(screen, by_cause(report.findings), verbose=verbose)
    if not quiet and (report.suppressed or report.unused_ignores):
        screen.line()
        show_ignored(screen, report.suppressed, report.unused_ignores)
    if not quiet and (report.known or report.gone):
        screen.line()
        show_known(screen, report.known, report.gone)


def _header(screen: Screen, report: PretrainReport) -> None:
    encoder = report.encoder
    _field(screen, "model", encoder.model.id)
    _field(screen, "encoder", encoder.spec)
    if report.why != ASKED_FOR:
        _field(screen, "", report.why)
    separator = encoder.separator
    ids = " ".join(map(str, separator.ids))
    kind = "one special token" if separator.special else f"{len(separator.ids)} ordinary tokens"
    masked = "" if separator.trained else ", not trained"
    _field(screen, "separator", f"{separator.text}  {ids} ({kind}{masked})")
    how = f"packed into blocks of {encoder.block_size:,}" if encoder.packing else f"cut to {encoder.block_size:,}"
    _field(screen, "handling", how)
    for note in report.notes:
        _field(screen, "note", note)


def _totals(screen: Screen, report: PretrainReport) -> None:
    totals, packing = report.totals, report.encoder.packing
    rows = [
        ("documents", f"{totals.documents:,}"),
        ("tokens", f"{totals.tokens:,}"),
        ("blocks" if packing else "examples", f"{totals.blocks:,}"),
        ("tokens dropped", f"{totals.tokens_dropped:,}{_share(totals.tokens_dropped, totals.tokens)}"),
        ("documents split", f"{totals.documents_split:,}{_share(totals.documents_split, totals.documents)}"),
        ("documents dropped", f"{totals.documents_dropped:,}"),
        ("tokens under BOS", f"{totals.tokens_replaced:,}"),
        ("attention across", f"{totals.cross_document_attention:.1%} of all pairs"),
    ]
    for label, value in rows:
        if value != "0" or label in ("documents", "tokens", "blocks", "examples"):
            _field(screen, label, value)


def _share(part: int, whole: int) -> str:
    return f" ({part / whole:.1%})" if part and whole else ""


def _field(screen: Screen, label: str, value: str) -> None:
    screen.paragraph((label, "quiet"), value, indent=_LABEL)


def _block(screen: Screen, report: PretrainReport, block: Block, verbose: bool) -> None:
    masked = block.labels.count(IGNORE)
    remarks = [plural(len(block.input_ids), "token"), plural(len(block.spans), "document")]
    remarks += [f"{masked:,} not trained"] if masked else []
    screen.heading(f"block {block.index}", ", ".join(remarks))
    if block.replaced is not None:
        lost = _piece(report, block.replaced)
        bos = report.encoder.tokenizer.bos_token
        screen.paragraph("", f"{bos} was written over the first token, {block.replaced} ({lost}).", indent=0)
    special = special_ids(report.encoder.model, report.encoder.effects)
    for place, (span, name) in enumerate(zip(block.spans, report.names, strict=True)):
        colour = _COLOURS[place % len(_COLOURS)]
        letter = chr(ord("A") + place) if place < 26 else str(place + 1)
        gutter = screen.text((f"{letter:>3} {screen.glyphs.bar} ", f"{colour} bold"))
        screen.paragraph(gutter, f"{name}: {_where(span)}", indent=6, style="bold")
        text = _text(screen, report, block.input_ids[span.start : span.end], special, colour)
        blank = screen.text((f"    {screen.glyphs.bar} ", f"{colour} bold"))
        for row in _rows(screen, text, verbose):
            screen.line(blank, row)


def _where(span: DocumentSpan) -> str:
    length = span.end - span.start
    place = f"tokens {span.start:,} to {span.end - 1:,}"
    if not span.cut_before and not span.cut_after:
        return f"{place}, whole ({length:,} tokens)"
    parts = [f"{place}, {length:,} of its {span.length:,} tokens"]
    if span.cut_before:
        parts.append(f"{span.offset:,} came before")
    if span.cut_after:
        parts.append(f"cut here, {span.length - span.offset - length:,} are left over")
    return "; ".join(parts)


def _text(screen: Screen, report: PretrainReport, ids: list[int], special: frozenset[int], colour: str) -> Text:
    """The tokens as text, special ones set apart."""
    out = Text()
    for is_special, group in groupby(ids, key=lambda token: token in special):
        tokens = list(group)
        if not is_special:
            out.append(screen.clean(_decoded(report, tokens)), style(colour))
            continue
        for token in tokens:
            mark = screen.clean(_piece(report, token))
            out.append(mark if screen.ansi else f"{screen.glyphs.open}{mark}{screen.glyphs.close}", style("special"))
    return out


def _rows(screen: Screen, text: Text, verbose: bool) -> Iterator[Text]:
    if len(text) > _SHORT and not verbose:
        head, _, tail = text.divide([_SHORT * 2 // 3, len(text) - _SHORT // 3])
        left_out = len(text) - len(head) - len(tail)
        dots = f" {screen.glyphs.dots} {left_out:,} characters {screen.glyphs.dots} "
        text = head + Text(dots, style("quiet")) + tail
    yield from wrap(text, screen.width - 6)


def _decoded(report: PretrainReport, ids: list[int]) -> str:
    return str(
        report.encoder.tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False, spaces_between_special_tokens=False
        )
    )


def _piece(report: PretrainReport, token: int) -> str:
    from template_audit.model.tokenizer import token_text

    return token_text(report.encoder.tokenizer, token)
