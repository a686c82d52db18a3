"""The importer on a release in miniature, on hostile source, and (where unpacked) on the real releases."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import ClassVar

import pytest

from template_audit.errors import UsageError
from template_audit.frameworks.llamafactory.behaviours import Behaviours
from template_audit.frameworks.llamafactory.importer import import_registry
from template_audit.frameworks.llamafactory.registry import (
    Formatter,
    MMPlugin,
    Registry,
    Special,
    Token,
    builtin_versions,
    load_registry,
    unfamiliar_code,
)
from tests.frameworks.llamafactory.mini_release import CONVERTER, FILES, FORMATTER, SUPERVISED, TEMPLATE, TOOLS, write

REGISTER = "register_template(name='mine', format_user=StringFormatter(slots=[{}]))"


@pytest.fixture
def mini(tmp_path: Path) -> Registry:
    return import_registry(write(tmp_path))


def refusal(folder: Path, append: str = "", **replaced: str | None) -> str:
    """The sentence with which a changed release is refused."""
    with pytest.raises(UsageError) as caught:
        import_registry(write(folder, append, **replaced))
    text = str(caught.value)
    assert text.startswith(f"Cannot read the LLaMA-Factory source {folder / 'llamafactory'}: ")
    assert text.endswith(".")
    assert "\n" not in text
    return text.removeprefix(f"Cannot read the LLaMA-Factory source {folder / 'llamafactory'}: ")


def line_of(append: str) -> int:
    """The line of data/template.py that the last line of `append` ends on."""
    return f"{TEMPLATE}\n{append}".rstrip("\n").count("\n") + 1


class TestMiniRelease:
    def test_templates_keep_their_order_and_defaults(self, mini: Registry) -> None:
        assert mini.version == "1.2.3"
        assert list(mini.templates) == ["bare", "thinker"]
        bare = mini.templates["bare"]
        assert bare.kind == "plain"
        assert bare.format_user == Formatter("string", ("U: {{content}}\n", Token("<sep>")))
        assert bare.format_assistant == Formatter("string", ("{{content}}", Special("eos_token")))
        assert bare.format_function == Formatter("function", ("{{content}}", Special("eos_token")), "default")
        assert bare.format_observation == bare.format_user
        assert bare.format_system == Formatter("string", ("{{content}}",))
        assert bare.format_tools == Formatter("tool", (), "default")
        assert bare.format_prefix == Formatter("empty", (Special("bos_token"),))
        assert bare.format_separator == Formatter("empty")
        assert bare.default_system == "Be kind."
        assert bare.thought_words == ("<t>", "</t>")
        assert bare.mm_plugin == MMPlugin("base")

    def test_class_flags_and_plugin(self, mini: Registry) -> None:
        thinker = mini.templates["thinker"]
        assert thinker.kind == "reasoning"
        assert thinker.format_assistant == Formatter("string", ("{{content}}<end>",))
        assert thinker.format_function == Formatter("function", ("{{content}}<end>",), "default")
        assert thinker.stop_words == ("<end>",)
        assert (thinker.efficient_eos, thinker.replace_eos, thinker.replace_jinja_template) == (True, False, False)
        assert thinker.mm_plugin == MMPlugin("eyes", "<image>", extras=(("frame_token", "<frame>"),))

    def test_models(self, mini: Registry) -> None:
        assert mini.model_names == {"Bare-1B": None, "Bare-1B-Chat": "bare", "Eye-2B": "thinker"}
        assert mini.models == {
            "bare/bare-1b": None,
            "bare/bare-1b-chat": "bare",
            "Bare/1b-chat": "bare",
            "Eye/2b": "thinker",
        }

    def test_prompts_formats_and_options(self, mini: Registry) -> None:
        assert mini.tool_prompts == {"DEFAULT_TOOL_PROMPT": "Tools:\n{tool_text}"}
        assert mini.tool_formats == ("default",)
        assert mini.function_slots == {}
        assert mini.data_args == {"template": None, "cutoff_len": 2048, "mix_strategy": "concat"}

    def test_behaviours_are_those_of_the_newest(self, mini: Registry) -> None:
        expected = Behaviours(chat_template_parser="none", ollama_modelfile=False)
        assert mini.behaviours == expected

    def test_its_code_is_unfamiliar(self, mini: Registry) -> None:
        assert "data/template.py:register_template" in unfamiliar_code(mini)
        assert unfamiliar_code(load_registry()) == ()

    def test_digests_of_what_was_read(self, mini: Registry) -> None:
        assert {"data/template.py", "extras/constants.py", "data/processor/supervised.py"} <= mini.files.keys()
        assert all(len(digest) == 64 for digest in mini.files.values())


class TestWhereTheSourceLies:
    @pytest.mark.parametrize(
        ("inside", "named"),
        [
            ("checkout/src", "checkout"),
            ("env/lib/python3.11/site-packages", "env"),
            ("env/lib/python3.11/site-packages", "env/lib/python3.11/site-packages"),
            ("unpacked", "unpacked/llamafactory"),
            ("unpacked", "unpacked/llamafactory/data/template.py"),
        ],
    )
    def test_layouts(self, tmp_path: Path, inside: str, named: str) -> None:
        write(tmp_path / inside)
        assert list(import_registry(tmp_path / named).templates) == ["bare", "thinker"]

    def test_the_older_package_name(self, tmp_path: Path) -> None:
        write(tmp_path).rename(tmp_path / "llmtuner")
        assert len(import_registry(tmp_path).templates) == 2

    def test_a_wheel(self, tmp_path: Path) -> None:
        wheel = tmp_path / "llamafactory-1.2.3-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, text in FILES.items():
                if path != "extras/env.py":
                    archive.writestr(f"llamafactory/{path}", text)
            archive.writestr("llamafactory-1.2.3.dist-info/METADATA", "")
        registry = import_registry(wheel)
        assert (registry.version, len(registry.templates), len(registry.models)) == ("1.2.3", 2, 4)

    @pytest.mark.parametrize("name", ["not-there", "empty", "file.txt", "broken.whl", "other.whl"])
    def test_nothing_to_read(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "file.txt").write_text("x")
        (tmp_path / "broken.whl").write_bytes(b"PK no zip")
        with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
            archive.writestr("other/__init__.py", "")
        with pytest.raises(UsageError, match=name) as caught:
            import_registry(tmp_path / name)
        assert "\n" not in str(caught.value)

    def test_a_release_without_templates(self, tmp_path: Path) -> None:
        empty = TEMPLATE[: TEMPLATE.index('register_template(\n    name="bare"')]
        assert "registers no templates" in refusal(tmp_path, data__template=empty)


class TestUsersOwnTemplates:
    @pytest.mark.parametrize(
        "code",
        [
            REGISTER.format("'{{content}}'"),
            "register_template('mine', StringFormatter(['{{content}}']))",
            "options = dict(name='mine', stop_words=['x'])\nregister_template(**options)",
            "for name in ('mine',):\n    register_template(name=name)",
            "TEMPLATES['mine'] = TEMPLATES['bare']",
            "from copy import deepcopy\nTEMPLATES['mine'] = deepcopy(TEMPLATES['bare'])",
            "import copy\nmine = copy.deepcopy(TEMPLATES['bare'])\nTEMPLATES['mine'] = mine",
            "import dataclasses\nTEMPLATES['mine'] = dataclasses.replace(TEMPLATES['bare'], stop_words=['x'])",
            "TEMPLATES.update({'mine': TEMPLATES['bare']})",
            "def add(name):\n    register_template(name=name)\nadd('other')\nregister_template(name='mine')",
        ],
    )
    def test_at_the_end_of_template_py(self, tmp_path: Path, code: str) -> None:
        assert "mine" in import_registry(write(tmp_path, code)).templates

    @pytest.mark.parametrize(
        "code",
        [
            "from llamafactory.data.template import StringFormatter, register_template\n"
            + REGISTER.format("'{{content}}'"),
            "from .template import *\n" + REGISTER.format("'{{content}}'"),
            "from . import template\ntemplate.register_template(name='mine')",
            "import llamafactory.data.template as t\nt.TEMPLATES['mine'] = t.TEMPLATES['bare']",
        ],
    )
    def test_in_a_file_of_their_own(self, tmp_path: Path, code: str) -> None:
        assert "mine" in import_registry(write(tmp_path, data__my_templates=code)).templates

    def test_a_copy_may_be_changed(self, tmp_path: Path) -> None:
        code = (
            "import copy\nTEMPLATES['mine'] = copy.deepcopy(TEMPLATES['bare'])\nTEMPLATES['mine'].default_system = 'Hi'"
        )
        templates = import_registry(write(tmp_path, code)).templates
        assert (templates["bare"].default_system, templates["mine"].default_system) == ("Be kind.", "Hi")

    def test_another_name_for_the_same_template_changes_with_it(self, tmp_path: Path) -> None:
        code = "TEMPLATES['mine'] = TEMPLATES['bare']\nTEMPLATES['mine'].default_system = 'Hi'"
        templates = import_registry(write(tmp_path, code)).templates
        assert templates["bare"].default_system == templates["mine"].default_system == "Hi"

    def test_one_may_be_removed(self, tmp_path: Path) -> None:
        assert list(import_registry(write(tmp_path, "del TEMPLATES['bare']")).templates) == ["thinker"]

    def test_the_main_guard_is_not_entered(self, tmp_path: Path) -> None:
        code = "if __name__ == '__main__':\n    register_template(name='mine')"
        assert "mine" not in import_registry(write(tmp_path, code)).templates

    def test_slots_given_as_a_string_are_its_characters(self, tmp_path: Path) -> None:
        # list += str, as Template._encode does with what EmptyFormatter.apply returns
        code = "register_template(name='mine', format_prefix=EmptyFormatter('<s>'))"
        mine = import_registry(write(tmp_path, code)).templates["mine"]
        assert mine.format_prefix.slots == ("<", "s", ">")


class TestRefusals:
    @pytest.mark.parametrize(
        ("code", "problem"),
        [
            (REGISTER.format("open('/etc/passwd').read()"), "`open('/etc/passwd')`"),
            (REGISTER.format("__import__('os').getcwd()"), "`__import__('os')`"),
            (REGISTER.format("().__class__.__mro__"), "`().__class__`"),
            (REGISTER.format("'{0.__class__}'.format(1)"), "format"),
            (REGISTER.format("getattr('a', 'upper')()"), "getattr"),
            (REGISTER.format("os.environ['HOME']"), "slot"),
            (REGISTER.format("(lambda: '{{content}}')()"), "lambda"),
            (REGISTER.format("eval('1')"), "eval"),
            (REGISTER.format("3"), "a slot 3"),
            (REGISTER.format("{'bos_token', 'eos_token'}"), "a slot {"),
            (REGISTER.format("'no hole'"), "without a placeholder"),
            ("register_template(name='mine', format_prefix=EmptyFormatter(['{{content}}']))", "placeholder"),
            ("register_template(name='mine', format_tools=ToolFormatter(tool_format='x'))", "tool format 'x'"),
            ("register_template(name='mine', mm_plugin=get_mm_plugin('x'))", "multimodal plugin 'x'"),
            ("register_template(name='mine', nope=1)", "argument `nope`"),
            ("register_template()", "without `name`"),
            ("register_template(name='mine', stop_words='abc')", "stop_words"),
            ("register_template(name='mine', thought_words=('a', 'b', 'c'))", "thought_words"),
            ("register_template(name='mine', replace_eos='yes')", "replace_eos"),
            ("register_template(name='mine', default_system=None)", "default_system"),
            ("register_template(name='mine', format_user='U')", "format_user"),
            ("register_template(name='mine', template_class=None)", "calls `template_class`"),
            ("TEMPLATES['mine'] = 1", "something else than a template"),
            ("if is_it_tuesday():\n    register_template(name='mine')", "`is_it_tuesday()`"),
            ("try:\n    register_template(name='mine')\nfinally:\n    pass", "`try:"),
            ("A = 'a'\nA = 'b'\nregister_template(name='mine', default_system=A)", "`A` more than once"),
        ],
    )
    def test_names_file_line_and_construct(self, tmp_path: Path, code: str, problem: str) -> None:
        sentence = refusal(tmp_path, code)
        assert problem in sentence
        assert sentence.startswith("data/template.py line ")

    def test_the_line_is_the_users(self, tmp_path: Path) -> None:
        code = REGISTER.format("open('x')")
        assert refusal(tmp_path, code).startswith(f"data/template.py line {line_of(code)} ")

    def test_what_the_release_itself_would_raise(self, tmp_path: Path) -> None:
        code = "register_template(name='bare')"
        sentence = refusal(tmp_path, code)
        assert "raises `ValueError(" in sentence
        assert f"for what data/template.py line {line_of(code)} asks for" in sentence

    def test_unknown_classes(self, tmp_path: Path) -> None:
        formatter = (
            "class Mine(StringFormatter):\n    pass\nregister_template(name='m', format_user=Mine(['{{content}}']))"
        )
        assert "the formatter class `Mine`" in refusal(tmp_path / "a", formatter)
        template = "class Mine(Template):\n    pass\nregister_template(name='m', template_class=Mine)"
        assert "the template class `Mine`" in refusal(tmp_path / "b", template)

    def test_an_unknown_field_of_templates(self, tmp_path: Path) -> None:
        changed = TEMPLATE.replace("    mm_plugin: object\n", "    mm_plugin: object\n    shuffle: bool = False\n")
        assert "a field `shuffle`" in refusal(tmp_path, data__template=changed)

    def test_an_encoder_that_cuts_turns_itself(self, tmp_path: Path) -> None:
        changed = TEMPLATE.replace(
            "system, tools):\n        return []", "system, tools, cutoff_len):\n        return []", 1
        )
        assert "cuts turns inside `Template._encode`" in refusal(tmp_path, data__template=changed)

    @pytest.mark.parametrize(
        ("file", "text", "problem"),
        [
            ("data__processor__supervised", None, "efficient_eos_label_on_first_turn is not known"),
            (
                "data__processor__supervised",
                SUPERVISED.replace("elif self.template.efficient_eos and turn_idx != 0", "elif self.mood"),
                "none of the known kinds of efficient_eos_label_on_first_turn",
            ),
            (
                "data__formatter",
                FORMATTER.replace("tool_call_words", "other_words"),
                "none of the known kinds of function_formatter",
            ),
            ("data__formatter", "def (", "is not Python"),
            ("data__tool_utils", TOOLS.replace("TOOLS = {", "MORE = {"), "knows tool formats in a way"),
            ("webui__common", None, "has no get_template"),
            ("data__converter", "\0", "is not Python"),
            ("data__parser", "#" * 1_100_000, "is larger than"),
        ],
    )
    def test_files_that_show_nothing_known(self, tmp_path: Path, file: str, text: str | None, problem: str) -> None:
        assert problem in refusal(tmp_path, **{file: text})

    def test_text_that_is_not_utf8(self, tmp_path: Path) -> None:
        (write(tmp_path) / "data" / "parser.py").write_bytes(b"# \xff\xfe\n")
        with pytest.raises(UsageError, match=r"data/parser\.py line 1 is not UTF-8"):
            import_registry(tmp_path)


class TestHostileSource:
    """Nothing is executed, and time and memory stay bounded."""

    BOMBS: ClassVar = {
        "repeat": REGISTER.format("'a'*10**9"),
        "repeat a literal": REGISTER.format("'a'*1000000000"),
        "repeat often": REGISTER.format("'{{content}}'" + "*100" * 6),
        "double": "A0 = '{{content}}' * 2\n"
        + "".join(f"A{i} = A{i - 1} + A{i - 1}\n" for i in range(1, 40))
        + REGISTER.format("A39"),
        "replace": REGISTER.format("'a'.replace('', 'b' * 1000).replace('', 'c' * 1000)"),
        "join": REGISTER.format("('b' * 1000).join(['a' * 1000] * 1000)"),
        "loops": REGISTER.format("[a for a in 'x' * 999 for b in 'x' * 999 for c in 'x' * 999]"),
        "nested for": "for i in [1] * 99999:\n for j in [1] * 99999:\n  TEMPLATES['x'] = TEMPLATES['bare']",
        "recursion": "def f(x):\n    return f(x)\n" + REGISTER.format("f('a')"),
        "two functions": "def f(x):\n    return g(x)\ndef g(x):\n    return f(x)\n" + REGISTER.format("f('a')"),
        "names in a circle": "A = B\nB = A\n" + REGISTER.format("A"),
        "a list in itself": "L = ['{{content}}']\nL.append(L)\n" + REGISTER.format("*L"),
        "deep list": REGISTER.format("[" * 150 + "]" * 150),
        "deeper list": REGISTER.format("[" * 5000 + "]" * 5000),
        "long sum": REGISTER.format("+".join(["'a'"] * 100_000)),
        "attributes": REGISTER.format("a" + ".b" * 5000),
        "calls": REGISTER.format("a" + "()" * 5000),
        "nots": REGISTER.format("not " * 5000 + "1"),
        "ifs": REGISTER.format("'a' if 1 else " * 5000 + "'b'"),
        "a number": "register_template(name='mine', default_system=" + "9" * 10_000 + ")",
        "base class in a circle": "class A(B): pass\nclass B(A): pass\nregister_template(name='mine', format_user=A())",
    }

    @pytest.mark.parametrize("name", BOMBS)
    def test_bombs(self, tmp_path: Path, name: str) -> None:
        started = time.monotonic()
        if name == "a list in itself":  # the list is never filled: only registering statements are followed
            assert "mine" in import_registry(write(tmp_path, self.BOMBS[name])).templates
        else:
            refusal(tmp_path, self.BOMBS[name])
        assert time.monotonic() - started < 20

    def test_nothing_is_executed_or_imported(self, tmp_path: Path) -> None:
        mark = tmp_path / "executed"
        attack = f"open({str(mark)!r}, 'w').close()\n"
        write(
            tmp_path,
            f"{attack}\nclass Evil:\n    {attack}\n@print\ndef decorated():\n    pass\n"
            + REGISTER.format("'{{content}}'"),
            data__formatter=FORMATTER + attack,
            data__converter=CONVERTER + attack,
            extras__env=f"VERSION = '1.2.3'\n{attack}",
            __init__=attack,
        )
        code = (
            "import sys\n"
            "from template_audit.frameworks.llamafactory.importer import import_registry\n"
            f"assert 'mine' in import_registry({str(tmp_path)!r}).templates\n"
            "names = ('llamafactory', 'transformers', 'torch', 'tokenizers')\n"
            "assert not [name for name in names if name in sys.modules], sys.modules.keys()\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
        assert not mark.exists()

    def test_memory_stays_bounded(self, tmp_path: Path) -> None:
        resource = pytest.importorskip("resource")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for index, name in enumerate(("double", "join", "loops", "repeat often")):
            refusal(tmp_path / str(index), self.BOMBS[name])
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


SOURCES = os.environ.get("TEMPLATE_AUDIT_LF_SOURCES")


@pytest.mark.skipif(
    SOURCES is None, reason="TEMPLATE_AUDIT_LF_SOURCES names no folder with unpacked releases or wheels"
)
class TestRealReleases:
    """Every release in that folder: a built-in one equals its record, any other is read or refused in a sentence."""

    def test_every_release(self) -> None:
        folder = Path(SOURCES or "")
        found = [path for path in sorted(folder.iterdir()) if path.suffix == ".whl" or _holds_a_release(path)]
        assert found
        for path in found:
            try:
                registry = import_registry(path)
            except UsageError as error:
                sentence = str(error)
            else:
                assert registry.templates
                if registry.version in builtin_versions():
                    assert registry == load_registry(registry.version), path
                continue
            assert re.search(r" line \d+ ", sentence), path
            assert "\n" not in sentence


def _holds_a_release(path: Path) -> bool:
    return any(
        (path / name / "data" / "template.py").is_file() for name in ("llamafactory", "llmtuner", "src/llamafactory")
    )
