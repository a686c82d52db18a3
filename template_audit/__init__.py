"""template-audit: what a trainer really feeds a model, and whether that is what the model expects."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from template_audit.alignment import compare
    from template_audit.audit import audit
    from template_audit.conversation import Conversation, Message, ToolCall
    from template_audit.datasets import read_conversations
    from template_audit.frameworks import load_encoder
    from template_audit.model import load_model
    from template_audit.stream import EncodedStream, Origin

__version__ = "0.1.0"

# Imported on first use: `import template_audit` must not cost an import of transformers.
_PUBLIC = {
    "Conversation": "template_audit.conversation",
    "EncodedStream": "template_audit.stream",
    "Message": "template_audit.conversation",
    "Origin": "template_audit.stream",
    "ToolCall": "template_audit.conversation",
    "audit": "template_audit.audit",
    "compare": "template_audit.alignment",
    "load_encoder": "template_audit.frameworks",
    "load_model": "template_audit.model",
    "read_conversations": "template_audit.datasets",
}

__all__ = [
    "Conversation",
    "EncodedStream",
    "Message",
    "Origin",
    "ToolCall",
    "audit",
    "compare",
    "load_encoder",
    "load_model",
    "read_conversations",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'template_audit' has no attribute {name!r}")


class _Package(ModuleType):
    """Keeps `template_audit.audit` the function: importing its module would put the module in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _PUBLIC or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
