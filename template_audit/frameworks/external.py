"""Talking to a framework that is installed in another environment. The protocol: docs/worker-protocol.md."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from template_audit.errors import TemplateAuditError, UsageError


class Worker:
    """A worker process run by another interpreter; one request at a time.

    Raises UsageError when the interpreter cannot be run or lacks the framework, and
    TemplateAuditError when the worker dies or stays silent for `timeout` seconds. `versions` are those
    of the environment, `source` is the folder of the installed framework.
    """

    def __init__(self, python: str, script: Path, *, timeout: float = 300.0) -> None:
        self.python, self.timeout = python, timeout
        self._count = 0
        self._stderr: list[str] = []
        # the framework must not see this project's packages; PYTHONPATH is the user's own business
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "VIRTUAL_ENV")}
        environment["PYTHONUTF8"] = "1"
        environment.setdefault("HF_HUB_OFFLINE", "1")  # the model folder is local by now
        try:
            self._process = subprocess.Popen(
                [python, str(script)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                text=True,
                encoding="utf-8",
            )
        except OSError as error:
            raise UsageError(
                f"--python: `{python}` cannot be run ({error.strerror}); give the path of an environment's bin/python."
            ) from None
        threading.Thread(target=self._drain, daemon=True).start()
        hello = self.request({"op": "hello"}, usage=True)
        self.versions: Mapping[str, str] = hello["versions"]
        self.source: str = hello["source"]

    def _drain(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._stderr.append(line.rstrip())
            del self._stderr[:-50]

    def request(self, message: Mapping[str, Any], *, usage: bool = False) -> dict[str, Any]:
        """Send one request and return its reply. With `usage` an error reply is the user's to mend."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        self._count += 1
        timer = threading.Timer(self.timeout, process.kill)
        timer.start()
        try:
            process.stdin.write(json.dumps({"id": self._count, **message}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            timer.cancel()
        if not line:
            process.wait(5)
            tail = next((text for text in reversed(self._stderr) if text.strip()), "no message")
            kind = UsageError if usage else TemplateAuditError
            raise kind(f"--python {self.python}: the worker ended without an answer ({tail}).")
        try:
            reply: dict[str, Any] = json.loads(line)
        except ValueError:
            raise UsageError(
                f"--python {self.python}: it answers {line.strip()!r:.80} instead of running the worker; "
                "give the path of an environment's bin/python."
            ) from None
        if "error" in reply:
            kind = UsageError if usage or reply.get("type") == "NotInstalled" else TemplateAuditError
            raise kind(f"--python {self.python}: {reply['error']}")
        return reply

    def encode(self, examples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Results for `examples`, in order (see the protocol)."""
        results: list[dict[str, Any]] = self.request({"op": "encode", "examples": list(examples)})["results"]
        return results

    def close(self) -> None:
        """End the worker."""
        if self._process.poll() is None:
            assert self._process.stdin is not None
            try:
                self._process.stdin.close()
                self._process.wait(5)
            except (OSError, subprocess.TimeoutExpired):
                self._process.kill()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
