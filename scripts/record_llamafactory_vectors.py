"""Record what the real LLaMA-Factory makes of the vector cases, for the replay test.

Run it with the Python of an environment that has LLaMA-Factory 0.9.5 and transformers 5.6.0:

    python scripts/record_llamafactory_vectors.py OUT.json NAME=FOLDER...   ids and labels
    python scripts/record_llamafactory_vectors.py OUT.json                  parts that need no tokenizer

Every template × every tokenizer folder × every conversation and option set of
``fixtures/llamafactory/vectors_cases.json`` is run through the framework's own
``get_template_and_fix_tokenizer`` and ``SupervisedDatasetProcessor``. Of each result two bytes of its
digest are kept (or the class of the error), and of each (template, tokenizer) one digest of all its
results. Nothing of this project is imported, so that nothing of it can leak into what is
expected of it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from datetime import datetime
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CASES = ROOT / "fixtures" / "llamafactory" / "vectors_cases.json"
CLOCK = datetime(2024, 7, 26, 12)
SHORT = 3
DROPPED = "!drp"
NULL = "null"


def digest(value: Any) -> str:
    """The sha256 of `value` as JSON."""
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()


def error_code(error: BaseException) -> str:
    """An error's class, such as ``!Val``."""
    return f"!{type(error).__name__[:3]}"


def short(result: str) -> str:
    """A result (a digest or an error code) in `SHORT` characters: two bytes in base64, or ``!Va``."""
    if result.startswith("!"):
        return result[:SHORT]
    return base64.urlsafe_b64encode(bytes.fromhex(result[:4])).decode()[:SHORT]


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


def fingerprint(tokenizer: Any) -> str:
    """A digest of how a tokenizer treats all texts of the cases, before any change."""
    texts = dict.fromkeys(strings_in(json.loads(CASES.read_text(encoding="utf-8"))["conversations"]))
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    special = [tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token]
    added = [
        [i, str(token), token.lstrip, token.rstrip, token.normalized, token.special]
        for i, token in sorted(tokenizer.added_tokens_decoder.items())
    ]
    return digest([len(tokenizer), special, added, ids])[:16]


def effects_digest(eos: Any, pad: Any, size: int, chat_template: Any) -> str:
    """What is compared of the changed tokenizer."""
    return digest([eos, pad, size, chat_template])[:8]


def examples(conversation: Mapping[str, Any], thought_words: Sequence[str]) -> dict[str, list[Any]]:
    """A conversation as a batch of one aligned row.

    The messages come from the framework's own ``openai`` converter; system text and tools are put
    in as they are (the converter would add to the system text), and reasoning goes inline.
    """
    from llamafactory.data.converter import OpenAIDatasetConverter
    from llamafactory.data.parser import DatasetAttr

    attributes = DatasetAttr(load_from="file", dataset_name="vectors", formatting="openai", messages="messages")
    attributes.role_tag, attributes.content_tag = "role", "content"
    attributes.user_tag, attributes.assistant_tag, attributes.system_tag = "user", "assistant", "system"
    attributes.observation_tag, attributes.function_tag = "tool", "function"
    messages = [{"content": None, **message} for message in conversation["messages"]]
    row = OpenAIDatasetConverter(attributes, SimpleNamespace(media_dir=""))({"messages": messages})
    said = [message for message in messages if message["role"] == "assistant"]
    answers = [m for m in row["_prompt"] + row["_response"] if m["role"] in ("assistant", "function")]
    for message, answer in zip(said, answers, strict=False):
        if message.get("reasoning"):
            answer["content"] = thought_words[0] + message["reasoning"] + thought_words[1] + answer["content"]
    row["_system"] = messages[0]["content"] if messages[0]["role"] == "system" else ""
    row["_tools"] = json.dumps(conversation["tools"], ensure_ascii=False) if "tools" in conversation else ""
    return {key: [value] for key, value in row.items()}


