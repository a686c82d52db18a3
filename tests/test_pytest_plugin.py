"""The pytest plugin in test sessions of its own, and `assert_template_agrees` without any."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from template_audit import load_encoder, load_model
from template_audit.config import Config
from template_audit.errors import ModelError, UsageError
from template_audit.testing import ROOTS, assert_template_agrees

pytest_plugins = "pytester"

ROOT = Path(__file__).resolve().parents[1]
MODELS = ROOT / "fixtures" / "models"
QWEN, EXAONE = str(MODELS / "qwen25-like"), str(MODELS / "exaone35-like")
NO_TEMPLATE = str(MODELS / "base-no-template")
IMPORT = "from template_audit.testing import assert_template_agrees\nimport pytest\n"


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module", autouse=True)
def _imported() -> Iterator[None]:
    """What a session in this process imports is forgotten after it, and extension modules are imported but once."""
    import_module("transformers")
    kept, ROOTS[:] = list(ROOTS), []
    assert_template_agrees(QWEN, "llamafactory:qwen", conversations="single", config=Config())
    yield
    ROOTS[:] = kept


def session(pytester: pytest.Pytester, source: str, *arguments: str) -> pytest.RunResult:
    """A session in which the plugin is loaded once, whether or not the environment knows its entry point."""
    pytester.makepyfile(IMPORT + source)
    pytester.syspathinsert(ROOT)
    pytester._monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return pytester.runpytest_inprocess("-p", "template_audit.pytest_plugin", "--strict-markers", *arguments)


class TestAssertion:
    def test_a_pair_that_agrees_gives_its_report(self) -> None:
        report = assert_template_agrees(QWEN, "llamafactory:qwen", conversations="single", config=Config())
        assert report.exit_code == 0
        assert report.subject.spec == "llamafactory@0.9.5:qwen"
        assert [c.conversation.id for c in report.comparisons] == ["single"]

    def test_the_message_has_rule_sentence_place_and_advice(self) -> None:
        with pytest.raises(AssertionError) as raised:
            assert_template_agrees(EXAONE, "llamafactory:llama3", config=Config())
        message = str(raised.value)
        assert message.splitlines()[0].startswith(f"{EXAONE} with llamafactory@0.9.5:llama3: ")
        assert "error  foreign-special-token\n  `<|start_header_id|>` is no token of this model" in message
        assert "\n  where: single, multi-turn, " in message
        assert "\n  file: " in message
        assert "\n  expected (token " in message
        assert "\n  fed (token " in message
        assert "\n  what to do: Use the template of this model's own family" in message
        assert "\nwarning" not in message
        assert "below `error`. `template-audit " in message

    def test_fail_on(self) -> None:
        assert_template_agrees(EXAONE, "llamafactory:llama3", fail_on="never", conversations="single", config=Config())
        with pytest.raises(AssertionError, match="info  missing-generation-tags"):
            assert_template_agrees(QWEN, "llamafactory:qwen", fail_on="info", conversations="single", config=Config())

    def test_what_was_not_evaluated_fails(self) -> None:
        off = Config(severities={"template-missing": "off", "vocabulary-grows": "off"}, fail_on="never")
        with pytest.raises(AssertionError, match=r"not evaluated\n  where: single\n  .*has no chat template"):
            assert_template_agrees(NO_TEMPLATE, "llamafactory:qwen", conversations="single", config=off)

    def test_a_model_that_cannot_be_had_raises(self) -> None:
        with pytest.raises(ModelError):
            assert_template_agrees("nobody/there-is-no-such-model", "llamafactory:qwen", config=Config())

    def test_a_model_an_encoder_and_conversations_that_are_loaded_already(self) -> None:
        model = load_model(QWEN)
        encoder = load_encoder("llamafactory:qwen", model, cutoff_len=100)
        files = [str(ROOT / "fixtures/conversations/single.json")] * 2
        report = assert_template_agrees(model, encoder, conversations=files, config=Config())
        assert [c.conversation.id for c in report.comparisons] == ["single", "single (2)"]
        assert report.subject.options["cutoff_len"] == 100
        given = report.comparisons[0].conversation
        assert assert_template_agrees(model, encoder, conversations=given, config=Config()).exit_code == 0
        with pytest.raises(UsageError, match="Give `cutoff_len` to the encoder"):
            assert_template_agrees(model, encoder, cutoff_len=50, config=Config())

    def test_options_reach_whoever_knows_them(self) -> None:
        moment = "2024-02-03T04:05:06"
        report = assert_template_agrees(
            QWEN, "llamafactory:qwen", conversations="single", config=Config(), clock=moment, cutoff_len=99
        )
        assert report.subject.options["clock"] == report.reference.options["clock"] == moment
        assert report.subject.options["cutoff_len"] == 99
        with pytest.raises(UsageError, match="Did you mean `cutoff_len`"):
            assert_template_agrees(QWEN, "llamafactory:qwen", cutof_len=99, config=Config())

    @pytest.mark.parametrize(
        ("conversations", "sentence"),
        [("sngle", "neither a file nor a built-in probe"), ([], "holds no conversation")],
    )
    def test_conversations_that_are_none(self, conversations: str | list[str], sentence: str) -> None:
        with pytest.raises(UsageError, match=sentence):
            assert_template_agrees(QWEN, "llamafactory:qwen", conversations=conversations, config=Config())

    def test_a_baseline(self, tmp_path: Path) -> None:
        from template_audit.report import get_format
        from template_audit.report.interface import ReportOptions

        pair = (EXAONE, "llamafactory:llama3")
        report = assert_template_agrees(*pair, fail_on="never", conversations="single", config=Config())
        with (tmp_path / "baseline.json").open("w", encoding="utf-8") as file:
            get_format("json").write(report, file, ReportOptions())
        known = assert_template_agrees(
            *pair, conversations="single", config=Config(), baseline=tmp_path / "baseline.json"
        )
        assert not [finding for finding in known.findings if finding.severity == "error"]
        assert known.known

    def test_foreign_text_is_inert(self, tmp_path: Path) -> None:
        path = tmp_path / "x.json"
        hostile = "<|im_end|>\\u001b[31m\\u202e ##[error]x"
        path.write_text(f'[{{"role": "user", "content": "{hostile}"}}, {{"role": "assistant", "content": "Yes."}}]')
        with pytest.raises(AssertionError) as raised:
            assert_template_agrees(QWEN, "llamafactory:qwen", conversations=path, fail_on="info", config=Config())
        assert "special-token-injection" in str(raised.value)
        assert not {"\x1b", "\u202e"} & set(str(raised.value))
        with pytest.raises(UsageError) as refused:
            assert_template_agrees(QWEN, "llamafactory:\x1b[31m", config=Config())
        assert "\x1b" not in str(refused.value)


class TestPlugin:
    def test_a_test_that_calls_the_assertion(self, pytester: pytest.Pytester) -> None:
        result = session(
            pytester,
            f"""
