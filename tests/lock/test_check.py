"""`check`: what it answers without looking, what it looks at again, and what it cannot say."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from template_audit.cli import main
from template_audit.config import Config
from template_audit.conversation import Conversation, Message
from template_audit.errors import UsageError
from template_audit.lock import check_lock, inputs, lock_models
from template_audit.lock.store import Request, read_lock
from tests.hub_server import Repo, fake_hub
from tests.lock.edits import json_edit, put, text_edit

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "fixtures" / "models"
CHATML = ("--encoder", "llamafactory:chatml")


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def locked_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models and their lock file, with two probes and a user's conversation each."""
    folder = tmp_path_factory.mktemp("locked")
    for name in ("chatml-plain", "mistral-like"):
        shutil.copytree(MODELS / name, folder / name)
    mine = [{"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]}] * 2
    (folder / "mine.json").write_text(json.dumps(mine))
    chosen = ["--conversation", "single", "--conversation", "tool-call", "--conversation", "mine.json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["lock", "chatml-plain", "mistral-like", *CHATML, *chosen, "--no-config"]) == 0
    return folder


@pytest.fixture
def project(locked_project: Path, tmp_path: Path) -> Path:
    """A copy of it that is the working directory."""
    shutil.copytree(locked_project, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def check(project: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs check in the project: its exit code and what it printed."""

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main(["check", "--no-config", *arguments])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


Check = Callable[..., tuple[int, str]]


class TestDigests:
    def test_unchanged_entries_import_nothing_heavy(self, project: Path) -> None:
        code = (
            "import sys; from template_audit.cli import main; code = main(['check', '--no-config']); "
            "heavy = {'transformers', 'tokenizers', 'deepdiff', 'rapidfuzz'} & set(sys.modules); "
            "print(heavy); sys.exit(code)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=project)
        assert done.returncode == 0, done.stderr
        assert "2 unchanged" in done.stdout
        assert done.stdout.endswith("set()\n")

    def test_the_same_lock_gives_the_same_bytes(self, project: Path) -> None:
        before = Path("template-audit.lock").read_bytes()
        chosen = ["--conversation", "single", "--conversation", "tool-call", "--conversation", "mine.json"]
        assert main(["lock", "mistral-like", "chatml-plain", *CHATML, *chosen, "--no-config"]) == 0
        assert Path("template-audit.lock").read_bytes() == before

    def test_other_entries_stay(self, project: Path) -> None:
        assert main(["lock", "chatml-plain", "--encoder", "llamafactory:qwen", "--conversation", "single"]) == 0
        lock = read_lock("template-audit.lock")
        assert lock is not None
        assert [one.request.encoder for one in lock.entries] == [CHATML[1], "llamafactory:qwen", CHATML[1]]

    def test_a_file_that_says_the_same_in_other_bytes_passes_with_a_note(self, check: Check) -> None:
        json_edit("chatml-plain/tokenizer_config.json", lambda data: None)(Path())
        code, out = check()
        assert code == 0, out
        assert "tokenizer_config.json changed, in nothing that a tokenizer or template reads." in out
        assert check("--update")[0] == 0
        assert "2 unchanged" in check()[1]

    def test_an_entry_edited_by_hand_is_audited_again(self, check: Check) -> None:
        text = Path("template-audit.lock").read_text()
        Path("template-audit.lock").write_text(text.replace('"ids": [', '"ids": [7, ', 1))
        code, out = check()
        assert code == 1
        assert "ids of 1 of 4 conversations are others" in out.splitlines()[0]
        assert "The entry was edited since it was locked." in out

    def test_an_option_edited_in_the_lock_is_named(self, check: Check) -> None:
        lock = json.loads(Path("template-audit.lock").read_text())
        lock["entries"][0]["request"]["options"] = {"train_on_prompt": True}
        Path("template-audit.lock").write_text(json.dumps(lock))
        code, out = check()
        assert code == 1
        assert out.splitlines()[0] == "option train_on_prompt changed from false to true."
        assert "are trained, not masked." in out

    def test_a_conversation_edited_in_the_lock_is_seen(self, check: Check) -> None:
        text = Path("template-audit.lock").read_text()
        assert '"Who?"' in text
        Path("template-audit.lock").write_text(text.replace('"Who?"', '"Why?"'))
        assert check()[0] == 1


def test_a_value_that_json_lacks_is_one_sentence(project: Path) -> None:
    row = {"format": "openai", "data": {"image": b"1"}}
    conversation = Conversation((Message("user", "Hi"), Message("assistant", "Hello")), id="x", row=row)
    around = inputs.Surroundings(project, Config())
    with pytest.raises(UsageError, match="Conversation `x` holds a value that JSON does not have"):
        lock_models("y.lock", [(Request("chatml-plain", CHATML[1]), [conversation])], around)
    assert not Path("y.lock").exists()


class TestVersions:
    def moved(self, monkeypatch: pytest.MonkeyPatch) -> None:
        versions = {**inputs.library_versions(), "transformers": "9.9.9"}
        monkeypatch.setattr(inputs, "library_versions", lambda: versions)

    def test_a_version_that_changes_nothing_passes_with_a_note(self, check: Check, monkeypatch: Any) -> None:
        self.moved(monkeypatch)
        code, out = check()
        assert code == 0, out
        assert "→ 9.9.9; everything that is locked is the same." in out
        assert "2 audited again, the same" in out

    def test_ids_that_change_with_a_version_are_put_down_to_it(self, check: Check, monkeypatch: Any) -> None:
        self.moved(monkeypatch)
        text = Path("template-audit.lock").read_text()
        lock = json.loads(text)
        entry = lock["entries"][0]
        entry["conversations"][0]["reference"]["ids"][3] += 1
        Path("template-audit.lock").write_text(json.dumps(lock))
        code, out = check()
        assert code == 1
        first = out.splitlines()[0]
        assert first.startswith("transformers ")
        assert "→ 9.9.9: chat-template: ids of 1 of 4 conversations are others" in first


class TestNotEvaluated:
    def test_a_model_that_is_gone(self, check: Check) -> None:
        shutil.rmtree("chatml-plain")
        code, out = check()
        assert code == 2
        assert out.startswith("not evaluated: chatml-plain")
        assert "1 not evaluated, 1 unchanged" in out

    def test_a_model_that_is_gone_weighs_more_than_drift_which_is_said_first(self, check: Check) -> None:
        shutil.rmtree("chatml-plain")
        put("mistral-like/generation_config.json", "eos_token_id", value=3)(Path())
        code, out = check()
        assert code == 2
        assert out.startswith("generation_config.json: eos_token_id changed from 2 to 3.")
        assert "not evaluated: chatml-plain" in out

    def test_a_file_that_broke_is_named(self, check: Check) -> None:
        Path("chatml-plain/tokenizer_config.json").write_text("{")
        code, out = check()
        assert code == 2
        assert "tokenizer_config.json is not valid JSON" in out.splitlines()[0]

    def test_a_template_that_broke_is_named_first(self, check: Check) -> None:
        text_edit("chatml-plain/tokenizer_config.json", "{%", "{% oops", count=1)(Path())
        code, out = check()
        assert code == 2
        assert out.splitlines()[0].startswith("tokenizer_config.json#chat_template line 1")
        assert "not evaluated: 4 conversations could not be evaluated" in out

    def test_update_keeps_what_could_not_be_evaluated(self, check: Check) -> None:
        before = read_lock("template-audit.lock")
        shutil.rmtree("chatml-plain")
        put("mistral-like/generation_config.json", "eos_token_id", value=3)(Path())
        assert check("--update")[0] == 2
        after = read_lock("template-audit.lock")
        assert before is not None
        assert after is not None
        assert after.entries[0] == before.entries[0]
        assert after.entries[1] != before.entries[1]


class TestChoice:
    def test_only(self, check: Check) -> None:
        shutil.rmtree("chatml-plain")
        assert check("--only", "mistral-like")[0] == 0
        assert check("--only", "chatml-plain")[0] == 2

    def test_only_what_is_not_there(self, check: Check) -> None:
        code, out = check("--only", "mistral-lik")
        assert code == 2
        assert "has no entry for `mistral-lik`; it has chatml-plain, mistral-like. Did you mean `mistral-like`?" in out

    def test_locked_fails_when_an_entry_lacks(self, check: Check) -> None:
        code, out = check("mistral-like", "other")
        assert code == 0
        assert out.startswith("not locked: other")
        code, out = check("mistral-like", "other", "--locked")
        assert code == 2
        assert check("--locked", "--only", "other")[0] == 2
        assert check("--locked")[0] == 0

    def test_nothing_but_what_is_not_locked_is_never_0(self, check: Check) -> None:
        assert check("other")[0] == 2

    def test_no_lock_file(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["check"]) == 2
        assert (
            "There is no lock file template-audit.lock; `template-audit lock MODEL` makes one."
            in capsys.readouterr().err
        )

    def test_a_lock_in_another_folder_finds_models_beside_it(
        self, project: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (project / "elsewhere").mkdir()
        monkeypatch.chdir(project / "elsewhere")
        report = check_lock("../template-audit.lock")
        assert [result.state for result in report.results] == ["unchanged", "unchanged"]
        put("mistral-like/generation_config.json", "eos_token_id", value=3)(project)
        assert check_lock("../template-audit.lock").exit_code == 1


class TestConfiguration:
    def test_severities_of_the_gate_and_of_new_findings(self, check: Check, project: Path) -> None:
        put("mistral-like/generation_config.json", "eos_token_id", value=3)(Path())
        Path("template-audit.toml").write_text('[severities]\nlock-drift = "warning"\neos-mismatch = "off"\n')
        assert main(["check"]) == 0
        assert main(["check", "--fail-on", "warning"]) == 1

    def test_drift_that_the_configuration_ignores(self, project: Path, capsys: Any) -> None:
        put("mistral-like/generation_config.json", "eos_token_id", value=3)(Path())
        ignore = '[[ignore]]\nrule = "lock-drift"\nmodel = "mistral-*"\nreason = "Known to us."\n'
        Path("template-audit.toml").write_text(f'{ignore}[severities]\neos-mismatch = "off"\n')
        assert main(["check", "--format", "json"]) == 0
        report = json.loads(capsys.readouterr().out)["reports"][1]
        assert [one["reason"] for one in report["suppressed"]] == ["Known to us."] * len(report["suppressed"])
        assert report["suppressed"]
        assert main(["check"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("generation_config.json: eos_token_id changed")
        assert "Drift is ignored by the configuration: Known to us." in out

    def test_a_rule_that_was_off_when_locked_makes_new_findings(self, project: Path, capsys: Any) -> None:
        Path("off.toml").write_text('[severities]\nprompt-trained = "off"\nall-tokens-trained = "off"\n')
        lock = ["lock", "chatml-plain", "--encoder", "llamafactory:qwen", "-o", "train_on_prompt=true"]
        assert main([*lock, "--conversation", "single", "--config", "off.toml", "--lock", "new.lock"]) == 0
        assert main(["check", "--lock", "new.lock", "--config", "off.toml"]) == 0
        capsys.readouterr()
        assert main(["check", "--lock", "new.lock", "--no-config"]) == 1
        assert capsys.readouterr().out.startswith("all-tokens-trained: ")


class TestFormats:
    def test_records_carry_the_drift_and_its_place(self, check: Check) -> None:
        put("mistral-like/tokenizer_config.json", "eos_token", value="<unk>")(Path())
        code, out = check("--format", "json")
        assert code == 1
        reports = json.loads(out)["reports"]
        assert [report["exit_code"] for report in reports] == [0, 1]
        found = [f for f in reports[1]["findings"] if f["rule"] == "lock-drift"]
        assert found[0]["message"].startswith('tokenizer_config.json: eos_token changed from "</s>" to "<unk>".')
        assert found[0]["location"]["path"] == "mistral-like/tokenizer_config.json"
        line = Path("mistral-like/tokenizer_config.json").read_text().splitlines()[found[0]["location"]["line"] - 1]
        assert '"eos_token"' in line
        assert [one["evaluated"] for one in reports[0]["conversations"]] == [True] * 4

    def test_what_is_not_evaluated_is_in_the_records(self, check: Check) -> None:
        shutil.rmtree("chatml-plain")
        code, out = check("--format", "json", "--locked", "nowhere", "chatml-plain")
        assert code == 2
        reports = json.loads(out)["reports"]
        assert [report["exit_code"] for report in reports] == [2, 2]
        assert not any(one["evaluated"] for report in reports for one in report["conversations"])
        assert "There is no" in reports[0]["conversations"][0]["reason"]

    def test_the_records_of_digests_are_those_of_an_audit(self, check: Check, project: Path, capsys: Any) -> None:
        (plain,) = json.loads(check("--format", "json", "--only", "chatml-plain")[1])["reports"]
        chosen = ["--conversation", "single", "--conversation", "tool-call", "--conversation", "mine.json"]
        main(["audit", "chatml-plain", *CHATML, *chosen, "--no-config", "--format", "json"])
        audited = json.loads(capsys.readouterr().out)
        for key in ("model", "reference", "subject", "conversations"):
            ours, theirs = plain[key], audited[key]
            if key in ("reference", "subject"):
                theirs.pop("notes", None)
                ours.pop("notes", None)
            assert ours == theirs, key

    def test_every_format_prints_a_check(self, check: Check, project: Path) -> None:
        from template_audit.report import formats

        put("mistral-like/tokenizer_config.json", "eos_token", value="<unk>")(Path())
        files = [part for name in formats() for part in ("--output", f"{name}={name}.out")]
        assert check(*files)[0] == 1
        for name in formats():
            assert "eos_token" in Path(f"{name}.out").read_text(encoding="utf-8"), name

    def test_hostile_text_is_made_visible(self, check: Check) -> None:
        put("mistral-like/tokenizer_config.json", "eos_token", value="\x1b[31m\u202e::error::<script>")(Path())
        out = check()[1]
        assert "\x1b" not in out
        assert "\u202e" not in out
        assert "<U+202E>" in out


SERVE = """
import contextlib, io, json, sys
from template_audit.cli import main
for line in sys.stdin:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*json.loads(line), "--no-config"])
    print(json.dumps([code, out.getvalue() + err.getvalue()]), flush=True)
"""


@contextmanager
def commands(hub: str, folder: Path, home: str = "home") -> Iterator[Check]:
    """Runs commands in one process of its own, whose hub and cache are these."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    ours = {"HF_ENDPOINT": hub, "HF_HOME": str(folder / home), "HF_HUB_DISABLE_TELEMETRY": "1", "COLUMNS": "300"}
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE],
        env={**inherited, **ours},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=folder,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def run(*arguments: str) -> tuple[int, str]:
        stdin.write(json.dumps(arguments) + "\n")
        stdin.flush()
        code, out = json.loads(stdout.readline())
        return code, out

    try:
        yield run
    finally:
        process.kill()
        process.communicate()


class TestHub:
    def test_one_look_up_answers_and_a_new_commit_is_looked_into(self, tmp_path: Path) -> None:
        old, new = tmp_path / "old", tmp_path / "new"
        for folder in (old, new):
            shutil.copytree(MODELS / "chatml-plain", folder)
        put("generation_config.json", "eos_token_id", value=5)(new)
        first, second = "1" * 40, "2" * 40
        repo = Repo({first: old, second: new}, {"main": first})
        with fake_hub({"org/chat": repo}) as hub, commands(hub.url, tmp_path) as run:
            lock = ("lock", "org/chat", f"org/chat@{first}", *CHATML, "--conversation", "single")
            assert run(*lock)[0] == 0
            hub.requests.clear()
            code, out = run("check")
            assert code == 0, out
            assert "2 unchanged" in out
            assert [line for line in hub.requests if "/resolve/" in line] == []
            assert len([line for line in hub.requests if line.startswith("GET /api/models/")]) == 1

            repo.refs["main"] = second
            code, out = run("check")
            assert code == 1, out
            assert out.startswith("generation_config.json: eos_token_id changed from ")
            assert "1 drifted, 1 unchanged" in out

            shutil.copy(old / "generation_config.json", new / "generation_config.json")
            repo.commits["3" * 40] = new
            repo.refs["main"] = "3" * 40
            code, out = run("check")
            assert code == 0, out
            assert f"org/chat is at revision {'3' * 40}, and was at {first}." in out

    def test_out_of_reach_is_not_evaluated_and_offline_takes_the_cache(self, tmp_path: Path) -> None:
        repo = Repo.of(MODELS / "chatml-plain")
        commit = repo.refs["main"]
        with fake_hub({"org/chat": repo}) as hub:
            url = hub.url
            with commands(url, tmp_path) as run:
                lock = ("lock", "org/chat", f"org/chat@{commit}", *CHATML, "--conversation", "single")
                assert run(*lock)[0] == 0
        with commands(url, tmp_path) as run:
            code, out = run("check")
            assert code == 2
            assert out.startswith("not evaluated: org/chat")
            assert "--offline" in out
            assert "1 not evaluated, 1 unchanged" in out  # a commit cannot change
            code, out = run("check", "--offline")
            assert code == 0, out
            code, out = run("lock", "org/chat", *CHATML, "--conversation", "single")
            assert code == 2
            assert "with --offline it is taken nevertheless" in out
        with commands(url, tmp_path, "empty") as run:
            code, out = run("check", "--offline", "--only", "org/chat")
            assert code == 2
            assert "is not in the local cache" in out
