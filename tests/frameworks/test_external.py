"""Talking to a worker: the protocol, and what happens when the other side misbehaves."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from template_audit.errors import TemplateAuditError, UsageError
from template_audit.frameworks.external import Worker

GOOD = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    print("noise", file=sys.stderr)
    if request["op"] == "hello":
        reply = {"versions": {"toy": "1.0"}, "source": "/toy"}
    elif request["op"] == "encode":
        reply = {"results": [{"input_ids": [len(e)], "labels": [-100]} for e in request["examples"]]}
    elif request["op"] == "open":
        reply = {"error": "no such template", "type": "ValueError"}
    else:
        sys.exit("gave up")
    print(json.dumps({"id": request["id"], **reply}), flush=True)
"""


def script(folder: Path, text: str) -> Path:
    path = folder / "worker.py"
    path.write_text(text, encoding="utf-8")
    return path


def test_requests_are_answered_in_order(tmp_path: Path) -> None:
    with Worker(sys.executable, script(tmp_path, GOOD)) as worker:
        assert worker.versions == {"toy": "1.0"}
        assert worker.source == "/toy"
        assert worker.encode([{"a": 1}, {}]) == [
            {"input_ids": [1], "labels": [-100]},
            {"input_ids": [0], "labels": [-100]},
        ]


def test_an_error_reply_is_one_sentence(tmp_path: Path) -> None:
    with Worker(sys.executable, script(tmp_path, GOOD)) as worker, pytest.raises(TemplateAuditError, match="no such"):
        worker.request({"op": "open"})


def test_a_worker_that_ends_says_its_last_words(tmp_path: Path) -> None:
    with Worker(sys.executable, script(tmp_path, GOOD)) as worker, pytest.raises(TemplateAuditError, match="gave up"):
        worker.request({"op": "dance"})


def test_a_worker_that_never_answers_is_ended(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="without an answer"):
        Worker(sys.executable, script(tmp_path, "import time; time.sleep(60)"), timeout=1.0)


def test_an_interpreter_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be run"):
        Worker(str(tmp_path / "python"), script(tmp_path, GOOD))
