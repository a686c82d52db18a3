"""The tokenizer's copy and the changes made to it, against the same steps on a tokenizer loaded afresh."""

from __future__ import annotations

from typing import Any

import pytest

from template_audit.errors import UsageError
from template_audit.frameworks.llamafactory.behaviours import Behaviours
from template_audit.frameworks.llamafactory.registry import Formatter, TemplateSpec, load_registry
from template_audit.frameworks.llamafactory.saved_template import saved_template
from template_audit.frameworks.llamafactory.special_tokens import copy_tokenizer, fixed_tokenizer
from tests.frameworks.llamafactory.vectors import ROOT, conversations, model_of

TEMPLATES = load_registry("0.9.5").templates
LOCAL = sorted(path.name for path in (ROOT / "fixtures" / "models").iterdir() if (path / "tokenizer.json").exists())
REAL = (
    "exaone-3.5-2.4b-instruct",
    "qwen2.5-instruct",
    "llama-3.2-instruct",
    "mistral-7b-instruct-v0.2",
    "phi-3-mini",
    "qwen3",
    "yi-6b-chat",
)
MODELS = [*LOCAL, *(pytest.param(name, marks=pytest.mark.shared) for name in REAL)]


def texts() -> list[str]:
    """The shorter texts of the recorded conversations, and some that added tokens treat in their own way."""
    every = [text for c in conversations().values() for m in c.messages for text in (m.content, m.reasoning) if text]
    out = [text for text in every if len(text) < 300]
    return [
        *out,
        " <|eot_id|> ",
        "a<|im_end|>b",
        "<|end|>  x",
        "ordinary </s>text",
        "\n<|user|>\n",
        "<think>hm</think>",
    ]


def state(tokenizer: Any) -> Any:
    """Everything about a tokenizer that a change could touch."""
    added = {
        i: (str(t), t.lstrip, t.rstrip, t.normalized, t.special) for i, t in tokenizer.added_tokens_decoder.items()
    }
    special = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token)
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts()]
    return len(tokenizer), added, special, sorted(map(str, tokenizer.all_special_tokens)), tokenizer.chat_template, ids


def loaded(name: str) -> Any:
    """A tokenizer that nobody has touched."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model_of(name).path)


@pytest.mark.parametrize("name", MODELS)
def test_the_copy_behaves_like_a_fresh_tokenizer(name: str) -> None:
    original, fresh = model_of(name).tokenizer, loaded(name)
    before = state(original)
    ours = copy_tokenizer(original, lambda: loaded(name))
    assert type(ours) is type(original)
    assert state(ours) == state(fresh) == before
    for tokenizer in (ours, fresh):
        tokenizer.add_special_tokens({"eos_token": "<|brand_new|>"})
        tokenizer.add_special_tokens({"additional_special_tokens": ["ordinary", "<|end|>", "<|user|>", "</s>"]})
        tokenizer.pad_token = tokenizer.eos_token
    assert state(ours) == state(fresh)
    assert state(original) == before
    assert ours.backend_tokenizer.to_str() == fresh.backend_tokenizer.to_str()


@pytest.mark.shared
def test_a_copy_that_would_differ_is_not_used() -> None:
    """On transformers 4.57 Yi's tokenizer finds its special tokens before the normaliser runs, and tells nobody."""
    original = model_of("yi-6b-chat").tokenizer
    text = "end <|endoftext|> [x"
    ours = copy_tokenizer(original, lambda: loaded("yi-6b-chat"))
    assert ours.encode(text, add_special_tokens=False) == original.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("name", ["exaone35-like", "llama3-like", "mistral-like", "phi-like"])
def test_every_template_leaves_the_model_alone(name: str) -> None:
    original = model_of(name).tokenizer
    before = state(original)
    for spec in TEMPLATES.values():
        fixed_tokenizer(original, spec, Behaviours())
    assert state(original) == before


