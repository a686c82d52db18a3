"""What a framework's template cannot express, in sentences, and which findings follow from it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from template_audit.conversation import Conversation
from template_audit.findings import Finding
from template_audit.fixing.interface import Remaining
from template_audit.rules import all_rules

MODEL_GROUPS = ("Model files", "Hostile")
_OF_THE_FILES = ("eos-mismatch", "pad-equals-eos")
_FILES = "It is about the model's own files, which no template of a framework changes."
_PROBE = "Information: the probe provokes it, or the model does not support what it asks for."


def everywhere(conversation: Conversation) -> bool:
    """A limit that shows in any conversation."""
    return True


def with_tools(conversation: Conversation) -> bool:
    """Conversations with tools or calls."""
    return bool(conversation.tools) or any(m.tool_calls or m.role == "tool" for m in conversation.messages)


def with_system(conversation: Conversation) -> bool:
    """Conversations that begin with a system message."""
    return conversation.system is not None


def without_system(conversation: Conversation) -> bool:
    """Conversations without a system text, or with an empty one."""
    return not conversation.system


def with_reasoning(conversation: Conversation) -> bool:
    """Conversations in which an answer has reasoning."""
    return any(message.reasoning for message in conversation.messages)


def without_reasoning(conversation: Conversation) -> bool:
    """Conversations in which an answer has no reasoning."""
    return any(message.role == "assistant" and not message.reasoning for message in conversation.messages)


def of_several_turns(conversation: Conversation) -> bool:
    """Conversations with more than one answer."""
    return sum(message.role == "assistant" for message in conversation.messages) > 1


def padded(conversation: Conversation) -> bool:
    """Conversations in which a text begins or ends with whitespace."""
    return any((message.content or "") != (message.content or "").strip() for message in conversation.messages)


@dataclass(frozen=True, slots=True)
class Limit:
    """One thing that cannot be expressed. `rules` report it, in the conversations for which `shows` is true."""

    sentence: str
    rules: Collection[str]
    shows: Callable[[Conversation], bool] = everywhere


def left_over(
    findings: Iterable[Finding], limits: Iterable[Limit], conversations: Mapping[str, Conversation]
) -> tuple[Remaining, ...]:
    """The findings that a fix leaves, each with the reason why it is inherent, where that is known."""
    limits = tuple(limits)
    return tuple(Remaining(finding, _reason(finding, limits, conversations)) for finding in findings)


def _reason(finding: Finding, limits: tuple[Limit, ...], conversations: Mapping[str, Conversation]) -> str | None:
    rule = all_rules()[finding.rule]
    if rule.group in MODEL_GROUPS or finding.rule in _OF_THE_FILES:
        return _FILES
    conversation = conversations.get(finding.conversation or "")
    for limit in limits:
        if finding.rule in limit.rules and (conversation is None or limit.shows(conversation)):
            return limit.sentence
    return _PROBE if finding.severity == "info" else None
