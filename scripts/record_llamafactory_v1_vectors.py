"""Record what LLaMA-Factory's v1 makes of the cases in ``fixtures/llamafactory_v1``, for the replay test.

    python scripts/record_llamafactory_v1_vectors.py OUT.json NAME=FOLDER...

Run it with transformers 5.6.0 twice: with release 0.9.5 installed, and with the source tree of the
0.9.6 development line in front of it on PYTHONPATH. Which of the two is there is seen from the
package; the results of the other one stay in OUT.json.

Of the development line every sample of ``DataEngine._prefix_cuts`` goes through
``Renderer.process_samples``: with the model's chat template, cut by ``pad_and_truncate``, and with a
custom chat template. Of the release every conversation goes through ``Renderer.process_samples`` with
each template. Kept is a digest of ids and labels, or ``!``, the class of the error and its first word.
Labels are those of the loss weights. Nothing of this project is imported, so that nothing of it can
leak into what is expected of it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT / "fixtures" / "llamafactory_v1" / "cases.json"
RELEASE, DEVELOPMENT = "0.9.5", "0.9.6.dev0"
TEMPLATES = ("chatml", "qwen3", "qwen3_nothink")
MODES = ("default", "cutoff", "custom")


class Clock(datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz: Any = None) -> Clock:
        return cls(2024, 7, 26, 12)


def digest(value: Any) -> str:
    """The first six bytes of the sha256 of `value` as JSON."""
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()[:12]


def strings_in(value: Any) -> Iterator[str]:
    """Every string inside a JSON value, keys left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from strings_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from strings_in(item)


def fingerprint(tokenizer: Any, cases: Mapping[str, Any]) -> str:
    """A digest of how a tokenizer treats all texts of the cases, and of its special tokens and template."""
    texts = dict.fromkeys(strings_in(cases["conversations"]))
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    added = [[i, str(token), token.special] for i, token in sorted(tokenizer.added_tokens_decoder.items())]
    special = [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token]
    return digest([len(tokenizer), special, added, tokenizer.chat_template, ids])


def sample(conversation: Mapping[str, Any]) -> dict[str, Any]:
    """A conversation in v1's own row format."""
    messages = []
    for message in conversation["messages"]:
        blocks: list[dict[str, str]] = []
        thought = message.get("reasoning", message.get("reasoning_content"))
        if thought is not None:
            blocks.append({"type": "reasoning", "value": thought})
        if message.get("content") is not None:
            blocks.append({"type": "text", "value": message["content"]})
        for call in message.get("tool_calls", []):
            function = {key: call["function"][key] for key in ("name", "arguments")}
            blocks.append({"type": "tool_call", "value": json.dumps(function)})
        weight = 1.0 if message["role"] == "assistant" else 0.0
        messages.append({"role": message["role"], "content": blocks, "loss_weight": weight})
    tools = {"tools": json.dumps(conversation["tools"])} if "tools" in conversation else {}
    return {"messages": messages, **tools}


def result(render: Callable[[dict[str, Any]], Mapping[str, Any]], row: dict[str, Any]) -> str:
    """The digest of one model input, or what happens instead."""
    try:
        made = render(row)
    except Exception as error:
        return f"!{type(error).__name__}:{str(error).partition(' ')[0]}"
    ids, weights = [int(i) for i in made["input_ids"]], [float(w) for w in made["loss_weights"]]
    labels = [token if weight > 1e-6 else -100 for token, weight in zip(ids, weights, strict=True)]
    assert labels == [int(label) for label in made["labels"]]
    return digest([ids, labels])


def development(folder: str, cases: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """For every mode and conversation the results of its samples, with blanks between them."""
    from llamafactory.v1.core.data_engine import DataEngine
    from llamafactory.v1.core.rendering import Renderer
    from llamafactory.v1.utils.helper import pad_and_truncate
    from transformers import AutoProcessor

    out: dict[str, dict[str, str]] = {mode: {} for mode in MODES}
    for mode in MODES:
        processor = AutoProcessor.from_pretrained(folder)
        if mode == "custom":  # as ModelEngine._sync_chat_template sets it
            processor.chat_template = cases["custom_chat_template"]
        renderer = Renderer(processor)

        def render(one: dict[str, Any], renderer: Any = renderer, cut: bool = mode == "cutoff") -> Mapping[str, Any]:
            made: Mapping[str, Any] = renderer.process_samples([one])[0]
            return pad_and_truncate([dict(made)], cases["cutoff_len"])[0] if cut else made

        for name, conversation in cases["conversations"].items():
            row = sample(conversation)
            rows = [{**row, "messages": row["messages"][:cut]} for cut in DataEngine._prefix_cuts(row)]
            out[mode][name] = " ".join(result(render, one) for one in rows)
    return out


def release(folder: str, cases: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """For every template and conversation the result."""
    from llamafactory.v1.core.utils.rendering import Renderer
    from transformers import AutoProcessor

    out: dict[str, dict[str, str]] = {}
    for template in TEMPLATES:
        renderer = Renderer(template, AutoProcessor.from_pretrained(folder))

        def render(one: dict[str, Any], renderer: Any = renderer) -> Mapping[str, Any]:
            made: Mapping[str, Any] = renderer.process_samples([one])[0]
            return made

        rows = {name: sample(conversation) for name, conversation in cases["conversations"].items()}
        out[template] = {name: result(render, row) for name, row in rows.items()}
    return out


def main() -> None:
    """Add what the v1 that is there makes of every case to the file named first."""
    import transformers
    from transformers import AutoProcessor
    from transformers.utils import chat_template_utils

    chat_template_utils.datetime = Clock
    cases = json.loads(CASES.read_text(encoding="utf-8"))
    file = Path(sys.argv[1])
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"tokenizers": {}}
    version = DEVELOPMENT if find_spec("llamafactory.v1.core.rendering") else RELEASE
    found |= {"transformers": transformers.__version__, "cases": digest(cases)}
    for pair in sys.argv[2:]:
        name, _, folder = pair.partition("=")
        entry = found["tokenizers"].setdefault(name, {})
        entry["fingerprint"] = fingerprint(AutoProcessor.from_pretrained(folder), cases)
        entry[version] = (development if version == DEVELOPMENT else release)(folder, cases)
        codes = [code for group in entry[version].values() for made in group.values() for code in made.split()]
        print(f"{version} {name}: {len(codes)} results, {sum(code[0] == '!' for code in codes)} errors")
    file.write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
