"""Record what each release of the real LLaMA-Factory makes of the release cases, for the replay test.

Run it with the Python of an environment that has LLaMA-Factory 0.9.5 and what it needs; an unpacked
wheel before it on the path is the release that is recorded:

    PYTHONPATH=UNPACKED_WHEEL_OF_0.9.2 python scripts/record_llamafactory_releases.py OUT.json NAME=FOLDER...

Every template of the release × every tokenizer folder × every conversation and every option set of
``fixtures/llamafactory/releases/cases.json`` that the release's ``DataArguments`` has goes through the
framework's own ``get_template_and_fix_tokenizer`` and supervised processor. Kept of each (template,
tokenizer, option set) is one digest of all results (ids and labels, or that the framework raises), in
the order of the release's ``options``; with the default options also two bytes of each result. And per
(template, tokenizer), as ``saved``: digests of what the framework does to the tokenizer, of the chat
template that it leaves there and of the Ollama Modelfile, if it writes one.
``template: null`` is the cell ``null``. A tokenizer named ``null:NAME`` is run with that one only.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from copy import copy, deepcopy
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import record_llamafactory_vectors as vectors
from record_llamafactory_data_vectors import first_module, pin_clock, prepare_imports, tolerant

CASES = vectors.ROOT / "fixtures" / "llamafactory" / "releases" / "cases.json"
NULL = "null"
LATEST = "latest"
SHORT = 6  # hex digits
THOUGHT_WORDS = ("<think>", "</think>")  # what templates had before they had words of their own
_MARKS = ("\ue000", "\ue001")


def release_cases() -> dict[str, Any]:
    """Option sets and conversations by name; those under ``shared`` are of the vector cases."""
    cases = json.loads(CASES.read_text(encoding="utf-8"))
    known = json.loads(vectors.CASES.read_text(encoding="utf-8"))["conversations"]
    conversations = {**{name: known[name] for name in cases["shared"]}, **cases["conversations"]}
    return {"options": cases["options"], "conversations": conversations}


def combined(results: list[str]) -> str:
    """One digest of all results of an option set; which error it is does not count."""
    return vectors.digest(["!" if result.startswith("!") else result for result in results])[:SHORT]


def text_digest(text: Any) -> str:
    """The digest of a text or of None."""
    return vectors.digest(text)[:SHORT]


def aligned() -> dict[str, Any]:
    """The conversations as aligned rows, made by the latest release's converter, thought words marked."""
    return {name: vectors.examples(case, _MARKS) for name, case in release_cases()["conversations"].items()}


def aligned_by_latest() -> dict[str, Any]:
    """The same from a process that does not see the older release."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, __file__, LATEST]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, encoding="utf-8")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def with_words(batch: Any, words: tuple[str, str]) -> Any:
    """A copy of an aligned row with a template's own thought words in it."""
    if isinstance(batch, str):
        return batch.replace(_MARKS[0], words[0]).replace(_MARKS[1], words[1])
    if isinstance(batch, list):
        return [with_words(item, words) for item in batch]
    return {key: with_words(item, words) for key, item in batch.items()} if isinstance(batch, dict) else batch


