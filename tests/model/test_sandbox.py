"""Templates of strangers: whatever they do ends in time, as an error of a known kind, and harms nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from template_audit.errors import EncodingError
from template_audit.model import sandbox as sandbox_module
from template_audit.model.chat_template import PINNED_CLOCK
from template_audit.model.sandbox import Limits, Sandbox

GOOD = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"
MESSAGES = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "bye"}]
WALL = 2.0

SLOW = {
    "nested ranges": "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
    "lipsum": "{{ lipsum(n=100000) }}",
    "a huge number": "{{ 10 ** 100000000 }}",
    "gated by content": "{% if 'hello' in messages[0].content %}"
    "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}{% endif %}",
}
LARGE = {
    "a folded constant": "{{ 'x'|center(900000000) }}",
    "a folded constant that is never reached": "{% if 0 %}{{ 'x'|center(900000000) }}{% endif %}ok",
    "a doubled list": "{% set ns = namespace(l=['aaaaaaaaaa']) %}{% for i in range(40) %}"
    "{% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l|string }}",
    "doubled content": "{% set ns = namespace(l=messages[0].content) %}{% for i in range(40) %}"
    "{% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l }}",
    "a hundred megabytes": "{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}",
    "a hundred megabytes in a macro": "{% macro m() %}{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}"
    "{% endmacro %}{% set kept = m() %}ok",
    "a hundred megabytes in a block": "{% set kept %}{% for i in range(100000) %}{{ 'x' * 1000 }}{% endfor %}"
    "{% endset %}ok",
    "a hundred megabytes joined": "{{ (['x' * 1000] * 100000)|join }}",
    "endless recursion": "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "deep nesting": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "deep lists": "{{ " + "[" * 20000 + "1" + "]" * 20000 + " }}",
    "a range too large": "{% for i in range(10000000) %}{% endfor %}",
}
UNSAFE = {
    "class": "{{ ''.__class__.__mro__ }}",
    "class of content": "{{ messages[0].content.__class__.__mro__ }}",
    "globals": "{{ raise_exception.__globals__['os'] }}",
    "mutation": "{{ messages.append(1) }}",
    "format": "{{ '{0.__class__.__mro__}'.format(messages) }}",
    "format_map": "{{ '{a.__class__.__mro__}'.format_map({'a': 1}) }}",
}
BROKEN = {
    "syntax": "{% if %}",
    "unknown filter": "{{ 1|nope }}",
    "unknown tag": "{% nope %}",
    "too many blocks": "{% for a in [1] %}" * 30 + "x" + "{% endfor %}" * 30,
}
RAISING = {
    "{{ raise_exception('No roles but user.') }}": "refuses this conversation: No roles but user.",
    "\n{{ messages[0].nope.nope }}": "UndefinedError: 'dict object' has no attribute 'nope' (line 2 of the template)",
    "{{ 'a' + 1 }}": "TypeError",
    "{{ 1 / 0 }}": "ZeroDivisionError: division by zero",
    "{% include 'other' %}": "TypeError: no loader",
}


def job(template: str, **changes: Any) -> Any:
    return {
        "template": template,
        "messages": MESSAGES,
        "variables": {"documents": None},
        "traced_variables": [],
        "tools": None,
        "views": [(False, 2, False, "always"), (False, 1, True, "never")],
        "clock": PINNED_CLOCK,
        "restricted": True,
        "seconds": 0.0,
        **changes,
    }


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    made = Sandbox(Limits(wall=WALL))
    made.start()
    yield made
    made.close()


def error_of(sandbox: Sandbox, template: str) -> EncodingError:
    """Ten conversations with a bad template, then one with a good one; how the bad one fails."""
    started = time.monotonic()
    results = sandbox.run([job(template)] * 10)
    assert time.monotonic() - started < 10
    assert all(isinstance(result, EncodingError) for result in results)
    assert len({result.kind for result in results if isinstance(result, EncodingError)}) == 1
    (good,) = sandbox.run([job(GOOD)])
    assert isinstance(good, list)
    assert good[0]["rest"] == "<user>hello<assistant>bye"
    assert isinstance(results[0], EncodingError)
    return results[0]


@pytest.mark.parametrize("name", SLOW)
def test_a_slow_template_times_out(sandbox: Sandbox, name: str) -> None:
    error = error_of(sandbox, SLOW[name])
    assert error.kind == "template-timeout"
    assert "2 s" in str(error)


@pytest.mark.parametrize("name", LARGE)
def test_a_large_template_is_stopped(sandbox: Sandbox, name: str) -> None:
    # Filling a gigabyte takes its time: which limit is hit first depends on the machine.
    assert error_of(sandbox, LARGE[name]).kind in ("template-too-large", "template-timeout")


def test_the_kinds_of_limits_that_no_clock_is_needed_for(sandbox: Sandbox) -> None:
    for name in ("a hundred megabytes", "endless recursion", "deep lists", "a range too large"):
        assert error_of(sandbox, LARGE[name]).kind == "template-too-large"


@pytest.mark.parametrize("name", UNSAFE)
def test_unsafe_access(sandbox: Sandbox, name: str) -> None:
    error = error_of(sandbox, UNSAFE[name])
    assert error.kind == "unsafe-template-access"


@pytest.mark.parametrize("name", BROKEN)
def test_a_template_that_does_not_compile(sandbox: Sandbox, name: str) -> None:
    error = error_of(sandbox, BROKEN[name])
    assert error.kind == "template-broken"
    assert str(error).startswith("The chat template does not compile: ")
    assert str(error).count("(line ") == 1


@pytest.mark.parametrize("template", RAISING)
def test_a_template_that_raises(sandbox: Sandbox, template: str) -> None:
    error = error_of(sandbox, template)
    assert error.kind == "role-unsupported"
    assert RAISING[template] in str(error)


def test_the_default_limits_end_an_endless_template_in_less_than_ten_seconds() -> None:
    endless = Sandbox()
    assert error_of(endless, SLOW["nested ranges"]).kind == "template-timeout"
    endless.close()


def test_templates_cannot_tell_that_they_are_traced(sandbox: Sandbox) -> None:
    looks = "messages[0].content._runs", "messages[0]._origin", "messages[0].content.pieces"
    template = "".join("{{ " + look + " is defined }} " for look in looks)
    (answers,) = sandbox.run([job(template)])
    assert isinstance(answers, list)
    assert answers[0]["rest"] == "False False False "
    assert "runs" in answers[0]


def test_only_failures_of_the_same_template_count(sandbox: Sandbox) -> None:
    results = sandbox.run([job(GOOD), job(SLOW["nested ranges"]), job(GOOD)] * 3)
    assert [isinstance(result, EncodingError) for result in results] == [False, True, False] * 3


def test_a_view_that_fails_does_not_spoil_the_others(sandbox: Sandbox) -> None:
    template = "{% if messages|length < 2 %}{{ raise_exception('too short') }}{% endif %}ok"
    (answers,) = sandbox.run([job(template)])
    assert isinstance(answers, list)
    assert answers[0]["rest"] == "ok"
    assert answers[1]["kind"] == "role-unsupported"


def test_the_output_limit_counts_characters() -> None:
    small = Sandbox(Limits(output=100))
    results = small.run([job("{{ 'x' * 100 }}"), job("{{ 'x' * 101 }}"), job("{{ 'é' * 100 }}")])
    assert [isinstance(result, EncodingError) for result in results] == [False, True, False]
    assert "more than 100 characters" in str(results[1])
    small.close()


def test_an_answer_that_is_too_long_is_cut_off() -> None:
    small = Sandbox(Limits(answer=1000))
    long, short = small.run([job("{{ 'x' * 2000 }}"), job(GOOD)])
    assert isinstance(long, EncodingError)
    assert long.kind == "template-too-large"
    assert isinstance(short, list)
    small.close()


def test_many_and_long_conversations_do_not_block(sandbox: Sandbox) -> None:
    messages = [{"role": "user", "content": "x" * 200_000}]
    results = sandbox.run([job(GOOD, messages=messages, views=[(False, 1, False, "always")])] * 40)
    assert all(isinstance(result, list) and len(result[0]["rest"]) == 200_006 for result in results)


def test_a_killed_worker_is_replaced(sandbox: Sandbox) -> None:
    sandbox.run([job(GOOD)])
    worker = sandbox._worker
    assert worker is not None
    worker._process.kill()
    worker._process.wait()
    (after,) = sandbox.run([job(GOOD)])
    assert isinstance(after, list)


def inside(code: str, limits: Limits | None = None) -> str:
    """What `code` prints to the error stream in a process like the worker, after it has bounded itself."""
    boot = sandbox_module._BOOT.replace(
        "main()", f"\nfrom template_audit.model.worker import bound\nimport json\n{code}"
    )
    settings = '{"memory": 1073741824, "output": 1000}'
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", boot, *sandbox_module._paths(), settings],
        env={name: os.environ[name] for name in sandbox_module._PASSED_ON if name in os.environ},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout + done.stderr


def test_the_worker_loads_jinja_and_nothing_heavier() -> None:
    heavy = inside(
        "print([name for name in ('transformers', 'tokenizers', 'numpy', 'msgspec') if name in sys.modules])"
    )
    assert heavy.strip() == "[]"


def test_the_worker_sees_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret-value")
    seen = inside("import os; print(sorted(os.environ))")
    assert "secret-value" not in seen
    assert "HF_TOKEN" not in seen
    assert "HOME" not in seen


@pytest.mark.skipif(sys.platform != "linux", reason="resource limits are tested on Linux only")
def test_the_worker_cannot_write_files(tmp_path: Path) -> None:
    target = tmp_path / "file"
    said = inside(f"bound({{'memory': 1 << 30}}); f = open({str(target)!r}, 'w'); f.write('x'); f.flush()")
    assert "File too large" in said
    assert target.read_bytes() == b""


@pytest.mark.skipif(sys.platform != "linux", reason="resource limits are tested on Linux only")
def test_the_worker_cannot_fill_the_memory() -> None:
    assert "MemoryError" in inside("bound({'memory': 1 << 30}); x = 'x' * (1 << 30)")


def test_the_worker_starts_fast() -> None:
    fresh = Sandbox()
    started = time.monotonic()
    fresh.start()
    assert time.monotonic() - started < 1  # `start` does not wait
    fresh.run([job(GOOD)])
    assert time.monotonic() - started < 10  # 0.15 s on an idle machine
    fresh.close()
