"""Snippets: what is written reads back as the same template, alone and as a part of a release's source."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from template_audit.errors import UsageError
from template_audit.frameworks.llamafactory.importer import import_registry
from template_audit.frameworks.llamafactory.registry import Formatter, TemplateSpec, load_registry
from template_audit.frameworks.llamafactory.snippet import read_snippet, snippet
from tests.frameworks.llamafactory.mini_release import write

VERSIONS = ("0.9.2", "0.9.3", "0.9.4", "0.9.5")
SOURCES = os.environ.get("TEMPLATE_AUDIT_LF_SOURCES")


def renamed(spec: TemplateSpec) -> TemplateSpec:
    return replace(spec, name="mine")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_template_of_a_release_survives(version: str) -> None:
    registry = load_registry(version)
    for spec in registry.templates.values():
        mine = renamed(spec)
        assert read_snippet(snippet(mine, registry), registry).templates["mine"] == mine


@pytest.mark.skipif(
    SOURCES is None, reason="TEMPLATE_AUDIT_LF_SOURCES names no folder with unpacked releases or wheels"
)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_release_reads_it_alike(version: str) -> None:
    found = [
        p for p in sorted(Path(SOURCES or "").iterdir()) if version in p.name and (p.is_dir() or p.suffix == ".whl")
    ]
    if not found:
        pytest.skip(f"no {version} in {SOURCES}")
    registry = load_registry(version)
    for name in ("llama3", "qwen3", "gemma", "gpt_oss"):
        if name in registry.templates:
            text = snippet(renamed(registry.templates[name]), registry)
            alone = read_snippet(text, registry).templates["mine"]
            assert import_registry(found[0], text).templates["mine"] == alone


def test_appended_to_a_source(tmp_path: Path) -> None:
    write(tmp_path)
    text = 'register_template(name="mine", format_user=StringFormatter(slots=["<u>{{content}}"]))'
    assert import_registry(tmp_path, text).templates["mine"].format_user == Formatter("string", ("<u>{{content}}",))
    assert "mine" not in import_registry(tmp_path).templates


def test_text_that_could_steer_a_terminal_is_escaped() -> None:
    registry = load_registry()
    spec = renamed(replace(registry.templates["qwen"], default_system='a\x1b[2J\u202e"\\\n\U000e0041é가'))
    text = snippet(spec, registry)
    assert '"a\\u001b[2J\\u202e\\"\\\\\\n\\U000e0041é가"' in text
    assert read_snippet(text, registry).templates["mine"] == spec


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("import os", "is no call"),
        ('register_template(name="qwen")', "is there already"),
        ('register_template(name="x", tool_words=1)', "unknown argument `tool_words`"),
        ('register_template(name="x", format_user=StringFormatter(slots=["no place"]))', "without a placeholder"),
        ('register_template(name="x", format_tools=ToolFormatter(tool_format="none"))', "tool format 'none'"),
        ('register_template(name=open("x"))', "does not follow"),
        ("register_template(", "is not Python"),
    ],
)
def test_what_the_release_refuses(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        read_snippet(text, load_registry("0.9.5"))


def test_parameters_are_those_of_the_release() -> None:
    text = 'register_template(name="x", preserve_thinking=True)'
    assert read_snippet(text, load_registry("0.9.5")).templates["x"].preserve_thinking
    with pytest.raises(UsageError, match="preserve_thinking"):
        read_snippet(text, load_registry("0.9.4"))


def test_releases_before_the_call_was_this() -> None:
    with pytest.raises(UsageError, match=r"0\.9\.1"):
        read_snippet("", load_registry("0.9.1"))
