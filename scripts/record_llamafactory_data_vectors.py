"""Record what the real LLaMA-Factory does to data sets, for the tests to be held against.

Run it with the interpreter of an environment that has LLaMA-Factory's requirements:

    python scripts/record_llamafactory_data_vectors.py -o fixtures/llamafactory/data_vectors.json
    PYTHONPATH=UNPACKED_WHEEL_OF_0.9.2 python scripts/record_llamafactory_data_vectors.py -o …/data_vectors-0.9.2.json

Recorded are: how each entry of fixtures/llamafactory/data/dataset_info.json is parsed, a digest of
every converted row, and a digest of what each stage's processor makes of those rows, together with
the parameters of the case. The framework's data code is called as it is; only the check of package
versions is switched off, and a keyword that newer transformers refuse is dropped (`tolerant`).
Rows come from `datasets.load_dataset`, as in a training run.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import datetime
import hashlib
import importlib
import importlib.machinery
import importlib.metadata
import itertools
import json
import os
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llamafactory_data_cases import CASE_FIELDS, LATEST_TOKENIZERS, REAL, TOKENIZER_SETTINGS, TOKENIZERS, cases

REPO = Path(__file__).resolve().parent.parent
OWN = REPO / "fixtures" / "llamafactory" / "data"
SHARED = REPO.parent / "shared" / "data"
CLOCK = "2024-07-26T12:00:00"
SHARED_INFO: dict[str, Any] = {
    "identity": {"file_name": "identity.json"},
    "alpaca_en_demo": {"file_name": "alpaca_en_demo.json"},
    "glaive_toolcall_en_demo": {
        "file_name": "glaive_toolcall_en_demo.json",
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "tools": "tools"},
    },
    "c4_demo": {"file_name": "c4_demo.jsonl", "columns": {"prompt": "text"}},
}
FIELDS = {
    "pt": ("input_ids", "labels"),
    "packing": ("input_ids", "attention_mask", "position_ids", "labels", "packing_params"),
    "rm": ("chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels"),
    "kto": ("input_ids", "labels", "kl_input_ids", "kl_labels", "kto_tags"),
    "unsupervised": ("input_ids", "labels"),
}
PROCESSORS = {
    "pt": ("pretrain", "PretrainDatasetProcessor", "preprocess_pretrain_dataset"),
    "packing": ("supervised", "PackedSupervisedDatasetProcessor", "preprocess_packed_supervised_dataset"),
    "rm": ("pairwise", "PairwiseDatasetProcessor", "preprocess_pairwise_dataset"),
    "kto": ("feedback", "FeedbackDatasetProcessor", "preprocess_feedback_dataset"),
    "unsupervised": ("unsupervised", "UnsupervisedDatasetProcessor", "preprocess_unsupervised_dataset"),
}


def digest(value: Any) -> str:
    """Sixteen hex digits of the SHA-256 of the value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def prepare_imports() -> None:
    """Let the framework import: no torchaudio is needed for text, and the versions are ours to choose."""
    os.environ["DISABLE_VERSION_CHECK"] = "1"
    module = types.ModuleType("torchaudio")
    module.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    sys.modules["torchaudio"] = module


def first_module(*names: str) -> Any:
    """The first of these modules of the framework that this release has."""
    for name in names:
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(f"llamafactory.{name}")
    raise ModuleNotFoundError(", ".join(names))


