"""The chat template as an encoder: transformers' ids, the implied mask, turns and generation prompts."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import pytest

from template_audit.conversation import Conversation
from template_audit.errors import EncodingError, UsageError
from template_audit.frameworks import get_framework, load_encoder
from template_audit.frameworks.interface import TokenizerEffects
from template_audit.stream import DEFAULT_SYSTEM, IGNORE, EncodedStream
from tests.rendering import FIXTURES, WEATHER, by_transformers, conversations, load, stopped_clock, with_template

CONVERSATIONS = conversations()
BY_ID = {conversation.id: conversation for conversation in CONVERSATIONS}
MODELS = sorted(path.name for path in (FIXTURES / "models").iterdir() if path.name != "base-no-template")
SAY_HELLO = Conversation.from_openai([{"role": "user", "content": "hello"}, {"role": "assistant", "content": "bye"}])


def streams(name: str, **options: Any) -> list[tuple[Conversation, EncodedStream]]:
    """Every conversation that the model's template can render."""
    encoded = load_encoder("chat-template", load(name), **options).encode_batch(CONVERSATIONS, keep_errors=True)
    return [(c, s) for c, s in zip(CONVERSATIONS, encoded, strict=True) if isinstance(s, EncodedStream)]


def trained(stream: EncodedStream) -> list[str]:
    """The text of each run of trained tokens."""
    runs = groupby(range(len(stream)), key=lambda index: stream.labels[index] != IGNORE)
    found = [list(indices) for kept, indices in runs if kept]
    return [stream.text[stream.spans[indices[0]][0] : stream.spans[indices[-1]][1]] for indices in found]


def turns(stream: EncodedStream) -> list[tuple[int | None, str, str]]:
    return [(turn.message, turn.role, stream.text[turn.char_start : turn.char_end]) for turn in stream.turns]


def by_hand(name: str, messages: Sequence[dict[str, Any]] | str, **options: Any) -> EncodedStream:
    conversation = BY_ID[messages] if isinstance(messages, str) else Conversation.from_openai(list(messages))
    return load_encoder("chat-template", load(name), **options).encode(conversation)


@pytest.mark.parametrize("name", MODELS)
def test_ids_are_those_of_apply_chat_template(name: str) -> None:
    model, compared = load(name), 0
    for conversation, stream in streams(name):
        tools = list(conversation.tools) if conversation.tools else None
        messages = conversation.openai_messages()
        with stopped_clock():
            ids = model.tokenizer.apply_chat_template(messages, tools=tools, tokenize=True, return_dict=False)
        assert stream.input_ids == ids
        assert stream.text == by_transformers(model, conversation)
        for prompt in stream.prompts:
            expected = by_transformers(model, conversation, count=prompt.message, add_generation_prompt=True)
            if prompt.error is not None:
                assert prompt.message == 0 or isinstance(expected, Exception)
                continue
            assert prompt.text == expected
            assert prompt.input_ids == model.tokenizer(expected, add_special_tokens=False)["input_ids"]
            compared += 1
    assert compared >= 15


@pytest.mark.parametrize("name", MODELS)
def test_streams_are_well_formed(name: str) -> None:
    for conversation, stream in streams(name):
        size = len(stream)
        assert len(stream.labels) == len(stream.spans) == size
        assert all(label in (IGNORE, token) for label, token in zip(stream.labels, stream.input_ids, strict=True))
        first, last = stream.turns[0], stream.turns[-1]
        assert (first.start, first.char_start, last.end, last.char_end) == (0, 0, size, len(stream.text))
        for one, other in zip(stream.turns, stream.turns[1:], strict=False):
            assert (one.end, one.char_end) == (other.start, other.char_start)
        assert [t.message for t in stream.turns if t.message is not None] == list(range(len(conversation.messages)))
        for turn in stream.turns:
            if turn.role != "assistant":
                assert set(stream.labels[turn.start : turn.end]) <= {IGNORE}


