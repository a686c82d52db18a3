"""A scan on the terminal: what became of the rows, what they hold, and every finding by rule."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.text import Text

from template_audit.findings import FindingRecord
from template_audit.report.terminal.findings import show_evidence, symbol
from template_audit.report.terminal.screen import Screen
from template_audit.report.terminal.summary import plural
from template_audit.scanning.records import BinRecord, RowRecord, ScanFinding, ScanRecord

_LABEL = 11
_INNER = 14
_FEW_CAUSES = 3
_FEW_ROWS = 5
_BAR = 24


def show_scan(screen: Screen, record: ScanRecord, *, verbose: bool = False, quiet: bool = False) -> None:
    """Print the report; `quiet` leaves the verdict, `verbose` leaves nothing out."""
    if not quiet:
        _header(screen, record)
        screen.line()
        _rows(screen, record)
        if record.tokens.longest is not None:
            _tokens(screen, record)
        if record.findings or record.model_findings:
            screen.heading("findings")
            _findings(screen, record, verbose)
        _lost(screen, record, verbose)
        screen.line()
    _verdict(screen, record)


def _header(screen: Screen, record: ScanRecord) -> None:
    model = record.model
    _field(screen, "model", model.id + (f" @ {model.revision}" if model.revision else ""))
    _field(screen, "expected", record.reference.spec)
    _field(screen, "fed", record.subject.spec)
    if record.subject.why != "It was asked for.":
        _field(screen, "", record.subject.why, "quiet")
    for dataset in record.datasets:
        _field(screen, "data", f"{dataset.name} ({dataset.format})")
    chosen = [f"the first {plural(record.max_rows, 'row')}"] if record.max_rows is not None else []
    chosen += [f"a sample of {plural(record.sample, 'row')}, seed {record.seed}"] if record.sample is not None else []
    if record.shards:
        chosen.append(f"shard {', '.join(str(s.index) for s in record.shards)} of {record.shards[0].count}")
    if chosen:
        _field(screen, "taken", "; ".join(chosen))
    for note in dict.fromkeys((*record.notes, *record.reference.notes, *record.subject.notes)):
        _field(screen, "note", note)


def _field(screen: Screen, label: str, value: str, style: str = "") -> None:
    screen.paragraph((label, "quiet"), value, indent=_LABEL, style=style)


def _rows(screen: Screen, record: ScanRecord) -> None:
    rows = record.rows
    parts = [f"{rows.compared:,} compared", f"{rows.dropped:,} dropped", f"{rows.refused:,} refused"]
    parts += [f"{rows.not_evaluated:,} not evaluated", f"{rows.bad:,} unreadable"]
    _field(screen, "rows", f"{rows.read:,} read = {' + '.join(parts)}")
    if rows.compared:
        _field(screen, "", f"{rows.agree:,} equal to the token ({rows.agree / rows.compared:.1%} of those compared)")
    repeated = record.duplicates
    if repeated.rows:
        first = ", ".join(f"{one.row} (as {one.of})" for one in repeated.first[:_FEW_ROWS])
        more = " …" if repeated.rows > _FEW_ROWS else ""
        share = _share(repeated.rows, rows.read)
        _field(screen, "repeated", f"{plural(repeated.rows, 'row')}{share} repeat an earlier one: {first}{more}")


def _share(part: int, whole: int) -> str:
    return f" ({part / whole:.1%})" if whole else ""


def _tokens(screen: Screen, record: ScanRecord) -> None:
    tokens = record.tokens
    share = f"{tokens.trained / tokens.total:.1%}" if tokens.total else "none"
    _field(
        screen,
        "tokens",
        f"{tokens.total:,}, {share} trained; rows from {tokens.shortest:,} to {tokens.longest:,} tokens",
    )
    screen.line()
    left: list[tuple[str, int | str]] = [
        ("tokens a row", ""),
        *((_range(one), one.rows) for one in _filled(tokens.lengths)),
    ]
    right: list[tuple[str, int | str]] = [
        ("of them trained", ""),
        *((_percent(one), one.rows) for one in tokens.trained_share if one.rows),
    ]
    most = max(rows for _, rows in (*left[1:], *right[1:]) if isinstance(rows, int))
    if screen.width >= 2 * (_BAR + 28):
        width = screen.width // 2
        for k in range(max(len(left), len(right))):
            a = _bar(screen, *left[k], most) if k < len(left) else screen.text()
            b = _bar(screen, *right[k], most) if k < len(right) else screen.text()
            line = screen.text("  ", a, " " * max(1, width - 2 - a.cell_len), b)
            line.rstrip()
            screen.line(line)
        return
    for column in (left, right):
        for label, rows in column:
            screen.line("  ", _bar(screen, label, rows, most))


def _filled(bins: Sequence[BinRecord]) -> Sequence[BinRecord]:
    """Without the empty bins at both ends."""
    held = [index for index, one in enumerate(bins) if one.rows]
    return bins[held[0] : held[-1] + 1] if held else []


def _range(one: BinRecord) -> str:
    return f"{int(one.start):,}+" if one.end is None else f"{int(one.start):,} to {int(one.end) - 1:,}"


def _percent(one: BinRecord) -> str:
    if one.start == one.end:
        return "none" if one.start == 0 else "all"
    return f"up to {one.end:.0%}"


def _bar(screen: Screen, label: str, rows: int | str, most: int) -> Text:
    if isinstance(rows, str):
        return screen.text((label, "quiet"))
    mark = "▇" if screen.glyphs.bar == "│" else "#"
    size = max(1, round(rows / most * _BAR)) if rows else 0
    return screen.text(f"{label:>16} ", (mark * size, "info"), f" {rows:,}")


def _findings(screen: Screen, record: ScanRecord, verbose: bool) -> None:
    counts = {one.rule: one.rows for one in record.rules}
    of_model = [one for one in record.model_findings if verbose or one.finding.severity != "info"]
    for severity in ("error", "warning", "info"):
        about = [one.finding for one in of_model if one.finding.severity == severity]
        for _, found in groupby(about, key=lambda one: one.rule):
            _of_model(screen, list(found))
        same = [one for one in record.findings if one.severity == severity and (verbose or severity != "info")]
        for rule, causes in groupby(same, key=lambda one: one.rule):
            _rule(screen, record, list(causes), counts.get(rule, 0), verbose)
    if verbose:
        return
    infos = [(one.rule, one.first[0].finding.message, one.rows) for one in record.findings if one.severity == "info"]
    infos += [(f.rule, f.message, 0) for f in (one.finding for one in record.model_findings) if f.severity == "info"]
    if infos:
        screen.line()
    for rule, message, rows in infos[:_FEW_ROWS]:
        where = f" ({plural(rows, 'row')}{_share(rows, record.rows.read)})" if rows else ""
        lead = screen.text((f"{symbol(screen, 'info')} ", "info"))
        screen.paragraph(lead, f"{rule}: {message}{where}", indent=2)
    if len(infos) > _FEW_ROWS:
        screen.paragraph("", f"{len(infos) - _FEW_ROWS} more remarks; --verbose shows all.", indent=2, style="quiet")


def _title(screen: Screen, severity: str, rule: str, remark: str) -> None:
    mark = symbol(screen, severity)
    screen.line()
    screen.line((f"{mark} {severity}", severity), "  ", (screen.clean(rule), "strong"), (f"  {remark}", ""))


def _of_model(screen: Screen, found: Sequence[FindingRecord]) -> None:
    _title(screen, found[0].severity, found[0].rule, "about the model and the encoder")
    for finding in found:
        screen.paragraph("  ", finding.message, indent=2)
    _why(screen, found[0])


def _rule(screen: Screen, record: ScanRecord, causes: Sequence[ScanFinding], rows: int, verbose: bool) -> None:
    first = causes[0]
    _title(screen, first.severity, first.rule, f"{plural(rows, 'row')}{_share(rows, record.rows.read)}")
    shown = causes if verbose else causes[:_FEW_CAUSES]
    for cause in shown:
        _cause(screen, record, cause, verbose, alone=len(causes) == 1)
    more = [f"{plural(len(causes) - len(shown), 'more cause')}; --verbose shows them."] if causes[len(shown) :] else []
    if first.rule in record.more_causes:
        more.append(f"It has more causes than are kept ({len(causes)}).")
    if more:
        screen.paragraph("", " ".join(more), indent=2, style="quiet")
    _why(screen, first.first[0].finding)


def _cause(screen: Screen, record: ScanRecord, cause: ScanFinding, verbose: bool, *, alone: bool) -> None:
    finding = cause.first[0].finding
    screen.paragraph("  ", finding.message, indent=2)
    often = "" if alone else f"{plural(cause.rows, 'row')}{_share(cause.rows, record.rows.read)}; "
    places = [f"first {_places(cause.first)}"]
    if [one.row for one in cause.worst] != [one.row for one in cause.first]:
        places.append(f"worst {_places(cause.worst)}")
    screen.paragraph(("    rows", "quiet"), often + "; ".join(places), indent=_INNER)
    show_evidence(screen, "expected", finding.reference, verbose)
    show_evidence(screen, "fed", finding.subject, verbose)
    if verbose:
        screen.paragraph(("    at", "quiet"), ", ".join(dict.fromkeys(one.where for one in cause.first)), indent=_INNER)


def _places(rows: Sequence[RowRecord]) -> str:
    return ", ".join(str(one.row) + (f" ({one.times} times)" if one.times > 1 else "") for one in rows)


def _why(screen: Screen, finding: FindingRecord) -> None:
    screen.paragraph(("  why", "quiet"), finding.why, indent=8)
    screen.paragraph(("  fix", "quiet"), finding.advice, indent=8)


def _lost(screen: Screen, record: ScanRecord, verbose: bool) -> None:
    """Rows that were not compared, by reason; and findings that the configuration ignores."""
    titles = {"dropped": "dropped", "refused": "refused", "not_evaluated": "not evaluated"}
    if record.reasons or record.bad_rows:
        screen.heading("rows that were not compared")
    few = None if verbose else _FEW_ROWS
    for reason in record.reasons[:few]:
        rows = ", ".join(str(one.row) for one in reason.first)
        more = " …" if reason.rows > len(reason.first) else ""
        text = f"{titles[reason.outcome]}, {plural(reason.rows, 'row')} ({rows}{more}): {reason.reason}"
        screen.paragraph("  ", text, indent=2)
    for bad in record.bad_rows[:few]:
        screen.paragraph("  ", f"unreadable, row {bad.row}: {bad.reason}", indent=2)
    left = record.rows.bad - len(record.bad_rows[:few])
    rest = ([f"{plural(left, 'more unreadable row')}"] if left else []) + (
        [f"{plural(len(record.reasons) - _FEW_ROWS, 'more reason')}"] if few and len(record.reasons) > _FEW_ROWS else []
    )
    if rest:
        screen.paragraph("", f"{' and '.join(rest)}; --verbose and --format json list more.", indent=2, style="quiet")
    taken = [one for one in record.ignored if one.rows]
    if taken:
        screen.line()
    for one in taken:
        screen.paragraph("", f"ignored  {one.rule}, {plural(one.rows, 'row')}: {one.reason}", indent=2, style="quiet")


def _verdict(screen: Screen, record: ScanRecord) -> None:
    numbers, rows = record.summary, record.rows
    total = plural(rows.read, "row")
    mark, style = screen.glyphs.ok, "ok"
    spec = record.subject.spec
    template = record.reference.spec.startswith("chat-template")
    expected = "what its chat template shows" if template else f"what {record.reference.spec} does"
    sentence = f"No errors or warnings in {total}: {spec} feeds this model {expected}."
    if not rows.compared:
        sentence = "No row was compared, so nothing is known of what the model is fed."
    if numbers.error or numbers.warning:
        severity = "error" if numbers.error else "warning"
        mark, style = symbol(screen, severity), severity
        found = [plural(n, noun) for n, noun in ((numbers.error, "error"), (numbers.warning, "warning")) if n]
        shown = numbers.rows_with_error + numbers.rows_with_warning
        sentence = f"{' and '.join(found)}, in {shown:,} of {total}{_share(shown, rows.read)}."
    missing = rows.bad + rows.not_evaluated
    if missing:
        mark, style = "?", "error"
        sentence = f"{missing:,} of {total} could not be read or evaluated. {sentence}"
    if record.partial:
        mark, style = "?", "error"
        sentence = f"Interrupted: this is the report of the first {total} only. {sentence}"
    screen.line((f"{mark} {screen.prose(sentence)} Exit {record.exit_code}.", style))
