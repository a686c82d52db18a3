"""A LLaMA-Factory in miniature, of our own writing: the same shape as a release, two templates, three models.

`write` puts it into a folder, with files replaced or text appended.
"""

from __future__ import annotations

from pathlib import Path

TEMPLATE = '''\
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .formatter import EmptyFormatter, FunctionFormatter, StringFormatter, ToolFormatter
from .mm_plugin import get_mm_plugin

if TYPE_CHECKING:
    from .formatter import Formatter

GREETING = "Be " + "kind."


@dataclass
class Template:
    format_user: "Formatter"
    format_assistant: "Formatter"
    format_system: "Formatter"
    format_function: "Formatter"
    format_observation: "Formatter"
    format_tools: "Formatter"
    format_prefix: "Formatter"
    default_system: str
    stop_words: list
    thought_words: tuple
    efficient_eos: bool
    replace_eos: bool
    replace_jinja_template: bool
    mm_plugin: object

    def _encode(self, tokenizer, messages, system, tools):
        return []

    @staticmethod
    def _add_or_replace_eos_token(tokenizer, eos_token):
        if tokenizer.eos_token == eos_token:
            return
        tokenizer.add_special_tokens({"eos_token": eos_token})


@dataclass
class Llama2Template(Template):
    def _encode(self, tokenizer, messages, system, tools):
        return []

    def _get_jinja_template(self, tokenizer):
        return "{% if a %}{% set content = b %}{% else %}{% set content = c %}{% endif %}"


@dataclass
class ReasoningTemplate(Template):
    def encode_multiturn(self, tokenizer, messages):
        return self.thought_words[0].strip() in messages


TEMPLATES: dict[str, "Template"] = {}


def register_template(
    name,
    format_user=None,
    format_assistant=None,
    format_system=None,
    format_function=None,
    format_observation=None,
    format_tools=None,
    format_prefix=None,
    default_system="",
    stop_words=None,
    thought_words=None,
    efficient_eos=False,
    replace_eos=False,
    replace_jinja_template=False,
    mm_plugin=get_mm_plugin(name="base"),
    template_class=Template,
):
    """Registers."""
    if name in TEMPLATES:
        raise ValueError(f"{name} is there already.")

    answer = ["{{content}}"] if efficient_eos else ["{{content}}", {"eos_token"}]
    text = StringFormatter(slots=["{{content}}"])
    if format_assistant is not None:
        calls = FunctionFormatter(slots=format_assistant.slots, tool_format="default")
    else:
        calls = FunctionFormatter(slots=answer, tool_format="default")
    TEMPLATES[name] = template_class(
        format_user=format_user or text,
        format_assistant=format_assistant or StringFormatter(slots=answer),
        format_system=format_system or text,
        format_function=format_function or calls,
        format_observation=format_observation or format_user or text,
        format_tools=format_tools or ToolFormatter(tool_format="default"),
        format_prefix=format_prefix or EmptyFormatter(),
        default_system=default_system,
        stop_words=stop_words or [],
        thought_words=thought_words or ("<t>", "</t>"),
        efficient_eos=efficient_eos,
        replace_eos=replace_eos,
        replace_jinja_template=replace_jinja_template,
        mm_plugin=mm_plugin,
    )


register_template(
    name="bare",
    format_user=StringFormatter(slots=["U: {{content}}" "\\n", {"token": "<sep>"}]),
    format_prefix=EmptyFormatter(slots=[{"bos_token"}]),
    default_system=GREETING,
)

register_template(
    name="thinker",
    format_assistant=StringFormatter(slots=["{{content}}<end>"]),
    stop_words=["<end>"],
    efficient_eos=True,
    mm_plugin=get_mm_plugin("eyes", image_token="<image>", frame_token="<frame>"),
    template_class=ReasoningTemplate,
)
'''

FORMATTER = """\
from dataclasses import dataclass, field


@dataclass
class Formatter:
    slots: list = field(default_factory=list)
    tool_format: str = None


@dataclass
class EmptyFormatter(Formatter):
    pass


@dataclass
class StringFormatter(Formatter):
    pass


@dataclass
class FunctionFormatter(StringFormatter):
    def apply(self, **kwargs):
        tool_call_words = kwargs.pop("tool_call_words", None)
        raise RuntimeError(f"Invalid JSON: {tool_call_words}")


@dataclass
class ToolFormatter(Formatter):
    pass
"""

TOOLS = """\
DEFAULT_TOOL_PROMPT = "Tools:\\n{tool_text}"


class DefaultToolUtils:
    @staticmethod
    def tool_formatter(tools):
        return [tool for tool in tools if tool.get("type") == "function"]

    @staticmethod
    def function_formatter(functions):
        return "\\n".join(functions)


TOOLS = {"default": DefaultToolUtils()}
"""

