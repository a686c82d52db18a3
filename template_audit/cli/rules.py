"""``template-audit rules``: list the rules, or explain one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from template_audit.cli.options import format_option, json_to_stdout, listing_screen
from template_audit.errors import UsageError

if TYPE_CHECKING:
    from template_audit.report.terminal.screen import Screen
    from template_audit.rules.interface import Rule


@click.command("rules")
@click.argument("name", metavar="[RULE]", required=False)
@format_option
def COMMAND(name: str | None, output_format: str) -> None:
    """List the rules by group, or explain one."""
    from template_audit.rules import all_rules

    rules = all_rules()
    if name is not None and name not in rules:
        from template_audit.frameworks import nearest

        raise UsageError(f"There is no rule `{name}`.{nearest(name, list(rules))} `template-audit rules` lists them.")
    chosen = list(rules.values()) if name is None else [rules[name]]
    if output_format == "json":
        json_to_stdout({"rules": [_as_dict(rule) for rule in chosen]})
    elif name is None:
        _list(listing_screen(), chosen)
    else:
        _explain(listing_screen(), chosen[0])


def _as_dict(rule: Rule) -> dict[str, Any]:
    return {
        "name": rule.name,
        "severity": rule.severity,
        "group": rule.group,
        "scope": rule.scope,
        "what": rule.what,
        "why": rule.why,
        "advice": rule.advice,
        "example": rule.example,
        "incidents": list(rule.incidents),
    }


def _list(screen: Screen, rules: list[Rule]) -> None:
    width = max((len(rule.name) for rule in rules), default=0) + 2
    group = None
    for rule in rules:
        if rule.group != group:
            if group is not None:
                screen.line()
            group = rule.group
            screen.line((group, "strong"))
        label = screen.text("  ", f"{rule.name:<{width}}", (f"{rule.severity:<9}", rule.severity))
        screen.paragraph(label, rule.what, indent=width + 11)
    screen.line()
    screen.line((f"{len(rules)} rules; `template-audit rules RULE` explains one.", "quiet"))


def _explain(screen: Screen, rule: Rule) -> None:
    from template_audit.rules.pages import incident_url, notation

    screen.line((rule.name, "strong"), "  ", (rule.severity, rule.severity), (f"  {rule.group}", "quiet"))
    for title, body in (("What it finds", rule.what), ("Why it matters", rule.why), ("What to do", rule.advice)):
        screen.line()
        screen.line("  ", (title, "strong"))
        screen.paragraph("  ", body, indent=2)
        if title == "Why it matters" and rule.example:
            screen.line()
            screen.line("  ", ("Example", "strong"), (f"  {screen.prose(notation(rule))}", "quiet"))
            for row in rule.example.splitlines():
                screen.line("  ", screen.prose(row))
    if rule.incidents:
        screen.line()
        screen.line("  ", ("Known incidents", "strong"))
        for incident in rule.incidents:
            screen.line("  ", incident_url(incident))
