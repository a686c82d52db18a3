"""``template-audit match``: rank a framework's templates by how well they fit a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from template_audit.cli.inputs import Inputs, model_inputs
from template_audit.cli.options import format_option, json_to_stdout, listing_screen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from template_audit.fit import Difference
    from template_audit.matching import Match
    from template_audit.report.terminal.screen import Screen

COMPARED = 10
"""How many templates are compared exactly however few are listed, so that the first is the same for every --top."""


@click.command("match")
@click.option("--encoder", metavar="SPEC", default="llamafactory", show_default=True, help="framework[@version].")
@click.option("--top", metavar="N", type=click.IntRange(min=1), default=10, show_default=True, help="How many to list.")
@click.option("--framework-source", metavar="PATH", help="Read the framework's templates from this copy of its source.")
@format_option
@model_inputs
def COMMAND(given: Inputs, encoder: str, top: int, framework_source: str | None, output_format: str) -> int:
    """Rank the templates of a framework by how well they fit MODEL's chat template.

    The list goes by the share of equal tokens over a few conversations: plain ones, and one with a system prompt,
    with tools and with reasoning where the chat template writes them. Under each template stand the rules that fire
    at warning or above, and in how many of the conversations. Where another template goes before the one that the
    framework proposes for the model, it says why.
    """
    from template_audit.errors import UsageError
    from template_audit.frameworks import get_framework, parse_spec

    spec = parse_spec(encoder)
    if spec.template is not None:
        raise UsageError(f"`match` ranks all templates of a framework; write `{encoder.partition(':')[0]}`.")
    framework = get_framework(spec.framework, framework_source)
    model = given.load_model()

    from template_audit.fit import differences, why_not_the_default
    from template_audit.matching import best_match

    exactly = max(top, COMPARED)
    ranking = best_match(model, spec.framework, version=spec.version, framework_source=framework_source, top=exactly)
    matches = ranking[:top] + [match for match in ranking[top:] if match.default]
    listed = [differences(model, match, framework_source) for match in matches]
    why = why_not_the_default(matches, listed, framework.title)
    choice = framework.choose(model, spec.version)
    if output_format == "json":
        rows = [_as_dict(match, found) for match, found in zip(matches, listed, strict=True)]
        default = None if choice is None else {"template": choice.template, "why": choice.why}
        json_to_stdout({"model": model.id, "default": default, "why": why, "matches": rows})
    else:
        remark = choice.why if choice else f"{framework.title} proposes no template for a model of this name."
        _show(listing_screen(), model.id, matches, listed, why or remark, framework.title)
    return 0


def _as_dict(match: Match, found: Sequence[Difference]) -> dict[str, Any]:
    return {
        "template": match.template,
        "spec": match.spec,
        "default": match.default,
        "text": match.text,
        "tokens": match.tokens,
        "special": match.special,
        "labels": match.labels,
        "changes": match.changes,
        "fits": match.fits,
        "differs": [{"rule": d.rule, "severity": d.severity, "probes": d.probes} for d in found],
    }


_COLUMNS = ("tokens", "special", "labels", "text")


def _show(
    screen: Screen,
    model: str,
    matches: Sequence[Match],
    listed: Sequence[Sequence[Difference]],
    remark: str,
    framework: str,
) -> None:
    screen.line("Templates that fit ", (screen.clean(model), "strong"), " best, by equal tokens in place:")
    screen.line()
    width = max(len("template"), *(len(match.template) for match in matches)) + 2
    names = "".join(f"{name:>8}" for name in _COLUMNS)
    screen.line((f"  {'template':<{width}}{names}  changes to the tokenizer", "quiet"))
    for match, found in zip(matches, listed, strict=True):
        mark = screen.glyphs.ok if match.fits else " "
        numbers = "".join(f"{_share(getattr(match, name)):>8}" for name in _COLUMNS)
        own = f"  {framework}'s default" if match.default else ""
        screen.line(
            (f"{mark:<2}", "ok"),
            f"{screen.clean(match.template):<{width}}",
            numbers,
            f"  {match.changes or '':<7}" if own else f"  {match.changes or ''}".rstrip(),
            (own, "strong"),
        )
        if found:
            screen.paragraph("", ", ".join(map(str, found)), indent=4, style="quiet")
    screen.line()
    screen.paragraph("", remark, indent=0)


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
