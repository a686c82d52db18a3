"""What the real LLaMA-Factory does to data sets, recorded, and the same cases run here."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from template_audit.blocks import Totals
from template_audit.errors import EncodingError, TemplateAuditError
from template_audit.frameworks import load_encoder
from template_audit.frameworks.llamafactory import converters, dataset_info, feedback, packing, pairwise
from template_audit.frameworks.llamafactory import rows as row_reader
from template_audit.frameworks.llamafactory.behaviours import Behaviours
from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
from template_audit.frameworks.llamafactory.messages import Example
from template_audit.frameworks.llamafactory.pretrain import LlamaFactoryPretrainEncoder, document_text
from template_audit.frameworks.llamafactory.registry import load_registry
from template_audit.frameworks.llamafactory.special_tokens import copy_tokenizer
from template_audit.frameworks.llamafactory.unsupervised import encode_prompts
from template_audit.model import Model, load_model

REPO = Path(__file__).resolve().parents[3]
FIXTURES = REPO / "fixtures"
OWN = FIXTURES / "llamafactory" / "data"
SHARED = REPO.parent / "shared"
RECORDS = sorted((FIXTURES / "llamafactory").glob("data_vectors*.json"))
TOKENIZER_OPTIONS = ("add_bos_token", "truncation_side")
BATCH_OPTIONS = ("preprocessing_batch_size", "preprocessing_num_workers")


@cache
def record(path: Path) -> dict[str, Any]:
    """A recorded file; its cases as dicts."""
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    data["cases"] = [dict(zip(data["case_fields"], case, strict=True)) for case in data["cases"]]
    return data


@cache
def behaviours(version: str) -> Behaviours:
    """The behaviours of a release, as its registry records them."""
    return load_registry(version).behaviours


def digest(value: Any) -> str:
    """As scripts/record_llamafactory_data_vectors.py computes it."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def located(data: dict[str, Any], name: str, version: str) -> tuple[Path, dataset_info.DatasetAttributes]:
    """Folder and attributes of ``own/NAME`` or ``shared/NAME``; skips when there is no shared folder."""
    place, _, entry = name.partition("/")
    if place == "own":
        return OWN, dataset_info.dataset_attributes([entry], OWN, behaviours(version))[0]
    if not SHARED.is_dir():
        pytest.skip("needs the data sets in ../shared")
    return SHARED / "data", dataset_info.dataset_attributes([entry], data["shared_info"], behaviours(version))[0]


def read(data: dict[str, Any], name: str, version: str, limit: int | None) -> list[dict[str, Any]]:
    """The rows of a data set of the record."""
    folder, attributes = located(data, name, version)
    return list(row_reader.read_rows(dataset_info.local_files(attributes, folder), limit))


@cache
def examples(path: Path, name: str, limit: int | None) -> tuple[converters.Converted, ...]:
    """The converted rows of a data set of the record."""
    data = record(path)
    version = data["versions"]["llamafactory"]
    _, attributes = located(data, name, version)
    return tuple(converters.convert(row, attributes, behaviours(version)) for row in read(data, name, version, limit))


@cache
def model(name: str) -> Model:
    """A model of fixtures/models, or a real one of ../shared; skips when that is not there."""
    folder = FIXTURES / "models" / name
    if not folder.is_dir():
        folder = SHARED / "models" / name
        if not folder.is_dir():
            pytest.skip("needs the real tokenizers in ../shared")
    return load_model(str(folder))


Group = tuple[str, str, str, str]
"""Stage, tokenizer, template, and whether the rows are our own or those of ../shared: what one test runs."""


def group_of(case: dict[str, Any]) -> Group:
    """The group that a case belongs to."""
    return case["stage"], case["tokenizer"], case["template"] or "null", case["data"].partition("/")[0]


def groups(path: Path) -> Iterator[Group]:
    """The groups of a record."""
    yield from dict.fromkeys(group_of(case) for case in record(path)["cases"])


def run(path: Path, case: dict[str, Any]) -> dict[str, Any]:
    """The case, encoded here; the result in the record's form."""
    try:
        outputs = list(_OUTPUTS[case["stage"]](path, case))
    except TemplateAuditError as error:
        return {"error": str(error)}
    tokens = sum(len(next(iter(output.values()))) for output in outputs)
    return {"count": len(outputs), "tokens": tokens, "digest": digest(outputs)}


def _spec(path: Path, case: dict[str, Any]) -> str:
    return f"llamafactory@{record(path)['versions']['llamafactory']}:{case['template'] or 'null'}"


