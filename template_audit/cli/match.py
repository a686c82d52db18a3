"""``template-audit match``: rank a framework's templates by how well they fit a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from template_audit.cli.inputs import Inputs, model_inputs
from template_audit.cli.options import format_option, json_to_stdout, listing_screen

if TYPE_CHECKING:
    from template_audit.matching import Match
    from template_audit.report.terminal.screen import Screen


@click.command("match")
@click.option("--encoder", metavar="SPEC", default="llamafactory", show_default=True, help="framework[@version].")
@click.option("--top", metavar="N", type=click.IntRange(min=1), default=10, show_default=True, help="How many to list.")
@click.option("--framework-source", metavar="PATH", help="Read the framework's templates from this copy of its source.")
@format_option
@model_inputs
def COMMAND(given: Inputs, encoder: str, top: int, framework_source: str | None, output_format: str) -> int:
    """Rank the templates of a framework by how well they fit MODEL's chat template.

    The list is in order of likeness over a few plain conversations. It says nothing about tools or
    reasoning: audit the winner.
    """
    from template_audit.errors import UsageError
    from template_audit.frameworks import get_framework, parse_spec

    spec = parse_spec(encoder)
    if spec.template is not None:
        raise UsageError(f"`match` ranks all templates of a framework; write `{encoder.partition(':')[0]}`.")
    get_framework(spec.framework)
    model = given.load_model()

    from template_audit.matching import best_match

    matches = best_match(model, spec.framework, version=spec.version, framework_source=framework_source, top=top)[:top]
    if output_format == "json":
        json_to_stdout({"model": model.id, "matches": [_as_dict(match) for match in matches]})
    else:
        _show(listing_screen(), model.id, matches)
    return 0


def _as_dict(match: Match) -> dict[str, Any]:
    return {
        "template": match.template,
        "spec": match.spec,
        "text": match.text,
        "tokens": match.tokens,
        "labels": match.labels,
        "changes": match.changes,
        "fits": match.fits,
    }


def _show(screen: Screen, model: str, matches: list[Match]) -> None:
    screen.line("Templates that fit ", (screen.clean(model), "strong"), " best, by equal tokens in place:")
    screen.line()
    width = max(len("template"), *(len(match.template) for match in matches)) + 2
    screen.line((f"  {'template':<{width}}{'tokens':>8}{'labels':>8}{'text':>8}  changes to the tokenizer", "quiet"))
    for match in matches:
        mark = screen.glyphs.ok if match.fits else " "
        numbers = f"{_share(match.tokens):>8}{_share(match.labels):>8}{_share(match.text):>8}"
        screen.line(
            (f"{mark:<2}", "ok"), f"{screen.clean(match.template):<{width}}", numbers, f"  {match.changes or ''}"
        )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
