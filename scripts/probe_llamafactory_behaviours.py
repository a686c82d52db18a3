"""Observe the named behaviours of an installed LLaMA-Factory, from inside its own environment.

    DISABLE_VERSION_CHECK=1 PYTHONPATH=unpacked/0.9.4 python scripts/probe_llamafactory_behaviours.py --stub torchaudio

Runs the release's real functions on tiny inputs with a stand-in tokenizer and enters what was observed into
fixtures/llamafactory/runtime_behaviours.json under the release's version, by the names of
template_audit/frameworks/llamafactory/behaviours.py. The tests hold the recorded behaviours, which were read from
the source, against it. A behaviour that a release cannot show (no reasoning templates, no such tool format) is
null. Needs nothing of this project but the fixture's folder.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.machinery
import inspect
import json
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

FIXTURE = Path(__file__).parent.parent / "fixtures" / "llamafactory" / "runtime_behaviours.json"
EOS, BOS, PAD = 1, 2, 3
IGNORED = -100
CALL = '{"name": "f", "arguments": {"a": 1}}'


class Tokenizer:
    """One id per character; the few attributes that the framework asks for."""

    eos_token, bos_token, pad_token = "\x01", "\x02", "\x03"
    eos_token_id, bos_token_id, pad_token_id = EOS, BOS, PAD
    chat_template: str | None = "given"

    def __init__(self, add_bos_token: bool = False, thought: bool = False) -> None:
        self.add_bos_token = add_bos_token
        self.thought = thought
        self.added: list[Any] = []

    def encode(self, text: str, **options: Any) -> list[int]:
        return [ord(character) for character in text]

    def decode(self, ids: list[int], **options: Any) -> str:
        return "".join(map(chr, ids))

    def __call__(self, texts: list[str], **options: Any) -> dict[str, list[list[int]]]:
        ids = [self.encode(text)[: options.get("max_length")] for text in texts]
        return {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}

    def convert_tokens_to_ids(self, token: str) -> int:
        return 4

    def add_special_tokens(self, tokens: Any, **options: Any) -> int:
        self.added.append(tokens)
        return 0

    def apply_chat_template(self, messages: list[dict[str, str]], **options: Any) -> str:
        parts = []
        for message in messages:
            thought = "<think>\n\n</think>\n\n" if self.thought and message["role"] == "assistant" else ""
            parts.append(f"[{message['role']}]{thought}{message['content']}")
        return "".join(parts) + ("[assistant]" if options.get("add_generation_prompt") else "")


class Release:
    """The modules of one release under the names that it gives them."""

    def __init__(self) -> None:
        load = importlib.import_module
        self.version: str = load("llamafactory.extras.env").VERSION
        self.template = load("llamafactory.data.template")
        self.formatter = load("llamafactory.data.formatter")
        self.tools = load("llamafactory.data.tool_utils")
        self.parser = load("llamafactory.data.parser")
        self.arguments = load("llamafactory.hparams.data_args").DataArguments
        self.old = not hasattr(self.template, "register_template")  # functions instead of processor classes
        self.processors = "llamafactory.data.processors" if self.old else "llamafactory.data.processor"
        self.converter = load("llamafactory.data.aligner" if self.old else "llamafactory.data.converter")
        self.reasoning = getattr(self.template, "ReasoningTemplate", None)

    def plain(self, **changes: Any) -> Any:
        """A copy of the template that adds nothing, with some fields changed."""
        template = copy.deepcopy(self.template.TEMPLATES["empty"])
        for name, value in changes.items():
            setattr(template, name, value)
        return template

    def thinking(self, **changes: Any) -> Any:
        """The same as a reasoning template."""
        template = self.plain(**changes)
        template.__class__ = self.reasoning
        return template

    def process(self, kind: str, rows: list[Any], template: Any, /, tokenizer: Any = None, **options: Any) -> Any:
        """Run a data set processor over (prompt, response) rows."""
        defaults = {"cutoff_len": 1000, "train_on_prompt": False, "mask_history": False, "neat_packing": False}
        data_args = SimpleNamespace(**{**defaults, "packing": False, "template": "x", **options})
        examples: dict[str, list[Any]] = {"_prompt": [row[0] for row in rows], "_response": [row[1] for row in rows]}
        examples |= {name: [""] * len(rows) for name in ("_system", "_tools")}
        examples |= {name: [None] * len(rows) for name in ("_images", "_videos", "_audios")}
        tokenizer = tokenizer or Tokenizer()
        file, old, new = {
            "pretrain": ("pretrain", "preprocess_pretrain_dataset", "PretrainDatasetProcessor"),
            "sft": ("supervised", "preprocess_supervised_dataset", "SupervisedDatasetProcessor"),
            "packed": ("supervised", "preprocess_packed_supervised_dataset", "PackedSupervisedDatasetProcessor"),
            "kto": ("feedback", "preprocess_feedback_dataset", "FeedbackDatasetProcessor"),
        }[kind]
        module = importlib.import_module(f"{self.processors}.{file}")
        if not self.old:
            processor = getattr(module, new)(
                template=template, tokenizer=tokenizer, processor=None, data_args=data_args
            )
            return processor.preprocess_dataset(examples)
        if kind == "pretrain":
            return getattr(module, old)(examples, tokenizer, data_args)
        return getattr(module, old)(examples, template, tokenizer, None, data_args)

    def call_text(self, tool_format: str, content: str) -> str:
        """A function formatter's text for a call turn."""
        formatter = self.formatter.FunctionFormatter(slots=["{{content}}"], tool_format=tool_format)
        return str(formatter.apply(content=content)[0])

    def convert(self, row: dict[str, Any], **attributes: Any) -> dict[str, Any]:
        """Run the converter of a formatting over one row."""
        attribute = self.parser.DatasetAttr("file", dataset_name="x")
        for name, value in attributes.items():
            setattr(attribute, name, value)
        data_args = SimpleNamespace(dataset_dir=".", image_dir=".", media_dir=".", streaming=True)
        if self.old:
            convert = self.converter.convert_sharegpt
            return dict(convert(row, dataset_attr=attribute, data_args=data_args))
        return dict(self.converter.get_dataset_converter(attribute.formatting, attribute, data_args)(row))


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def raises(function: Callable[[], Any]) -> bool:
    try:
        function()
    except Exception:
        return True
    return False


