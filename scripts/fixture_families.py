"""The model families of the fixtures, as rows of data for `make_fixtures.py`.

Markers, their flags and the tokenizer's parts are facts of the named families; `fixtures/README.md` says
where one is our choice. Ids are smaller than the real ones, since the vocabularies are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Json = dict[str, Any]


class Tok(NamedTuple):
    """An added token: its text, whether it is special, and whether it swallows the whitespace after it."""

    content: str
    special: bool = True
    rstrip: bool = False


def special(*contents: str) -> tuple[Tok, ...]:
    """Special tokens."""
    return tuple(Tok(content) for content in contents)


def plain(contents: Iterable[str]) -> tuple[Tok, ...]:
    """Added tokens that are not special."""
    return tuple(Tok(content, special=False) for content in contents)


@dataclass(frozen=True)
class Tokenization:
    """How text is cut: the parts of a tokenizer.json beside its vocabulary.

    `sentencepiece` families have byte-fallback pieces and ▁ for the space; the others are byte-level.
    """

    normalizer: Json | None
    pre_tokenizer: Json | None
    decoder: Json
    sentencepiece: bool = False
    ignore_merges: bool = False


@dataclass(frozen=True)
class Family:
    """One model folder.

    `head` tokens open the vocabulary, `tail` tokens close it. `pieces` is the number of learnt pieces.
    `stops` are the tokens at which the generation config says to stop. `embedding` rounds the config's
    vocab_size up to a multiple, as padded embeddings do. `template` says where the chat template lives:
    ``config`` (tokenizer_config.json), ``list`` (there, as a list of named ones), ``jinja``
    (chat_template.jinja), ``folder`` (the same and additional_chat_templates/) or ``none``.
    """

    name: str
    model_type: str
    architecture: str
    tokenization: Tokenization
    pieces: int
    tail: tuple[Tok, ...]
    head: tuple[Tok, ...] = ()
    bos: str | None = None
    eos: str | None = None
    pad: str | None = None
    unk: str | None = None
    prepends_bos: bool = False
    stops: tuple[str, ...] = ()
    embedding: int = 1
    template: str = "config"
    tokenizer_config: Json = field(default_factory=dict)


def _byte_level(**options: bool) -> Json:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False, **options}


def _words(digits: str) -> Json:
    """Words, runs of digits as given, punctuation, line ends, spaces: the split of Llama 3 and Qwen."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|" + digits + r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _byte_level()]}


