"""The pages of docs/rules: one for every rule and a list of them, from the same texts as `template-audit rules`."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from template_audit.rules.interface import Rule, Scope

_NOTATION = (("\\n", "\\n is a line break"), ("«", "«…» is trained"))

_LOOKS_AT: dict[Scope, str] = {
    "conversation": "each conversation",
    "model": "the model and the encoders",
    "refusal": "conversations that an encoder refuses",
    "pretraining": "pre-training streams",
    "gate": "a lock file, and what it records as it is today",
}


def incident_url(incident: str) -> str:
    """Where ``owner/repository#number`` is read; GitHub leads from here to pull requests, too."""
    repository, _, number = incident.partition("#")
    return f"https://github.com/{repository}/issues/{number}"


def notation(rule: Rule) -> str:
    """How the rule's example is written, where that needs a word; empty otherwise."""
    return ", ".join(says for sign, says in _NOTATION if sign in rule.example)


def page(rule: Rule) -> str:
    """The page of one rule, in Markdown."""
    parts = [
        f"# {rule.name}",
        f"{rule.severity} by default · {rule.group} · looks at {_LOOKS_AT[rule.scope]}",
        "## What it finds",
        rule.what,
        "## Why it matters",
        rule.why,
        "## Example",
        f"```text\n{rule.example}\n```",
        *([f"({notation(rule)}.)"] if notation(rule) else []),
        "## What to do",
        rule.advice,
    ]
    if rule.incidents:
        parts += ["## Known incidents", "\n".join(f"- [{name}]({incident_url(name)})" for name in rule.incidents)]
    return "\n\n".join(parts) + "\n"


def index(rules: Iterable[Rule]) -> str:
    """The list of all rules by group, in Markdown."""
    parts = [
        "# Rules",
        "`template-audit rules` prints this list and `template-audit rules RULE` one of the pages. Severities are "
        "defaults; [the configuration](../configuration.md) changes them.",
    ]
    for group, members in groupby(rules, key=lambda rule: rule.group):
        rows = [f"| [{rule.name}]({rule.name}.md) | {rule.severity} | {_cell(rule.what)} |" for rule in members]
        parts += [f"## {group}", "\n".join(["| rule | severity | what it finds |", "|---|---|---|", *rows])]
    return "\n\n".join(parts) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
