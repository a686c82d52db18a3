"""Fixes: what would make a trainer and a model agree. Each kind is a module here that defines ``FIX``."""

from __future__ import annotations

from functools import cache

from template_audit.errors import UsageError
from template_audit.fixing.interface import DEFAULT_KIND, Fix, FixKind, FixRequest
from template_audit.plugins import plugged

__all__ = ["DEFAULT_KIND", "Fix", "FixKind", "FixRequest", "fix", "fix_kinds", "get_kind"]


@cache
def fix_kinds() -> dict[str, FixKind]:
    """Every kind of fix by name."""
    return plugged(__name__, "FIX")


def get_kind(name: str) -> FixKind:
    """The kind of this name. Raises UsageError naming the known ones."""
    from template_audit.frameworks import nearest

    known = fix_kinds()
    if name not in known:
        raise UsageError(f"There is no fix `{name}`; known are {', '.join(known)}.{nearest(name, list(known))}")
    return known[name]


def fix(request: FixRequest, kind: str = DEFAULT_KIND) -> Fix:
    """Make a fix of a kind and prove it.

    Raises UsageError for an unknown kind, encoder, template or option, and for a request that the kind
    cannot serve.
    """
    return get_kind(kind).make(request)