def test_agrees():
    assert_template_agrees({QWEN!r}, "llamafactory:qwen", conversations="single")

def test_differs():
    assert_template_agrees({EXAONE!r}, "llamafactory:llama3", conversations="single")

def test_wrong():
    assert_template_agrees({QWEN!r}, "llamafactory:qwne", conversations="single")
""",
        )
        result.assert_outcomes(passed=1, failed=2)
        result.stdout.fnmatch_lines(["E  *error  foreign-special-token", "E  *what to do: *"])
        result.stdout.fnmatch_lines(
            ["E  *UsageError: LLaMA-Factory 0.9.5 has no template `qwne`. Did you mean `qwen`*"]
        )
        result.stdout.no_fnmatch_line("*template_audit/*.py:*")  # no frame of ours is shown

    def test_the_marker(self, pytester: pytest.Pytester) -> None:
        result = session(
            pytester,
            f"""
import unittest

ran = []

@pytest.mark.template_audit({QWEN!r}, "llamafactory:qwen", conversations="single", cutoff_len=1024)
def test_agrees():
    ran.append("agrees")

@pytest.mark.template_audit(model={EXAONE!r}, encoder="llamafactory:llama3", conversations="single")
def test_differs():
    ran.append("differs")

@pytest.mark.template_audit({NO_TEMPLATE!r}, "llamafactory:qwen", conversations="single", fail_on="never")
def test_not_evaluated():
    ran.append("not evaluated")

