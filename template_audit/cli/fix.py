"""``template-audit fix``: write what would make the trainer and the model agree, proven by an audit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from template_audit.cli.inputs import Inputs, inputs, with_probes
from template_audit.cli.options import (
    SCHEMA_VERSION,
    configured,
    encoder_option,
    format_option,
    output_option,
    output_stream,
)
from template_audit.errors import UsageError

if TYPE_CHECKING:
    from template_audit.config import Config
    from template_audit.fixing import Fix
    from template_audit.report.terminal.screen import Screen


class _KindOption(click.Option):
    """Lists the kinds in the help. They are imported for that and for a fix, not when commands are listed."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from template_audit.fixing import DEFAULT_KIND, fix_kinds

        kinds = "; ".join(f"{kind.name}: {kind.title}" for kind in fix_kinds().values())
        self.help = f"What to write; {DEFAULT_KIND} by default. {kinds}."
        return super().get_help_record(ctx)


@click.command("fix")
@encoder_option
@click.option("--kind", cls=_KindOption, metavar="NAME")
@configured
@format_option
@output_option
@inputs
def COMMAND(
    given: Inputs, encoder: str, kind: str | None, config: Config, output_format: str, output: Path | None
) -> int:
    """Write what would make the trainer and MODEL agree, and prove it by auditing it.

    The snippet or template goes to the standard output or to --output, everything else to the standard
    error: what cannot be expressed, what was checked, which findings remain and whether they are inherent.
    Conversations that are given are audited beside the built-in probes.

    Exits with 0 when the fix is proven and no finding at or above --fail-on is left, with 1 when it was
    written and something is left, and with 2 when nothing could be made or evaluated.
    """
    from template_audit.fixing import DEFAULT_KIND, FixRequest, get_kind
    from template_audit.frameworks import get_framework, parse_spec

    chosen = get_kind(kind or DEFAULT_KIND)
    if given.template_kwargs:
        raise UsageError("`fix` takes no template variables; `-o enable_thinking=…` is one that both sides know.")
    options = given.options_for(get_framework(parse_spec(encoder).framework))
    read = given.read_conversations()
    model = given.load_model()
    request = FixRequest(
        model=model,
        encoder=encoder,
        options=options,
        framework_source=given.framework_source,
        python=given.python,
        config=config,
        conversations=tuple(with_probes(read, model) or ()),
    )
    made = chosen.make(request)
    if output_format == "json":
        with output_stream(output) as stream:
            from template_audit.report.json import write_json

            write_json(_as_dict(made, model.id), stream)
        return made.exit_code
    if made.text is not None:
        with output_stream(output) as stream:
            stream.write(_shown(made.text) if output is None and stream.isatty() else made.text)
            if not made.text.endswith("\n") and output is None and stream.isatty():
                stream.write("\n")
    _explain(made)
    return made.exit_code


def _shown(text: str) -> str:
    """What a terminal may be given: nothing in a model's text steers it."""
    from template_audit.report.sanitize import visible

    return visible(text, keep="\n\t", encoding=getattr(sys.stdout, "encoding", None) or "utf-8")


def _as_dict(made: Fix, model: str) -> dict[str, Any]:
    import msgspec

    return {
        "schema_version": SCHEMA_VERSION,
        "kind": made.kind,
        "model": model,
        "text": made.text,
        "summary": made.summary,
        "advice": list(made.advice),
        "cannot_be_expressed": list(made.inexpressible),
        "checks": list(made.checks),
        "failures": list(made.failures),
        "remaining": [
            {
                "finding": msgspec.to_builtins(left.finding.record()),
                "inherent": left.because is not None,
                "because": left.because,
            }
            for left in made.remaining
        ],
        "audit": None if made.report is None else made.report.to_dict(),
        "exit_code": made.exit_code,
    }


def _explain(made: Fix) -> None:
    from template_audit.report.interface import ReportOptions
    from template_audit.report.terminal.screen import Screen

    screen = Screen(sys.stderr, ReportOptions())
    mark, style = {0: (screen.glyphs.ok, "ok"), 1: ("!", "warning"), 2: (screen.glyphs.bad, "error")}[made.exit_code]
    screen.line()
    screen.paragraph((f"{mark} ", style), made.summary, indent=2)
    for title, sentences in (
        ("How to use it", made.advice),
        ("Checked", made.checks),
        ("Not proven", made.failures),
        ("Cannot be expressed", made.inexpressible),
    ):
        if sentences:
            screen.line()
            screen.line((title, "strong"))
        for sentence in sentences:
            screen.paragraph("  - ", sentence, indent=4)
    _remaining(screen, made)


def _remaining(screen: Screen, made: Fix) -> None:
    grave = [left for left in made.remaining if left.finding.severity != "info"]
    groups: dict[tuple[str, str, str | None], list[str]] = {}
    for left in grave:
        key = (left.finding.severity, left.finding.rule, left.because)
        groups.setdefault(key, []).append(left.finding.conversation or "the model")
    if made.report is None:
        return
    screen.line()
    infos = len(made.remaining) - len(grave)
    screen.line(("Findings that remain", "strong"), "" if groups else ": none", f"  ({infos} more of severity info)")
    for (severity, rule, because), places in groups.items():
        where = ", ".join(dict.fromkeys(places[:4])) + (f" and {len(places) - 4} more" if len(places) > 4 else "")
        screen.line("  ", (severity, severity), f" {screen.clean(rule)}: {screen.clean(where)}")
        screen.paragraph("      ", f"Inherent: {because}" if because else "Not known to be inherent.", indent=6)