TWO_TURNS = ([user("aa"), assistant("bb"), user("cc")], [assistant("dd")])


def text_of(ids: list[int]) -> str:
    """The text of some ids, without the eos that older releases' plain template ends an answer with."""
    return "".join(chr(token) for token in ids if token != EOS)


def observe_labels(release: Release, found: dict[str, Any]) -> None:
    efficient = release.plain(efficient_eos=True)
    labels = release.process("sft", [TWO_TURNS], efficient)["labels"][0]
    found["efficient_eos_label_on_first_turn"] = labels[0] == EOS
    cut = release.process("sft", [TWO_TURNS], release.plain(), mask_history=True, cutoff_len=5)["input_ids"][0]
    found["mask_history_keeps_last_turns"] = text_of(cut).endswith("ccdd")


def observe_thoughts(release: Release, found: dict[str, Any]) -> None:
    if release.reasoning is None:
        return
    words = ("<t>", "</t>")
    row = ([user("a"), assistant("<t>x</t>b"), user("c")], [assistant("<t>y</t>d")])
    ids = release.process("sft", [row], release.thinking(thought_words=words), mask_history=True)["input_ids"][0]
    found["mask_history_drops_thoughts"] = "x" not in text_of(ids)
    empty = release.thinking(thought_words=("A", "B")).add_thought()
    found["empty_thought"] = {"AB": "joined", "A\n\nB\n\n": "spaced"}[empty]
    spaced = release.thinking(thought_words=("<t>\n", "\n</t>"))
    ids = release.process("sft", [([user("a")], [assistant("<t>x</t>b")])], spaced)["input_ids"][0]
    found["thought_search_strips_words"] = text_of(ids) == "a<t>x</t>b"


