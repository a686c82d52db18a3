"""Configuration files: what they say, where they are found, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from template_audit.audit import audit
from template_audit.cli import main
from template_audit.config import Config, Ignore, find_config, load_config, read_config
from template_audit.errors import EncodingError, UsageError
from template_audit.findings import report_schema
from template_audit.results import Report
from tests.builders import StandInEncoder, conversation, model, stream
from tests.rules.cases import PLAIN, SYSTEM

ROOT = Path(__file__).resolve().parents[1]
EXAONE = str(ROOT / "fixtures" / "models" / "exaone35-like")
WHOLE = """
fail-on = "warning"

[severities]
token-drift = "info"
missing-generation-tags = "off"

[[ignore]]
rule = "foreign-special-token"
reason = "The markers are added on purpose."
model = "*exaone*"
encoder = "llamafactory:llama3"
probe = "s*"
"""


def written(folder: Path, text: str, name: str = "template-audit.toml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def in_pyproject(text: str) -> str:
    renamed = text.replace("[severities]", "[tool.template-audit.severities]")
    return "[tool.template-audit]" + renamed.replace("[[ignore]]", "[[tool.template-audit.ignore]]")


@pytest.mark.parametrize("name", ["template-audit.toml", "pyproject.toml", "other.toml"])
def test_both_files_say_the_same(name: str, tmp_path: Path) -> None:
    config = read_config(written(tmp_path, in_pyproject(WHOLE) if name == "pyproject.toml" else WHOLE, name))
    assert config.severities == {"token-drift": "info", "missing-generation-tags": "off"}
    assert config.fail_on == "warning"
    assert config.ignores == (
        Ignore(
            "foreign-special-token",
            "The markers are added on purpose.",
            "*exaone*",
            "llamafactory:llama3",
            "s*",
        ),
    )
    assert config.path == tmp_path / name


class TestFinding:
    def test_from_the_folder_upwards(self, tmp_path: Path) -> None:
        deep = tmp_path / "a" / "b"
        deep.mkdir(parents=True)
        path = written(tmp_path, WHOLE)
        assert find_config(deep) == path
        nearer = written(tmp_path / "a", in_pyproject(""), "pyproject.toml")
        assert find_config(deep) == nearer
        assert find_config(tmp_path) == path

    def test_its_own_file_goes_before_the_project_s(self, tmp_path: Path) -> None:
        written(tmp_path, in_pyproject(""), "pyproject.toml")
        path = written(tmp_path, "")
        assert find_config(tmp_path) == path

    @pytest.mark.parametrize("text", ["[project]\nname = 'x'\n", "not TOML", "# template-audit\n[tool.x]\n"])
    def test_projects_that_say_nothing_are_passed_over(self, text: str, tmp_path: Path) -> None:
        outer = written(tmp_path, "")
        written(tmp_path / "inner", text, "pyproject.toml")
        assert find_config(tmp_path / "inner") == outer

    def test_nothing_found_is_an_empty_configuration(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("template_audit.config.find_config", lambda: None)
        assert load_config() == Config()

    def test_the_name_is_short(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = written(tmp_path, "")
        (tmp_path / "sub").mkdir()
        monkeypatch.chdir(tmp_path)
        assert load_config().path == Path("template-audit.toml")
        monkeypatch.chdir(tmp_path / "sub")
        assert load_config().path == Path("../template-audit.toml")
        assert load_config(path).path == path


BAD = [
    ("severity = {}", "there is no key `severity`; known are severities, fail-on, ignore. Did you mean `severities`?"),
    ("fail_on = 'error'", "there is no key `fail_on`"),
    ("fail-on = 'fatal'", "`fail-on` is 'fatal'; it must be one of info, warning, error, never."),
    ("fail-on = 3", "`fail-on` is 3"),
    ("severities = 3", "`severities` must be a table"),
    ("[severities]\ndouble-boss = 'off'", "`severities`: there is no rule `double-boss`. Did you mean `double-bos`?"),
    ("[severities]\ndouble-bos = 'loud'", "`severities.double-bos` is 'loud'; it must be one of off, info, warning"),
    ("[severities]\ndouble-bos = ['off']", "`severities.double-bos` is ['off']"),
    ("[[ignore]]\nrule = 'double-bos'", "`ignore` entry 1 (double-bos) has no `reason`"),
    ("[[ignore]]\nrule = 'double-bos'\nreason = ' '", "`ignore` entry 1 (double-bos) has no `reason`"),
    ("[[ignore]]\nreason = 'x'", "`ignore` entry 1 names no `rule`"),
    ("[[ignore]]\nrule = 'nope'\nreason = 'x'", "`ignore` entry 1: there is no rule `nope`"),
    (
        "[[ignore]]\nrule = 'double-bos'\nreason = 'x'\n[[ignore]]\nrule = 'double-bos'\nreason = 'x'\nprobes = '*'",
        "`ignore` entry 2: there is no key `probes`; known are rule, reason, model, encoder, probe. Did you mean `pro",
    ),
    ("[[ignore]]\nrule = 'double-bos'\nreason = 'x'\nprobe = ['a']", "`probe` must be a text, not list"),
    ("ignore = 'double-bos'", "`ignore` must be a list of tables"),
    ("fail-on =", "is not valid TOML"),
]


@pytest.mark.parametrize(("text", "said"), BAD)
def test_what_is_wrong_is_one_sentence_with_file_and_key(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, text)
    assert main([EXAONE, "--config", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert str(path) in err
    assert len(err.splitlines()) == 1


def test_the_project_s_file_names_the_whole_key(tmp_path: Path) -> None:
    path = written(tmp_path, "[tool.template-audit]\nseverty = 1", "pyproject.toml")
    with pytest.raises(UsageError, match=r"no key `tool\.template-audit\.severty`"):
        read_config(path)
    with pytest.raises(UsageError, match=r"has no table `tool\.template-audit`"):
        read_config(written(tmp_path, "[project]", "pyproject.toml"))
    with pytest.raises(UsageError, match="must be a table"):
        read_config(written(tmp_path, "[tool]\ntemplate-audit = 3", "pyproject.toml"))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot read the configuration"):
        load_config(tmp_path / "missing.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_config(tmp_path / "bytes.toml")


def test_a_configuration_made_in_python_is_checked_too() -> None:
    with pytest.raises(UsageError, match="no rule `x`"):
        Config(severities={"x": "info"})
    with pytest.raises(UsageError, match="no `reason`"):
        Config(ignores=(Ignore("double-bos", ""),))


# --- what it does to an audit -----------------------------------------------------------------------


def drifting(config: Config | None = None, **options: object) -> Report:
    """`system-prompt-drift` (a warning) in the conversations one and two."""
    toy = model(id="org/toy-7b")
    return audit(
        toy,
        reference=StandInEncoder("chat-template", toy, stream(SYSTEM + PLAIN, prompts=True)),
        subject=StandInEncoder("framework@1.2:name", toy, stream(PLAIN)),
        conversations=[conversation(PLAIN, id="one"), conversation(PLAIN, id="two")],
        config=config,
        **options,  # type: ignore[arg-type]
    )


def ignoring(**scope: str) -> Config:
    return Config(ignores=(Ignore("system-prompt-drift", "The server sends it.", **scope),))


def where(report: Report) -> list[str | None]:
    return [finding.conversation for finding in report.findings if finding.rule == "system-prompt-drift"]


def test_severities_and_threshold() -> None:
    assert drifting(Config(fail_on="warning")).exit_code == 1
    assert drifting(Config(severities={"system-prompt-drift": "error"})).exit_code == 1
    report = drifting(Config(severities={"system-prompt-drift": "off"}, fail_on="warning"))
    assert where(report) == []
    assert (report.exit_code, report.suppressed) == (0, ())


def test_arguments_go_before_the_configuration() -> None:
    config = Config(severities={"system-prompt-drift": "error"}, fail_on="never")
    assert drifting(config, fail_on="error").exit_code == 1
    assert drifting(config, fail_on="error", severities={"system-prompt-drift": "info"}).exit_code == 0


def test_what_is_off_is_off_for_refusals_too_and_still_not_clean() -> None:
    toy = model()
    report = audit(
        toy,
        reference=StandInEncoder("chat-template", toy, EncodingError("None.", "template-missing")),
        subject=StandInEncoder("framework", toy, stream(PLAIN)),
        conversations=[conversation(PLAIN)],
        config=Config(severities={"template-missing": "off"}),
    )
    assert "template-missing" not in {finding.rule for finding in report.findings}
    assert report.exit_code == 2


@pytest.mark.parametrize(
    ("scope", "left"),
    [
        ({}, []),
        ({"model": "org/*"}, []),
        ({"model": "other/*"}, ["one", "two"]),
        ({"encoder": "framework:name"}, []),
        ({"encoder": "framework@1.2:name"}, []),
        ({"encoder": "framework@*"}, []),
        ({"encoder": "framework@1.3:name"}, ["one", "two"]),
        ({"probe": "o*"}, ["two"]),
        ({"probe": "two", "model": "org/toy-?b"}, ["one"]),
        ({"probe": "three"}, ["one", "two"]),
    ],
)
def test_scopes(scope: dict[str, str], left: list[str]) -> None:
    report = drifting(ignoring(**scope))
    assert where(report) == left
    taken = [one.finding.conversation for one in report.suppressed]
    assert sorted([*left, *map(str, taken)]) == ["one", "two"]
    assert report.summary.warning == len(left)
    assert report.unused_ignores == ()  # none of these could have taken more


def test_ignored_findings_do_not_count_and_are_not_lost() -> None:
    assert drifting(fail_on="warning").exit_code == 1
    report = drifting(ignoring(), fail_on="warning")
    assert report.exit_code == 0
    data = report.to_dict()
    assert [(one["finding"]["conversation"], one["reason"]) for one in data["suppressed"]] == [
        ("one", "The server sends it."),
        ("two", "The server sends it."),
    ]
    assert data["suppressed"][0]["finding"]["rule"] == "system-prompt-drift"
    jsonschema.validate(json.loads(json.dumps(data)), report_schema())
    assert "suppressed" not in drifting().to_dict()


def test_an_ignore_that_took_nothing_is_said() -> None:
    unused = Ignore("double-bos", "Old.")
    others = (
        Ignore("double-bos", "Another model's.", model="other"),
        Ignore("document-split", "Not a rule of an audit."),
        Ignore("double-bos", "Of a probe that is not here.", probe="three"),
    )
    report = drifting(Config(ignores=(unused, *others)))
    assert report.unused_ignores == (unused,)
    assert report.to_dict()["unused_ignores"] == [
        {"rule": "double-bos", "reason": "Old.", "model": None, "encoder": None, "probe": None}
    ]


def test_entries_that_overlap_are_all_of_use() -> None:
    config = Config(ignores=(*ignoring().ignores, *ignoring(probe="one").ignores))
    report = drifting(config)
    assert (where(report), report.unused_ignores) == ([], ())
    assert {one.ignore.probe for one in report.suppressed} == {None}


# --- the command line -------------------------------------------------------------------------------

AUDIT = [EXAONE, "--encoder", "llamafactory:llama3", "--conversation", "single"]


def test_the_command_line_takes_the_file_of_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    rules = ("foreign-special-token", "vocabulary-grows", "wrong-turn-end", "bogus-bos", "generation-prompt-drift")
    entries = "".join(f"[[ignore]]\nrule = '{rule}'\nreason = 'A test of {rule}.'\n" for rule in (*rules, "double-bos"))
    written(tmp_path, f"[severities]\nsystem-prompt-drift = 'info'\n{entries}")
    assert main(AUDIT) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "config template-audit.toml" in out
    assert "ignored bogus-bos, 1 finding (single): A test of bogus-bos." in out
    assert "ignored nothing double-bos: there is no such finding; the entry can go." in out
    assert "findings ignored. Exit 0." in out
    assert main([*AUDIT, "--no-config", "--quiet"]) == 1
    assert main([*AUDIT, "--config", str(written(tmp_path, "fail-on = 'never'", "other.toml")), "-q"]) == 0
    assert main([*AUDIT, "--config", "other.toml", "--fail-on", "error", "-q"]) == 1
    assert main([*AUDIT, "--config", "other.toml", "--no-config"]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_configs_of_training_runs_honour_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = {"model_name_or_path": EXAONE, "stage": "sft", "template": "llama3", "resize_vocab": True, "dataset_dir": {}}
    path = str(written(tmp_path, json.dumps(run), "run.json"))

    def severity(config: str) -> set[str]:
        written(tmp_path, config)
        main([path, "--conversation", "single", "--rows", "0", "--format", "json"])
        found = json.loads(capsys.readouterr().out)["findings"]
        return {one["severity"] for one in found if one["rule"] == "vocabulary-grows"}

    assert severity("") == {"warning"}
    assert severity("severities.vocabulary-grows = 'error'") == {"error"}
    assert severity("severities.vocabulary-grows = 'off'") == set()


def test_pre_training_honours_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = str(written(tmp_path, "One document.\nAnother one.\n", "texts.txt"))
    arguments = ["pretrain", EXAONE, "--encoder", "llamafactory:llama3", "--dataset", data, "-o", "cutoff_len=8"]
    ignore = "[[ignore]]\nrule = 'document-split'\nreason = 'Short blocks.'\nencoder = 'llamafactory*'\n"
    written(tmp_path, f"fail-on = 'info'\n[severities]\ncross-document-attention = 'off'\n{ignore}")
    code = main([*arguments, "--format", "json"])
    report = json.loads(capsys.readouterr().out)
    assert code == report["exit_code"] == (1 if report["findings"] else 0)
    assert "cross-document-attention" not in {one["rule"] for one in report["findings"]}
    assert {one["finding"]["rule"] for one in report["suppressed"]} == {"document-split"}
    main(arguments)
    assert "Short blocks." in capsys.readouterr().out
