"""Where findings point: lines of templates, keys of a model's files, lines of a training config."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from template_audit import load_model
from template_audit.audit import audit
from template_audit.cli import main
from template_audit.conversation import Conversation
from template_audit.errors import EncodingError
from template_audit.findings import FindingRecord
from template_audit.keylines import json_key_line, yaml_entries
from template_audit.model import Model
from template_audit.model.chat_template import Renderer
from template_audit.probes import probe
from template_audit.stream import EncodedStream
from template_audit.template_lines import Guard, Literal, line_of, literal_runs, literals
from tests.builders import stream

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "fixtures" / "models"

TEMPLATE = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {{- message.content | trim }}

    {{- '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n<think>\\n' }}
{%- endif %}
"""


# --- literals --------------------------------------------------------------------------------------


def test_literals_have_their_lines() -> None:
    found = [(literal.line, literal.text) for literal in literals(TEMPLATE, {"bos_token": "<s>"}) if literal.text]
    assert found == [(1, "<s>"), (3, "<|im_start|>"), (3, "\n"), (6, "<|im_end|>")]  # no generation prompt


def test_plain_text_and_escapes() -> None:
    template = "{% if a %}\nUser:\n{{ x }}\n{% endif %}{{ 'ü\\u00e9\\n' }}"
    found = [(literal.line, literal.text) for literal in literals(template) if literal.text.strip()]
    assert found == [(2, "User:\n"), (4, "üé\n")]


def test_what_cannot_be_parsed_has_no_literals() -> None:
    assert literals("a{{ 'b }}") == []
    assert literals("{{ " + "(" * 10_000 + "1" + ")" * 10_000 + " }}") == []
    assert literals("{{ 'x'|center(900000000) }}") == [Literal(1, "x")]  # parsed, not computed


ROLES = """\
{%- for m in messages %}
{%- if m.role == 'system' or m['role'] in ['developer', 'user'] %}
a
{%- elif m.role != 'assistant' and m.content %}
b
{%- else %}
{{- 'c' if not m.role == 'tool' else 'd' }}
{%- endif %}
{%- if messages[0].role == 'user' %}e{% endif %}
{%- endfor %}
"""


@pytest.mark.parametrize(
    ("role", "reached"),
    [("system", "ae"), ("user", "ae"), ("developer", "ae"), ("assistant", "ce"), ("tool", "bde"), (None, "abcde")],
)
def test_who_reaches_a_literal(role: str | None, reached: str) -> None:
    found = [literal for literal in literals(ROLES) if literal.text.strip() in set("abcde") and literal.text.strip()]
    assert "".join(literal.text.strip() for literal in found if literal.guard.lets(role)) == reached


def test_a_literal_for_others_is_passed_over() -> None:
    known = [Literal(3, "<|im_end|>", Guard(only=frozenset({"user"}))), Literal(8, "<|im_end|>")]
    assert line_of(known, "<|im_end|>", 0, 10, "assistant") == 8
    assert line_of(known, "<|im_end|>", 0, 10, "user") is None


KNOWN = [Literal(3, "<|im_start|>"), Literal(6, "<|im_end|>\n"), Literal(9, "<|im_start|>assistant\n"), Literal(9, "a")]


@pytest.mark.parametrize(
    ("run", "part", "line"),
    [
        ("<|im_end|>\n<|im_start|>", "<|im_end|>", 6),
        ("<|im_end|>\n<|im_start|>", "\n", 6),
        ("<|im_end|>\n<|im_start|>", "<|im_end|>\n<|im_start|>", 6),  # its beginning
        ("<|im_start|>", "<|im_start|>", 3),
        ("<|im_start|>assistant\n", "<|im_start|>", 9),  # the shorter one needs another to go on with
        ("<|im_start|>assistant\n", "assistant", 9),
        ("somebody else's", "else", None),
    ],
)
def test_the_line_of_a_literal(run: str, part: str, line: int | None) -> None:
    start = run.index(part)
    assert line_of(KNOWN, run, start, start + len(part)) == line


def test_a_literal_on_two_lines_is_nowhere_for_certain() -> None:
    assert line_of([Literal(1, "<|im_end|>"), Literal(5, "<|im_end|>")], "<|im_end|>", 0, 10) is None
    assert line_of([Literal(5, "<|im_end|>"), Literal(5, "<|im_end|>")], "<|im_end|>", 0, 10) == 5


def test_a_literal_stands_where_others_make_up_the_rest() -> None:
    known = [Literal(1, "[|"), Literal(2, "[|end|]\n"), Literal(3, "\n")]
    assert line_of(known, "[|end|]\n[|", 0, 10) == 2
    assert line_of(known, "[|end|]\n[|", 8, 10) == 1
    assert line_of(known, "[|end|]\n[|", 7, 8) == 2
    assert line_of(known, "[|end|]\n", 2, 2) == 2  # an empty place within
    assert line_of(known, "?[|", 1, 3) == 1  # what nothing wrote (a filter did): wherever it stands
    assert line_of([Literal(n, "a" * n) for n in range(1, 3_000)], "a" * 10_000, 0, 1) is None  # not worth it