class Release:
    """The release that Python finds, whatever its modules are called."""

    def __init__(self, rows: dict[str, Any]) -> None:
        self.rows = rows
        self.template = first_module("data.template")
        self.supervised = first_module("data.processor.supervised", "data.processors.supervised")
        self.data_args = first_module("hparams.data_args").DataArguments
        known = set(self.data_args.__dataclass_fields__)
        self.options = {n: o for n, o in release_cases()["options"].items() if set(o) <= known}

    def cell(self, template: str, folder: str) -> dict[str, Any]:
        """All option sets × conversations for one template and tokenizer."""
        tokenizer = tolerant(vectors.load_tokenizer(folder))
        bare = tokenizer.chat_template is None
        out: dict[str, Any] = {}
        for name, options in self.options.items():
            if template == NULL and bare:  # the first run gives it a chat template, which the second would parse
                tokenizer = tolerant(vectors.load_tokenizer(folder))
            registered = dict(self.template.TEMPLATES)
            used = "empty" if template == NULL else template  # what a run may change
            self.template.TEMPLATES[used] = deepcopy(registered[used])
            arguments = self.data_args(template=None if template == NULL else template, **options)
            try:
                found = self.template.get_template_and_fix_tokenizer(tokenizer, arguments)
            except Exception as error:
                results = [vectors.error_code(error)] * len(self.rows)
            else:
                results = [self.result(found, tokenizer, arguments, row) for row in self.rows.values()]
                if name == "default":
                    out["saved"] = saved(found, tokenizer)
            self.template.TEMPLATES.update(registered)
            if name == "default":
                out["default"] = "".join(vectors.short(result) for result in results)
            out["sets"] = out.get("sets", "") + combined(results)
        return out

    def result(self, template: Any, tokenizer: Any, arguments: Any, row: Any) -> str:
        """The digest of ids and labels, or the error's code; ``!img`` when it hangs on the model's image size."""
        if type(template.mm_plugin).__name__ == "LlavaPlugin":
            uncut = copy(arguments)
            uncut.cutoff_len = 1 << 20
            if len({self.made(template, tokenizer, uncut, row, seqlen) for seqlen in (1, 2)}) > 1:
                return "!img"
        return self.made(template, tokenizer, arguments, row)

    def made(self, template: Any, tokenizer: Any, arguments: Any, row: Any, image_seqlen: int = 1) -> str:
        """The digest of ids and labels, or the error's code."""
        batch = with_words(row, getattr(template, "thought_words", THOUGHT_WORDS))
        processor = vectors.processor()  # and what the plugins of older releases read
        processor.image_seqlen, processor.patch_size = image_seqlen, 14
        processor.image_break_token = processor.image_end_token = ""
        keywords = {"template": template, "tokenizer": tokenizer, "processor": processor, "data_args": arguments}
        try:
            if hasattr(self.supervised, "SupervisedDatasetProcessor"):
                made = self.supervised.SupervisedDatasetProcessor(**keywords).preprocess_dataset(batch)
            else:
                made = self.supervised.preprocess_supervised_dataset(batch, **keywords)
        except Exception as error:
            return vectors.error_code(error)
        if not made["input_ids"]:
            return vectors.DROPPED
        return vectors.digest([made["input_ids"][0], made["labels"][0]])


def saved(template: Any, tokenizer: Any) -> list[str]:
    """Digests of what stays of the run: the tokenizer's changes, its chat template, the Modelfile."""
    changed = text_digest([tokenizer.eos_token, tokenizer.pad_token, len(tokenizer)])
    out = [changed, text_digest(tokenizer.chat_template)]
    if hasattr(template, "get_ollama_modelfile"):
        try:
            out.append(text_digest(template.get_ollama_modelfile(tokenizer)))
        except Exception as error:
            out.append(vectors.error_code(error))
    return out


def dump(result: Mapping[str, Any]) -> str:
    """JSON with one (template, tokenizer) a line."""
    head = json.dumps({key: result[key] for key in ("versions", "cases", "options")})
    parts = []
    for name, entry in result["tokenizers"].items():
        cells = entry["cells"].items()
        text = ",\n".join(f"{json.dumps(t)}:{json.dumps(cell, separators=(',', ':'))}" for t, cell in cells)
        about = json.dumps({"fingerprint": entry["fingerprint"]})
        parts.append(f'{json.dumps(name)}: {about[:-1]}, "cells": {{\n{text}\n}}}}')
    return head[:-1] + ', "tokenizers": {\n' + ",\n".join(parts) + "\n}}\n"


def main(out: str, *tokenizers: str) -> None:
    """Record `tokenizers` (``NAME=FOLDER`` each) into `out`."""
    rows = aligned_by_latest()
    os.environ["DISABLE_VERSION_CHECK"] = "1"
    prepare_imports()
    import tokenizers as tokenizers_package
    import transformers
    import transformers.utils.chat_template_utils as chat_template_utils

    logging.disable(logging.WARNING)
    pin_clock(first_module("data.tool_utils"))
    chat_template_utils.datetime = SimpleNamespace(now=lambda: datetime(2024, 7, 26, 12))
    release = Release(rows)
    result: dict[str, Any] = {
        "versions": {
            "llamafactory": first_module("extras.env").VERSION,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers_package.__version__,
        },
        "cases": vectors.digest(release_cases())[:16],
        "options": list(release.options),
        "tokenizers": {},
    }
    for argument in tokenizers:
        name, _, folder = argument.partition("=")
        only_null = name.startswith(f"{NULL}:")
        names = [NULL] if only_null else [*release.template.TEMPLATES, NULL]
        result["tokenizers"][name.removeprefix(f"{NULL}:")] = {
            "fingerprint": vectors.fingerprint(vectors.load_tokenizer(folder)),
            "cells": {template: release.cell(template, folder) for template in names},
        }
    Path(out).write_text(dump(result), encoding="utf-8")
    cells = sum(len(entry["cells"]) for entry in result["tokenizers"].values())
    print(f"{out}: {cells} templates × tokenizers, {len(release.options)} option sets, {len(rows)} conversations")


if __name__ == "__main__":
    if sys.argv[1:] == [LATEST]:
        prepare_imports()
        print(json.dumps(aligned()))
    elif len(sys.argv) < 3:
        sys.exit(__doc__)
    else:
        main(*sys.argv[1:])
