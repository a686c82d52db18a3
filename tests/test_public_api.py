"""The names that users import, whatever was imported before them."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("before", ["", "import template_audit.audit; ", "from template_audit.audit import Report; "])
def test_names_are_functions_and_classes(before: str) -> None:
    names = "Conversation, EncodedStream, Message, Origin, ToolCall, audit, compare, load_encoder, load_model"
    code = f"{before}from template_audit import {names}, read_conversations; print(*map(callable, ({names})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"True"}


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, template_audit; print([name for name in ('transformers', 'tokenizers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
