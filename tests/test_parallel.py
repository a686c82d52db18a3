"""Several processes give what one gives, in order."""

from __future__ import annotations

import numpy as np

from template_audit.conversation import Conversation, Message
from template_audit.ids import joined
from template_audit.parallel import EncoderSetup, EncodingPool
from tests.rendering import load


def test_two_processes_give_what_one_gives() -> None:
    rows = [Conversation((Message("user", f"Number {n}"), Message("assistant", "Yes. " * (n % 5)))) for n in range(300)]
    rows[7] = Conversation((Message("user", "No answer"),))
    setup = EncoderSetup("llamafactory@0.9.5:qwen", load("qwen25-like"), {"cutoff_len": 12})
    one = setup.load().encode_ids_batch(rows)
    with EncodingPool(setup, 2) as pool:
        pool.wait()
        two = joined(list(pool.encode(rows[start : start + 50] for start in range(0, 300, 50))))
    assert list(one.errors) == list(two.errors) == [7]
    assert (str(one.errors[7]), one.errors[7].kind) == (str(two.errors[7]), two.errors[7].kind)
    assert one.notes == two.notes
    assert one.notes
    for name in ("input_ids", "labels", "offsets"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