def test_lines_within_a_literal_are_counted() -> None:
    escaped, broken, plain = (
        literals(template)
        for template in (
            "{{ 'You are.\\nBe kind.\\n' }}",
            "\n{{ 'You are.\\n\nBe kind.\n' }}",
            "You are.\nBe kind.\n{{ x }}",
        )
    )
    assert line_of(escaped, "You are.\nBe kind.\n", 9, 16) == 1
    assert line_of(broken, "You are.\n\nBe kind.\n", 10, 17) == 3
    assert line_of(broken, "You are.\n\nBe kind.\n", 0, 3) == 2
    assert line_of(plain, "You are.\nBe kind.\n", 9, 16) == 2


def test_literal_runs() -> None:
    made = stream("<|im_start|>user\n{0:hi}<|im_end|>\n<|im_start|>assistant\n«{1:yes}<|im_end|>»\n")
    end = made.text.index("<|im_end|>")
    token = next(i for i, span in enumerate(made.spans) if span[0] == end)
    assert list(literal_runs(made, token, token + 1)) == [("<|im_end|>\n<|im_start|>assistant\n", 0, 10, end)]
    content = next(i for i, span in enumerate(made.spans) if made.text[slice(*span)] == "hi")
    assert list(literal_runs(made, content, content + 1)) == []
    assert list(literal_runs(made, len(made), len(made)))  # the end of the text


# --- keys ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('{\n "a": {"key": 1},\n "b": "key",\n "key" : 2}', 4),
        ('{"a": ["key"],\n\n"k\\u0065y": 1}', 3),
        ('{"a": "{\\"key\\": 1}"}', None),
        ('{"key" 1}', None),
        ("", None),
        ("[{]}{", None),
    ],
)
def test_the_line_of_a_json_key(text: str, line: int | None) -> None:
    assert json_key_line(text, "key") == line


def test_the_entries_of_a_yaml_file() -> None:
    assert yaml_entries("# x\na: 1\n\n'b': [1]\nc: null\nd: text\n") == {
        "a": (2, "1"),
        "b": (4, None),
        "c": (5, None),
        "d": (6, "text"),
    }
    assert yaml_entries('{"a": "x",\n "b": 2}') == {"a": (1, "x"), "b": (2, "2")}
    for text in ("", "- a", "a: [", "\x00"):
        assert yaml_entries(text) == {}


# --- audits ----------------------------------------------------------------------------------------


