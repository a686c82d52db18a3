"""Plug points that are a folder whose modules may each define an object under a name that is agreed on."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def plugged(package: str, attribute: str) -> dict[str, Any]:
    """What the modules of `package` define as `attribute`, by its `name`, in the order of the modules' names."""
    modules = (import_module(f"{package}.{module.name}") for module in iter_modules(import_module(package).__path__))
    found = (getattr(module, attribute, None) for module in modules)
    return {one.name: one for one in found if one is not None}
