"""Folders and files: what is loaded, what is recorded of it, and one sentence for what cannot be."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from template_audit import load_model
from template_audit.errors import ModelError, UsageError
from tests.gguf_writer import tokenizer_metadata, write_gguf

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "fixtures" / "models"
SHARED = ROOT.parent / "shared" / "models"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a fixture model, to be damaged."""
    return Path(shutil.copytree(MODELS / "qwen3-like", tmp_path / "model"))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def refusal(name: Any, **options: Any) -> str:
    with pytest.raises(ModelError) as error:
        load_model(name, **options)
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


# --- what is loaded ---------------------------------------------------------------------------------


def test_folder(folder: Path) -> None:
    from transformers import AutoTokenizer

    model = load_model(str(folder))
    assert (model.id, model.revision, model.path) == (str(folder), None, folder)
    assert type(model.tokenizer) is type(AutoTokenizer.from_pretrained(str(folder)))
    assert model.config == json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert model.generation_config == json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    assert model.stop_token_ids >= {model.tokenizer.eos_token_id}
    assert dict(model.versions) == {
        **{name: version(name) for name in ("huggingface_hub", "jinja2", "tokenizers", "transformers")},
        "python": ".".join(map(str, sys.version_info[:3])),
        "template_audit": version("template-audit"),
    }


def test_files_have_their_digests(folder: Path) -> None:
    for name in ("model.safetensors", "model.safetensors.index.json", "trainer_state.json", "README.md"):
        (folder / name).write_text("x", encoding="utf-8")
    files = {file.path: file.sha256 for file in load_model(folder).files}
    assert list(files) == sorted(files)
    assert set(files) == {path.name for path in (MODELS / "qwen3-like").iterdir()}
    for name, digest in files.items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_folders_other_than_by_absolute_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert load_model("model").id == "model"
    assert load_model("./model/").tokenizer.vocab_size > 0
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_model("~/model").path == folder


@pytest.mark.parametrize("path", sorted(p for p in MODELS.iterdir() if p.is_dir()), ids=lambda path: path.name)
def test_fixture_models_load_without_remarks(path: Path) -> None:
    assert load_model(path).notes == ()


@pytest.mark.shared
@pytest.mark.parametrize("name", ["yi-6b-chat", "llama-3.2-instruct", "exaone-3.5-2.4b-instruct", "phi-3-mini"])
def test_real_models_load(name: str) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"../shared/models/{name} is not there")
    model = load_model(SHARED / name)
    assert model.chat_template == model.tokenizer.chat_template
    assert len(model.tokenizer) > 30_000


def test_python_tokenizer_without_vocabulary(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}', encoding="utf-8")
    assert not load_model(tmp_path).tokenizer.is_fast


def test_loading_is_quiet_and_leaves_no_trace(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import transformers
    from huggingface_hub.utils import are_progress_bars_disabled

    library = logging.getLogger("transformers")
    before = (list(library.handlers), library.level, library.propagate, are_progress_bars_disabled(), dict(os.environ))
    edit(folder / "config.json", lambda data: data.update(model_type="nobody-knows"))
    load_model(folder)
    (folder / "tokenizer.json").write_text("[" * 2000, encoding="utf-8")
    refusal(folder)
    assert capfd.readouterr() == ("", "")
    after = (list(library.handlers), library.level, library.propagate, are_progress_bars_disabled(), dict(os.environ))
    assert after == before
    transformers.logging.get_logger("transformers.test").warning("still heard")
    print("and stderr is back", file=sys.stderr)
    os.write(2, b"with its descriptor\n")
    heard = capfd.readouterr().err
    assert "and stderr is back\nwith its descriptor" in heard


def test_what_transformers_warns_about_is_noted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    original = AutoTokenizer.from_pretrained

    def talkative(*args: Any, **options: Any) -> Any:
        logging.getLogger("transformers.models.x.tokenization_x").warning("Mind the %s.\nIt is there.", "gap")
        logging.getLogger("transformers.configuration_utils").warning("Nothing about tokens.")
        return original(*args, **options)

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", talkative)
    notes = load_model(folder).notes
    assert notes == (f"transformers {version('transformers')} warns: Mind the gap. It is there.",)


# --- what cannot be loaded --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "../nowhere", "~/nowhere", "nowhere.gguf"])
def test_missing_folder(name: str) -> None:
    assert refusal(name).startswith(f"There is no folder {name}")


@pytest.mark.parametrize("name", ["", "a/b/c", "@main", "hf://", "https://huggingface.co/a/b"])
def test_names_that_are_neither(name: str) -> None:
    with pytest.raises((UsageError, ModelError), match=r"neither a folder here nor a hub name"):
        load_model(name)


def test_contradicting_revisions(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"asks for revision `v1` and --revision for `v2`"):
        load_model("org/name@v1", revision="v2")
    with pytest.raises(UsageError, match=r"is local, so --revision v1 does not apply"):
        load_model(folder, revision="v1")


def test_folder_without_tokenizer(tmp_path: Path) -> None:
    assert "holds no tokenizer" in refusal(tmp_path)
    # transformers 5 would make an empty tokenizer of this
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}', encoding="utf-8")
    assert "holds no tokenizer (no tokenizer.json, tokenizer.model" in refusal(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}', encoding="utf-8")
    assert "is an adapter without a tokenizer; audit its base model org/base." in refusal(tmp_path)


