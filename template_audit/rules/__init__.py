"""The catalogue of rules: a few files per group, found by the folder."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from template_audit.rules.interface import Rule, registered

GROUPS = ("Stream", "Special tokens", "Turn ends", "Labels", "Data", "Pre-training", "Model files", "Hostile", "Gate")
"""The groups in the order of the catalogue; a group that is not named here comes last."""


@cache
def all_rules() -> dict[str, Rule]:
    """Every rule of this folder by name, in the order of groups, then by severity and name."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return dict(sorted(registered().items(), key=lambda item: _place(item[1])))


def _place(rule: Rule) -> tuple[int, int, str]:
    group = GROUPS.index(rule.group) if rule.group in GROUPS else len(GROUPS)
    return group, ("error", "warning", "info").index(rule.severity), rule.name
