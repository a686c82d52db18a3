"""The plug point for fixes: what would make a trainer and a model agree, proven before it is shown.

A kind of fix is a module beside this file that defines ``FIX``, an object with the shape of `FixKind`.
Nothing else names it: `template_audit.fixing` finds it by its folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from template_audit.config import Config
from template_audit.findings import Finding, Summary

if TYPE_CHECKING:
    from template_audit.conversation import Conversation
    from template_audit.model import Model
    from template_audit.results import Report

DEFAULT_KIND = "register-template"


@dataclass(frozen=True, slots=True)
class FixRequest:
    """What is to be fixed. `encoder` is a SPEC; `options` are the framework's own.

    `python` is the interpreter of an environment in which the framework is installed, `framework_source` a
    copy of its source. `config` holds `fail_on` and the severities of rules.
    """

    model: Model
    encoder: str
    options: Mapping[str, Any] = field(default_factory=dict)
    framework_source: str | None = None
    python: str | None = None
    config: Config = field(default_factory=Config)
    conversations: tuple[Conversation, ...] = ()
    """Audited beside the built-in probes."""


@dataclass(frozen=True, slots=True)
class Remaining:
    """A finding that is left with the fix in place. `because` says why no fix of this kind could change it.

    `because` None: it is not known to be inherent.
    """

    finding: Finding
    because: str | None


@dataclass(frozen=True, slots=True)
class Fix:
    """What a kind of fix came to.

    `text` is what to use: a snippet or a chat template, None when nothing could be made. `advice` says what to do
    with it, `inexpressible` what it does not do, `checks` what was proven and how, `failures` which checks did not
    hold. `report` is the audit with the fix in place.
    """

    kind: str
    text: str | None
    summary: str
    advice: tuple[str, ...] = ()
    inexpressible: tuple[str, ...] = ()
    checks: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()
    remaining: tuple[Remaining, ...] = ()
    report: Report | None = None

    @property
    def exit_code(self) -> Literal[0, 1, 2]:
        """0: proven, nothing at or above `fail_on` is left. 1: made, something is left. 2: not made, not evaluated."""
        if self.text is None or self.report is None or self.report.exit_code == 2:
            return 2
        return 1 if self.failures or self.report.exit_code else 0


def outcome(summary: Summary) -> str:
    """What an audit came to, as the rest of a sentence."""
    counts = ((summary.error, "error"), (summary.warning, "warning"))
    found = " and ".join(f"{number} {noun}{'' if number == 1 else 's'}" for number, noun in counts)
    return f"{summary.agree} of {summary.conversations} probes agree in every token, {found}"


class FixKind(Protocol):
    """One kind of fix."""

    name: str
    title: str

    def make(self, request: FixRequest) -> Fix:
        """Make the fix and prove it. Raises UsageError for a request that this kind cannot serve."""
        ...