def test_file_that_is_no_model(folder: Path) -> None:
    assert "is a file; name the model's folder" in refusal(folder / "tokenizer.json")


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 11422654\n"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("tokenizer.json", "", "tokenizer.json is empty"),
        ("tokenizer.json", " \n", "tokenizer.json is empty"),
        ("tokenizer.json", LFS, "tokenizer.json is only a Git LFS pointer; run `git lfs pull`"),
        ("tokenizer.json", "{}", "tokenizer.json cannot be read by tokenizers"),
        ("tokenizer.json", "[]", "tokenizer.json must hold a JSON object"),
        ("tokenizer.json", '{"version": "1.0",\n' + " " * 2000, "tokenizer.json is not valid JSON (line 2, column"),
        ("tokenizer.json", "<html>" + "x" * 2000, "tokenizer.json is not valid JSON (line 1, column 1"),
        ("tokenizer_config.json", "{,}", "tokenizer_config.json is not valid JSON (line 1, column 2"),
        ("tokenizer_config.json", "[]", "tokenizer_config.json must hold a JSON object"),
        ("config.json", "{", "config.json is not valid JSON"),
        ("generation_config.json", "", "generation_config.json is empty"),
        ("config.json", '{"a": ' + "9" * 5000 + "}", "config.json holds a number with too many digits"),
        ("tokenizer_config.json", '{"model_max_length": "many"}', "`model_max_length` must be a number"),
        ("special_tokens_map.json", "{", "special_tokens_map.json is not valid JSON"),
    ],
)
def test_broken_files(folder: Path, name: str, content: str, sentence: str) -> None:
    if name == "special_tokens_map.json":  # read only where tokenizer_config.json has no added_tokens_decoder
        edit(folder / "tokenizer_config.json", lambda data: data.pop("added_tokens_decoder", None))
    (folder / name).write_text(content, encoding="utf-8")
    text = refusal(folder)
    assert sentence in text
    assert str(folder / name) in text


@pytest.mark.parametrize(
    ("given", "stops"),
    [(7, {7}), ([7, 8], {7, 8}), (None, set()), ("abc", set()), ([True, None, 1.5, -1, 1 << 40, 7], {7})],
)
def test_odd_values_among_the_stop_tokens(folder: Path, given: object, stops: set[int]) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": given}), encoding="utf-8")
    model = load_model(folder)
    assert model.configured_stops == stops
    assert model.stop_token_ids == stops | {model.tokenizer.eos_token_id}


def test_half_a_tokenizer_json(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:5000])
    assert f"{path} is not valid JSON" in refusal(folder)


def test_pattern_that_does_not_compile(folder: Path) -> None:
    split = {"type": "Split", "pattern": {"Regex": "(a+"}, "behavior": "Isolated", "invert": False}
    edit(folder / "tokenizer.json", lambda data: data.update(pre_tokenizer=split))
    text = refusal(folder)
    assert f"{folder / 'tokenizer.json'} cannot be read by tokenizers {version('tokenizers')}" in text
    assert "unmatched parenthesis" in text


def test_panic_while_loading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    class PanicException(BaseException):  # the name under which pyo3 raises
        pass

    def broken(*args: Any, **options: Any) -> None:
        raise PanicException("index out of bounds")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", broken)
    assert "cannot load the tokenizer of" in refusal(folder)
    assert "PanicException: index out of bounds" in refusal(folder)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, MemoryError])
