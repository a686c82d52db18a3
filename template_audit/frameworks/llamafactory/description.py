"""What LLaMA-Factory's encoders are made of, as plain data, and the files that a run's rows come from.

The drift gate compares the data of two days, and so can name the field of a template that was changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from template_audit.frameworks.interface import TrainingRun
from template_audit.frameworks.llamafactory.dataset_info import DATASET_INFO, dataset_attributes, local_files
from template_audit.frameworks.llamafactory.registry import Registry, template_to_json

_DIGITS = 12


def describe(registry: Registry, template: str | None) -> dict[str, Any]:
    """One template of a release and everything that all templates share.

    Long prompts and code stand as digests: of the code one for each file of the data path. A template
    that the release does not register (``null``, say) is left out.
    """
    data: dict[str, Any] = {
        "version": registry.version,
        "behaviours": dict(registry.behaviours.to_json()),
        "tool_prompts": {name: _digest(text) for name, text in registry.tool_prompts.items()},
        "code": _code(registry.code),
    }
    if template is not None and template in registry.templates:
        data[f"template {template}"] = template_to_json(registry.templates[template])
    return data


def data_files(run: TrainingRun, registry: Registry) -> list[Path]:
    """The local files that decide about the rows of `run`, dataset_info.json included. Raises UsageError, DataError."""
    folder = "." if isinstance(run.dataset_dir, Mapping) else str(run.dataset_dir)
    files = [
        path
        for attributes in dataset_attributes(run.datasets, run.dataset_dir, registry.behaviours)
        for path in sorted(local_files(attributes, folder))
    ]
    info = Path(folder) / DATASET_INFO
    return [*([info] if info.is_file() else []), *dict.fromkeys(files)]


def _code(functions: Mapping[str, str]) -> dict[str, str]:
    files: dict[str, list[str]] = {}
    for place, digest in sorted(functions.items()):
        files.setdefault(place.partition(":")[0], []).append(f"{place} {digest}")
    return {path: _digest("\n".join(rows)) for path, rows in files.items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]
