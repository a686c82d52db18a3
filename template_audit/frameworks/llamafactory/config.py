"""LLaMA-Factory's training configs: which run a YAML or JSON file describes.

Source: LLaMA-Factory 0.9.5, hparams/parser.py (``read_args``, ``get_train_args``) and
hparams/{data,model,finetuning}_args.py for names, types and defaults.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from template_audit.errors import UsageError
from template_audit.frameworks.interface import TrainingRun
from template_audit.frameworks.llamafactory.options import OPTIONS
from template_audit.frameworks.llamafactory.pretrain import OPTIONS as PRETRAIN_OPTIONS

STAGES = ("pt", "sft", "rm", "ppo", "dpo", "kto")
_TYPES: Mapping[str, tuple[type, ...]] = {
    "stage": (str,),
    "model_name_or_path": (str,),
    "model_revision": (str,),
    "trust_remote_code": (bool,),
    "template": (str, type(None)),
    "dataset": (str, list, type(None)),
    "dataset_dir": (str, dict),
    "max_samples": (int, type(None)),
    "seed": (int,),
    "preprocessing_batch_size": (int,),
    "resize_vocab": (bool,),
}
# Options of the model that change the tokenizer before the data is encoded (model/loader.py, model/patcher.py)
_NOT_IMITATED = ("split_special_tokens", "add_tokens", "add_special_tokens", "new_special_tokens_config")
# Options of the data that change which rows are trained and in what order (data/loader.py, data/data_utils.py)
_DATA_NOT_IMITATED: Mapping[str, str] = {
    "mix_strategy": "data sets are read whole, one after another",
    "streaming": "rows are read in their order, and batches are those of a data set that is not streamed",
    "tokenized_path": "rows are encoded, not read from there",
    "eval_dataset": "only the training data is read",
    "val_size": "rows that go to evaluation count as trained",
    "media_dir": "images, videos and audio are not read",
}
_WITHOUT_EFFECT: Mapping[str, Any] = {"mix_strategy": "concat"}
# `stage: dpo` reads a preference data set with the processor of reward models (train/dpo/workflow.py)
_DATA_STAGE = {"dpo": "rm"}


def recognises(config: Mapping[str, Any]) -> bool:
    """True when the file looks like a config of LLaMA-Factory and of nothing else."""
    return "model_name_or_path" in config and bool({"template", "stage", "dataset", "finetuning_type"} & set(config))


def training_run(config: Mapping[str, Any], path: Path) -> TrainingRun:
    """The run that `config` describes.

    Keys that do not touch the data are passed over. Raises UsageError, naming file and key, for a
    value of the wrong type, an unknown stage, options that the framework refuses together, and options
    that change the tokenizer.
    """
    for key, types in _TYPES.items():
        if key in config:
            _check(path, key, config[key], types)
    for option in (*OPTIONS, *PRETRAIN_OPTIONS):
        if option.name in config:
            _check(path, option.name, config[option.name], _option_types(option.type))
    stage = config.get("stage", "sft")
    if stage not in STAGES:
        raise UsageError(f"{path}: `stage` must be one of {', '.join(STAGES)}, got {stage!r}.")
    for key, least in (("max_samples", 1), ("seed", 0)):
        if (config.get(key) or least) < least:
            raise UsageError(f"{path}: `{key}` must be at least {least}, got {config[key]}.")
    for key in _NOT_IMITATED:
        if config.get(key):
            raise UsageError(
                f"{path}: `{key}` changes the tokenizer in a way that is not followed here, so the ids would be wrong; "
                f"give `{key}=null` to audit the run without it."
            )
    known = PRETRAIN_OPTIONS if stage == "pt" else OPTIONS
    options = {option.name: config[option.name] for option in known if option.name in config}
    if stage != "sft":
        for key in ("neat_packing", "train_on_prompt", "mask_history"):
            if config.get(key):
                raise UsageError(f"{path}: LLaMA-Factory refuses `{key}` in stage {stage}; it is for sft only.")
    return TrainingRun(
        framework="llamafactory",
        stage=_DATA_STAGE.get(stage, stage),
        model=_local(config["model_name_or_path"], path),
        revision=config.get("model_revision"),
        trust_remote_code=config.get("trust_remote_code", False),
        template=config.get("template"),
        options=options,
        datasets=_names(config.get("dataset")),
        dataset_dir=config["dataset_dir"]
        if isinstance(config.get("dataset_dir"), dict)
        else _local(config.get("dataset_dir", "data"), path),
        max_samples=config.get("max_samples"),
        seed=config.get("seed", 42),
        batch_size=config.get("preprocessing_batch_size", 1000),
        resizes_vocabulary=config.get("resize_vocab", False),
        config=path,
        remarks=_remarks(config),
    )


def _remarks(config: Mapping[str, Any]) -> tuple[str, ...]:
    """One sentence on the options that are set and not followed here; none when there are none."""
    found = [
        f"`{key}: {json.dumps(config[key], default=str)}` ({instead})"
        for key, instead in _DATA_NOT_IMITATED.items()
        if config.get(key) and config[key] != _WITHOUT_EFFECT.get(key)
    ]
    return (f"Not followed here: {', '.join(found)}.",) if found else ()


def _names(value: Any) -> tuple[str, ...]:
    """Data set names as `DataArguments.__post_init__` splits them."""
    if value is None:
        return ()
    parts = value.split(",") if isinstance(value, str) else value
    return tuple(str(part).strip() for part in parts)


def _local(name: str, config: Path) -> str:
    """A path as the run would resolve it: from the working directory, else from beside the config."""
    if not Path(name).exists() and (config.parent / name).exists():
        return str(config.parent / name)
    return name


def _option_types(name: str) -> tuple[type, ...]:
    types: dict[str, type] = {"int": int, "bool": bool, "str": str, "float": float}
    plain = (types[name.removesuffix("?")],)
    return (*plain, type(None)) if name.endswith("?") else plain


def _check(path: Path, key: str, value: Any, types: tuple[type, ...]) -> None:
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        wanted = " or ".join("null" if t is type(None) else t.__name__ for t in types)
        raise UsageError(f"{path}: `{key}` must be {wanted}, got {value!r:.60}.")
