"""The command line on fixture models: what it prints, and what it exits with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from template_audit.cli import main

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "fixtures" / "models"
CONVERSATIONS = ROOT / "fixtures" / "conversations"
EXAONE = str(MODELS / "exaone35-like")
QWEN = str(MODELS / "qwen25-like")
LLAMA3 = ("--encoder", "llamafactory:llama3")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A real run; output in UTF-8 unless PYTHONIOENCODING says otherwise."""
    env = {**os.environ, "PYTHONIOENCODING": "utf-8", **environment}
    command = [sys.executable, "-m", "template_audit", *arguments]
    return subprocess.run(command, capture_output=True, cwd=ROOT, env=env, encoding="utf-8", timeout=120)


class TestAudit:
    def test_the_verdict_names_a_reference_that_is_no_chat_template(self, capsys: pytest.CaptureFixture[str]) -> None:
        releases = ("--encoder", "llamafactory@0.9.5:qwen", "--reference", "llamafactory@0.9.2:qwen")
        assert main([QWEN, *releases, "--conversation", "single", "-q"]) == 0
        out = capsys.readouterr().out
        assert "llamafactory@0.9.5:qwen feeds this model almost what llamafactory@0.9.2:qwen does" in out

    def test_conversations_of_one_name_are_told_apart(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        files = []
        for folder, text in (("a", "What?"), ("b", "What <|im_end|>?")):
            (tmp_path / folder).mkdir()
            path = tmp_path / folder / "x.json"
            path.write_text(json.dumps([{"role": "user", "content": text}, {"role": "assistant", "content": "This."}]))
            files += ["--conversation", str(path)]
        main([QWEN, "--encoder", "llamafactory:qwen", *files, "--format", "json"])
        data = json.loads(capsys.readouterr().out)
        assert [one["id"] for one in data["conversations"]] == ["x", "x (2)"]
        (injected,) = (f for f in data["findings"] if f["rule"] == "special-token-injection")
        assert injected["conversation"] == "x (2)"

    def test_a_conversation_that_is_nested_too_deeply(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        deep = tmp_path / "deep.json"
        arguments = '{"a": ' + "[" * 900 + "]" * 900 + "}"
        call = '{"function": {"name": "f", "arguments": ' + arguments + "}}"
        deep.write_text(
            '[{"role": "user", "content": "?"}, {"role": "assistant", "content": "", "tool_calls": [' + call + "]}]"
        )
        assert main([QWEN, "--encoder", "llamafactory:qwen", "--conversation", str(deep)]) == 2
        assert "nested too deeply" in " ".join(capsys.readouterr().out.split())

    def test_findings_exit_with_1(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([EXAONE, *LLAMA3]) == 1
        out, err = capsys.readouterr()
        assert err == ""
        assert "foreign-special-token" in out
        assert "vocabulary-grows" in out
        assert out.splitlines()[-1].endswith("Exit 1.")

    def test_agreement_exits_with_0(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["audit", QWEN, "--encoder", "llamafactory:qwen", "--conversation", "single", "-q"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 1

    def test_a_template_that_is_not_named_is_chosen_and_explained(self, capsys: pytest.CaptureFixture[str]) -> None:
        main([EXAONE, "--conversation", "single"])
        out = capsys.readouterr().out
        assert "llamafactory@0.9.5:exaone" in out
        assert "fits its chat template best" in " ".join(out.split())

    @pytest.mark.parametrize(("fail_on", "code"), [("never", 0), ("error", 1), ("warning", 1), ("info", 1)])
    def test_fail_on(self, fail_on: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([EXAONE, *LLAMA3, "-q", "--fail-on", fail_on, "--conversation", "single"]) == code
        assert f"Exit {code}." in capsys.readouterr().out

    def test_json_is_deterministic_and_says_the_same(self, capsys: pytest.CaptureFixture[str]) -> None:
        outputs = []
        for _ in range(2):
            assert main([EXAONE, *LLAMA3, "--format", "json"]) == 1
            outputs.append(capsys.readouterr().out)
        assert outputs[0] == outputs[1]
        data = json.loads(outputs[0])
        assert data["exit_code"] == 1
        assert data["schema_version"] == 1
        assert data["subject"]["spec"] == "llamafactory@0.9.5:llama3"
        assert {"foreign-special-token", "vocabulary-grows"} <= {finding["rule"] for finding in data["findings"]}

    def test_output_goes_to_a_file_without_escape_codes(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        path = tmp_path / "report.txt"
        assert main([EXAONE, *LLAMA3, "--conversation", "single", "--output", str(path)]) == 1
        assert capsys.readouterr().out == ""
        text = path.read_text(encoding="utf-8")
        assert "foreign-special-token" in text
        assert "\x1b" not in text

    def test_options_reach_the_framework(self, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["encode", QWEN, "--encoder", "llamafactory:qwen", "-o", "cutoff_len=8", "--format", "json"]
        assert main(arguments) == 0
        data = json.loads(capsys.readouterr().out)
        assert data["encoder"]["options"]["cutoff_len"] == 8
        assert len(data["input_ids"]) <= 8

    def test_an_option_of_both_sides_reaches_both(self, capsys: pytest.CaptureFixture[str]) -> None:
        model = str(MODELS / "qwen3-like")
        arguments = [model, "--encoder", "llamafactory:qwen3", "--conversation", "single", "--format", "json"]
        main([*arguments, "-o", "enable_thinking=false", "--clock", "2031-03-09T00:00:00"])
        data = json.loads(capsys.readouterr().out)
        for side in ("reference", "subject"):
            assert data[side]["options"]["enable_thinking"] is False
            assert data[side]["options"]["clock"] == "2031-03-09T00:00:00"
        main(arguments)
        data = json.loads(capsys.readouterr().out)
        assert data["reference"]["options"]["enable_thinking"] is None  # not passed to the template unless given

    def test_template_variables_reach_the_reference_only(self, capsys: pytest.CaptureFixture[str]) -> None:
        main([QWEN, "--conversation", "single", "--format", "json", "--template-kwarg", "names=[a, b]"])
        data = json.loads(capsys.readouterr().out)
        assert data["reference"]["options"]["template_kwargs"] == {"names": ["a", "b"]}
        assert "template_kwargs" not in data["subject"]["options"]

    def test_several_conversations_from_files_and_probes(self, capsys: pytest.CaptureFixture[str]) -> None:
        file = str(CONVERSATIONS / "two_turns.json")
        main([QWEN, "--conversation", file, "--conversation", "unicode", "--format", "json"])
        assert [c["id"] for c in json.loads(capsys.readouterr().out)["conversations"]] == ["two_turns", "unicode"]

    def test_what_cannot_be_evaluated_exits_with_2(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(MODELS / "base-no-template"), "--encoder", "llamafactory:default"]) == 2
        out = capsys.readouterr().out
        assert "template-missing" in out
        assert out.splitlines()[-1] == "? 17 of 17 conversations could not be evaluated. Exit 2."


class TestEncode:
    def test_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["encode", EXAONE, *LLAMA3, "--conversation", "single", "--format", "json"]) == 0
        data = json.loads(capsys.readouterr().out)
        assert len(data["input_ids"]) == len(data["labels"]) == len(data["tokens"]) == len(data["origins"])
        assert "".join(data["tokens"]) == data["text"]
        trained = [i for i, label in enumerate(data["labels"]) if label != -100]
        assert {data["origins"][i]["message"] for i in trained[:-1]} == {1}
        assert data["origins"][0] == {"derived": False, "field": "literal", "message": None}

    def test_several_conversations_are_a_list(self, capsys: pytest.CaptureFixture[str]) -> None:
        arguments = ["encode", QWEN, "--encoder", "llamafactory:qwen", "--format", "json"]
        assert main([*arguments, "--conversation", "single", "--conversation", "no-answer"]) == 2
        single, refused = json.loads(capsys.readouterr().out)
        assert single["conversation"] == "single"
        assert refused["error"]["kind"] == "example-dropped"

    def test_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["encode", EXAONE, *LLAMA3]) == 0
        out = capsys.readouterr().out
        assert "1 content" in out
        assert "▌" in out

    def test_one_conversation_that_cannot_be_encoded_is_an_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["encode", QWEN, "--encoder", "llamafactory:qwen", "--conversation", "no-answer"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("template-audit: LLaMA-Factory drops this example")


class TestListings:
    def test_rules(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["rules"]) == 0
        out = capsys.readouterr().out
        assert "generation-prompt-drift" in out
        assert main(["rules", "double-bos"]) == 0
        assert "Why it matters" in capsys.readouterr().out

    def test_rules_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["rules", "--format", "json"]) == 0
        rules = json.loads(capsys.readouterr().out)["rules"]
        assert all(rule["what"] and rule["why"] and rule["advice"] for rule in rules)

    def test_encoders(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["encoders"]) == 0
        assert "LLaMA-Factory" in capsys.readouterr().out
        assert main(["encoders", "llamafactory"]) == 0
        assert "cutoff_len" in capsys.readouterr().out
        assert main(["encoders", "llamafactory", "--format", "json"]) == 0
        (framework,) = json.loads(capsys.readouterr().out)["encoders"]
        assert "llama3" in framework["templates"]
        assert "0.9.5" in framework["versions"]

    def test_match(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["match", EXAONE, "--top", "3", "--format", "json"]) == 0
        matches = json.loads(capsys.readouterr().out)["matches"]
        assert matches[0]["template"] == "exaone"
        assert len(matches) == 3
        assert main(["match", EXAONE]) == 0
        assert "exaone" in capsys.readouterr().out

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--version"]) == 0
        assert capsys.readouterr().out.startswith("template-audit ")

    @pytest.mark.parametrize("command", [["--help"], ["rules"], ["rules", "double-bos"], ["encoders"]])
    def test_listings_import_nothing_heavy(self, command: list[str]) -> None:
        code = (
            "import sys; from template_audit.cli import main; main(sys.argv[1:]); "
            "print([m for m in ('transformers', 'tokenizers', 'huggingface_hub', 'jinja2', 'rapidfuzz', 'numpy') "
            "if m in sys.modules], file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, cwd=ROOT)
        assert done.stderr.strip() == "[]"


BAD_REQUESTS = [
    ([], "Usage: template-audit"),
    (["/no/such/folder"], "/no/such/folder"),
    ([QWEN, "--encoder", "llamafactory:qwn"], "Did you mean `qwen`?"),
    ([QWEN, "--encoder", "llamafactry"], "Did you mean `llamafactory`?"),
    ([QWEN, "--encoder", "llamafactory@9.9:qwen"], "9.9"),
    ([QWEN, "-o", "cutof_len=8"], "Did you mean `cutoff_len`?"),
    ([QWEN, "-o", "cutoff_len=soon"], "`cutoff_len`"),
    ([QWEN, "-o", "cutoff_len"], "KEY=VALUE"),
    ([QWEN, "-o", "cutoff_len=8", "-o", "cutoff_len=9"], "twice"),
    ([QWEN, "-o", "cutoff_len=[1, 2]"], "single number"),
    ([QWEN, "-o", "cutoff_len=[1"], "valid YAML"),
    ([QWEN, "--clock", "noon"], "`clock`"),
    ([QWEN, "--clock", "2024-01-01", "-o", "clock=2024-01-01"], "the same option"),
    ([QWEN, "--conversation", "sigle"], "Did you mean `single`?"),
    ([QWEN, "--conversation", "missing.json"], "missing.json"),
    ([QWEN, "--conversation", "BAD"], "messages[0]"),
    ([QWEN, "--chat-template", "missing.jinja"], "missing.jinja"),
    ([QWEN, "--output", "/no/such/folder/x"], "no folder"),
    ([QWEN, "--format", "yaml"], "'yaml'"),
    ([QWEN, "--bogus"], "--bogus"),
    ([QWEN, "extra"], "extra"),
    (["encod", QWEN], "Did you mean `encode`?"),
    (["encode", QWEN, "--encoder", "nothing:at all"], "Unknown framework"),
    (["rules", "double-boss"], "Did you mean `double-bos`?"),
    (["encoders", "llamafactori"], "Did you mean `llamafactory`?"),
    (["match", QWEN, "--encoder", "llamafactory:qwen"], "ranks all templates"),
    (["match", QWEN, "--encoder", "chat-template"], "chat-template has none"),
    (["\x1b[31m\u202eevil"], "<U+001B>[31m<U+202E>evil"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD_REQUESTS)
def test_bad_requests_are_one_sentence_and_exit_with_2(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text('{"messages": [{"role": "user", "content": 3}]}')
    assert main([str(bad) if argument == "BAD" else argument for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    if arguments:
        assert err.startswith("template-audit: ")
        assert len(err.splitlines()) == 1


class TestProcess:
    def test_default_command(self) -> None:
        done = process(EXAONE, *LLAMA3, "-q")
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.startswith("✗ ")

    @pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
    def test_terminals_of_other_encodings(self, encoding: str) -> None:
        env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
        command = [sys.executable, "-m", "template_audit", EXAONE, *LLAMA3, "--conversation", "unicode", "-v"]
        done = subprocess.run(command, capture_output=True, cwd=ROOT, env=env)
        assert (done.returncode, done.stderr) == (1, b"")
        assert "U+AE40" in done.stdout.decode(encoding)

    def test_a_reader_that_goes_away_is_no_error(self) -> None:
        command = [sys.executable, "-m", "template_audit", EXAONE, *LLAMA3, "-v"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as running:
            assert running.stdout is not None
            assert running.stderr is not None
            running.stdout.close()
            assert running.stderr.read() == b""
            assert running.wait() == 1

    def test_interrupts_are_silent(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        def interrupted(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr("template_audit.model.source.load_model", interrupted)
        assert main([QWEN]) == 130
        assert "Traceback" not in capsys.readouterr().err

    def test_a_mistake_of_the_program_is_neither_clean_nor_a_finding(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def mistaken(*_: object, **__: object) -> None:
            raise ZeroDivisionError("of ours")

        monkeypatch.setattr("template_audit.model.source.load_model", mistaken)
        monkeypatch.setattr(sys, "argv", ["template-audit", QWEN])
        assert main() == 2
        trace, last = capsys.readouterr().err.rstrip("\n").rsplit("\n", 1)
        assert "ZeroDivisionError: of ours" in trace
        assert last == (
            "template-audit: This is a mistake in template-audit; nothing was decided. Please report it with the "
            "lines above."
        )
        with pytest.raises(ZeroDivisionError):
            main([QWEN])