def _sentencepiece(prefix: bool) -> Tokenization:
    to_piece: list[Json] = [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    to_text: list[Json] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        to_piece.insert(0, {"type": "Prepend", "prepend": "▁"})
        to_text.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return Tokenization(
        normalizer={"type": "Sequence", "normalizers": to_piece} if prefix else to_piece[0],
        pre_tokenizer=None,
        decoder={"type": "Sequence", "decoders": to_text},
        sentencepiece=True,
    )


_DECODER = _byte_level(add_prefix_space=True, use_regex=True)
_GPT2_WORDS = {
    "type": "Sequence",
    "pretokenizers": [{"type": "Digits", "individual_digits": True}, _byte_level(use_regex=True)],
}
EXAONE35 = Tokenization({"type": "NFKC"}, _GPT2_WORDS, _DECODER)
EXAONE4 = Tokenization(None, _GPT2_WORDS, _DECODER)
LLAMA3 = Tokenization(None, _words(r"\p{N}{1,3}"), _DECODER, ignore_merges=True)
QWEN = Tokenization({"type": "NFC"}, _words(r"\p{N}"), _DECODER)
PREFIXED = _sentencepiece(prefix=True)
UNPREFIXED = _sentencepiece(prefix=False)

_EXAONE_HEAD = (
    *special("[PAD]", "[BOS]", "[EOS]", "[UNK]"),
    *plain(" " * n for n in range(31, 1, -1)),
    *plain("\t" * n for n in range(9, 1, -1)),
    *special("<|endoftext|>", "<|c|>", "<|c++|>", "<|python|>", "<|javascript|>", "<|markdown|>", "<|html|>"),
    *special("PI:URL", "PI:EMAIL", "PI:PHONE_NUM", "PI:KEY", "PI:ID", "PI:USER"),
    *special(*(f"[unused{n}]" for n in range(4)), *(f"[extra_id_{n}]" for n in range(4)), "[|endofturn|]"),
)
_LLAMA3_RESERVED = tuple(f"<|reserved_special_token_{n}|>" for n in range(8))
_LLAMA3_TAIL = special(
    "<|begin_of_text|>",
    "<|end_of_text|>",
    *_LLAMA3_RESERVED[:2],
    "<|finetune_right_pad_id|>",
    _LLAMA3_RESERVED[2],
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
    *_LLAMA3_RESERVED[3:],
)
_QWEN_SPECIAL = (
    *("<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
    *("<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
)
_QWEN_TAIL = (
    *special("<|endoftext|>", *_QWEN_SPECIAL),
    *plain(("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>")),
    *plain(("<|repo_name|>", "<|file_sep|>")),
)
_QWEN_CONFIG = {
    "add_bos_token": False,
    "add_prefix_space": False,
    "additional_special_tokens": list(_QWEN_SPECIAL),
    "clean_up_tokenization_spaces": False,
    "model_max_length": 131072,
    "split_special_tokens": False,
}
_PHI_MARKERS = (
    *("assistant", "placeholder1", "placeholder2", "placeholder3", "placeholder4"),
    *("system", "end", "placeholder5", "placeholder6", "user"),
)
_SPM_CONFIG = {"add_eos_token": False, "clean_up_tokenization_spaces": False, "legacy": True, "sp_model_kwargs": {}}

FAMILIES: tuple[Family, ...] = (
    Family(
        "exaone35-like",
        "exaone",
        "ExaoneForCausalLM",
        EXAONE35,
        700,
        head=_EXAONE_HEAD,
        tail=(),
        bos="[BOS]",
        eos="[|endofturn|]",
        pad="[PAD]",
        unk="[UNK]",
        stops=("[|endofturn|]",),
        tokenizer_config={"add_prefix_space": False, "clean_up_tokenization_spaces": True},
    ),
    Family(
        "exaone4-like",
        "exaone4",
        "Exaone4ForCausalLM",
        EXAONE4,
        700,
        head=(*_EXAONE_HEAD, *special("[|system|]", "[|user|]", "[|assistant|]", "[|tool|]")),
        tail=plain(("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_result>", "</tool_result>")),
        bos="[BOS]",
        eos="[|endofturn|]",
        pad="[PAD]",
        unk="[UNK]",
        stops=("[|endofturn|]",),
        template="jinja",
        tokenizer_config={"add_prefix_space": False, "clean_up_tokenization_spaces": False},
    ),
    Family(
        "llama3-like",
        "llama",
        "LlamaForCausalLM",
        LLAMA3,
        800,
        tail=_LLAMA3_TAIL,
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        prepends_bos=True,
        stops=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
        tokenizer_config={"clean_up_tokenization_spaces": True, "model_max_length": 131072},
    ),
    Family(
        "base-no-template",
        "llama",
        "LlamaForCausalLM",
        LLAMA3,
        600,
        tail=_LLAMA3_TAIL,
        bos="<|begin_of_text|>",
        eos="<|end_of_text|>",
        prepends_bos=True,
        stops=("<|end_of_text|>",),
        template="none",
        tokenizer_config={"clean_up_tokenization_spaces": True, "model_max_length": 131072},
    ),
    Family(
        "qwen25-like",
        "qwen2",
        "Qwen2ForCausalLM",
        QWEN,
        700,
        tail=_QWEN_TAIL,
        eos="<|im_end|>",
        pad="<|endoftext|>",
        stops=("<|im_end|>", "<|endoftext|>"),
        embedding=128,
        tokenizer_config=_QWEN_CONFIG,
    ),
    Family(
        "qwen3-like",
        "qwen3",
        "Qwen3ForCausalLM",
        QWEN,
        700,
        tail=(*_QWEN_TAIL, *plain(("<tool_response>", "</tool_response>", "<think>", "</think>"))),
        eos="<|im_end|>",
        pad="<|endoftext|>",
        stops=("<|im_end|>", "<|endoftext|>"),
        embedding=128,
        tokenizer_config=_QWEN_CONFIG,
    ),
    Family(
        "gemma-like",
        "gemma2",
        "Gemma2ForCausalLM",
        UNPREFIXED,
        900,
        head=(
            *special("<pad>", "<eos>", "<bos>", "<unk>"),
            *plain(("<mask>", "<2mass>", "[@BOS@]", "<unused0>", "<unused1>")),
            *special("<start_of_turn>", "<end_of_turn>"),
            *plain("\n" * n for n in range(1, 5)),
        ),
        tail=(),
        bos="<bos>",
        eos="<eos>",
        pad="<pad>",
        unk="<unk>",
        prepends_bos=True,
        stops=("<eos>", "<end_of_turn>"),
        embedding=128,
        tokenizer_config={
            **_SPM_CONFIG,
            "add_bos_token": True,
            "additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"],
        },
    ),
    Family(
        "mistral-like",
        "mistral",
        "MistralForCausalLM",
        PREFIXED,
        900,
        head=special("<unk>", "<s>", "</s>"),
        tail=(),
        bos="<s>",
        eos="</s>",
        unk="<unk>",
        prepends_bos=True,
        stops=("</s>",),
        tokenizer_config={**_SPM_CONFIG, "add_bos_token": True, "additional_special_tokens": []},
    ),
    Family(
        "phi-like",
        "phi3",
        "Phi3ForCausalLM",
        PREFIXED,
        900,
        head=(*special("<unk>", "<s>"), Tok("</s>", special=False, rstrip=True)),
        tail=(
            Tok("<|endoftext|>"),
            *(Tok(f"<|{name}|>", rstrip=True) for name in _PHI_MARKERS),
        ),
        bos="<s>",
        eos="<|endoftext|>",
        pad="<|endoftext|>",
        unk="<unk>",
        stops=("<|endoftext|>", "<|assistant|>", "<|end|>"),
        embedding=64,
        tokenizer_config={
            **_SPM_CONFIG,
            "add_bos_token": False,
            "legacy": False,
            "model_max_length": 4096,
            "padding_side": "left",
        },
    ),
    Family(
        "deepseek-like",
        "llama",
        "LlamaForCausalLM",
        LLAMA3,
        700,
        tail=(
            *special("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", *_LLAMA3_RESERVED[:3]),
            *plain(("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>")),
            *special("<｜▁pad▁｜>", *_LLAMA3_RESERVED[3:]),
        ),
        bos="<｜begin▁of▁sentence｜>",
        eos="<｜end▁of▁sentence｜>",
        pad="<｜end▁of▁sentence｜>",
        prepends_bos=True,
        stops=("<｜end▁of▁sentence｜>",),
        tokenizer_config={
            "add_bos_token": True,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 16384,
        },
    ),
    Family(
        "chatml-plain",
        "llama",
        "LlamaForCausalLM",
        QWEN,
        600,
        head=special("<unk>", "<|startoftext|>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>"),
        tail=(),
        bos="<|startoftext|>",
        eos="<|endoftext|>",
        pad="<unk>",
        unk="<unk>",
        stops=("<|im_end|>",),
        embedding=64,
        tokenizer_config={
            "add_bos_token": False,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>", "<|im_sep|>"],
            "model_max_length": 4096,
        },
    ),
    Family(
        "chatml-generation",
        "llama",
        "LlamaForCausalLM",
        QWEN,
        600,
        tail=(*special("<|endoftext|>", "<|im_start|>", "<|im_end|>"), *plain(("<tool_call>", "</tool_call>"))),
        bos="<|im_start|>",
        eos="<|im_end|>",
        pad="<|endoftext|>",
        stops=("<|im_end|>",),
        template="folder",
        tokenizer_config={
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            "clean_up_tokenization_spaces": False,
            "model_max_length": 8192,
        },
    ),
    Family(
        "hermes-like",
        "llama",
        "LlamaForCausalLM",
        LLAMA3,
        600,
        tail=(
            *special("<|begin_of_text|>", "<|end_of_text|>", "<|im_start|>", "<|im_end|>"),
            *plain(("<tools>", "</tools>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")),
        ),
        bos="<|begin_of_text|>",
        eos="<|im_end|>",
        pad="<|end_of_text|>",
        prepends_bos=True,
        stops=("<|im_end|>",),
        template="list",
        tokenizer_config={"clean_up_tokenization_spaces": True, "model_max_length": 8192},
    ),
)
