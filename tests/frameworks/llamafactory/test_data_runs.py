"""Whole data paths, from data set names to training examples, held against runs of the real package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from template_audit.blocks import Totals
from template_audit.errors import EncodingError
from template_audit.frameworks import load_encoder
from template_audit.frameworks.llamafactory import feedback, packing, pairwise
from template_audit.frameworks.llamafactory.behaviours import Behaviours
from template_audit.frameworks.llamafactory.converters import convert
from template_audit.frameworks.llamafactory.dataset_info import dataset_attributes, local_files
from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
from template_audit.frameworks.llamafactory.messages import Example
from template_audit.frameworks.llamafactory.rows import map_batches, read_rows
from template_audit.frameworks.llamafactory.unsupervised import encode_prompts
from template_audit.pretraining import load_pretrain_encoder
from tests.frameworks.llamafactory.data_vectors import FIXTURES, OWN, SHARED, digest, model

RECORD = json.loads((FIXTURES / "llamafactory" / "data_runs.json").read_text(encoding="utf-8"))
NOT_OPTIONS = (
    "model",
    "stage",
    "dataset",
    "template",
    "result",
    "max_samples",
    "reward_model",
    "preprocessing_batch_size",
    "preprocessing_num_workers",
)


def _name(run: dict[str, Any]) -> str:
    extras = [str(value) for key, value in run.items() if key not in ("model", "stage", "dataset", "result")]
    return "-".join([run["model"], run["stage"], run["dataset"], *extras])


def _parameter(run: dict[str, Any]) -> Any:
    return pytest.param(run, id=_name(run), marks=[] if run["model"].endswith("-like") else [pytest.mark.shared])


@pytest.mark.parametrize("run", [_parameter(run) for run in RECORD["runs"]])
def test_training_sets_are_those_of_the_real_package(run: dict[str, Any]) -> None:
    import transformers

    recorded = RECORD["versions"]["transformers"]
    if transformers.__version__ != recorded and not run["model"].endswith("-like"):
        pytest.skip(f"recorded with transformers {recorded}; on others the mini models are enough")
    outputs = list(_pretrained(run) if run["stage"] == "pt" else _encoded(run))
    assert {"count": len(outputs), "digest": digest(outputs)} == run["result"]


def _dataset_dir(run: dict[str, Any]) -> Any:
    if run["model"].endswith("-like"):
        return OWN
    if not SHARED.is_dir():
        pytest.skip("needs the data sets in ../shared")
    return {
        name: {**entry, "file_name": str(SHARED / "data" / entry["file_name"])}
        for name, entry in RECORD["shared_info"].items()
    }


def _spec(run: dict[str, Any]) -> str:
    return f"llamafactory@{RECORD['versions']['llamafactory']}:{run.get('template', 'llama3')}"


def _pretrained(run: dict[str, Any]) -> Iterator[dict[str, Any]]:
    names = ("cutoff_len", "packing", "preprocessing_batch_size", "preprocessing_num_workers")
    options = {name: run[name] for name in names if name in run}
    encoder = load_pretrain_encoder(_spec(run), model(run["model"]), **options)
    documents = encoder.open_documents(
        run["dataset"].split(","), dataset_dir=_dataset_dir(run), max_samples=run.get("max_samples")
    )
    for block in encoder.blocks(documents, Totals()):
        yield {"input_ids": block.input_ids}


def _rows(run: dict[str, Any]) -> Iterator[Example]:
    folder = _dataset_dir(run)
    for attributes in dataset_attributes(run["dataset"].split(","), folder, Behaviours()):
        files = local_files(attributes, folder if folder == OWN else ".")
        for row in read_rows(files, run.get("max_samples")):
            yield convert(row, attributes, Behaviours()).example


def _encoded(run: dict[str, Any]) -> Iterator[dict[str, Any]]:
    options = {key: value for key, value in run.items() if key not in NOT_OPTIONS}
    encoder = load_encoder(_spec(run), model(run["model"]), clock=RECORD["clock"], **options)
    assert isinstance(encoder, LlamaFactoryEncoder)
    examples = list(_rows(run))
    size, workers = run.get("preprocessing_batch_size", 1000), run.get("preprocessing_num_workers", 1)
    if encoder.settings.packing:
        for packed in packing.pack(encoder, examples, batch_size=size, workers=workers):
            if isinstance(packed, packing.PackedSequence):
                made = {
                    "input_ids": packed.input_ids,
                    "labels": packed.labels,
                    "attention_mask": packed.attention_mask,
                    "position_ids": packed.position_ids,
                }
                yield made if packed.params is None else {**made, "packing_params": packed.params}
        return
    for batch in map_batches(examples, size, workers, len(examples)):
        yield from _rows_of(run["stage"], encoder, list(batch))


def _rows_of(stage: str, encoder: LlamaFactoryEncoder, batch: list[Example]) -> Iterator[dict[str, Any]]:
    results: list[Any]
    if stage == "rm":
        results = list(pairwise.encode_pairs(encoder, batch))
    elif stage == "kto":
        results = list(feedback.encode_feedback(encoder, batch))
    else:
        results = list(encode_prompts(encoder, batch) if stage == "ppo" else encoder.encode_ids(batch))
    for result in results:
        if isinstance(result, EncodingError):
            assert result.kind == "example-dropped", result
            continue
        made = {name: getattr(result, name) for name in _NAMES[stage]}
        if stage == "kto":
            made["kto_tags"] = made.pop("kto_tag")
        yield made


_NAMES = {
    "sft": ("input_ids", "labels"),
    "ppo": ("input_ids", "labels"),
    "rm": ("chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels"),
    "kto": ("input_ids", "labels", "kl_input_ids", "kl_labels", "kto_tag"),
}
