"""Runs chat templates in a worker process that cannot hurt this one.

Templates come from strangers. The worker bounds its own memory and CPU time; this side bounds the
wall time and the size of answers, kills a worker that oversteps and starts a fresh one. Nothing of
this process's environment reaches it but what Python needs to start.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING

from template_audit.errors import EncodingError, TemplateAuditError

if TYPE_CHECKING:
    from template_audit.model.worker import Answer, Job

_STARTUP_SECONDS = 30.0  # for Python and jinja2 to load, on a machine that is busy
_VIEWS_PER_ALLOWANCE = 64
_CHUNK_JOBS, _CHUNK_BYTES = 32, 1 << 20  # sent at once, so that the worker need not wait for this side
_PASSED_ON = ("SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # what Python itself may need

# Isolated, without site-packages: the paths of what is needed come as arguments, and the packages
# are entered without their __init__, so that the worker loads nothing else.
_BOOT = """
import sys, types
sys.path += sys.argv[2:-1]
for name in ("template_audit", "template_audit.model"):
    module = types.ModuleType(name)
    module.__path__ = [sys.argv[1] + name[len("template_audit"):].replace(".", "/")]
    sys.modules[name] = module
from template_audit.model.worker import main
main()
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one worker.

    `memory`: address space in bytes. `output`: characters that one rendering may write. `wall`:
    seconds for one conversation, and as much again for every 64 views of it. `answer`: bytes of one
    answer.
    """

    memory: int = 1 << 30
    output: int = 8 << 20
    wall: float = 4.0
    answer: int = 256 << 20


class Sandbox:
    """One worker process, started when it is first needed or ahead of that by `start`.

    A template that has used up `wall` seconds on failed renderings is not run again: the same error
    is raised at once. So an endless template costs little more than that, however many
    conversations are rendered with it.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._worker: _Worker | None = None
        self._lock = threading.Lock()
        self._wasted: dict[str, float] = {}
        self._last: dict[str, EncodingError] = {}

    def start(self) -> None:
        """Start the worker; returns at once, so that this process can go on importing."""
        with self._lock:
            self._running()

    def close(self) -> None:
        """End the worker. It starts again when it is needed."""
        with self._lock:
            if self._worker is not None:
                self._worker.kill()
                self._worker = None

    def run(self, jobs: Sequence[Job]) -> list[list[Answer] | EncodingError]:
        """The views of every job, in order, or why a job has none.

        Raises TemplateAuditError when no worker can be started.
        """
        with self._lock:
            done: list[list[Answer] | EncodingError] = []
            while len(done) < len(jobs):
                template = jobs[len(done)]["template"]
                if self._gave_up(template):
                    done.append(self._last[template])
                else:
                    self._run_some(jobs[len(done) : len(done) + _CHUNK_JOBS], done)
            return done

    def _run_some(self, jobs: Sequence[Job], done: list[list[Answer] | EncodingError]) -> None:
        """Do some of `jobs`: as many as are sent at once, or up to the first that breaks the worker."""
        worker = self._running()
        sent: list[bytes] = []
        for job in jobs:
            if sum(map(len, sent)) > _CHUNK_BYTES or self._gave_up(job["template"]):
                break
            job["seconds"] = self._allowance(job)
            sent.append(json.dumps(job, separators=(",", ":")).encode())
        try:
            worker.send(b'{"jobs":[' + b",".join(sent) + b"]}\n")
        except OSError:
            self._discard()
            raise TemplateAuditError(f"The template worker broke down: {worker.last_words()}.") from None
        for count, job in enumerate(jobs[: len(sent)], start=1):
            started = time.monotonic()
            result = self._receive(worker, job)
            done.append(result)
            if isinstance(result, EncodingError) and result.kind in ("template-timeout", "template-too-large"):
                wasted = self._wasted.get(job["template"], 0.0) + time.monotonic() - started
                self._wasted[job["template"]], self._last[job["template"]] = wasted, result
                if self._gave_up(job["template"]) and count < len(sent):
                    self._discard()  # it would go on with the rest
            if self._worker is not worker:
                return

    def _gave_up(self, template: str) -> bool:
        return self._wasted.get(template, 0.0) >= self.limits.wall

    def _allowance(self, job: Job) -> float:
        return self.limits.wall * (1 + len(job["views"]) // _VIEWS_PER_ALLOWANCE)

    def _receive(self, worker: _Worker, job: Job) -> list[Answer] | EncodingError:
        seconds = self._allowance(job)
        try:
            line = worker.receive(seconds)
        except TimeoutError:
            self._discard()
            return EncodingError(
                f"The chat template was stopped: it had not finished after {seconds:g} s.", "template-timeout"
            )
        if not line.endswith(b"\n"):
            death = self._post_mortem(worker, seconds, too_long=len(line) > 0)
            self._discard()
            return death
        answers: list[Answer] = json.loads(line)
        if any(answer.get("exhausted") for answer in answers):
            self._discard()
        if "kind" in answers[0]:
            return failed(answers[0])
        return answers

    def _post_mortem(self, worker: _Worker, seconds: float, too_long: bool) -> EncodingError:
        """Why a worker ended without an answer."""
        code = worker.exit_code()
        if code == -getattr(signal, "SIGXCPU", 0) and code:
            return EncodingError(
                f"The chat template was stopped: it had used {seconds:g} s of CPU time.", "template-timeout"
            )
        why = "its answer is too long" if too_long else f"it crashed the worker (exit code {code})"
        return EncodingError(f"The chat template was stopped: {why}.", "template-too-large")

    def _running(self) -> _Worker:
        if self._worker is None or not self._worker.usable():
            self._worker = _Worker(self.limits)
        return self._worker

    def _discard(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None


def failed(answer: Answer) -> EncodingError:
    """The error that a failed view stands for."""
    return EncodingError(answer["message"], answer["kind"])


class _Worker:
    """A running worker process with a thread for each of its two outputs."""

    def __init__(self, limits: Limits) -> None:
        self._owner = os.getpid()
        self._limit = limits.answer
        self._ready = False
        settings = json.dumps({"memory": limits.memory, "output": limits.output})
        flags = ["-I", "-S", "-X", "utf8"]
        try:
            self._process = subprocess.Popen(
                [sys.executable, *flags, "-c", _BOOT, *_paths(), settings],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
                cwd=os.path.abspath(os.sep),
                start_new_session=True,
            )
        except OSError as error:
            raise TemplateAuditError(f"The template worker could not be started: {error}.") from None
        atexit.register(self.kill)
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._errors = b""
        for target, stream in ((self._read_answers, self._process.stdout), (self._read_errors, self._process.stderr)):
            threading.Thread(target=target, args=(stream,), daemon=True).start()

    def send(self, request: bytes) -> None:
        """Hand over one line. Raises OSError when the worker is gone, TemplateAuditError if it never started."""
        if not self._ready:
            try:
                line = self.receive(_STARTUP_SECONDS)
            except TimeoutError:
                line = b""
            if not line:
                self.kill()
                raise TemplateAuditError(f"The template worker did not start: {self.last_words()}.")
            self._ready = True
        assert self._process.stdin is not None
        self._process.stdin.write(request)
        self._process.stdin.flush()

    def receive(self, seconds: float) -> bytes:
        """The next line; without its end when the worker stopped short. Raises TimeoutError."""
        try:
            return self._lines.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError from None

    def usable(self) -> bool:
        """True while the process runs, unless this is a fork's copy of it."""
        return self._owner == os.getpid() and self._process.poll() is None

    def exit_code(self) -> int | None:
        """The exit code of a process that is ending, None when it is not."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        return self._process.returncode

    def last_words(self) -> str:
        """The end of what the worker wrote to its error stream, on one line."""
        return " ".join(self._errors.decode(errors="replace").split())[-300:] or "it said nothing"

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        atexit.unregister(self.kill)
        if self._owner != os.getpid():
            return  # a fork's copy: the process belongs to the parent
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with suppress(OSError):
                self._process.stdin.close()

    def _read_answers(self, stream: IO[bytes]) -> None:
        with stream:
            while line := stream.readline(self._limit):
                self._lines.put(line)
                if not line.endswith(b"\n"):
                    return
        self._lines.put(b"")

    def _read_errors(self, stream: IO[bytes]) -> None:
        with stream:
            while chunk := stream.read1(4096):  # type: ignore[attr-defined]  # typeshed has IO for a buffered pipe
                self._errors = (self._errors + chunk)[-4096:]


@cache
def _paths() -> list[str]:
    """The folder of this package, then those where jinja2 and markupsafe are found."""
    found = [str(Path(__file__).parents[1])]
    for name in ("jinja2", "markupsafe"):
        spec = find_spec(name)
        if spec is None or spec.origin is None:
            raise TemplateAuditError(f"The Python package {name} is not installed; install jinja2.")
        folder = str(Path(spec.origin).parents[1])
        if folder not in found[1:]:
            found.append(folder)
    return found


@cache
def shared_sandbox() -> Sandbox:
    """The sandbox of this process, with the default limits."""
    return Sandbox()
