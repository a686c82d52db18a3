"""The worker that runs inside an environment where LLaMA-Factory is installed. See docs/worker-protocol.md.

It is run by another interpreter, so it imports nothing of template_audit and stays with what Python
3.9 knows. It calls the framework's own classes: `get_template_and_fix_tokenizer` and the processor of
the example's stage (a class since 0.9.2, a function before).
"""

from __future__ import annotations

import copy
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import sys
import types
from datetime import datetime
from typing import Any

# What `DataArguments` (hparams/data_args.py) would hold when nothing is set. `cutoff_len` is the one in
# force: where packing lowers it, the caller has done so.
DEFAULTS: dict[str, Any] = {
    "template": None,
    "cutoff_len": 2048,
    "train_on_prompt": False,
    "mask_history": False,
    "tool_format": None,
    "default_system": None,
    "enable_thinking": True,
    "preserve_thinking": False,
}


# The processors of stages with two answers; one example is there its own neighbour in the KL term of KTO.
PROCESSORS = {"rm": "pairwise", "kto": "feedback"}


class _AnyProcessor:
    """Stands in for a multimodal processor; text-only rows never look inside."""

    def __getattr__(self, name: str) -> _AnyProcessor:
        return _AnyProcessor()


def _stub_torchaudio() -> None:
    """LLaMA-Factory imports torchaudio for audio rows only; an empty module serves text."""
    try:
        importlib.import_module("torchaudio")
    except Exception:
        module = types.ModuleType("torchaudio")
        module.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
        sys.modules["torchaudio"] = module


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _pin_clock(iso: str) -> None:
    """Make the dates in tool prompts and in chat templates (for `template: null`) those of `iso`."""
    moment = datetime.fromisoformat(iso)

    class Pinned(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return moment

    for name in ("llamafactory.data.tool_utils", "transformers.utils.chat_template_utils"):
        if importlib.util.find_spec(name) is not None:
            module = importlib.import_module(name)
            if hasattr(module, "datetime"):
                setattr(module, "datetime", Pinned)  # noqa: B010


class Session:
    """One model, one template, one set of options."""

    def __init__(self, request: dict[str, Any]) -> None:
        from transformers import AutoTokenizer

        template_module = importlib.import_module("llamafactory.data.template")
        options = dict(request.get("options") or {})
        clock = options.pop("clock", None)
        if clock:
            _pin_clock(str(clock))
        self.args = types.SimpleNamespace(**{**DEFAULTS, **options, "template": request.get("template")})
        self.tokenizer = AutoTokenizer.from_pretrained(
            request["model"],
            use_fast=True,
            split_special_tokens=False,
            padding_side="right",
            trust_remote_code=bool(request.get("trust_remote_code", False)),
        )
        if request.get("chat_template") is not None:
            self.tokenizer.chat_template = request["chat_template"]
        # get_template_and_fix_tokenizer changes the registered object: give every session its own
        registered = template_module.TEMPLATES
        saved = dict(registered)
        try:
            if request.get("register"):  # a `register_template(…)` call, written by the caller
                exec(compile(request["register"], "<snippet>", "exec"), dict(vars(template_module)))
            if self.args.template in registered:
                registered[self.args.template] = copy.deepcopy(registered[self.args.template])
            self.template = template_module.get_template_and_fix_tokenizer(self.tokenizer, self.args)
        finally:
            registered.clear()
            registered.update(saved)
        self.processor = _AnyProcessor()

    def encode(self, example: dict[str, Any]) -> dict[str, Any]:
        """Ids and labels of one aligned example, or what the framework did instead."""
        stage = example.get("_stage", "sft")
        row = {
            "_prompt": [example["_prompt"]],
            "_response": [example["_response"]],
            "_system": [example.get("_system") or ""],
            "_tools": [example.get("_tools") or ""],
            "_images": [None],
            "_videos": [None],
            "_audios": [None],
        }
        try:
            out = self._run(row, PROCESSORS.get(stage, "supervised"))
        except Exception as error:
            return {"error": str(error), "type": type(error).__name__}
        prefix = "chosen_" if stage == "rm" else ""
        ids, labels = out.get(prefix + "input_ids"), out.get(prefix + "labels")
        if not ids or not labels:
            return {"dropped": True}
        return {"input_ids": list(ids[0]), "labels": list(labels[0])}

    def pretrain(self, texts: list[str]) -> list[list[int]]:
        """The blocks that one map batch of documents becomes."""
        empty: list[Any] = [None] * len(texts)
        rows = {"_prompt": [[{"role": "user", "content": text}] for text in texts], "_response": [[] for _ in texts]}
        rows.update({"_" + name: empty for name in ("system", "tools", "images", "videos", "audios")})
        return [list(ids) for ids in self._run(rows, "pretrain")["input_ids"]]

    def _run(self, row: dict[str, Any], name: str) -> dict[str, Any]:
        try:
            module = importlib.import_module("llamafactory.data.processor." + name)
        except ImportError:  # up to 0.9.1: functions
            module = importlib.import_module("llamafactory.data.processors." + name)
            offered = {"tokenizer": self.tokenizer, "data_args": self.args}
            if name != "pretrain":
                offered.update(template=self.template, processor=self.processor)
            old: dict[str, Any] = getattr(module, f"preprocess_{name}_dataset")(row, **offered)
            return old
        processor = getattr(module, name.capitalize() + "DatasetProcessor")(
            template=self.template, tokenizer=self.tokenizer, processor=self.processor, data_args=self.args
        )
        new: dict[str, Any] = processor.preprocess_dataset(row)
        return new


def handle(request: dict[str, Any], state: dict[str, Session]) -> dict[str, Any]:
    """Answer one request."""
    op = request.get("op")
    if op == "hello":
        if _version("llamafactory") is None and importlib.util.find_spec("llamafactory") is None:
            return {"error": "LLaMA-Factory is not installed in this environment.", "type": "NotInstalled"}
        names = ("llamafactory", "transformers", "tokenizers", "jinja2")
        versions = {name: _version(name) for name in names}
        versions["python"] = sys.version.split()[0]
        spec = importlib.util.find_spec("llamafactory")
        source = next(iter(spec.submodule_search_locations or ()), None) if spec else None
        return {"framework": "llamafactory", "source": source, "versions": {k: v for k, v in versions.items() if v}}
    if op == "open":
        state["session"] = Session(request)
        return {"size": len(state["session"].tokenizer)}
    if op == "encode":
        if "session" not in state:
            return {"error": "`encode` came before `open`.", "type": "ProtocolError"}
        return {"results": [state["session"].encode(example) for example in request["examples"]]}
    if op == "pretrain":
        if "session" not in state:
            return {"error": "`pretrain` came before `open`.", "type": "ProtocolError"}
        return {"blocks": state["session"].pretrain(request["texts"])}
    return {"error": f"Unknown request {op!r}.", "type": "ProtocolError"}


def main() -> None:
    """Serve requests until standard input ends."""
    # whatever the framework prints must not mix with the replies
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    _stub_torchaudio()
    state: dict[str, Session] = {}
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if request.get("op") == "close":
            break
        try:
            reply = handle(request, state)
        except Exception as error:
            reply = {"error": str(error), "type": type(error).__name__}
        replies.write(json.dumps({"id": request.get("id"), **reply}) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