def processor() -> Any:
    """Stands in for a multimodal processor; only what the plugins read for rows of text."""
    part = SimpleNamespace(
        merge_size=2, merge_kernel_size=(2, 2), max_slice_nums=9, use_image_id=True, downsample_factor=2
    )
    return SimpleNamespace(
        image_processor=part,
        video_processor=part,
        feature_extractor=part,
        image_seq_length=256,
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
        boa_token="<start_of_audio>",
        eoa_token="<end_of_audio>",
        image_token="<image_soft_token>",
        video_token="<video_soft_token>",
        audio_token="<audio_soft_token>",
        audio_bos_token="<|audio_bos|>",
        audio_eos_token="<|audio_eos|>",
        # as Gemma3Processor of transformers builds it
        full_image_sequence="\n\n<start_of_image>" + "<image_soft_token>" * 256 + "<end_of_image>\n\n",
        full_audio_sequence="\n\n<start_of_audio>" + "<audio_soft_token>" * 188 + "<end_of_audio>\n\n",
    )


@contextmanager
def own_template(name: str) -> Iterator[None]:
    """Templates are shared objects that the framework changes; give it a copy to change."""
    from llamafactory.data.template import TEMPLATES

    if name == NULL:
        yield
        return
    original = TEMPLATES[name]
    TEMPLATES[name] = deepcopy(original)
    try:
        yield
    finally:
        TEMPLATES[name] = original


