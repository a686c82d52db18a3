"""Packing, preference pairs, KTO, generation prompts and pre-training, held against the real package."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.frameworks.llamafactory import data_vectors as vectors


def _parameter(path: Path, group: vectors.Group) -> object:
    _, tokenizer, _, place = group
    needs_shared = place == "shared" or not tokenizer.endswith("-like")
    name = path.stem.removeprefix("data_vectors").lstrip("-") or "latest"
    return pytest.param(path, group, id="-".join((name, *group)), marks=[pytest.mark.shared] if needs_shared else [])


@pytest.mark.parametrize(
    ("path", "group"), [_parameter(path, group) for path in vectors.RECORDS for group in vectors.groups(path)]
)
def test_outputs_are_those_of_the_real_package(path: Path, group: vectors.Group) -> None:
    import transformers

    recorded = vectors.record(path)["versions"]["transformers"]
    everywhere = path.stem == "data_vectors" and group[1].endswith("-like")
    if transformers.__version__ != recorded and not everywhere:
        pytest.skip(f"recorded with transformers {recorded}; on others the latest release and mini models are enough")
    found = vectors.differing(path, group, settings=transformers.__version__ == recorded)
    assert not found["differ"], "\n".join(found["differ"])
    assert found["equal"]


def test_there_are_records() -> None:
    assert vectors.RECORDS
