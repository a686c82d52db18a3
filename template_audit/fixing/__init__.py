"""Fixes: what would make a trainer and a model agree. Each kind is a module here that defines ``FIX``."""

from __future__ import annotations

from functools import cache

from template_audit.errors import UsageError
from template_audit.fixing.interface import Fix, FixKind, FixRequest
from template_audit.plugins import plugged

DEFAULT_KIND = "register-template"

__all__ = ["DEFAULT_KIND", "Fix", "FixKind", "FixRequest", "fix", "fix_kinds"]


@cache
def fix_kinds() -> dict[str, FixKind]:
    """Every kind of fix by name."""
    return plugged(__name__, "FIX")


def fix(request: FixRequest, kind: str = DEFAULT_KIND) -> Fix:
    """Make a fix of a kind and prove it.

    Raises UsageError for an unknown kind, encoder, template or option, and for a request that the kind
    cannot serve.
    """
    from template_audit.frameworks import nearest

    known = fix_kinds()
    if kind not in known:
        raise UsageError(f"There is no fix `{kind}`; known are {', '.join(known)}.{nearest(kind, list(known))}")
    return known[kind].make(request)