PLUGINS = """\
class MMPluginMixin:
    def _validate_messages(self, messages):
        raise ValueError("too many")


class BasePlugin(MMPluginMixin):
    pass


PLUGINS = {"base": BasePlugin, "eyes": BasePlugin}


def get_mm_plugin(name, image_token=None, video_token=None, audio_token=None, **kwargs):
    return PLUGINS[name](image_token, video_token, audio_token, **kwargs)
"""

SUPERVISED = """\
class SupervisedDatasetProcessor:
    def _encode_data_example(self, prompt):
        encoded_pairs = prompt[::-1]
        encoded_pairs = encoded_pairs[::-1]
        if self.data_args.train_on_prompt:
            label = 1
        elif self.template.efficient_eos and turn_idx != 0:
            label = 2
        return label, discarding_history_cot


class PackedSupervisedDatasetProcessor(SupervisedDatasetProcessor):
    def preprocess_dataset(self, examples):
        if len(examples) < self.data_args.cutoff_len + 1:
            pass
        model_inputs["position_ids"].append(1)
        model_inputs["packing_params"].append(1)
"""

PRETRAIN = """\
class PretrainDatasetProcessor:
    def preprocess_dataset(self, examples):
        return getattr(self.tokenizer, "add_bos_token", False)
"""

FEEDBACK = """\
class FeedbackDatasetProcessor:
    def preprocess_dataset(self, examples):
        return [examples["_response"][-1]] + examples["_response"][:-1]
"""

CONVERTER = """\
class SharegptDatasetConverter:
    def __call__(self, example):
        if example:
            broken_data = True
            break_ = 1
        for one in example:
            if one:
                broken_data = True
                break
        if broken_data:
            prompt, response = [], []
        elif example:
            pass


class OpenAIDatasetConverter:
    def __call__(self, example):
        return example.get("tool_calls")
"""

PARSER = "def get_dataset_list(names, folder):\n    return []\n"

DATA_ARGS = """\
from dataclasses import dataclass, field


@dataclass
class DataArguments:
    template: str = field(default=None, metadata={"help": "The template."})
    cutoff_len: int = field(default=2048, metadata={"help": "The length."})
    mix_strategy: str = "concat"

    def __post_init__(self):
        if self.packing:
            self.cutoff_len -= 1
"""

CONSTANTS = """\
from collections import OrderedDict, defaultdict
from enum import Enum

DEFAULT_TEMPLATE = defaultdict(str)
SUPPORTED_MODELS = OrderedDict()


class DownloadSource(str, Enum):
    DEFAULT = "hf"
    MODELSCOPE = "ms"


def register_model_group(models, template=None, multimodal=False):
    for name, path in models.items():
        SUPPORTED_MODELS[name] = path
        if template is not None and (any(word in name for word in ("-Chat", "-Instruct")) or multimodal):
            DEFAULT_TEMPLATE[name] = template


register_model_group(
    models={
        "Bare-1B": {DownloadSource.DEFAULT: "bare/bare-1b"},
        "Bare-1B-Chat": {DownloadSource.DEFAULT: "bare/bare-1b-chat", DownloadSource.MODELSCOPE: "Bare/1b-chat"},
    },
    template="bare",
)
register_model_group(models={"Eye-2B": {DownloadSource.MODELSCOPE: "Eye/2b"}}, template="thinker", multimodal=True)
"""

WEBUI = """\
import os

from ..extras.constants import DEFAULT_TEMPLATE


def get_template(model_name: str) -> str:
    return DEFAULT_TEMPLATE.get(model_name, "default")
"""

FILES = {
    "__init__.py": "",
    "data/__init__.py": "",
    "data/template.py": TEMPLATE,
    "data/formatter.py": FORMATTER,
    "data/tool_utils.py": TOOLS,
    "data/mm_plugin.py": PLUGINS,
    "data/converter.py": CONVERTER,
    "data/parser.py": PARSER,
    "data/processor/supervised.py": SUPERVISED,
    "data/processor/pretrain.py": PRETRAIN,
    "data/processor/feedback.py": FEEDBACK,
    "hparams/data_args.py": DATA_ARGS,
    "extras/constants.py": CONSTANTS,
    "extras/env.py": 'VERSION = "1.2.3"\n',
    "webui/common.py": WEBUI,
}


def write(folder: Path, append: str = "", **replaced: str | None) -> Path:
    """Write the release below `folder` and return the package folder.

    `append` goes to the end of data/template.py; a keyword replaces a file (``data__formatter``: data/formatter.py),
    None leaves it out.
    """
    package = folder / "llamafactory"
    files: dict[str, str | None] = {**FILES, "data/template.py": f"{TEMPLATE}\n{append}"}
    files |= {f"{name.replace('__', '/')}.py": text for name, text in replaced.items()}
    for path, text in files.items():
        if text is not None:
            (package / path).parent.mkdir(parents=True, exist_ok=True)
            (package / path).write_text(text, encoding="utf-8")
    return package
