"""SARIF, JUnit, GitHub, GitLab, Markdown and JSON lines: what they say, opened by their real readers."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from syrupy.assertion import SnapshotAssertion

from template_audit.errors import UsageError
from template_audit.findings import FindingRecord, Location, ReportRecord, SuppressedRecord
from template_audit.report import get_format
from template_audit.report.github import commands
from template_audit.report.gitlab import issues
from template_audit.report.interface import RecordFormat, ReportOptions
from template_audit.report.markdown import COMMENT, markdown
from template_audit.report.records import docs_url, entries
from template_audit.report.sarif import FINGERPRINT, sarif
from tests.report.hostile import finding, obeyed, parsed_lines, xml
from tests.report.reports import report
from tests.report.test_hostile import MACHINE, check, sarif_validator


@pytest.fixture(autouse=True)
def _no_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    docs_url.cache_clear()


def written(name: str, records: Sequence[ReportRecord]) -> str:
    stream = io.StringIO()
    form = get_format(name)
    assert isinstance(form, RecordFormat)
    form.write_records(records, stream, ReportOptions())
    return stream.getvalue()


def record(**changes: Any) -> ReportRecord:
    """The report that the terminal is tested with, with an accepted finding of each kind."""
    plain = report().record()
    findings = [
        msgspec.structs.replace(one, location=Location("models/toy/chat_template.jinja", 5 if number else None))
        for number, one in enumerate(plain.findings)
    ]
    values = {
        "findings": findings,
        "suppressed": [SuppressedRecord(finding("double-bos", "warning", "equal"), "Our server does that, too.")],
        "known": [finding("pad-equals-eos", "warning", None)],
        "gone": [finding("missing-bos", "error", "equal")],
        **changes,
    }
    return msgspec.structs.replace(plain, **values)


@pytest.mark.parametrize("name", [name for name in MACHINE if name != "json"])
def test_the_whole_output(name: str, snapshot: SnapshotAssertion) -> None:
    text = written(name, [record()])
    check(name, text)
    if name == "sarif":  # the pages of the rules have tests of their own
        log = json.loads(text)
        for rule in log["runs"][0]["tool"]["driver"]["rules"]:
            rule["help"] = dict.fromkeys(rule["help"], "…")
        text = json.dumps(log, indent=2)
    assert text == snapshot


@pytest.mark.parametrize("name", MACHINE)
def test_the_same_records_give_the_same_bytes(name: str) -> None:
    assert written(name, [record(), record()]) == written(name, [record(), record()])


@pytest.mark.parametrize("name", MACHINE)
def test_no_reports_and_nothing_found(name: str) -> None:
    for records in ([], [record(findings=[], known=[], gone=[], suppressed=[], exit_code=0, conversations=[])]):
        text = written(name, records)
        if name == "json-lines":
            assert text == ""
        elif text:
            check(name, text)


def test_json_of_several_reports() -> None:
    whole = json.loads(written("json", [record(), record(exit_code=0)]))
    assert whole.keys() == {"schema_version", "reports", "exit_code"}
    assert whole["exit_code"] == 2
    from template_audit.findings import report_schema

    for one in whole["reports"]:
        jsonschema.validate(one, report_schema())


def test_json_lines() -> None:
    kinds = [line["kind"] for line in parsed_lines(written("json-lines", [record()]))]
    assert kinds == ["not-evaluated", *["finding"] * 5, "known", "gone", "ignored"]


# --- SARIF -----------------------------------------------------------------------------------------


def results(*records: ReportRecord) -> list[dict[str, Any]]:
    log = sarif(records)
    sarif_validator().validate(log)
    found: list[dict[str, Any]] = log["runs"][0]["results"]
    return found


def test_sarif_has_one_result_for_every_cause() -> None:
    found = results(record())
    assert [(result["ruleId"], result["level"]) for result in found[:2]] == [
        ("foreign-special-token", "error"),
        ("template-timeout", "error"),
    ]
    assert found[0]["occurrenceCount"] == 2
    assert found[0]["properties"]["conversations"] == ["single", "split"]


def test_sarif_says_what_is_accepted() -> None:
    by_rule = {result["ruleId"]: result for result in results(record())}
    assert by_rule["double-bos"]["suppressions"][0]["justification"] == "Our server does that, too."
    assert by_rule["foreign-special-token"]["suppressions"] == []
    assert by_rule["pad-equals-eos"]["baselineState"] == "unchanged"
    assert by_rule["foreign-special-token"]["baselineState"] == "new"
    assert "missing-bos" not in by_rule
    plain = results(report().record())[0]
    assert "suppressions" not in plain
    assert "baselineState" not in plain


def test_sarif_fingerprints_hang_on_no_line_and_no_wording() -> None:
    before = {result["partialFingerprints"][FINGERPRINT] for result in results(record())}
    moved = [
        msgspec.structs.replace(one, location=Location("elsewhere", 99), message="Said in other words.")
        for one in record().findings
    ]
    assert {result["partialFingerprints"][FINGERPRINT] for result in results(record(findings=moved))} == before
    other = msgspec.structs.replace(record().model, id="org/other")
    assert not before & {result["partialFingerprints"][FINGERPRINT] for result in results(record(model=other))}
    here, there = (
        results(record(model=msgspec.structs.replace(other, id=folder)))[0]["partialFingerprints"]
        for folder in ("/home/a/checkout/toy", "/runner/work/toy")
    )
    assert here == there


def test_sarif_places() -> None:
    places = [
        (Location("models/my toy/ü:1.jinja", 7), "models/my%20toy/%C3%BC%3A1.jinja", {"startLine": 7}),
        (Location("/etc/x.jinja", None), "file:///etc/x.jinja", None),
        (None, "org/toy", None),
    ]
    for place, uri, region in places:
        one = results(record(findings=[finding("token-drift", "error", "single", location=place)]))[0]
        physical = one["locations"][0]["physicalLocation"]
        assert physical["artifactLocation"]["uri"] == uri
        assert physical.get("region") == region


def test_sarif_explains_its_rules() -> None:
    rules = sarif([record()])["runs"][0]["tool"]["driver"]["rules"]
    first = rules[0]
    assert first["id"] == "foreign-special-token"
    assert first["help"]["markdown"].startswith("# foreign-special-token\n")
    assert first["help"]["text"]
    assert first["defaultConfiguration"] == {"level": "error"}
    alone = record(findings=[finding("no-such-rule", "info", None)], known=[], suppressed=[])
    unknown = sarif([alone])["runs"][0]["tool"]["driver"]["rules"][0]
    assert unknown["help"] == {"text": "What to do about no-such-rule."}


def test_the_rules_pages_are_linked_where_the_distribution_names_their_address(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata
    from email.message import Message

    urls = Message()
    urls["Project-URL"] = "Rules, https://example.org/rules/"
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: urls)
    rule = sarif([record()])["runs"][0]["tool"]["driver"]["rules"][0]
    assert rule["helpUri"] == "https://example.org/rules/foreign-special-token.md"
    assert "[`foreign-special-token`](https://example.org/rules/foreign-special-token.md)" in markdown([record()])
    docs_url.cache_clear()


def test_sarif_says_what_was_not_evaluated() -> None:
    invocation = sarif([record()])["runs"][0]["invocations"][0]
    assert (invocation["executionSuccessful"], invocation["exitCode"]) == (False, 2)
    assert "ran for 5 seconds" in invocation["toolExecutionNotifications"][0]["message"]["text"]


def test_sarif_tools_reads_it(tmp_path: Path) -> None:
    loader = pytest.importorskip("sarif.loader")
    path = tmp_path / "report.sarif"
    path.write_text(written("sarif", [record(), record()]), encoding="utf-8")
    opened = loader.load_sarif_file(str(path))
    assert opened.get_distinct_tool_names() == ["template-audit"]
    report = opened.get_report()
    counts = {severity: report.get_issue_count_for_severity(severity) for severity in ("error", "warning", "note")}
    assert counts["error"] == 4
    assert counts["note"] == 2
    codes = {issue["Code"] for issue in opened.get_records()}
    assert "foreign-special-token" in codes
    assert {issue["Line"] for issue in opened.get_records()} >= {5}


# --- JUnit -----------------------------------------------------------------------------------------


def test_junit_has_a_case_for_every_conversation() -> None:
    cases = {case.get("name"): case for case in xml(written("junit", [record()])).iter("testcase")}
    assert list(cases) == ["(model)", "single", "split", "equal", "refused", "endless"]
    outcome = {name: [child.tag for child in case] for name, case in cases.items()}
    assert outcome["single"] == ["failure", "system-out"]
    assert outcome["split"] == ["failure"]
    assert outcome["equal"] == ["system-out"]
    assert outcome["endless"] == ["error"]
    assert outcome["refused"] == ["system-out"]
    assert outcome["(model)"] == ["system-out"]
    assert "Our server does that, too." in (cases["equal"].findtext("system-out") or "")


def test_junit_goes_by_the_threshold() -> None:
    def failures(**changes: Any) -> int:
        return len(xml(written("junit", [record(**changes)])).findall(".//failure"))

    assert failures(fail_on="never") == 0
    assert failures() == 2
    assert failures(fail_on="info") == 3


def test_junit_skips_what_neither_side_supports() -> None:
    refused = [one for one in record().conversations if one.id == "refused"]
    text = written("junit", [record(conversations=refused, findings=[])])
    assert xml(text).find(".//skipped") is not None


def test_junitparser_reads_it(tmp_path: Path) -> None:
    junitparser = pytest.importorskip("junitparser")
    path = tmp_path / "report.xml"
    path.write_text(written("junit", [record(), record()]), encoding="utf-8")
    opened = junitparser.JUnitXml.fromfile(str(path))
    suites = list(opened)
    assert len(suites) == 2
    assert (suites[0].tests, suites[0].failures, suites[0].errors) == (6, 2, 1)
    case = next(case for case in suites[0] if case.name == "single")
    assert case.classname == "org/toy/llamafactory@0.9.5:llama3"
    assert case.result[0].type == "foreign-special-token"
    opened.update_statistics()
    assert (opened.tests, opened.failures, opened.errors) == (12, 4, 2)


# --- GitHub ----------------------------------------------------------------------------------------


def many(number: int, severity: Any = "error") -> list[FindingRecord]:
    return [finding(f"{severity}-{i}", severity, "single", location=Location("a.jinja", i + 1)) for i in range(number)]


def test_github_commands_carry_place_title_and_text() -> None:
    name, properties, text = obeyed(written("github", [record()]))[2]
    assert name == "error"
    assert properties == {"title": "template-timeout", "file": "models/toy/chat_template.jinja", "line": "5"}
    assert "What to do: What to do about template-timeout." in text.split("\n")


def test_github_shows_ten_of_a_level_and_counts_the_rest() -> None:
    found = [*many(30), *many(12, "warning"), *many(3, "info")]
    made = obeyed("\n".join(commands([record(findings=found, conversations=[])])))
    levels = [name for name, _, _ in made]
    assert {level: levels.count(level) for level in levels} == {"error": 10, "warning": 10, "notice": 3}
    assert [text for _, _, text in made if " more; " in text] == [
        "21 more; the step's summary has them.",
        "3 more; the step's summary has them.",
    ]


def test_what_was_not_evaluated_comes_first() -> None:
    assert obeyed(written("github", [record()]))[0][1] == {"title": "not evaluated"}


def test_the_steps_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "summary"
    path.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    written("github", [record()])
    assert path.read_text(encoding="utf-8") == "before\n" + markdown([record()])
    path.write_bytes(b"x" * ((1 << 20) - 5_000))
    written("github", [record(findings=many(500))])
    assert path.stat().st_size <= 1 << 20
    path.write_bytes(b"x" * ((1 << 20) - 10))
    written("github", [record()])
    assert path.stat().st_size == (1 << 20) - 10
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "no" / "where"))
    with pytest.raises(UsageError, match="GITHUB_STEP_SUMMARY"):
        written("github", [record()])


# --- GitLab and Markdown ---------------------------------------------------------------------------


def test_gitlab_issues_are_told_apart() -> None:
    found = issues([record(), record(model=msgspec.structs.replace(record().model, id="org/other"))])
    assert len({issue["fingerprint"] for issue in found}) == len(found)
    assert [issue["severity"] for issue in found[:2]] == ["blocker", "blocker"]
    assert found[2]["location"] == {"path": "models/toy/chat_template.jinja", "lines": {"begin": 1}}
    assert found[3]["location"]["lines"] == {"begin": 5}


@pytest.mark.parametrize("audits", [1, 40, 600])
def test_markdown_fits_into_a_comment(audits: int) -> None:
    text = markdown([record(findings=many(2_000 if audits == 1 else 100))] * audits)
    assert len(text.encode("utf-8")) <= COMMENT
    assert "left out here" in text
    check("markdown", text)


def test_entries_are_gravest_first() -> None:
    severities = [entry.first.severity for entry in entries([record(), record()], "new", "known", "ignored")]
    assert severities == sorted(severities, key=["error", "warning", "info"].index)