@cache
def _pretrain_base(spec: str, name: str, settings: str) -> LlamaFactoryEncoder:
    """The template's tokenizer with these settings, which are no options of the framework."""
    original = model(name)
    tokenizer = copy_tokenizer(original.tokenizer)
    for key, value in json.loads(settings).items():
        setattr(tokenizer, key, value)
    encoder = load_encoder(spec, replace(original, tokenizer=tokenizer))
    assert isinstance(encoder, LlamaFactoryEncoder)
    return encoder


def _pretrain(path: Path, case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    options = {key: value for key, value in case["options"].items() if key not in TOKENIZER_OPTIONS}
    settings = {key: value for key, value in case["options"].items() if key in TOKENIZER_OPTIONS}
    base = _pretrain_base(_spec(path, case), case["tokenizer"], json.dumps(settings))
    encoder = LlamaFactoryPretrainEncoder(base, options)
    documents = [document_text(row, "row") for row in examples(path, case["data"], case["rows"])]
    for block in encoder.blocks(documents, Totals()):
        yield {"input_ids": block.input_ids, "labels": block.labels}


@cache
def _encoder(spec: str, name: str, options: str, clock: str) -> LlamaFactoryEncoder:
    encoder = load_encoder(spec, model(name), **json.loads(options), clock=clock)
    assert isinstance(encoder, LlamaFactoryEncoder)
    return encoder


def _sft(path: Path, case: dict[str, Any]) -> tuple[LlamaFactoryEncoder, list[Example], int]:
    options = {key: value for key, value in case["options"].items() if key not in BATCH_OPTIONS}
    encoder = _encoder(_spec(path, case), case["tokenizer"], json.dumps(options), record(path)["clock"])
    rows = [row.example for row in examples(path, case["data"], case["rows"])]
    return encoder, rows, case["options"].get("preprocessing_batch_size", 1000)


def _packing(path: Path, case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    encoder, rows, size = _sft(path, case)
    for packed in packing.pack(encoder, rows, batch_size=size):
        if isinstance(packed, packing.PackedSequence):
            output: dict[str, Any] = {"input_ids": packed.input_ids, "attention_mask": packed.attention_mask}
            if packed.position_ids is not None:
                output["position_ids"] = packed.position_ids
            output["labels"] = packed.labels
            if packed.params is not None:
                output["packing_params"] = packed.params
            yield output


def _pairwise(path: Path, case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    encoder, rows, _ = _sft(path, case)
    shown = _shown(encoder, rows, "rm")
    for pair in pairwise.encode_pairs(encoder, rows):
        if not _dropped(pair):
            assert next(shown) == (pair.chosen_input_ids, pair.chosen_labels)
            yield {
                name: getattr(pair, name)
                for name in ("chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels")
            }


def _feedback(path: Path, case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    encoder, rows, size = _sft(path, case)
    shown = _shown(encoder, rows, "kto")
    for start in range(0, len(rows), size):
        for example in feedback.encode_feedback(encoder, rows[start : start + size]):
            if not _dropped(example):
                assert next(shown) == (example.input_ids, example.labels)
                names = ("input_ids", "labels", "kl_input_ids", "kl_labels")
                yield {**{name: getattr(example, name) for name in names}, "kto_tags": example.kto_tag}


def _shown(encoder: LlamaFactoryEncoder, rows: list[Example], stage: str) -> Iterator[tuple[Any, Any]]:
    """What a report shows of the rows of a run of this stage."""
    for result in encoder.encode_ids([replace(row, stage=stage) for row in rows]):
        if not isinstance(result, EncodingError):
            yield result.input_ids, result.labels


def _unsupervised(path: Path, case: dict[str, Any]) -> Iterator[dict[str, Any]]:
    encoder, rows, _ = _sft(path, case)
    for example in encode_prompts(encoder, rows):
        if not _dropped(example):
            yield {name: getattr(example, name) for name in ("input_ids", "labels")}


def _dropped(result: Any) -> bool:
    if isinstance(result, EncodingError):
        if result.kind != "example-dropped":
            raise result
        return True
    return False


_OUTPUTS = {
    "pt": _pretrain,
    "packing": _packing,
    "rm": _pairwise,
    "kto": _feedback,
    "unsupervised": _unsupervised,
}


def differing(path: Path, group: Group, *, settings: bool = True) -> dict[str, list[str]]:
    """What the cases of a group show: `equal`, or in what they differ.

    Without `settings` cases are left out that set an attribute of the tokenizer: what that does
    depends on the version of transformers.
    """
    found = defaultdict(list)
    for case in record(path)["cases"]:
        if group_of(case) == group and (settings or not set(TOKENIZER_OPTIONS) & set(case["options"])):
            want, got = case["result"], run(path, case)
            same = ("error" in want) == ("error" in got) and ("error" in want or want == got)
            found["equal" if same else "differ"].append(f"{case['data']} {case['options']}: {want} {got}")
    return found