@pytest.mark.parametrize("name", ["exaone35-like", "llama3-like", "mistral-like", "phi-like"])
@pytest.mark.parametrize("template", ["llama3", "exaone", "phi", "gemma", "qwen3", "mistral"])
def test_same_ids_as_the_steps_on_a_fresh_tokenizer(name: str, template: str) -> None:
    original, spec = model_of(name).tokenizer, TEMPLATES[template]
    theirs = loaded(name)
    words = list(spec.stop_words)
    if spec.replace_eos and theirs.eos_token != words[0]:
        theirs.add_special_tokens({"eos_token": words[0]})
    if spec.replace_eos:
        words = words[1:]
    if theirs.pad_token_id is None:
        theirs.pad_token = theirs.eos_token
    if words:
        try:
            theirs.add_special_tokens({"additional_special_tokens": words}, replace_additional_special_tokens=False)
        except TypeError:
            theirs.add_special_tokens({"additional_special_tokens": words})
    ours, effects = fixed_tokenizer(original, spec, Behaviours())
    assert state(ours)[:3] == state(theirs)[:3]
    assert state(ours)[-1] == state(theirs)[-1]
    assert len(effects.added_tokens) == len(theirs) - len(original)


@pytest.mark.shared
def test_effects_of_llama3_on_exaone() -> None:
    fixed, effects = fixed_tokenizer(model_of("exaone-3.5-2.4b-instruct").tokenizer, TEMPLATES["llama3"], Behaviours())
    assert effects.added_tokens == ("<|eot_id|>", "<|eom_id|>")
    assert effects.made_special == ()
    assert effects.eos_token == ("[|endofturn|]", "<|eot_id|>")
    assert effects.pad_token == ("[PAD]", "[PAD]")
    assert effects.chat_template[0] == effects.chat_template[1] is not None
    assert fixed.convert_tokens_to_ids("<|eot_id|>") >= 102400


@pytest.mark.shared
def test_nothing_changes_where_all_is_there() -> None:
    _, effects = fixed_tokenizer(model_of("qwen2.5-instruct").tokenizer, TEMPLATES["qwen"], Behaviours())
    assert effects.added_tokens == effects.made_special == ()
    assert effects.eos_token == ("<|im_end|>", "<|im_end|>")


def test_an_ordinary_word_becomes_special() -> None:
    tokenizer = model_of("exaone35-like").tokenizer
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    ordinary = [t for t in sorted(tokenizer.get_vocab()) if t.isascii() and t.isalpha() and t not in added]
    inside = "q{}q".format
    word = next(
        t
        for t in ordinary
        if tokenizer.convert_tokens_to_ids(t) not in tokenizer.encode(inside(t), add_special_tokens=False)
    )
    fixed, effects = fixed_tokenizer(tokenizer, spec_of("ordinary", stop_words=(word,)), Behaviours())
    assert effects.made_special == (word,)
    assert effects.added_tokens == ()
    assert len(fixed) == len(tokenizer)
    assert tokenizer.convert_tokens_to_ids(word) in fixed.encode(inside(word), add_special_tokens=False)


def test_eos_without_stop_words_is_refused() -> None:
    with pytest.raises(UsageError, match="no stop words"):
        fixed_tokenizer(model_of("llama3-like").tokenizer, spec_of("broken", replace_eos=True), Behaviours())


def test_a_template_is_written_where_none_was() -> None:
    tokenizer = model_of("base-no-template").tokenizer
    fixed, effects = fixed_tokenizer(tokenizer, TEMPLATES["qwen"], Behaviours())
    assert effects.chat_template[0] is None
    assert effects.chat_template[1] == fixed.chat_template
    assert tokenizer.chat_template is None
    text = fixed.apply_chat_template([{"role": "user", "content": "it's"}], tokenize=False)
    assert text == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nit's<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_look_up_slot_has_no_saved_template() -> None:
    assert saved_template(TEMPLATES["chatglm3"], model_of("llama3-like").tokenizer) is None


def spec_of(name: str, **values: Any) -> TemplateSpec:
    """A template of no family."""
    text = Formatter("string", ("{{content}}",))
    parts = dict.fromkeys(["format_user", "format_assistant", "format_system", "format_observation"], text)
    return TemplateSpec(
        name=name,
        kind="plain",
        format_function=Formatter("function", ("{{content}}",), "default"),
        format_tools=Formatter("tool", (), "default"),
        format_prefix=Formatter("empty"),
        **parts,
        **values,
    )