def pin_clock(tool_utils: Any) -> None:
    """Tool prompts that carry the date get this one."""

    class Pinned(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return datetime.datetime.fromisoformat(CLOCK)

    if hasattr(tool_utils, "datetime"):
        tool_utils.datetime = Pinned


def tolerant(tokenizer: Any) -> Any:
    """Drop a keyword that transformers 5 no longer takes (0.9.5 retries without it, older releases do not)."""
    plain = tokenizer.add_special_tokens

    def add_special_tokens(tokens: dict[str, Any], **keywords: Any) -> int:
        try:
            return int(plain(tokens, **keywords))
        except TypeError:
            return int(plain(tokens))

    tokenizer.add_special_tokens = add_special_tokens
    return tokenizer


class AnyProcessor:
    """Stands in for a multimodal processor; text-only rows never look inside."""

    def __getattr__(self, name: str) -> AnyProcessor:
        if name.startswith("__"):
            raise AttributeError(name)
        return AnyProcessor()


class Release:
    """The release that Python finds: its parser, converters and processors, whatever they are called there."""

    def __init__(self) -> None:
        self.template = first_module("data.template")
        pin_clock(first_module("data.tool_utils"))
        self.parser = first_module("data.parser")
        self.converter = first_module("data.converter", "data.aligner")
        self.data_args = first_module("hparams.data_args").DataArguments
        self.rows: dict[tuple[str, int | None], list[dict[str, Any]]] = {}
        self.tokenizers: dict[str, Any] = {}

    def attributes(self, name: str, folder: Any) -> Any:
        """The parsed entry of a data set."""
        if isinstance(folder, dict):  # a parsed dataset_info is taken since 0.9.4 only
            with tempfile.TemporaryDirectory() as temporary:
                Path(temporary, "dataset_info.json").write_text(json.dumps(folder))
                return self.parser.get_dataset_list([name], temporary)[0]
        return self.parser.get_dataset_list([name], str(folder))[0]

    def convert(self, attributes: Any, row: dict[str, Any]) -> dict[str, Any]:
        """One row through its converter."""
        arguments = self.data_args()
        if hasattr(self.converter, "get_dataset_converter"):
            converter = self.converter.get_dataset_converter(attributes.formatting, attributes, arguments)
        else:  # up to 0.9.1: functions, and align_dataset takes anything but alpaca for sharegpt
            name = "convert_alpaca" if attributes.formatting == "alpaca" else "convert_sharegpt"
            function = getattr(self.converter, name)

            def converter(example: dict[str, Any]) -> Any:
                return function(example, dataset_attr=attributes, data_args=arguments)

        out = converter(copy.deepcopy(row))
        return {key: out[key] for key in ("_prompt", "_response", "_system", "_tools")}

    def arguments(self, stage: str, template: str | None, options: dict[str, Any]) -> Any:
        """Data arguments as ``get_train_args`` leaves them (hparams/parser.py)."""
        known = set(self.data_args.__dataclass_fields__)
        arguments = self.data_args(template=template, **{k: v for k, v in options.items() if k in known})
        if arguments.neat_packing and not arguments.packing:
            arguments.packing = True
        arguments.packing = arguments.packing if arguments.packing is not None else stage == "pt"
        for name in ("default_system", "enable_thinking", "preserve_thinking"):  # not in every release
            if not hasattr(arguments, name):
                setattr(arguments, name, {"enable_thinking": True, "preserve_thinking": False}.get(name))
        return arguments

    def process(self, stage: str, arguments: Any, tokenizer: Any, batch: dict[str, Any]) -> dict[str, Any]:
        """One map batch through the processor of a stage."""
        name, class_, function = PROCESSORS[stage]
        module = first_module(f"data.processor.{name}", f"data.processors.{name}")
        template, templates = None, dict(self.template.TEMPLATES)
        if hasattr(module, class_):
            template = self.fixed(tokenizer, arguments)
            processor = getattr(module, class_)(
                template=template, tokenizer=tokenizer, processor=AnyProcessor(), data_args=arguments
            )
            out: dict[str, Any] = processor.preprocess_dataset(batch)
        elif stage == "pt":
            self.fixed(tokenizer, arguments)
            out = getattr(module, function)(batch, tokenizer=tokenizer, data_args=arguments)
        else:
            template = self.fixed(tokenizer, arguments)
            out = getattr(module, function)(
                batch, template=template, tokenizer=tokenizer, processor=AnyProcessor(), data_args=arguments
            )
        self.template.TEMPLATES.clear()
        self.template.TEMPLATES.update(templates)
        return out

    def fixed(self, tokenizer: Any, arguments: Any) -> Any:
        """The template, after the tokenizer was changed; a copy, because the framework changes it in place."""
        registered = self.template.TEMPLATES
        if arguments.template in registered:
            registered[arguments.template] = copy.deepcopy(registered[arguments.template])
        return self.template.get_template_and_fix_tokenizer(tokenizer, arguments)


def load_rows(folder: Path, attributes: Any, limit: int | None) -> list[dict[str, Any]]:
    """Rows as the framework loads them (data/loader.py, without sampling)."""
    from datasets import load_dataset

    constants = first_module("extras.constants")
    path = folder / attributes.dataset_name
    with tempfile.TemporaryDirectory() as cache:
        data = load_dataset(
            constants.FILEEXT2TYPE[path.suffix[1:]], data_files=[str(path)], split=attributes.split, cache_dir=cache
        )
        return [dict(row) for row in (data if limit is None else data.select(range(min(limit, len(data)))))]


def record_rows(release: Release, name: str, limit: int | None) -> list[str]:
    """One digest a row, or the error that the converter raises."""
    folder, attributes = located(release, name)
    out = []
    for row in load_rows(folder, attributes, limit):
        try:
            out.append(digest(release.convert(attributes, row)))
        except Exception as error:
            out.append(f"!{type(error).__name__}")
    return out


def located(release: Release, name: str) -> tuple[Path, Any]:
    """The folder of ``own/NAME`` or ``shared/NAME`` and the parsed entry."""
    place, _, entry = name.partition("/")
    if place == "own":
        return OWN, release.attributes(entry, OWN)
    return SHARED, release.attributes(entry, SHARED_INFO)


def record_case(release: Release, case: dict[str, Any], folders: dict[str, Path]) -> dict[str, Any]:
    """Run one case; the result is the number of outputs and their digest, or the error."""
    options = case["options"]
    try:
        arguments = release.arguments(case["stage"], case["template"], options)
        rows = converted_rows(release, case["data"], case["rows"])
        tokenizer = tokenizer_of(release, case, folders)
        outputs: list[dict[str, Any]] = []
        for shard in shards(rows, options.get("preprocessing_num_workers", 1)):
            for batch in batches(shard, arguments.preprocessing_batch_size):
                columns = {key: [row[key] for row in batch] for key in batch[0]}
                columns.update({key: [None] * len(batch) for key in ("_images", "_videos", "_audios")})
                made = release.process(case["stage"], arguments, tokenizer, columns)
                keys = [key for key in FIELDS[case["stage"]] if key in made]
                for values in zip(*(made[key] for key in keys), strict=True):
                    outputs.append(dict(zip(keys, values, strict=True)))
        if case["stage"] == "pt":
            add_collated_labels(outputs, tokenizer)
    except Exception as error:
        return {**case, "result": {"error": type(error).__name__}}
    lengths = [len(next(iter(output.values()))) for output in outputs]
    return {**case, "result": {"count": len(outputs), "tokens": sum(lengths), "digest": digest(outputs)}}


def converted_rows(release: Release, data: str, limit: int | None) -> list[dict[str, Any]]:
    """The rows of a data set after its converter; read once."""
    if (data, limit) not in release.rows:
        folder, attributes = located(release, data)
        release.rows[data, limit] = [release.convert(attributes, row) for row in load_rows(folder, attributes, limit)]
    return copy.deepcopy(release.rows[data, limit])


def tokenizer_of(release: Release, case: dict[str, Any], folders: dict[str, Path]) -> Any:
    """The tokenizer as the framework loads it; one for all cases of one template, which changes it alike."""
    from transformers import AutoTokenizer

    settings = {key: case["options"][key] for key in TOKENIZER_SETTINGS if key in case["options"]}
    key = json.dumps([case["tokenizer"], case["template"], settings])
    if key not in release.tokenizers:
        if len(release.tokenizers) > 8:  # cases come in the order of tokenizers and templates
            release.tokenizers.clear()
        tokenizer = AutoTokenizer.from_pretrained(
            str(folders[case["tokenizer"]]), use_fast=True, split_special_tokens=False, padding_side="right"
        )
        for name, value in settings.items():
            setattr(tokenizer, name, value)
        release.tokenizers[key] = tolerant(tokenizer)
    return release.tokenizers[key]


def shards(rows: list[Any], workers: int) -> list[list[Any]]:
    """The parts that ``Dataset.map`` gives its workers, cut by datasets itself."""
    if workers == 1:
        return [rows]
    from datasets import Dataset

    data = Dataset.from_dict({"index": list(range(len(rows)))})
    parts = [data.shard(num_shards=workers, index=index, contiguous=True) for index in range(workers)]
    return [[rows[index] for index in part["index"]] for part in parts]


def batches(rows: list[Any], size: int) -> Iterator[list[Any]]:
    """Consecutive rows, `size` at a time."""
    iterator = iter(rows)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def add_collated_labels(outputs: list[dict[str, Any]], tokenizer: Any) -> None:
    """The labels that pre-training's collator makes (train/pt/workflow.py), one example to a batch."""
    from transformers import DataCollatorForLanguageModeling

    collator = DataCollatorForLanguageModeling(tokenizer=tokenizer, mlm=False)
    for output in outputs:
        output["labels"] = collator([{"input_ids": output["input_ids"]}])["labels"][0].tolist()


def main() -> None:
    """Record everything and write one JSON file."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("-o", "--output", type=Path, required=True)
    arguments.add_argument("--all", action="store_true", help="more tokenizers: for the latest release")
    given = arguments.parse_args()
    prepare_imports()
    import datasets
    import llamafactory.extras.env as env
    import tokenizers
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    names = LATEST_TOKENIZERS if given.all else TOKENIZERS
    folders = {
        name: (REPO / "fixtures" if name.endswith("-like") else SHARED.parent) / "models" / name
        for name in (REAL, *names)
    }
    release = Release()
    entries = json.loads((OWN / "dataset_info.json").read_text(encoding="utf-8"))
    info: dict[str, Any] = {}
    for name in entries:
        try:
            info[name] = vars(release.attributes(name, OWN))
        except Exception as error:
            info[name] = f"!{type(error).__name__}"
    converted = {}
    for name in [f"own/{name}" for name, entry in entries.items() if "file_name" in entry]:
        converted[name] = record_rows(release, name, None)
    for name in SHARED_INFO:
        converted[f"shared/{name}"] = record_rows(release, f"shared/{name}", 100)
    known = {*release.data_args.__dataclass_fields__, *TOKENIZER_SETTINGS}
    chosen = [case for case in cases(list(names)) if known.issuperset(case["options"])]
    recorded = [record_case(release, case, folders) for case in chosen]
    head = {
        "versions": {
            "llamafactory": env.VERSION,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
            "datasets": importlib.metadata.version("datasets"),
        },
        "clock": CLOCK,
        "shared_info": SHARED_INFO,
        "dataset_info": info,
        "converted": converted,
        "case_fields": [*CASE_FIELDS, "result"],
    }
    lines = ",\n".join(json.dumps(list(case.values()), separators=(",", ":")) for case in recorded)
    text = json.dumps(head, indent=1, sort_keys=True)[:-2] + f',\n "cases": [\n{lines}\n]\n}}\n'
    given.output.write_text(text, encoding="utf-8")
    failed = sum("error" in case["result"] for case in recorded)
    print(f"{given.output}: {len(recorded)} cases ({failed} in which the framework raises), {len(converted)} data sets")


if __name__ == "__main__":
    main()