@pytest.mark.parametrize("name", MODELS)
def test_what_a_message_says_is_in_its_own_turn(name: str) -> None:
    for conversation, stream in streams(name):
        if conversation.id in ("late-system", "parallel_tool_calls", "calls-and-results"):
            continue  # some templates move these about
        for start, end, origin in stream.pieces:
            if origin.message is not None and origin.field != "other":
                turn = next(turn for turn in stream.turns if turn.message == origin.message)
                assert turn.char_start <= start
                assert end <= turn.char_end, (conversation.id, stream.text[start:end])


@pytest.mark.parametrize("name", MODELS)
def test_the_mask_follows_the_generation_prompt(name: str) -> None:
    """Before the first trained token of a turn stands what inference shows; its last one stops inference."""
    model = load(name)
    stops = model.stop_token_ids
    seen = 0
    for conversation, stream in streams(name):
        for prompt in stream.prompts:
            turn = next(turn for turn in stream.turns if turn.message == prompt.message)
            labels = stream.labels[turn.start : turn.end]
            if prompt.error or stream.input_ids[: len(prompt.input_ids)] != prompt.input_ids:
                continue
            start = len(prompt.input_ids)
            assert set(stream.labels[turn.start : start]) <= {IGNORE}, conversation.id
            assert stream.labels[start] != IGNORE, conversation.id
            kept = [label for label in labels if label != IGNORE]
            assert kept == stream.input_ids[start : start + len(kept)]
            message = conversation.messages[prompt.message]
            if not any(mark in str(message) for mark in ("<|", "[|", "</s>", "<end", "｜>")):
                assert [label in stops for label in kept] == [False] * (len(kept) - 1) + [True]
                seen += 1
    assert seen >= (4 if name == "deepseek-like" else 15)  # its prompt opens a thought, so is seldom what follows


def test_the_mask_is_that_of_generation_tags() -> None:
    """The template of this model tags what the model writes: transformers' own mask is the same."""
    model, compared = load("chatml-generation"), 0
    for conversation, stream in streams("chatml-generation"):
        if conversation.tools:
            continue  # its tool template has no tags
        mask = model.tokenizer.apply_chat_template(
            conversation.openai_messages(), return_assistant_tokens_mask=True, return_dict=True, tokenize=True
        )["assistant_masks"]
        assert [label != IGNORE for label in stream.labels] == [bool(bit) for bit in mask], conversation.id
        compared += sum(mask)
    assert compared > 300


TALK = [
    {"role": "user", "content": "One"},
    {"role": "assistant", "content": "Uno", "reasoning": "first"},
    {"role": "user", "content": "Two"},
    {"role": "assistant", "content": " Dos ", "reasoning": "second"},
]


def test_chatml() -> None:
    stream = by_hand("qwen25-like", TALK)
    assert turns(stream) == [
        (
            None,
            "system",
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n",
        ),
        (0, "user", "<|im_start|>user\nOne<|im_end|>\n"),
        (1, "assistant", "<|im_start|>assistant\nUno<|im_end|>\n"),
        (2, "user", "<|im_start|>user\nTwo<|im_end|>\n"),
        (3, "assistant", "<|im_start|>assistant\n Dos <|im_end|>\n"),
    ]
    assert trained(stream) == ["Uno<|im_end|>", " Dos <|im_end|>"]


def test_thinking_that_earlier_turns_lose() -> None:
    stream = by_hand("qwen3-like", TALK)
    assert turns(stream)[1] == (1, "assistant", "<|im_start|>assistant\nUno<|im_end|>\n")
    assert trained(stream) == ["Uno<|im_end|>", "<think>\nsecond\n</think>\n\n Dos <|im_end|>"]
    off = by_hand("qwen3-like", [TALK[0], {"role": "assistant", "content": "Uno"}], enable_thinking=False)
    assert off.prompts[0].text == "<|im_start|>user\nOne<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert trained(off) == ["Uno<|im_end|>"]