@pytest.fixture
def model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a ChatML model in the working directory, with a template file of its own."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "models" / "toy"
    shutil.copytree(MODELS / "qwen25-like", folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    return folder


def found(folder: Path | str, encoder: str = "llamafactory:qwen", **options: object) -> dict[str, FindingRecord]:
    model = load_model(folder, **options)  # type: ignore[arg-type]
    report = audit(model, subject=encoder, conversations=[probe("single", model), probe("tool-call", model)])
    return {finding.rule: finding for finding in reversed(report.findings)}


def place(finding: FindingRecord) -> tuple[str, int | None]:
    assert finding.location is not None
    return finding.location.path, finding.location.line


def test_a_difference_points_at_the_line_of_its_literal(model_folder: Path) -> None:
    findings = found("models/toy", "llamafactory:llama3")
    assert place(findings["wrong-turn-end"]) == ("models/toy/chat_template.jinja", 6)


def test_outside_of_the_working_directory_paths_are_absolute(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    path, line = place(found(model_folder, "llamafactory:llama3")["wrong-turn-end"])
    assert (path, line) == (str(model_folder / "chat_template.jinja"), 6)


def test_a_template_within_a_json_file_is_its_entry(model_folder: Path) -> None:
    (model_folder / "chat_template.jinja").unlink()
    config = json.loads((model_folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["chat_template"] = TEMPLATE
    text = json.dumps(config, indent=2)
    (model_folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    expected = next(i for i, line in enumerate(text.split("\n"), 1) if line.startswith('  "chat_template"'))
    findings = found("models/toy", "llamafactory:llama3")
    assert place(findings["wrong-turn-end"]) == ("models/toy/tokenizer_config.json", expected)


def test_a_replaced_template_is_its_own_file(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("\n" + TEMPLATE, encoding="utf-8")
    findings = found("models/toy", "llamafactory:llama3", chat_template="mine.jinja")
    assert place(findings["wrong-turn-end"]) == ("mine.jinja", 7)


def test_a_template_that_does_not_compile(model_folder: Path) -> None:
    (model_folder / "chat_template.jinja").write_text("{{ a }}\n\n{% if %}\n", encoding="utf-8")
    assert place(found("models/toy")["template-broken"]) == ("models/toy/chat_template.jinja", 3)


def test_hidden_characters_of_a_template(model_folder: Path) -> None:
    (model_folder / "chat_template.jinja").write_text(TEMPLATE.replace("trim }}", "trim }}\u202e"), encoding="utf-8")
    assert place(found("models/toy")["hidden-characters"]) == ("models/toy/chat_template.jinja", 4)


def test_special_tokens_are_entries_of_the_tokenizer_config(model_folder: Path) -> None:
    text = (model_folder / "tokenizer_config.json").read_text(encoding="utf-8")
    config = json.loads(text) | {"pad_token": "<|im_end|>", "eos_token": "<|im_end|>"}
    text = json.dumps(config, indent=2)
    (model_folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    (model_folder / "special_tokens_map.json").unlink(missing_ok=True)
    expected = next(i for i, line in enumerate(text.split("\n"), 1) if line.startswith('  "pad_token"'))
    assert place(found("models/toy")["pad-equals-eos"]) == ("models/toy/tokenizer_config.json", expected)


def test_a_model_of_the_hub_is_named_by_its_repository(model_folder: Path) -> None:
    from template_audit.locations import located

    model = load_model("models/toy")
    report = audit(model, subject="llamafactory:llama3", conversations=[probe("single", model)])
    hub = replace(model, id="org/toy", revision="0" * 40)
    placed = {one.rule: one for one in located(report.findings, hub, report.comparisons)}
    assert place(placed["wrong-turn-end"]) == ("org/toy/chat_template.jinja", 6)


def test_a_training_config_points_at_its_own_lines(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "model_name_or_path: models/toy\nstage: sft\ntemplate: llama3\ncutoff_len: 24\n"
    text += f"dataset: fixture_alpaca\ndataset_dir: {ROOT}/fixtures/conversations/datasets\n"
    (tmp_path / "train.yaml").write_text(text, encoding="utf-8")

    def places(*overrides: str) -> dict[str, tuple[str, int | None]]:
        main(["train.yaml", *overrides, "--format", "json"])
        report = json.loads(capsys.readouterr().out)
        return {one["rule"]: (one["location"]["path"], one["location"].get("line")) for one in report["findings"]}

    found = places()
    assert found["foreign-special-token"] == ("train.yaml", 3)
    assert found["truncated-supervision"] == ("train.yaml", 4)
    assert found["missing-generation-tags"][0] == "models/toy/chat_template.jinja"
    assert places("template=gemma")["foreign-special-token"] == ("train.yaml", None)


MARK = "☃"


@pytest.mark.parametrize("name", ["chatml-generation", "exaone4-like", "qwen3-like", "mistral-like", "phi-like"])
def test_the_named_line_wrote_the_text(name: str, tmp_path: Path) -> None:
    """A mark that is put into the named line shows in the text that the finding is about, when rendered."""
    folder = tmp_path / name
    shutil.copytree(MODELS / name, folder)
    for key, text in load_model(folder).chat_templates.items():
        file = folder / ("chat_template.jinja" if key == "default" else f"additional_chat_templates/{key}.jinja")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    model = load_model(folder)
    report = audit(model, subject="llamafactory:llama3")
    comparisons = {comparison.conversation.id: comparison for comparison in report.comparisons}
    proven = 0
    for finding in report.findings:
        path, line = place(finding)
        if finding.reference is None or finding.conversation is None or line is None or not path.endswith(".jinja"):
            continue
        comparison = comparisons[finding.conversation]
        assert isinstance(comparison.reference, EncodedStream)
        run = next(literal_runs(comparison.reference, finding.reference.start, finding.reference.end))
        begin = run.at - run.start
        marks = _marks(model, comparison.conversation, line, comparison.reference.text)
        assert any(begin <= mark <= begin + run.end for mark in marks), (finding, line)
        proven += 1
    assert proven > 10


def _marks(model: Model, conversation: Conversation, line: int, text: str) -> list[int]:
    """Where in `text` marks come out that are put, one after the other, into the strings and the text of a line."""
    template = model.template_for(bool(conversation.tools)) or ""
    lines = template.split("\n")
    outside = re.sub(r"\{[{%].*?[%}]\}", lambda found: "\0" * len(found[0]), lines[line - 1])
    ends = [found.end() for found in re.finditer(r"['\"](?=[^'\"])|bos_token|eos_token", lines[line - 1])]
    ends += [found.start() for found in re.finditer(r"[^\0\s]", outside)]
    out = []
    for at in ends:
        named = lines[line - 1][:at].endswith("_token")
        marked = f"{lines[line - 1][:at]}{' ~ ' + repr(MARK) if named else MARK}{lines[line - 1][at:]}"
        changed = "\n".join([*lines[: line - 1], marked, *lines[line:]])
        templates = {key: changed if value == template else value for key, value in model.chat_templates.items()}
        try:
            shown = Renderer(replace(model, chat_templates=templates)).render(conversation).text
        except EncodingError:
            continue
        if shown.replace(MARK, "") == text:
            out += [found.start() - number for number, found in enumerate(re.finditer(MARK, shown))]
    return out
