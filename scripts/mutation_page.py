"""The page that says how the mutants fared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mutations import Result

from template_audit import __version__

_REMARKS = {
    "default-system · gemma-like": "the text lies inside the first question, as this template puts system texts there; "
    "the finding quotes it.",
    "think-in-generation-prompt · qwen3-like × qwen3": "every trained answer begins with just this, so that training "
    "counts what the prompt gives.",
    "keep-all-reasoning · qwen3-like × qwen3": "an empty thought before the real one that training lacks is "
    "`thinking-stripped`, which is info.",
}
"""Why a mutant is missed, by the start of its operator and pair."""


def shares(results: Sequence[Result]) -> tuple[float, float, float]:
    """Detected, right rule, right place, each as a share of all."""
    total = max(len(results), 1)
    return (
        sum(r.detected for r in results) / total,
        sum(r.rule for r in results) / total,
        sum(r.place for r in results) / total,
    )


def pair_of(result: Result) -> str:
    """The name of the pair that was broken."""
    return result.mutant.split(" · ")[2]


def pair_row(name: str, results: Sequence[Result]) -> str:
    """A pair's line of the page."""
    counts = [sum(getattr(r, field) for r in results) for field in ("detected", "rule", "place")]
    return f"| {name} | {len(results)} | {' | '.join(map(str, counts))} |"


_SECTION = re.compile(r"## Mutations\n.*?(?=\n## |\Z)", re.S)


def summary(text: str) -> str:
    """The section of docs/detection.md that gives the numbers of the page `text`, with its date and versions."""
    written = re.search(r"on (\d{4}-\d\d-\d\d) with (.*)\.\n", text)
    rows = re.findall(r"^\| (?:mutants|detected|right rule|right place) \|.*$", text, re.M)[:4]
    assert written is not None
    lines = [
        "## Mutations",
        "",
        "From pairs that agree one thing is broken at a time; [detection-mutations.md](detection-mutations.md) says",
        "what, and lists every miss. Written by `make mutations`; the test suite recomputes a share of them.",
        "",
        f"{written[1]}, {written[2]}.",
        "",
        "| | wanted | measured |",
        "|---|---|---|",
        *rows,
        "",
    ]
    return "\n".join(lines)


def with_summary(detection: str, mutations: str) -> str:
    """docs/detection.md with the numbers of docs/detection-mutations.md."""
    return _SECTION.sub(lambda _: summary(mutations), detection, count=1)


def page(results: Sequence[Result], skipped: int, sites: int) -> str:
    """docs/detection-mutations.md."""
    detected, rule, place = shares(results)
    names = ("transformers", "tokenizers", "jinja2")
    versions = ", ".join([f"template-audit {__version__}", *(f"{name} {version(name)}" for name in names)])
    lines = [
        "# Mutations",
        "",
        f"Written by `make mutations` on {datetime.now(UTC):%Y-%m-%d} with {versions}.",
        "",
        "From pairs that agree (a fixture model with a LLaMA-Factory template, or with its own chat template) one",
        "thing is broken at a time: in the chat template, in the framework's template, or in the labels. A mutant is",
        "*detected* when the audit has a finding that the unbroken pair does not have, at `warning` or above; it has",
        "the *right rule* when one of these is among the rules that the operator names for the zone that changed, and",
        "the *right place* when that finding's tokens and turn touch what changed, read off the streams before and",
        f"after. Of each operator and pair at most {sites} places are taken, drawn with a seed. {skipped:,} mutants",
        "that change no stream on any conversation, or do not compile, are left out, and so are changes behind the",
        "last end marker, which are neither trained nor shown. `mask-first-answer` counts at info: it is a choice.",
        "",
        "| | wanted | measured |",
        "|---|---|---|",
        f"| mutants | | {len(results):,} |",
        f"| detected | ≥ 98 % | {detected:.1%} |",
        f"| right rule | ≥ 90 % | {rule:.1%} |",
        f"| right place | ≥ 95 % | {place:.1%} |",
        "",
        "## Operators",
        "",
        "| broken | operator | what it does | mutants | detected | right rule | right place |",
        "|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.kind, result.operator), []).append(result)
    for (kind, name), group in sorted(groups.items()):
        does = group[0].does
        counts = [sum(getattr(r, field) for r in group) for field in ("detected", "rule", "place")]
        lines.append(f"| {kind} | `{name}` | {does} | {len(group)} | {' | '.join(map(str, counts))} |")
    lines += ["", "## Pairs", "", "| pair | mutants | detected | right rule | right place |", "|---|---|---|---|---|"]
    lines += [
        pair_row(name, [r for r in results if pair_of(r) == name]) for name in dict.fromkeys(map(pair_of, results))
    ]
    misses = [r for r in results if not (r.detected and r.rule and r.place)]
    lines += ["", "## Misses", "", f"{len(misses)} of {len(results):,}." if misses else "None.", ""]
    for result in misses:
        what = "not detected" if not result.detected else "wrong rule" if not result.rule else "wrong place"
        found = ", ".join(result.found) or "nothing"
        right = "" if result.rule else f"; right were {', '.join(result.right)}"
        name = result.mutant.replace("\n", "\\n")
        remark = next((f" ({text})" for key, text in _REMARKS.items() if f"· {key}" in name), "")
        lines.append(f"- **{what}**: {name}: found {found}{right}{remark}")
    rules = Counter(rule for result in results for rule in result.found)
    lines += ["", "## Rules that spoke", "", ", ".join(f"`{name}` {n}" for name, n in rules.most_common()), ""]
    return "\n".join(lines)
