"""Packing, preference pairs, KTO, generation prompts and pre-training, held against the real package."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.frameworks.llamafactory import data_vectors as vectors

GROUPS = [
    pytest.param(path, group, id=f"{path.stem.removeprefix('data_vectors')}{'-'.join(group)}")
    for path in vectors.RECORDS
    for group in vectors.groups(path)
]


@pytest.mark.parametrize(("path", "group"), GROUPS)
def test_outputs_are_those_of_the_real_package(path: Path, group: tuple[str, str, str]) -> None:
    import transformers

    recorded = vectors.record(path)["versions"]["transformers"]
    if transformers.__version__ != recorded:
        pytest.skip(f"ids were recorded with transformers {recorded}, this is {transformers.__version__}")
    found = vectors.differing(path, group)
    assert not found["differ"], "\n".join(found["differ"])
    assert found["equal"]


def test_there_are_records() -> None:
    assert vectors.RECORDS
