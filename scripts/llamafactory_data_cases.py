"""What record_llamafactory_data_vectors.py records: stages, templates, options and data sets, as tables."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

REAL = "llama-3.2-instruct"
TOKENIZERS = ("llama3-like", "mistral-like")
LATEST_TOKENIZERS = (
    REAL,
    *TOKENIZERS,
    "exaone-3.5-2.4b-instruct",
    "mistral-7b-instruct-v0.2",
    "exaone35-like",
    "qwen3-like",
)
"""Real tokenizers of ../shared/models, and those of fixtures/models whose names end in ``-like``."""
Options = dict[str, Any]
PT_TEMPLATES = ("llama3", "default", "gemma", "qwen")
PT_DATA = (("own/documents", None), ("shared/c4_demo", 15))
PT_OPTIONS: tuple[Options, ...] = (
    {},
    {"cutoff_len": 64},
    {"cutoff_len": 64, "packing": True},
    {"cutoff_len": 33, "preprocessing_batch_size": 7},
    {"cutoff_len": 64, "packing": False},
    {"cutoff_len": 1024, "packing": False},
    {"cutoff_len": 64, "add_bos_token": True},
    {"cutoff_len": 64, "packing": False, "add_bos_token": True},
    {"cutoff_len": 48, "packing": False, "truncation_side": "left"},
    {"cutoff_len": 64, "preprocessing_num_workers": 5},
)
TEMPLATES = ("llama3", "alpaca", "chatglm3", "llama2", "qwen3")
PACKING_DATA = (("own/alpaca", None), ("own/sharegpt", None), ("shared/alpaca_en_demo", 20))
PACKING_OPTIONS: tuple[Options, ...] = (
    {"cutoff_len": 128, "packing": True},
    {"cutoff_len": 128, "neat_packing": True},
    {"packing": True},
    {"cutoff_len": 24, "neat_packing": True},
    {"cutoff_len": 96, "packing": True, "preprocessing_batch_size": 4, "mask_history": True},
)
ONE_TURN_DATA = (
    ("rm", "own/alpaca_ranking", None),
    ("rm", "own/sharegpt_ranking", None),
    ("kto", "own/alpaca_kto", None),
    ("kto", "own/sharegpt_kto", None),
    ("kto", "own/sharegpt_kto_clean", None),
    ("unsupervised", "own/alpaca", None),
    ("unsupervised", "own/sharegpt", None),
    ("unsupervised", "shared/identity", 30),
)
ONE_TURN_OPTIONS: tuple[Options, ...] = ({}, {"cutoff_len": 40})
THINKING_OPTIONS: tuple[Options, ...] = (
    {"enable_thinking": False},
    {"enable_thinking": None},
    {"preserve_thinking": True},
    {"preserve_thinking": True, "enable_thinking": False},
)
TOKENIZER_SETTINGS = ("add_bos_token", "truncation_side")
"""Options of a case that are no options of the framework but are set on the tokenizer."""
CASE_FIELDS = ("stage", "tokenizer", "template", "data", "rows", "options")


def cases(tokenizers: list[str]) -> Iterator[dict[str, Any]]:
    """Every case: stage, tokenizer, template, data set, how many of its rows, options."""
    for tokenizer in tokenizers:
        for stage, template, data, rows, options in _cases_of_one():
            yield _case(stage, tokenizer, template, data, rows, options)
    for options in ({"cutoff_len": 1024}, {"cutoff_len": 1024, "packing": False}):
        yield _case("pt", REAL, "llama3", "shared/c4_demo", None, options)


def _case(*values: Any) -> dict[str, Any]:
    return dict(zip(CASE_FIELDS, values, strict=True))


def _cases_of_one() -> Iterator[tuple[str, str | None, str, int | None, Options]]:
    for pt_template, (data, rows), options in itertools.product(PT_TEMPLATES, PT_DATA, PT_OPTIONS):
        yield "pt", pt_template, data, rows, options
    yield "pt", None, "own/documents", None, {"cutoff_len": 64}
    for template in TEMPLATES:
        for (data, rows), options in itertools.product(PACKING_DATA, PACKING_OPTIONS):
            yield "packing", template, data, rows, options
        thinking = THINKING_OPTIONS if template == "qwen3" else ()
        for options, (stage, data, rows) in itertools.product((*ONE_TURN_OPTIONS, *thinking), ONE_TURN_DATA):
            yield stage, template, data, rows, options
        yield "kto", template, "own/alpaca_kto", None, {"preprocessing_batch_size": 2}