def observe_tools(release: Release, found: dict[str, Any]) -> None:
    function = release.formatter.FunctionFormatter
    if hasattr(release.tools.ToolUtils, "get_function_slots"):
        twice = function(slots=["|"], tool_format="default").apply(content=f"[{CALL}, {CALL}]")
        found["function_formatter"] = "slots_per_call" if twice.count("|") == 2 else "unknown"
    else:
        formatter = function(slots=["{{content}}"], tool_format="default")
        thought = f"<think>a</think>{CALL}"
        found["function_formatter"] = "template_words"
        if not raises(lambda: formatter.apply(content=thought)):
            found["function_formatter"] = "think_tags"
        elif raises(lambda: formatter.apply(content=f"<x>a</x>{CALL}", thought_words=("<x>", "</x>"))):
            found["function_formatter"] = "unknown"
        text = release.call_text("default", CALL)
        found["default_calls_end_with_newline"] = text.endswith("\n")
    broken = function(slots=["{{content}}"], tool_format="default")
    found["invalid_tool_json"] = "error" if raises(lambda: broken.apply(content="no json")) else "nothing"
    tool = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}
    wrapped = json.dumps([{"type": "function", "function": tool}])
    tools = release.formatter.ToolFormatter(tool_format="default")
    found["tool_definitions_unwrapped"] = not raises(lambda: tools.apply(content=wrapped))
    if "qwen" in release.tools.TOOLS:
        found["tool_calls_as_json"] = '\\"' in release.call_text("qwen", CALL.replace('"f"', '"f\\""'))
        found["llama3_parallel_calls"] = not raises(lambda: release.call_text("llama3", f"[{CALL}, {CALL}]"))
    if "minimax2" in release.tools.TOOLS:
        found["minimax2_calls_lost"] = raises(lambda: release.call_text("minimax2", CALL))


def observe_messages(release: Release, found: dict[str, Any]) -> None:
    plugin = copy.deepcopy(release.template.TEMPLATES["llava"].mm_plugin)
    processor = SimpleNamespace(image_processor=1, video_processor=1, feature_extractor=1, image_seqlen=1)
    media: list[list[Any]] = [[]] * (len(inspect.signature(plugin.process_messages).parameters) - 2)
    messages = [user("a <video> b"), assistant("c")]  # llava has no videos
    checked = raises(lambda: plugin.process_messages(messages, *media, processor))
    found["media_placeholders_checked"] = "all" if checked else "plugin"
    processor.image_seqlen = 2
    written = plugin.process_messages([user("{{image}}"), assistant("c")], *media, processor)[0]["content"]
    found["llava_image_text_repeated"] = written == 2 * plugin.image_token
    if found["function_formatter"] == "template_words":
        template = copy.deepcopy(release.template.TEMPLATES["llama2"])
        template.thought_words = ("<x>", "</x>")
        turns = [user("a"), {"role": "function", "content": f"<x>t</x>{CALL}"}]
        found["llama2_function_words"] = not raises(lambda: template.encode_oneturn(Tokenizer(), turns))


def observe_template(release: Release, found: dict[str, Any]) -> None:
    def fixed(template: str | None, tokenizer: Tokenizer) -> Any:
        data_args = SimpleNamespace(
            template=template, train_on_prompt=False, tool_format=None, default_system=None, enable_thinking=True
        )
        data_args.preserve_thinking = False
        return release.template.get_template_and_fix_tokenizer(tokenizer, data_args)

    parsed = fixed(None, Tokenizer(thought=True))
    if parsed is release.template.TEMPLATES["empty"]:
        found["chat_template_parser"] = "none"
    else:
        aware = release.reasoning is not None and isinstance(parsed, release.reasoning)
        found["chat_template_parser"] = "reasoning_aware" if aware else "plain"
        found["parsed_thoughts_have_newlines"] = "\n" in parsed.thought_words[0]
    owner = release.template if release.old else release.template.Template
    tokenizer = Tokenizer()
    owner._add_or_replace_eos_token(tokenizer, eos_token=tokenizer.eos_token)
    found["eos_replaced_by_itself"] = bool(tokenizer.added)
    llama2 = release.template.TEMPLATES["llama2"]
    jinja = (
        release.template._get_jinja_template(llama2, tokenizer)
        if release.old
        else llama2._get_jinja_template(tokenizer)
    )
    found["llama2_jinja"] = "if_else" if "{% else %}{% set content" in jinja else "override"
    found["ollama_modelfile"] = hasattr(release.template.Template, "get_ollama_modelfile")


def observe_packing(release: Release, found: dict[str, Any]) -> None:
    row = ([user("aa")], [assistant("bb")])
    long = ([user("a" * 20)], [assistant("b" * 20)])
    packed = release.process("packed", [row, row, long], release.plain(), cutoff_len=10, packing=True)
    lengths = {len(ids) for ids in packed["input_ids"]}
    found["packing_pad_inside_cutoff_len"] = lengths == {10}
    found["packing_reserves_padding"] = all(PAD in ids for ids in packed["input_ids"])
    found["packing_position_ids"] = "position_ids" in packed
    neat = release.process("packed", [row], release.plain(), cutoff_len=10, packing=True, neat_packing=True)
    found["packing_params"] = "packing_params" in neat
    found["default_cutoff_len"] = release.arguments().cutoff_len
    found["packing_lowers_cutoff_len"] = release.arguments(packing=True, cutoff_len=10).cutoff_len == 9


