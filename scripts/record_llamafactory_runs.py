"""Record whole data paths of the real LLaMA-Factory 0.9.5: from a training config to the training set.

Each run goes through the framework's own ``get_train_args``, ``load_tokenizer``,
``get_template_and_fix_tokenizer`` and ``get_dataset``: data sets by name, Arrow, worker processes, map
batches and all. Run it with the interpreter of an environment that has LLaMA-Factory 0.9.5:

    python scripts/record_llamafactory_runs.py -o fixtures/llamafactory/data_runs.json
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from record_llamafactory_data_vectors import OWN, REPO, digest, first_module, pin_clock, prepare_imports

SHARED = REPO.parent / "shared"
FIELDS = {
    "pt": ("input_ids",),
    "sft": ("input_ids", "labels", "attention_mask", "position_ids", "packing_params"),
    "rm": ("chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels"),
    "kto": ("input_ids", "labels", "kl_input_ids", "kl_labels", "kto_tags"),
    "ppo": ("input_ids", "labels"),
}
OWN_RUNS: tuple[dict[str, Any], ...] = (
    {"stage": "pt", "dataset": "documents", "cutoff_len": 64},
    {"stage": "pt", "dataset": "documents", "cutoff_len": 64, "packing": True},
    {"stage": "pt", "dataset": "documents", "cutoff_len": 64, "packing": False},
    {"stage": "pt", "dataset": "documents,documents_txt", "cutoff_len": 48, "preprocessing_num_workers": 4},
    {"stage": "pt", "dataset": "documents,documents_txt", "cutoff_len": 48, "max_samples": 3},
    {"stage": "pt", "dataset": "documents", "cutoff_len": 32, "preprocessing_batch_size": 5},
    {"stage": "pt", "dataset": "documents", "cutoff_len": 32, "preprocessing_num_workers": 40},
    {"stage": "pt", "dataset": "documents_strings,documents", "cutoff_len": 16, "template": "qwen"},
    {"stage": "pt", "dataset": "documents_few,documents_many", "cutoff_len": 64},
    {"stage": "pt", "dataset": "alpaca_defaults", "cutoff_len": 40},
    {"stage": "sft", "dataset": "alpaca,sharegpt", "cutoff_len": 128, "packing": True, "preprocessing_num_workers": 2},
    {"stage": "sft", "dataset": "alpaca,sharegpt", "cutoff_len": 128, "neat_packing": True},
    {"stage": "sft", "dataset": "openai_structs", "template": "qwen", "packing": True},
    {"stage": "sft", "dataset": "openai,openai_structs,sharegpt", "template": "qwen3"},
    {"stage": "sft", "dataset": "alpaca", "cutoff_len": 48, "mask_history": True},
    {"stage": "rm", "dataset": "alpaca_ranking,sharegpt_ranking", "cutoff_len": 64, "template": "qwen"},
    {"stage": "kto", "dataset": "alpaca_kto", "cutoff_len": 64, "preprocessing_num_workers": 2},
    {"stage": "kto", "dataset": "alpaca_kto,sharegpt_kto_clean", "cutoff_len": 64, "preprocessing_batch_size": 4},
    {"stage": "ppo", "dataset": "alpaca,sharegpt", "cutoff_len": 64, "reward_model": "none"},
)
SHARED_RUNS: tuple[dict[str, Any], ...] = (
    {"stage": "pt", "dataset": "c4_demo", "cutoff_len": 1024},
    {"stage": "pt", "dataset": "c4_demo", "cutoff_len": 1024, "preprocessing_num_workers": 16},
    {"stage": "sft", "dataset": "identity,alpaca_en_demo", "max_samples": 50, "packing": True, "cutoff_len": 512},
)


def runs() -> Iterator[dict[str, Any]]:
    """Every run: its model, and the keys of its config."""
    for run in OWN_RUNS:
        yield {"model": "llama3-like", **run}
    yield {"model": "mistral-like", "template": "mistral", **OWN_RUNS[0]}
    for run in SHARED_RUNS:
        yield {"model": "llama-3.2-instruct", **run}


def record(run: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """The number of training examples and their digest, or the error."""
    hparams = importlib.import_module("llamafactory.hparams")
    loader = importlib.import_module("llamafactory.model")
    data = importlib.import_module("llamafactory.data")
    config = {key: value for key, value in run.items() if key != "model"}
    place = REPO / "fixtures" if run["model"].endswith("-like") else SHARED
    with tempfile.TemporaryDirectory() as output:
        config = {
            "template": "llama3",
            **config,
            "model_name_or_path": str(place / "models" / run["model"]),
            "dataset_dir": str(OWN) if place != SHARED else _shared_folder(info, output),
            "output_dir": output,
            "do_train": True,
            "finetuning_type": "lora",
            "overwrite_cache": True,
            "report_to": "none",
            "use_cpu": True,
        }
        try:
            model_args, data_args, training_args, _, _ = hparams.get_train_args(config)
            modules = loader.load_tokenizer(model_args)
            template = data.get_template_and_fix_tokenizer(modules["tokenizer"], data_args)
            made = data.get_dataset(template, model_args, data_args, training_args, stage=run["stage"], **modules)
        except Exception as error:
            return {**run, "result": {"error": type(error).__name__}}
        rows = made["train_dataset"]
        keys = [key for key in FIELDS[run["stage"]] if key in rows.column_names]
        outputs = [{key: row[key] for key in keys} for row in rows]
    if "position_ids" not in keys and run["stage"] == "sft":
        for row in outputs:
            del row["attention_mask"]  # all ones
    return {**run, "result": {"count": len(outputs), "digest": digest(outputs)}}


def _shared_folder(info: dict[str, Any], place: str) -> str:
    """A folder with a dataset_info.json for the data sets of ../shared."""
    folder = Path(place, "data")
    folder.mkdir()
    entries = {name: {**entry, "file_name": str(SHARED / "data" / entry["file_name"])} for name, entry in info.items()}
    (folder / "dataset_info.json").write_text(json.dumps(entries))
    return str(folder)


def main() -> None:
    """Record all runs and write one JSON file."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("-o", "--output", type=Path, required=True)
    given = arguments.parse_args()
    prepare_imports()
    import datasets
    import transformers

    datasets.disable_progress_bars()
    pin_clock(first_module("data.tool_utils"))
    from record_llamafactory_data_vectors import CLOCK, SHARED_INFO

    recorded = []
    for run in runs():
        with contextlib.redirect_stdout(io.StringIO()):  # the framework prints an example of each
            recorded.append(record(run, SHARED_INFO))
    head = {
        "versions": {
            "llamafactory": first_module("extras.env").VERSION,
            "transformers": transformers.__version__,
            "datasets": importlib.metadata.version("datasets"),
        },
        "clock": CLOCK,
        "shared_info": SHARED_INFO,
    }
    lines = ",\n".join(json.dumps(run) for run in recorded)
    text = json.dumps(head, indent=1, sort_keys=True)[:-2] + f',\n "runs": [\n{lines}\n]\n}}\n'
    given.output.write_text(text, encoding="utf-8")
    failed = sum("error" in run["result"] for run in recorded)
    print(f"{given.output}: {len(recorded)} runs ({failed} in which the framework raises)")


if __name__ == "__main__":
    main()