def test_a_generation_prompt_that_opens_a_thought() -> None:
    """What is shown is not what the text has; the mask begins behind what they share."""
    stream = by_hand("deepseek-like", TALK)
    assert stream.prompts[0].text.endswith("<｜Assistant｜><think>\n")
    assert turns(stream) == [
        (None, "", "<｜begin▁of▁sentence｜>"),
        (0, "user", "<｜User｜>One"),
        (1, "assistant", "<｜Assistant｜>Uno<｜end▁of▁sentence｜>"),
        (2, "user", "<｜User｜>Two"),
        (3, "assistant", "<｜Assistant｜> Dos <｜end▁of▁sentence｜>"),
    ]
    assert trained(stream) == ["Uno<｜end▁of▁sentence｜>", " Dos <｜end▁of▁sentence｜>"]


def test_a_conversation_that_ends_with_more_than_a_turn() -> None:
    """No prefix is exact here: each ends with a token that the full text has at its end only."""
    stream = by_hand("phi-like", TALK)
    assert turns(stream) == [
        (0, "user", "<|user|>\nOne<|end|>\n"),
        (1, "assistant", "<|assistant|>\nUno<|end|>\n"),
        (2, "user", "<|user|>\nTwo<|end|>\n"),
        (3, "assistant", "<|assistant|>\n Dos <|end|>\n<|endoftext|>"),
    ]
    # Markers swallow the white space behind them, so the blank before Dos is not seen by the model.
    assert trained(stream) == ["Uno<|end|>\n", "Dos <|end|>\n"]


def test_markers_that_are_no_tokens() -> None:
    stream = by_hand("exaone35-like", TALK)
    assert turns(stream)[0] == (None, "system", "[|system|][|endofturn|]\n")
    assert turns(stream)[1:3] == [(0, "user", "[|user|]One\n"), (1, "assistant", "[|assistant|]Uno[|endofturn|]\n")]
    assert trained(stream) == ["Uno[|endofturn|]", " Dos [|endofturn|]"]
    assert not [piece for piece in stream.pieces if piece.origin == DEFAULT_SYSTEM]


def test_instructions_in_brackets() -> None:
    stream = by_hand("mistral-like", TALK)
    assert turns(stream)[:3] == [(None, "", "<s>"), (0, "user", "[INST] One [/INST]"), (1, "assistant", "Uno</s>")]
    assert trained(stream) == ["Uno</s>", " Dos </s>"]


def test_a_dated_system_block_that_nobody_gave() -> None:
    stream = by_hand("llama3-like", TALK)
    _, role, block = turns(stream)[0]
    assert role == "system"
    assert block.startswith("<|begin_of_text|><|start_header_id|>system<|end_header_id|>")
    assert block.endswith("Today Date: 26 Jul 2024\n\n<|eot_id|>")
    assert trained(stream) == ["Uno<|eot_id|>", "Dos<|eot_id|>"]
    given = by_hand("llama3-like", [{"role": "system", "content": "S"}, *TALK], clock="2031-02-03")
    assert turns(given)[0] == (None, "", "<|begin_of_text|>")
    assert "Today Date: 03 Feb 2031\n\nS<|eot_id|>" in turns(given)[1][2]


def test_a_tool_call_is_trained_with_its_marker() -> None:
    stream = by_hand("qwen25-like", "bare-call")
    assert trained(stream) == [
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "A \\"b\\"\\n\\\\ é 🌤", "days": 2}}\n'
        "</tool_call><|im_end|>",
        "Done<|im_end|>",
    ]
    assert turns(stream)[3] == (2, "tool", "<|im_start|>user\n<tool_response>\n\n</tool_response><|im_end|>\n")


def test_an_end_marker_that_waits_for_the_next_turn() -> None:
    """This template closes a tool's turn when the next one begins; inference never sees it closed."""
    stream = by_hand("hermes-like", "calls-and-results")
    assert [text for _, role, text in turns(stream) if role == "tool"] == [
        '<|im_start|>tool\n<tool_response>\n{"sky": "blue"}\n</tool_response>\n',
        "<tool_response>\ngrey\n</tool_response>\n<|im_end|>",
    ]
    assert turns(stream)[6] == (5, "assistant", "<|im_start|>assistant\nBlue, then grey.<|im_end|>\n")
    assert trained(stream)[1:] == ["Blue, then grey.<|im_end|>", "Welcome.<|im_end|>"]


