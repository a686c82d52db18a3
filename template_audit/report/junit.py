"""Reports as JUnit XML: a suite for every audit, a test case for every conversation.

The layout is that of junit-10.xsd of Jenkins' xunit plugin, which most readers of such files follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from template_audit.findings import ConversationRecord, FindingRecord, ReportRecord, at_least
from template_audit.report.interface import ReportOptions
from template_audit.report.json import is_unicode
from template_audit.report.records import NAME, OfRecords, advice, clean, evidence_text, title, verdict

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

MODEL = "(model)"
"""The test case of what concerns no single conversation: the model's files, the encoder as such."""


def junit(records: Sequence[ReportRecord]) -> Element:
    """The document.

    A case fails with the findings that make the audit fail; other findings are its output. A
    conversation that was not evaluated is an error, one that neither side supports is skipped.
    """
    from xml.etree.ElementTree import Element, SubElement

    root = Element("testsuites", name="template-audit")
    totals = {"tests": 0, "failures": 0, "errors": 0}
    for record in records:
        suite = SubElement(root, "testsuite", name=title(record))
        for name, value in _properties(record, SubElement(suite, "properties")):
            SubElement(suite[0], "property", name=name, value=value)
        conversations = [None, *record.conversations]
        for conversation in conversations:
            _case(suite, record, conversation)
        counts = {
            "tests": len(conversations),
            "failures": len(suite.findall("testcase/failure")),
            "errors": len(suite.findall("testcase/error")),
        }
        for name, number in {**counts, "skipped": len(suite.findall("testcase/skipped"))}.items():
            suite.set(name, str(number))
        totals = {name: totals[name] + number for name, number in counts.items()}
        SubElement(suite, "system-out").text = "\n".join([f"{verdict(record)}.", *_gone(record)])
    for name, number in totals.items():
        root.set(name, str(number))
    return root


def _properties(record: ReportRecord, parent: Element) -> Iterator[tuple[str, str]]:
    yield "model", clean(record.model.id, NAME)
    if record.model.revision:
        yield "revision", clean(record.model.revision, NAME)
    yield "expected", clean(record.reference.spec, NAME)
    yield "fed", clean(record.subject.spec, NAME)
    for name, version in record.versions.items():
        yield f"version of {clean(name, NAME)}", clean(version, NAME)


def _case(suite: Element, record: ReportRecord, conversation: ConversationRecord | None) -> None:
    from xml.etree.ElementTree import SubElement

    key = None if conversation is None else conversation.id
    classname = f"{clean(record.model.id, NAME)}/{clean(record.subject.spec, NAME)}"
    case = SubElement(suite, "testcase", name=MODEL if key is None else clean(key, NAME), classname=classname)
    found = [finding for finding in record.findings if finding.conversation == key]
    failing = [finding for finding in found if at_least(finding.severity, record.fail_on)]
    quiet = [finding for finding in found if finding not in failing]
    if conversation is not None and not conversation.evaluated:
        reason = clean(conversation.reason or "It was not evaluated.")
        error = SubElement(case, "error", type="not-evaluated", message=reason)
        error.text = "\n\n".join([reason, *map(_told, failing)])
    elif failing:
        rules = ", ".join(dict.fromkeys(clean(finding.rule, NAME) for finding in failing))
        first = failing[0]
        failure = SubElement(case, "failure", type=clean(first.rule, NAME), message=f"{rules}: {clean(first.message)}")
        failure.text = "\n\n".join(map(_told, failing))
    elif conversation is not None and conversation.agrees is None and not quiet:
        SubElement(case, "skipped", message=clean(conversation.reason or "There was nothing to compare."))
    out = [_told(finding) for finding in quiet]
    out += [f"known from the baseline: {_brief(finding)}" for finding in record.known if finding.conversation == key]
    out += [
        f"ignored ({clean(suppressed.reason)}): {_brief(suppressed.finding)}"
        for suppressed in record.suppressed
        if suppressed.finding.conversation == key
    ]
    if out:
        SubElement(case, "system-out").text = "\n\n".join(out)


def _brief(finding: FindingRecord) -> str:
    return f"{finding.severity} {clean(finding.rule, NAME)}: {clean(finding.message)}"


def _told(finding: FindingRecord) -> str:
    lines = [_brief(finding)]
    for label, evidence in (("expected", finding.reference), ("fed", finding.subject)):
        if evidence is not None and evidence.text:
            lines.append(f"  {label}: {evidence_text(evidence.text)}")
    if finding.location is not None:
        line = f":{finding.location.line}" if finding.location.line else ""
        lines.append(f"  at: {clean(finding.location.path, NAME)}{line}")
    return "\n".join([*lines, f"  why: {clean(finding.why)}", f"  fix: {advice(finding)}"])


def _gone(record: ReportRecord) -> Iterator[str]:
    for finding in record.gone:
        where = f" in {clean(finding.conversation, NAME)}" if finding.conversation is not None else ""
        yield f"in the baseline and no more there{where}: {_brief(finding)}"


class JunitFormat(OfRecords):
    """JUnit XML, for test reports."""

    name = "junit"

    def write_records(self, records: Sequence[ReportRecord], stream: TextIO, options: ReportOptions) -> None:
        """Write the document; see `RecordFormat.write_records`."""
        from xml.etree.ElementTree import indent, tostring

        root = junit(records)
        indent(root)
        text = tostring(root, encoding="unicode")
        if not is_unicode(stream):
            text = text.encode("ascii", "xmlcharrefreplace").decode()
        # without an encoding it is read as UTF-8, or by its byte order mark: both are right
        stream.write(f'<?xml version="1.0"?>\n{text}\n')


FORMAT = JunitFormat()
