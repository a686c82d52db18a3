"""The encoder as others use it: streams, their spans and Origins, options, errors."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest

from template_audit.conversation import Conversation
from template_audit.errors import EncodingError, UsageError
from template_audit.frameworks import load_encoder
from template_audit.frameworks.interface import Choice
from template_audit.frameworks.llamafactory import FRAMEWORK
from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
from template_audit.frameworks.llamafactory.messages import Example, ExampleMessage
from template_audit.stream import IGNORE, EncodedStream, Origin
from tests.frameworks.llamafactory.vectors import SHARED, conversations, model_of

TEMPLATES = ("default", "llama3", "exaone", "qwen3", "llama2", "alpaca", "glm4", "glm4_7", "gpt_oss", "breeze")
TWO_TURNS = Conversation.from_openai(
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello there"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "안녕 👋🏽"},
        {"role": "assistant", "content": "반가워요 🎉"},
    ]
)


def encoder(template: str, model: str = "llama3-like", **options: Any) -> LlamaFactoryEncoder:
    made = load_encoder(f"llamafactory@0.9.5:{template}", model_of(model), **options)
    assert isinstance(made, LlamaFactoryEncoder)
    return made


def field_text(stream: EncodedStream, origin: Origin) -> str:
    return "".join(stream.text[piece.start : piece.end] for piece in stream.pieces if piece.origin == origin)


def trained(stream: EncodedStream) -> str:
    """The text of the trained tokens; a character that two tokens share counts once."""
    chars: set[int] = set()
    for label, (start, end) in zip(stream.labels, stream.spans, strict=True):
        if label != IGNORE:
            chars.update(range(start, end))
    return "".join(stream.text[i] for i in sorted(chars))


def well_formed(stream: EncodedStream, *extra_labels: int | None) -> None:
    assert len(stream.input_ids) == len(stream.labels) == len(stream.spans)
    labels = zip(stream.input_ids, stream.labels, strict=True)
    assert all(label in (IGNORE, token, *extra_labels) for token, label in labels)
    assert all(0 <= start <= end <= len(stream.text) for start, end in stream.spans)
    for tiles, last in ((stream.pieces, len(stream.text)), ([(t.char_start, t.char_end) for t in stream.turns], None)):
        edges = [0, *(tile[1] for tile in tiles)]
        assert [tile[0] for tile in tiles] == edges[:-1]
        if last is not None:
            assert edges[-1] == last
    if stream.turns:
        assert stream.turns[-1].end == len(stream)
        assert stream.turns[-1].char_end == len(stream.text)
        assert [t.start for t in stream.turns] == [0, *(t.end for t in stream.turns[:-1])]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("options", [{}, {"cutoff_len": 24}, {"mask_history": True, "cutoff_len": 60}])
@pytest.mark.parametrize("model", ["llama3-like", "mistral-like"])
def test_streams_are_well_formed(template: str, options: dict[str, Any], model: str) -> None:
    made = encoder(template, model, **options)
    every = list(conversations().values())
    streams = made.encode_batch(every, keep_errors=True)
    assert sum(isinstance(stream, EncodedStream) for stream in streams) > len(every) // 2
    for stream in streams:
        if isinstance(stream, EncodedStream):
            well_formed(stream, made.tokenizer.eos_token_id if made.template.efficient_eos else None)


@pytest.mark.parametrize("template", TEMPLATES)
def test_batch_is_the_same_as_one_by_one(template: str) -> None:
    made = encoder(template)
    for conversation, batched in zip(
        conversations().values(), made.encode_batch(list(conversations().values()), keep_errors=True), strict=True
    ):
        if isinstance(batched, EncodingError):
            with pytest.raises(EncodingError) as error:
                encoder(template).encode(conversation)
            assert (str(error.value), error.value.kind) == (str(batched), batched.kind)
        else:
            assert encoder(template).encode(conversation) == batched


@pytest.mark.parametrize("template", ["llama3", "exaone", "qwen", "mistral", "gpt_oss"])
def test_every_field_is_there_with_its_origin(template: str) -> None:
    stream = encoder(template).encode(TWO_TURNS)
    for i, message in enumerate(TWO_TURNS.messages):
        field = "system" if message.role == "system" else "content"
        assert field_text(stream, Origin(i, field)) == message.content
    assert [turn.message for turn in stream.turns if turn.message is not None] == (
        [1, 2, 3, 4] if template == "mistral" else [0, 1, 2, 3, 4]
    )


def test_origins_of_tools_reasoning_and_results() -> None:
    stream = encoder("qwen3").encode(conversations()["thought_tool"])
    assert field_text(stream, Origin(2, "reasoning")) == "The notes are searched by text."
    assert json.loads(field_text(stream, Origin(2, "tool_call", derived=True)))["name"] == "search_notes"
    assert field_text(stream, Origin(3, "tool_result")) == "Green tea, 70 °C."
    assert "search_notes" in field_text(stream, Origin(None, "tools", derived=True))
    joined = encoder("qwen3").encode(conversations()["parallel"])
    assert field_text(joined, Origin(2, "tool_result")) == "21"
    assert field_text(joined, Origin(3, "tool_result")) == "3 notes"
    assert "21\n</tool_response>\n<tool_response>\n3 notes" in joined.text
    assert any("text of message 1 is lost" in note for note in joined.notes)


def test_default_system_has_its_origin() -> None:
    stream = encoder("qwen").encode(conversations()["single"])
    assert field_text(stream, Origin(None, "default_system")).startswith("You are Qwen, created by Alibaba Cloud.")
    ours = encoder("qwen", default_system="Say no.").encode(conversations()["single"])
    assert field_text(ours, Origin(None, "default_system")) == "Say no."


def test_what_is_trained() -> None:
    assert trained(encoder("llama3").encode(TWO_TURNS)) == "Hi!<|eot_id|>반가워요 🎉<|eot_id|>"
    assert trained(encoder("llama3", mask_history=True).encode(TWO_TURNS)) == "반가워요 🎉<|eot_id|>"
    whole = encoder("llama3", train_on_prompt=True).encode(TWO_TURNS)
    assert whole.labels == whole.input_ids


def test_efficient_eos() -> None:
    made = encoder("breeze")
    stream = made.encode(TWO_TURNS)
    eos = made.tokenizer.eos_token_id
    later_prompt = next(turn.start for turn in stream.turns if turn.message == 3)
    assert stream.input_ids[-1] == stream.labels[-1] == eos
    # the label is not the token: the framework teaches eos in the place where the next prompt begins
    ids_and_labels = made.encode_ids([example(TWO_TURNS)])[0]
    assert not isinstance(ids_and_labels, EncodingError)
    assert ids_and_labels.labels[later_prompt] == eos != ids_and_labels.input_ids[later_prompt]


def example(conversation: Conversation) -> Example:
    rows = [ExampleMessage(m.role, m.content, i) for i, m in enumerate(conversation.messages) if m.role != "system"]
    return Example(tuple(rows[:-1]), tuple(rows[-1:]), conversation.system)  # type: ignore[arg-type]


def test_an_example_is_encoded_like_its_conversation() -> None:
    made = encoder("llama3")
    stream = made.encode_examples([dataclasses.replace(example(TWO_TURNS), system_message=0)])[0]
    assert stream == made.encode(TWO_TURNS)


def test_a_cut_answer() -> None:
    whole = encoder("llama3").encode(conversations()["single"])
    cut = encoder("llama3", cutoff_len=len(whole) - 4).encode(conversations()["single"])
    assert cut.input_ids == whole.input_ids[:-4]
    assert cut.text == whole.text[: cut.spans[-1][1]]
    assert cut.notes == (
        f"cutoff_len {len(whole) - 4} cuts turn 0's answer from {sum(label != IGNORE for label in whole.labels)} to "
        f"{sum(label != IGNORE for label in cut.labels)} tokens.",
    )


def test_turns_that_do_not_fit() -> None:
    stream = encoder("llama3", cutoff_len=24).encode(conversations()["overlong"])
    assert len(stream) == 24
    assert stream.notes[-1] == "cutoff_len 24 leaves out turn 1, 2."
    last = encoder("llama3", cutoff_len=24, mask_history=True).encode(conversations()["overlong"])
    assert last.notes[-1] == "cutoff_len 24 leaves out turn 0, 1."
    assert {turn.message for turn in last.turns} == {5, 6}


@pytest.mark.parametrize("cutoff_len", [0, -5])
def test_no_room_at_all(cutoff_len: int) -> None:
    stream = encoder("llama3", cutoff_len=cutoff_len).encode(conversations()["single"])
    assert (stream.input_ids, stream.labels, stream.turns, stream.pieces) == ([], [], [], [])


def test_packing_lowers_cutoff_len_by_one() -> None:
    conversation = conversations()["overlong"]
    packed = encoder("llama3", cutoff_len=51, neat_packing=True)
    assert packed.settings.packing
    assert packed.options["cutoff_len"] == 51
    assert packed.encode(conversation).input_ids == encoder("llama3", cutoff_len=50).encode(conversation).input_ids


def test_the_clock() -> None:
    text = encoder("llama3").encode(conversations()["unused_tools"]).text
    assert "Today Date: 26 Jul 2024\n" in text
    later = encoder("llama3", clock="2031-02-03T00:00:00").encode(conversations()["unused_tools"]).text
    assert "Today Date: 03 Feb 2031\n" in later


def dropped(*messages: tuple[str, str]) -> EncodingError:
    conversation = Conversation.from_openai([{"role": role, "content": text} for role, text in messages])
    with pytest.raises(EncodingError) as error:
        encoder("llama3").encode(conversation)
    return error.value


def test_what_the_framework_drops() -> None:
    assert dropped(("user", "a"), ("user", "b")).kind == "example-dropped"
    assert "Invalid role tag" in str(dropped(("user", "a"), ("user", "b")))
    assert "Invalid message count" in str(dropped(("user", "a"), ("assistant", "b"), ("user", "c")))
    assert "Dropped invalid example" in str(dropped(("system", "a")))
    late = dropped(("user", "a"), ("system", "b"), ("assistant", "c"))
    assert late.kind == "role-unsupported"
    assert "Message 1 " in str(late)
    malformed = encoder("llama3").encode_ids([Example((), ())])[0]
    assert isinstance(malformed, EncodingError)
    assert malformed.kind == "example-dropped"


def test_what_the_framework_raises_on() -> None:
    with pytest.raises(EncodingError, match=r"ValueError.*<image>") as media:
        encoder("qwen2_vl").encode(conversations()["media"])
    assert media.value.kind == "encoding-failed"
    assert encoder("qwen").encode(conversations()["media"])  # no plugin, no placeholder
    with pytest.raises(EncodingError, match="GLM-4 does not support parallel functions"):
        encoder("glm4").encode(conversations()["parallel"])
    with pytest.raises(EncodingError, match="KeyError"):
        encoder("default").encode(conversations()["bare_tool"])
    with pytest.raises(EncodingError, match=r"\d+ labels for \d+ tokens: a turn's prompt is empty"):
        encoder("fewshot").encode(conversations()["empty_prompt"])


def test_a_token_that_the_tokenizer_lacks() -> None:
    with pytest.raises(EncodingError, match=r"`\[gMASK\]`, `sop`, ") as error:
        encoder("chatglm3").encode(TWO_TURNS)
    assert error.value.kind == "unknown-special-token"


def test_a_lone_surrogate_harms_its_own_row_only() -> None:
    bad = Conversation.from_openai([{"role": "user", "content": "\ud800"}, {"role": "assistant", "content": "b"}])
    results = encoder("llama3").encode_batch([TWO_TURNS, bad, TWO_TURNS], keep_errors=True)
    assert [type(result) for result in results] == [EncodedStream, EncodingError, EncodedStream]
    with pytest.raises(EncodingError):
        encoder("llama3").encode_batch([TWO_TURNS, bad])


def test_options_that_are_refused() -> None:
    with pytest.raises(UsageError, match="mask_history"):
        encoder("llama3", mask_history=True, train_on_prompt=True)
    with pytest.raises(UsageError, match="efficient_eos"):
        encoder("breeze", train_on_prompt=True)
    with pytest.raises(UsageError, match="Did you mean `qwen`"):
        encoder("llama3", tool_format="qwenn")
    with pytest.raises(UsageError, match="ISO 8601"):
        encoder("llama3", clock="yesterday")
    with pytest.raises(UsageError, match="no option `enable_thinking` yet"):
        load_encoder("llamafactory@0.9.2:llama3", model_of("llama3-like"), enable_thinking=False)


def test_template_names() -> None:
    with pytest.raises(UsageError, match="Did you mean `llama3`"):
        encoder("lama3")
    with pytest.raises(UsageError, match="no default template for llama3-like"):
        load_encoder("llamafactory", model_of("llama3-like"))
    assert encoder("llama3").spec == "llamafactory@0.9.5:llama3"
    assert load_encoder("llamafactory:llama3", model_of("llama3-like")).spec == "llamafactory@0.9.5:llama3"


def choice(**changes: Any) -> Choice | None:
    return FRAMEWORK.choose(dataclasses.replace(model_of("llama3-like"), **changes))


def test_the_framework_s_own_choice() -> None:
    assert choice() is None
    known = choice(id="Qwen/Qwen2.5-7B-Instruct")
    assert known is not None
    assert (known.template, known.why) == ("qwen", "LLaMA-Factory 0.9.5 proposes `qwen` for Qwen/Qwen2.5-7B-Instruct.")
    for changes in (
        {"id": "/models/qwen2.5-7b-instruct"},
        {"id": "/tmp/x", "config": {"_name_or_path": "qwen/qwen2.5-7b-instruct"}},
    ):
        found = choice(**changes)
        assert found is not None
        assert found.template == "qwen"


def test_releases_differ() -> None:
    model = model_of("exaone35-like")
    streams = {v: load_encoder(f"llamafactory@{v}:llama3", model).encode(TWO_TURNS) for v in FRAMEWORK.versions()}
    assert streams["0.9.1"].text == streams["0.9.5"].text
    assert load_encoder("llamafactory@0.9.0:llama3", model).options["cutoff_len"] == 1024


def test_import_without_transformers() -> None:
    code = (
        "import sys; from template_audit.frameworks.llamafactory import FRAMEWORK; FRAMEWORK.templates(); "
        "FRAMEWORK.options(); assert not {'transformers', 'tokenizers', 'torch'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.shared
@pytest.mark.parametrize(("template", "length"), [("llama3", 66), ("exaone", 38)])
def test_the_case_that_everything_began_with(template: str, length: int) -> None:
    model = model_of("exaone-3.5-2.4b-instruct")
    row = json.loads((SHARED.parent / "data" / "identity.json").read_text(encoding="utf-8"))[0]
    conversation = Conversation.from_openai(
        [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
    )
    stream = load_encoder(f"llamafactory:{template}", model).encode(conversation)
    assert len(stream) == length
    if template == "llama3":
        assert stream.input_ids[:10] == [1, 3510, 17795, 424, 31707, 424, 766, 453, 391, 14719]


def test_no_template_at_all() -> None:
    made = encoder("null", "llama3-like")
    stream = made.encode(conversations()["single"])
    assert made.spec == "llamafactory@0.9.5:null"
    assert made.template.kind == "plain"
    assert trained(stream).startswith("A monoid in the category of endofunctors")
    assert encoder("null", "qwen3-like").template.kind == "reasoning"
    assert encoder("null", "base-no-template").template.format_user.slots == ("{{content}}",)
    with pytest.raises(UsageError, match="template: null"):
        encoder("null", "mistral-like")