def load_tokenizer(folder: str) -> Any:
    """The tokenizer as the framework's ``load_tokenizer`` loads it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        folder, use_fast=True, split_special_tokens=False, padding_side="right", trust_remote_code=False
    )


def run_cell(template: str, tokenizer: Any, cases: Mapping[str, Any]) -> dict[str, Any]:
    """All option sets × conversations for one template and one fresh tokenizer."""
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments

    out: dict[str, str] = {}
    full: list[str] = []
    effects = ""
    for option_set, options in cases["options"].items():
        codes: list[str] = []
        with own_template(template):
            arguments = DataArguments(template=None if template == NULL else template, **options)
            try:
                found = get_template_and_fix_tokenizer(tokenizer, arguments)
            except Exception as error:
                refused = [error_code(error)] * len(cases["conversations"])
                full += refused
                codes = [short(code) for code in refused]
            else:
                if not effects:
                    effects = effects_digest(
                        tokenizer.eos_token, tokenizer.pad_token, len(tokenizer), tokenizer.chat_template
                    )
                for conversation in cases["conversations"].values():
                    result = run_case(found, tokenizer, arguments, conversation)
                    full.append(result)
                    codes.append(short(result))
        joined = "".join(codes)
        if joined not in out.values():
            out[option_set] = joined
        else:  # most options leave most templates alone
            out[option_set] = "=" + next(name for name, value in out.items() if value == joined)
    return {"effects": effects, "digest": digest(full)[:16], "cases": out}


def run_case(template: Any, tokenizer: Any, arguments: Any, conversation: Mapping[str, Any]) -> str:
    """The digest of the ids and labels, or what happens instead."""
    from llamafactory.data.processor.supervised import SupervisedDatasetProcessor

    worker = SupervisedDatasetProcessor(
        template=template, tokenizer=tokenizer, processor=processor(), data_args=arguments
    )
    try:
        result = worker.preprocess_dataset(examples(conversation, template.thought_words))
    except Exception as error:
        return error_code(error)
    if not result["input_ids"]:
        return DROPPED
    return digest([result["input_ids"][0], result["labels"][0]])


def prepare() -> dict[str, str]:
    """Make the framework importable and its clock stand still; the versions that run."""
    stub = ModuleType("torchaudio")
    stub.__spec__ = ModuleSpec("torchaudio", None)
    sys.modules["torchaudio"] = stub
    import llamafactory.data.tool_utils as tool_utils
    import tokenizers
    import transformers
    import transformers.utils.chat_template_utils as chat_template_utils
    from llamafactory.extras.env import VERSION

    tool_utils.datetime = chat_template_utils.datetime = SimpleNamespace(now=lambda: CLOCK)
    logging.disable(logging.WARNING)
    return {"llamafactory": VERSION, "transformers": transformers.__version__, "tokenizers": tokenizers.__version__}


def record_parts() -> dict[str, Any]:
    """What every tool format writes for the tools and calls of the cases, and a table of truncated lengths."""
    from llamafactory.data.formatter import FunctionFormatter, ToolFormatter
    from llamafactory.data.processor.processor_utils import infer_seqlen
    from llamafactory.data.tool_utils import TOOLS

    cases = json.loads(CASES.read_text(encoding="utf-8"))["conversations"]
    tools = {name: json.dumps(case["tools"], ensure_ascii=False) for name, case in cases.items() if "tools" in case}
    calls = {}
    for name, case in cases.items():
        batch = examples(case, ("<think>\n", "\n</think>\n\n"))
        messages = batch["_prompt"][0] + batch["_response"][0]
        calls.update({f"{name}.{i}": m["content"] for i, m in enumerate(messages) if m["role"] == "function"})
    formats: dict[str, Any] = {}
    words = {"thought_words": ("<think>\n", "\n</think>\n\n"), "tool_call_words": ("<tool_call>", "</tool_call>")}
    for tool_format in TOOLS:
        tool_formatter = ToolFormatter(tool_format=tool_format)
        formatter = FunctionFormatter(slots=["{{content}}"], tool_format=tool_format)
        formats[tool_format] = {
            "tools": {name: outcome(tool_formatter, content=text) for name, text in tools.items()},
            "calls": {name: outcome(formatter, content=text, **words) for name, text in calls.items()},
        }
    lengths = [[*infer_seqlen(s, t, c)] for s in range(24) for t in range(24) for c in range(1, 50)]
    return {"tools": tools, "calls": calls, "formats": formats, "lengths": digest(lengths)}


def outcome(formatter: Any, **arguments: Any) -> str:
    """The text that a formatter writes, or the code of its error."""
    try:
        return str(formatter.apply(**arguments)[0])
    except Exception as error:
        return error_code(error)


def main(out: str, *tokenizers: str) -> None:
    """Record `tokenizers` (``NAME=FOLDER`` each) into `out`; without any, the parts."""
    versions = prepare()
    if not tokenizers:
        text = json.dumps({"versions": versions, **record_parts()}, ensure_ascii=False, indent=1)
        Path(out).write_text(text + "\n", encoding="utf-8")
        return
    from llamafactory.data.template import TEMPLATES

    cases = json.loads(CASES.read_text(encoding="utf-8"))
    result: dict[str, Any] = {"versions": versions, "cases": digest(cases)[:16], "tokenizers": {}}
    for argument in tokenizers:
        name, _, folder = argument.partition("=")
        tokenizer = load_tokenizer(folder)
        entry: dict[str, Any] = {"size": len(tokenizer), "fingerprint": fingerprint(tokenizer), "cells": {}}
        result["tokenizers"][name] = entry
        for template in (*TEMPLATES, NULL):  # NULL: read off the chat template
            entry["cells"][template] = run_cell(template, load_tokenizer(folder), cases)
        print(name, len(entry["cells"]), "templates", flush=True)
    Path(out).write_text(dump(result), encoding="utf-8")


def dump(result: Mapping[str, Any]) -> str:
    """JSON with one (template, tokenizer) a line."""
    head = json.dumps({key: result[key] for key in ("versions", "cases")})
    parts = []
    for name, entry in result["tokenizers"].items():
        rows = ",\n".join(f"{json.dumps(t)}:{json.dumps(c, separators=(',', ':'))}" for t, c in entry["cells"].items())
        about = json.dumps({key: entry[key] for key in ("size", "fingerprint")})
        parts.append(f'{json.dumps(name)}: {about[:-1]}, "cells": {{\n{rows}\n}}}}')
    return head[:-1] + ', "tokenizers": {\n' + ",\n".join(parts) + "\n}}\n"


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(*sys.argv[1:])