def observe_other_stages(release: Release, found: dict[str, Any]) -> None:
    def first(template: str, add_bos_token: bool) -> int:
        result = release.process("pretrain", [([user("aaaa")], [])], None, Tokenizer(add_bos_token), template=template)
        return int(result["input_ids"][0][0])

    seen = (first("gemma", False) == BOS, first("x", True) == BOS)
    found["pretrain_bos"] = {(True, False): "gemma_template", (False, True): "add_bos_token"}[seen]
    rows = [([user("q")], [assistant(text), assistant("")]) for text in "abc"]
    second = text_of(release.process("kto", rows, release.plain())["kl_input_ids"][1])
    found["kl_pairs"] = {"qb": "reversed", "qa": "shifted"}[second]


def observe_converters(release: Release, found: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        info = {"x": {"file_name": "x.json", "columns": {"messages": "talk"}}}
        (Path(folder) / "dataset_info.json").write_text(json.dumps(info))
        attribute = release.parser.get_dataset_list(["x"], folder)[0]
    found["dataset_columns_by_formatting"] = attribute.messages != "talk"
    row = {"conversations": [{"from": "human", "value": "a"}, {"from": "nobody", "value": "b"}]}
    found["sharegpt_reads_past_bad_role"] = raises(lambda: release.convert(row, formatting="sharegpt"))
    ranking = {
        "conversations": [{"from": "human", "value": "a"}],
        "chosen": {"from": "human", "value": "b"},
        "rejected": {"from": "gpt", "value": "c"},
    }
    columns = {"ranking": True, "chosen": "chosen", "rejected": "rejected", "formatting": "sharegpt"}
    found["pairwise_bad_role_dropped"] = release.convert(ranking, **columns)["_prompt"] == []
    names = {"messages": "m", "role_tag": "role", "content_tag": "content", "user_tag": "user"}
    names |= {"assistant_tag": "assistant", "observation_tag": "tool", "function_tag": "function"}
    talk = {"m": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "tool_calls": None}]}
    if release.old:
        chosen: list[str] = []
        rows = [{"m": talk["m"]}]

        class Rows(list):  # type: ignore[type-arg]
            def map(self, function: Any, **options: Any) -> None:
                chosen.append(function.func.__name__)

        attribute = SimpleNamespace(formatting="openai", load_from="file")
        data_args = SimpleNamespace(streaming=True, dataset_dir=".")
        release.converter.align_dataset(Rows(rows), attribute, data_args, None)
        found["openai_formatting"] = "sharegpt" if chosen == ["convert_sharegpt"] else "unknown"
    elif "openai" not in release.converter.DATASET_CONVERTERS:
        unknown = raises(lambda: release.convert(talk, formatting="openai", **names))
        found["openai_formatting"] = "unknown" if unknown else "sharegpt"
    else:
        found["openai_formatting"] = "openai"
        found["openai_null_tool_calls_fail"] = raises(lambda: release.convert(talk, formatting="openai", **names))


OBSERVERS = (
    observe_labels,
    observe_thoughts,
    observe_tools,
    observe_messages,
    observe_template,
    observe_packing,
    observe_other_stages,
    observe_converters,
)


def main() -> int:
    """Observe this environment's framework and enter it into the fixture."""
    parser = argparse.ArgumentParser(description="Observe the named behaviours of an installed LLaMA-Factory.")
    parser.add_argument("--stub", action="append", default=[], help="replace this module by an empty one")
    for name in parser.parse_args().stub:
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        sys.modules[name] = module
    release = Release()
    found: dict[str, Any] = {}
    for observer in OBSERVERS:
        observer(release, found)
    known = json.loads(FIXTURE.read_text(encoding="utf-8")) if FIXTURE.exists() else {}
    known[release.version] = dict(sorted(found.items()))
    FIXTURE.write_text(json.dumps(dict(sorted(known.items())), indent=1) + "\n", encoding="utf-8")
    print(f"{release.version}: {len(found)} behaviours observed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