def test_interruptions_pass(folder: Path, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]) -> None:
    from transformers import AutoTokenizer

    def interrupted(*args: Any, **options: Any) -> None:
        raise kind

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", interrupted)
    with pytest.raises(kind):
        load_model(folder)


def test_remote_code_needs_the_option(folder: Path) -> None:
    def custom(data: dict[str, Any]) -> None:
        data.update(auto_map={"AutoTokenizer": ["custom.Custom", None]}, tokenizer_class="Custom")

    edit(folder / "tokenizer_config.json", custom)
    (folder / "tokenizer.json").unlink()
    (folder / "custom.py").write_text("raise RuntimeError('ran')\n", encoding="utf-8")
    assert "pass --trust-remote-code" in refusal(folder)
    (folder / "vocab.txt").write_text("a\n", encoding="utf-8")
    assert "pass --trust-remote-code" in refusal(folder)


def test_remote_code_runs_with_the_option(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import transformers.dynamic_module_utils as dynamic

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    (folder / "custom.py").write_text(
        "from transformers import PreTrainedTokenizerFast\nclass Custom(PreTrainedTokenizerFast):\n    mine = True\n",
        encoding="utf-8",
    )
    edit(
        folder / "tokenizer_config.json", lambda data: data.update(auto_map={"AutoTokenizer": [None, "custom.Custom"]})
    )
    model = load_model(folder, trust_remote_code=True)
    assert model.tokenizer.mine
    assert "custom.py" in {file.path for file in model.files}
    assert "custom.py" not in {file.path for file in load_model(MODELS / "qwen3-like", trust_remote_code=True).files}


def test_missing_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    def lacking(*args: Any, **options: Any) -> None:
        raise ImportError("\nX requires the foo library but it was not found. Install it with `pip install foo-bar`.\n")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lacking)
    assert f"The tokenizer of {folder} needs the Python package foo-bar; install it" in refusal(folder)


def test_unknown_class(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", lambda data: data.update(tokenizer_class="FutureTokenizer"))
    if version("transformers").startswith("4."):
        assert "asks for the tokenizer class FutureTokenizer, which transformers 4" in refusal(folder)
    else:  # transformers 5 takes its general class
        assert load_model(folder).tokenizer.is_fast


def test_junk_in_place_of_a_sentencepiece_model(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"junk" * 100)
    edit(folder / "tokenizer_config.json", lambda data: data.update(tokenizer_class="LlamaTokenizer"))
    assert f"cannot load the tokenizer of {folder}" in refusal(folder)


# --- GGUF as the model ------------------------------------------------------------------------------


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    """A GGUF file with a fixture's vocabulary."""
    tokenizer = json.loads((MODELS / "qwen25-like" / "tokenizer.json").read_text(encoding="utf-8"))
    metadata = tokenizer_metadata(tokenizer) | {"tokenizer.chat_template": "G"}
    (tmp_path / "gguf").mkdir()
    return write_gguf(tmp_path / "gguf" / "m.gguf", metadata)


@pytest.mark.parametrize("by_folder", [False, True])
def test_gguf_as_model(gguf: Path, by_folder: bool) -> None:
    """Where transformers can (it wants torch and gguf) the ids are the vocabulary's; elsewhere it is a sentence."""
    name = gguf.parent if by_folder else gguf
    if find_spec("torch") is None or find_spec("gguf") is None:
        text = refusal(name)
        assert f"cannot load the tokenizer of {gguf}" in text
        assert "it needs the packages torch and gguf" in text
        return
    model = load_model(name)
    text = "Good morning<|im_end|>\n"
    assert model.tokenizer.encode(text) == load_model(MODELS / "qwen25-like").tokenizer.encode(text)
    assert model.chat_templates == {"default": "G"}
    assert [file.path for file in model.files] == ["m.gguf#metadata"]


def test_broken_gguf_as_model(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 16)
    assert "is not a sound GGUF file" in refusal(path)


def test_several_gguf_files_need_a_name(gguf: Path) -> None:
    shutil.copy(gguf, gguf.with_name("n.gguf"))
    assert "holds no tokenizer files but 2 .gguf files; name one of them" in refusal(gguf.parent)
