"""The plug point for rules: a rule is one function, its catalogue entry, and nothing else.

A module beside this file defines rules with the `rule` decorator; `template_audit.rules` finds
every module of the folder. A rule yields Hits; the audit turns them into Findings.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Literal

from template_audit.conversation import Conversation
from template_audit.findings import Severity
from template_audit.stream import EncodedStream

if TYPE_CHECKING:
    from template_audit.alignment import Alignment
    from template_audit.frameworks.interface import Encoder
    from template_audit.model import Model
    from template_audit.rules.evidence import Facts

Scope = Literal["conversation", "model", "refusal", "pretraining", "gate"]
"""What a rule looks at: a `Case`, a `ModelCase`, an encoder's refusal to encode a conversation, a `PretrainCase`, or a
lock file beside what it records."""


Reads = Literal["anything", "structure"]
"""What of a conversation decides about a rule's hits: their number, keys and severities.

``structure``: for rows that are plain, nothing but the row's structure, both as
`template_audit.scanning.structure` defines them. The same text in other words gives the same hits.
``anything``: this cannot be promised, and a scan applies the rule to every row.
"""


def called(reference: Encoder) -> str:
    """How messages call a reference encoder: the chat template, or its SPEC."""
    spec = reference.spec
    return "the chat template" if spec.startswith("chat-template") else f"the reference ({spec})"


@dataclass(frozen=True)
class Case:
    """One conversation through both encoders: everything that a rule may look at."""

    model: Model
    conversation: Conversation
    reference_encoder: Encoder
    subject_encoder: Encoder
    reference: EncodedStream
    subject: EncodedStream
    alignment: Alignment

    @property
    def reference_name(self) -> str:
        """How messages call the reference."""
        return called(self.reference_encoder)

    @cached_property
    def facts(self) -> Facts:
        """What several rules need to know of this case, worked out once."""
        from template_audit.rules.evidence import Facts

        return Facts(self)


@dataclass(frozen=True, slots=True)
class ModelCase:
    """The model and both encoders, and the conversations that both of them could encode."""

    model: Model
    reference_encoder: Encoder
    subject_encoder: Encoder
    cases: tuple[Case, ...] = ()


@dataclass(frozen=True, slots=True)
class Hit:
    """What a rule's function yields.

    `message` is one sentence with the evidence in it. `reference` and `subject` are half-open token
    ranges in the two streams. `key` is what makes this hit itself across runs (a token text, a
    turn's role): never a position. Hits of one rule with one key are one finding.
    """

    message: str
    key: str = ""
    turn: int | None = None
    reference: tuple[int, int] | None = None
    subject: tuple[int, int] | None = None
    advice: str | None = None
    severity: Severity | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A catalogue entry with its check. The texts are what `rules NAME` and docs/rules print.

    `example` and `incidents` stand in pages.toml beside this file. `reads` and `concerns` spare work
    when a whole data set is scanned: what decides about the hits, and for which models there can be any
    (None: all). A rule of scope "model" that reads
    the structure is applied to every row of a scan by itself, any other to the first rows.
    """

    name: str
    severity: Severity
    group: str
    scope: Scope
    what: str
    why: str
    advice: str
    check: Callable[..., Iterator[Hit] | Iterable[Hit]] = field(repr=False)
    reads: Reads = "anything"
    concerns: Callable[[Model], bool] | None = field(default=None, repr=False)

    @property
    def example(self) -> str:
        """A minimal example with the tokens of real models: a few lines, to be shown as they are."""
        return str(_pages().get(self.name, {}).get("example", "")).strip("\n")

    @property
    def incidents(self) -> tuple[str, ...]:
        """Public issues in which it happened, as ``owner/repository#number``; empty when none is known."""
        return tuple(_pages().get(self.name, {}).get("incidents", ()))


@cache
def _pages() -> dict[str, Any]:
    """The examples and incidents of all rules, read when the first is asked for."""
    import tomllib

    return tomllib.loads(files(__package__).joinpath("pages.toml").read_text(encoding="utf-8"))


_REGISTRY: dict[str, Rule] = {}


def rule(
    name: str,
    *,
    severity: Severity,
    group: str,
    what: str,
    why: str,
    advice: str,
    scope: Scope = "conversation",
    reads: Reads = "anything",
    concerns: Callable[[Model], bool] | None = None,
) -> Callable[[Callable[..., Iterator[Hit]]], Callable[..., Iterator[Hit]]]:
    """Register the decorated function: ``check(case: Case)``, or ``ModelCase`` for scope "model"."""

    def register(check: Callable[..., Iterator[Hit]]) -> Callable[..., Iterator[Hit]]:
        if name in _REGISTRY:
            raise ValueError(f"rule {name} is defined twice")
        _REGISTRY[name] = Rule(name, severity, group, scope, what, why, advice, check, reads, concerns)
        return check

    return register


def refusal_rule(name: str, *, severity: Severity, group: str, what: str, why: str, advice: str) -> None:
    """Register a rule that reports EncodingErrors of the kind `name`; the audit makes its findings."""
    rule(name, severity=severity, group=group, what=what, why=why, advice=advice, scope="refusal")(lambda _: iter(()))


def registered() -> dict[str, Rule]:
    """All rules defined so far, by name."""
    return dict(_REGISTRY)