def test_messages_that_a_template_drops_have_empty_turns() -> None:
    stream = by_hand("phi-like", "calls-and-results")
    assert [text for _, role, text in turns(stream) if role == "tool"] == ["", ""]
    assert turns(stream)[5] == (5, "assistant", "<|assistant|>\nBlue, then grey.<|end|>\n")


def test_a_default_system_prompt_is_told_from_the_rest() -> None:
    def marked(name: str, messages: Any) -> list[str]:
        stream = by_hand(name, messages)
        return [stream.text[start:end] for start, end, origin in stream.pieces if origin == DEFAULT_SYSTEM]

    default = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    assert marked("qwen25-like", TALK) == [default]
    assert marked("qwen25-like", "bare-call") == [default]
    assert marked("qwen25-like", [{"role": "system", "content": "S"}, *TALK]) == []
    for name in ("qwen3-like", "llama3-like", "gemma-like", "mistral-like", "chatml-plain", "phi-like"):
        assert marked(name, TALK) == []


def test_without_a_marker_the_answer_ends_with_its_last_visible_character() -> None:
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}"
    prompt = "{% if add_generation_prompt %}assistant: {% endif %}"
    model = with_template(load("chatml-plain"), template + prompt)
    stream = load_encoder("chat-template", model).encode(SAY_HELLO)
    assert trained(stream) == [" bye"]  # the prompt's blank is one token with the answer's first word
    bare = load_encoder("chat-template", with_template(model, template)).encode(SAY_HELLO)
    assert trained(bare) == ["assistant: bye"]  # inference shows no header, so the model has to write it