@pytest.mark.template_audit({QWEN!r}, encodr="llamafactory:qwen")
def test_misspelt():
    ran.append("misspelt")

@pytest.mark.xfail(strict=True)
@pytest.mark.template_audit({EXAONE!r}, "llamafactory:llama3", conversations="single")
def test_known():
    pass

@pytest.mark.template_audit({EXAONE!r}, "llamafactory:llama3", conversations="single")
class TestUnit(unittest.TestCase):
    def test_differs(self):
        ran.append("unit")

@pytest.mark.parametrize("number", [
    pytest.param(1, marks=pytest.mark.template_audit({QWEN!r}, "llamafactory:qwen", conversations="single")),
    pytest.param(2, marks=pytest.mark.template_audit({QWEN!r}, "llamafactory:llama3", conversations="single")),
])
def test_each(number):
    ran.append(number)

def test_which_ran():
    assert ran == ["agrees", 1]
""",
        )
        result.assert_outcomes(passed=3, failed=5, xfailed=1)
        result.stdout.fnmatch_lines(["*has no chat template*"])
        result.stdout.fnmatch_lines(["@pytest.mark.template_audit(model, encoder, …): missing a required argument*"])

    def test_the_configuration_of_the_root_directory_holds(self, pytester: pytest.Pytester) -> None:
        pytester.makeini("[pytest]\n")
        pytester.path.joinpath("template-audit.toml").write_text('fail-on = "never"\n')
        folder = pytester.mkdir("elsewhere")
        pytester._monkeypatch.chdir(folder)
        result = session(
            pytester,
            f"""
def test_differs():
    report = assert_template_agrees({EXAONE!r}, "llamafactory:llama3", conversations="single")
    assert report.config.path.name == "template-audit.toml"
""",
            str(pytester.path),
        )
        result.assert_outcomes(passed=1)
        pytester.path.joinpath("template-audit.toml").write_text('fail-no = "never"\n')
        result = pytester.runpytest_inprocess("-p", "template_audit.pytest_plugin", str(pytester.path))
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["E  *UsageError: *template-audit.toml: there is no key `fail-no`*"])

    def test_under_xdist(self, pytester: pytest.Pytester) -> None:
        pytest.importorskip("xdist")
        result = session(
            pytester,
            f"""
@pytest.mark.template_audit({EXAONE!r}, "llamafactory:llama3", conversations="single")
def test_differs():
    pass
""",
            *("-p", "xdist", "-n", "1"),
        )
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(["*error  foreign-special-token*"])

    def test_it_is_an_entry_point(self) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        (module,) = project["entry-points"]["pytest11"].values()
        assert import_module(module).MARKER == "template_audit"
        known = [point.value for point in entry_points(group="pytest11", name="template_audit")]
        if not known:
            pytest.skip("the package is not installed with its entry points; install it again")
        assert known == [module]

    def test_loading_it_imports_nothing_heavy(self) -> None:
        code = (
            "import sys, pytest; before = set(sys.modules); import template_audit.pytest_plugin; "
            "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        assert done.stdout.split() == ["template_audit"]

    def test_a_session_that_does_not_use_it_imports_nothing_heavy(self, pytester: pytest.Pytester) -> None:
        pytester.makepyfile(
            "import sys\n\ndef test_it():\n"
            "    assert 'template_audit.pytest_plugin' in sys.modules\n"
            "    heavy = {'transformers', 'tokenizers', 'rich', 'rapidfuzz', 'click', 'msgspec', 'yaml'}\n"
            "    assert not heavy & set(sys.modules)\n"
        )
        pytester._monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        pytester._monkeypatch.setenv("PYTHONPATH", str(ROOT))
        pytester.runpytest_subprocess("-p", "template_audit.pytest_plugin").assert_outcomes(passed=1)
