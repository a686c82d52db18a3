"""The catalogue of rules: one file per group, found by the folder."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from template_audit.rules.interface import Rule, registered


@cache
def all_rules() -> dict[str, Rule]:
    """Every rule of this folder by name, in the order of groups and definition."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return registered()