def test_a_prompt_that_cannot_be_rendered() -> None:
    template = (
        "{% if add_generation_prompt %}{{ raise_exception('No.') }}{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    )
    stream = load_encoder("chat-template", with_template(load("chatml-plain"), template)).encode(SAY_HELLO)
    assert stream.prompts[0].error == "The chat template refuses this conversation: No."
    assert stream.prompts[0].input_ids == []
    assert trained(stream) == ["bye<|im_end|>"]


def test_an_assistant_that_speaks_first() -> None:
    stream = by_hand("chatml-plain", "assistant-first")
    assert stream.prompts[0].message == 0
    assert stream.prompts[0].error == "There is no message before it, so inference has nothing to show."
    assert trained(stream) == ["Hello<|im_end|>"]


def test_a_batch_is_the_same_as_one_by_one() -> None:
    encoder = load_encoder("chat-template", load("mistral-like"))
    batch = encoder.encode_batch(CONVERSATIONS, keep_errors=True)
    assert any(isinstance(result, EncodingError) for result in batch)
    for conversation, result in zip(CONVERSATIONS, batch, strict=True):
        if isinstance(result, EncodingError):
            with pytest.raises(EncodingError, match=r"refuses|fails") as caught:
                encoder.encode(conversation)
            assert (str(caught.value), caught.value.kind) == (str(result), "role-unsupported")
        else:
            assert encoder.encode(conversation) == result
    with pytest.raises(EncodingError):
        encoder.encode_batch(CONVERSATIONS)
    assert encoder.encode_batch([]) == []


def test_text_that_cannot_be_tokenized_spoils_only_its_own_conversation() -> None:
    broken = Conversation.from_openai([{"role": "user", "content": "\ud800"}, {"role": "assistant", "content": "x"}])
    encoder = load_encoder("chat-template", load("chatml-plain"))
    first, second = encoder.encode_batch([broken, SAY_HELLO], keep_errors=True)
    assert isinstance(first, EncodingError)
    assert isinstance(second, EncodedStream)
    assert isinstance(encoder.encode_batch([broken], keep_errors=True)[0], EncodingError)
    with pytest.raises(EncodingError):
        encoder.encode(broken)


def test_limits_reach_the_user_as_errors_of_their_kind() -> None:
    for template, kind in [
        ("{{ 'x' * 10000000 }}", "template-too-large"),
        ("{{ ''.__class__.__mro__ }}", "unsafe-template-access"),
        ("{% if %}", "template-broken"),
    ]:
        (error,) = load_encoder("chat-template", with_template(load("chatml-plain"), template)).encode_batch(
            [SAY_HELLO], keep_errors=True
        )
        assert isinstance(error, EncodingError)
        assert error.kind == kind
    missing = load_encoder("chat-template", load("base-no-template"))
    with pytest.raises(EncodingError, match="has no chat template") as caught:
        missing.encode(SAY_HELLO)
    assert caught.value.kind == "template-missing"


def test_text_of_unknown_origin_is_said_to_be_so() -> None:
    model = with_template(load("chatml-plain"), "{{ cycler(1).next }}")
    assert "tracing failed" in load_encoder("chat-template", model).encode(SAY_HELLO).notes[0]
    assert by_hand("chatml-plain", TALK).notes == ()


def test_specs_and_options() -> None:
    model = load("hermes-like")
    framework = get_framework("chat-template")
    assert (framework.name, framework.title, list(framework.versions()), list(framework.templates())) == (
        *("chat-template", "chat template"),
        *([], []),
    )
    choice = framework.choose(model)
    assert choice is not None
    assert choice.template is None
    assert framework.choose(load("base-no-template")) is None
    encoder = load_encoder("chat-template:tool_use", model, template_kwargs={"x": 1})
    assert (encoder.spec, encoder.effects) == ("chat-template:tool_use", TokenizerEffects())
    assert dict(encoder.options) == {
        "enable_thinking": None,
        "template_kwargs": {"x": 1},
        "clock": "2024-07-26T12:00:00",
    }
    assert load_encoder("chat-template", model).spec == "chat-template"
    tools = replace(SAY_HELLO, tools=(WEATHER,))
    assert encoder.encode(tools).text == load_encoder("chat-template", model).encode(tools).text
    for spec, options, match in [
        (
            "chat-template:tool_usd",
            {},
            "no chat template named `tool_usd`; it has default, tool_use. Did you mean `tool_use`",
        ),
        ("chat-template@1:default", {}, "has no versions"),
        ("chat-template", {"enable_thinkin": True}, "Did you mean `enable_thinking`"),
        ("chat-template", {"enable_thinking": "yes"}, "takes bool or null"),
        ("chat-template", {"template_kwargs": "x"}, "takes map"),
        ("chat-template", {"template_kwargs": {"messages": 1}}, "`messages` cannot be given"),
        ("chat-template", {"clock": "noon"}, "ISO date"),
    ]:
        with pytest.raises(UsageError, match=match.replace("(", r"\(")):
            load_encoder(spec, model, **options)


def test_template_variables_reach_the_template() -> None:
    model = with_template(load("chatml-plain"), "{{ x }}{{ enable_thinking }}{{ messages|length }}")
    encoder = load_encoder(
        "chat-template", model, template_kwargs={"x": "é", "enable_thinking": True}, enable_thinking=False
    )
    assert encoder.encode(SAY_HELLO).text == "éTrue2"
    encoder = load_encoder("chat-template", model, template_kwargs={"x": "é"}, enable_thinking=False)
    assert encoder.encode(SAY_HELLO).text == "éFalse2"


def test_the_model_stays_as_it_was() -> None:
    model = load("qwen25-like")
    before = copy.deepcopy(
        (model.tokenizer.get_vocab(), model.tokenizer.special_tokens_map, model.tokenizer.chat_template)
    )
    streams("qwen25-like", enable_thinking=True, template_kwargs={"bos_token": "x"})
    assert before == (model.tokenizer.get_vocab(), model.tokenizer.special_tokens_map, model.tokenizer.chat_template)
