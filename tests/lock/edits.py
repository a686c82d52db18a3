"""One-place edits of a locked model, a framework's source or a training config, and what a check must say first.

Two fixture models: `llama3-like`, whose template stands in tokenizer_config.json, and `chatml-generation`, which
has template files. Beside them lie `release`, a LLaMA-Factory in miniature, and two training configs.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.frameworks.llamafactory import mini_release

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
LLAMA, CHATML = "llama3-like", "chatml-generation"

TEMPLATE = """
register_template(
    name="gate",
    format_user=StringFormatter(slots=["<|im_start|>user\\n{{content}}<|im_end|>\\n<|im_start|>assistant\\n"]),
    format_assistant=StringFormatter(slots=["{{content}}<|im_end|>\\n"]),
    stop_words=["<|im_end|>"],
)
"""
CONFIG = """\
model_name_or_path: MODEL
stage: sft
finetuning_type: lora
template: TEMPLATE
dataset: small
dataset_dir: data
train_on_prompt: false
"""
INFO = {"small": {"file_name": "small.json"}}
ROWS = [
    {"instruction": "Greet the visitor.", "input": "", "output": "Good morning!"},
    {"instruction": "Count to three.", "input": "", "output": "One, two, three."},
]


class Edit(NamedTuple):
    """`what` is done to `models` in a folder; the first line of the check must match `first`."""

    name: str
    target: str
    what: Callable[[Path], None]
    first: str


def write_project(folder: Path) -> None:
    """The two models, the framework's source, the configs and their data."""
    for model in (LLAMA, CHATML):
        shutil.copytree(FIXTURES / "models" / model, folder / model)
    mini_release.write(folder / "release", TEMPLATE)
    (folder / "data").mkdir()
    (folder / "data" / "dataset_info.json").write_text(json.dumps(INFO))
    (folder / "data" / "small.json").write_text(json.dumps(ROWS))
    (folder / "train.yaml").write_text(CONFIG.replace("MODEL", LLAMA).replace("TEMPLATE", "llama3"))


LOCKS = (
    ("llama3-like", "--encoder", "llamafactory:llama3"),
    ("chatml-generation", "--encoder", "llamafactory:chatml"),
    ("chatml-generation", "--encoder", "llamafactory:gate", "--framework-source", "release"),
    ("train.yaml",),
)
"""The arguments of `lock` for each entry. The third is the target `release`."""


def json_edit(file: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    """An edit that changes a parsed JSON file in place."""

    def edit(folder: Path) -> None:
        path = folder / file
        data = json.loads(path.read_text(encoding="utf-8"))
        change(data)
        path.write_text(json.dumps(data, ensure_ascii=False, indent=2), encoding="utf-8")

    return edit


def put(file: str, *path: str | int, value: Any) -> Callable[[Path], None]:
    """An edit that sets one value in a JSON file."""

    def change(data: Any) -> None:
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return json_edit(file, change)


def text_edit(file: str, old: str, new: str, *, count: int = 1) -> Callable[[Path], None]:
    """An edit that replaces text in a file, or in the `chat_template` of a tokenizer_config.json."""

    def edit(folder: Path) -> None:
        path = folder / file
        if path.name == "tokenizer_config.json":

            def change(data: Any) -> None:
                assert old in data["chat_template"]
                data["chat_template"] = data["chat_template"].replace(old, new, count)

            json_edit(file, change)(folder)
            return
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, count), encoding="utf-8")

    return edit


def _swap_merges(data: Any) -> None:
    merges = data["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def _rename_token(data: Any) -> None:
    """The last token that no merge makes gets another text."""
    vocabulary = data["model"]["vocab"]
    name = next(token for token, id in vocabulary.items() if id == 3)
    del vocabulary[name]
    vocabulary["\u0394"] = 3


def _add_token(data: Any) -> None:
    token = dict(data["added_tokens"][-1], id=data["added_tokens"][-1]["id"] + 1, content="<|note|>")
    data["added_tokens"].append(token)


def _new_file(file: str, text: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        (folder / file).write_text(text, encoding="utf-8")

    return edit


_CONFIG, _TOKENIZER = "tokenizer_config.json", "tokenizer.json"
_TEMPLATE = "tokenizer_config.json#chat_template"
EDITS = (
    Edit(
        "a newline in the template (tokenizer_config.json)",
        LLAMA,
        text_edit(f"{LLAMA}/{_CONFIG}", "{{- '<|eot_id|>' -}}\n{%- endfor", "{{- '<|eot_id|>\\n' -}}\n{%- endfor"),
        re.escape(_TEMPLATE) + r" line \d+ changed from .*eot_id\|>'.* to .*eot_id\|>\\\\n'",
    ),
    Edit(
        "the role word of the generation prompt",
        LLAMA,
        text_edit(f"{LLAMA}/{_CONFIG}", "opener('assistant') -}}\n{%- endif", "opener('model') -}}\n{%- endif"),
        re.escape(_TEMPLATE) + r" line \d+ changed from .*assistant.* to .*model",
    ),
    Edit(
        "a default system prompt",
        LLAMA,
        text_edit(f"{LLAMA}/{_CONFIG}", "{%- if has_system -%}", "{{- 'Be brief.' -}}\n{%- if has_system -%}"),
        re.escape(_TEMPLATE) + r" line \d+ is new: .*Be brief",
    ),
    Edit(
        "eos_token",
        LLAMA,
        put(f"{LLAMA}/{_CONFIG}", "eos_token", value="<|end_of_text|>"),
        re.escape('tokenizer_config.json: eos_token changed from "<|eot_id|>" to "<|end_of_text|>".'),
    ),
    Edit(
        "bos_token",
        LLAMA,
        put(f"{LLAMA}/{_CONFIG}", "bos_token", value="<|end_of_text|>"),
        re.escape('tokenizer_config.json: bos_token changed from "<|begin_of_text|>" to "<|end_of_text|>".'),
    ),
    Edit(
        "pad_token, new",
        LLAMA,
        put(f"{LLAMA}/{_CONFIG}", "pad_token", value="<|finetune_right_pad_id|>"),
        re.escape('tokenizer_config.json: pad_token was added: "<|finetune_right_pad_id|>".'),
    ),
    Edit(
        "model_max_length",
        LLAMA,
        put(f"{LLAMA}/{_CONFIG}", "model_max_length", value=4096),
        r"tokenizer_config\.json: model_max_length changed from \d+ to 4096\.",
    ),
    Edit(
        "eos_token in special_tokens_map.json",
        LLAMA,
        put(f"{LLAMA}/special_tokens_map.json", "eos_token", value="<|eom_id|>"),
        re.escape('special_tokens_map.json: eos_token changed from "<|eot_id|>" to "<|eom_id|>".'),
    ),
    Edit(
        "an eos of generation_config.json",
        LLAMA,
        put(f"{LLAMA}/generation_config.json", "eos_token_id", 2, value=1064),
        re.escape("generation_config.json: eos_token_id[2] changed from 1065 to 1064."),
    ),
    Edit(
        "eos_token_id of config.json",
        LLAMA,
        put(f"{LLAMA}/config.json", "eos_token_id", value=1057),
        r"config\.json: eos_token_id changed from \[1057, 1064, 1065\] to 1057\.",
    ),
    Edit(
        "a flag of a special token",
        LLAMA,
        put(f"{LLAMA}/{_CONFIG}", "added_tokens_decoder", "1065", "lstrip", value=True),
        re.escape("tokenizer_config.json: added_tokens_decoder.1065.lstrip changed from false to true."),
    ),
    Edit(
        "a token that is special no more",
        LLAMA,
        put(f"{LLAMA}/{_TOKENIZER}", "added_tokens", 9, "special", value=False),
        re.escape('tokenizer.json: added_tokens["<|eot_id|>"].special changed from true to false.'),
    ),
    Edit(
        "an added token",
        LLAMA,
        json_edit(f"{LLAMA}/{_TOKENIZER}", _add_token),
        re.escape('tokenizer.json: added_tokens["<|note|>"] was added: {"id": 1072, "special": true}.'),
    ),
    Edit(
        "two merges in the other order",
        LLAMA,
        json_edit(f"{LLAMA}/{_TOKENIZER}", _swap_merges),
        r"tokenizer\.json: model\.merges changed: 800 entries, the first difference is among entries 0 to 3\.",
    ),
    Edit(
        "a token of the vocabulary renamed",
        LLAMA,
        json_edit(f"{LLAMA}/{_TOKENIZER}", _rename_token),
        r"tokenizer\.json: model\.vocab changed: 1,056 entries, the first difference is among entries 0 to 7\.",
    ),
    Edit(
        "the normalizer",
        LLAMA,
        put(f"{LLAMA}/{_TOKENIZER}", "normalizer", value={"type": "NFKC"}),
        r'tokenizer\.json: normalizer changed from null to \{"type": "NFKC"\}\.',
    ),
    Edit(
        "chat_template.jinja beside the template of tokenizer_config.json",
        LLAMA,
        _new_file(f"{LLAMA}/chat_template.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}"),
        r"chat_template\.jinja is new; the template in use is that of chat_template\.jinja, and was that of "
        + re.escape(_TEMPLATE),
    ),
    Edit(
        "a newline in chat_template.jinja",
        CHATML,
        text_edit(f"{CHATML}/chat_template.jinja", "    {{- '\\n' -}}\n", "    {{- '\\n\\n' -}}\n"),
        re.escape("chat_template.jinja line 11 changed from") + r".*\\n' -\}\}.* to .*\\n\\\\n",
    ),
    Edit(
        "what the generation tags take in",
        CHATML,
        text_edit(
            f"{CHATML}/chat_template.jinja",
            "            {{- turn.content + '<|im_end|>' -}}\n        {%- endgeneration -%}",
            "            {{- turn.content -}}\n        {%- endgeneration -%}{{- '<|im_end|>' -}}",
        ),
        r"chat_template\.jinja line 6 changed from .*",
    ),
    Edit(
        "the template for tools",
        CHATML,
        text_edit(f"{CHATML}/additional_chat_templates/tool_use.jinja", "'Functions:'", "'Tools:'"),
        re.escape("additional_chat_templates/tool_use.jinja line 6 changed from") + ".*Functions.* to .*Tools",
    ),
    Edit(
        "pad_token_id of generation_config.json",
        CHATML,
        put(f"{CHATML}/generation_config.json", "pad_token_id", value=858),
        re.escape("generation_config.json: pad_token_id changed from 856 to 858."),
    ),
    Edit(
        "added_tokens.json, new",
        CHATML,
        _new_file(f"{CHATML}/added_tokens.json", '{"<|extra|>": 861}'),
        re.escape("added_tokens.json is new; it was not there when this was locked."),
    ),
    Edit(
        "format_user of the framework's template",
        "release",
        text_edit(
            "release/llamafactory/data/template.py", "<|im_start|>user\\n{{content}}", "<|im_start|>user {{content}}"
        ),
        r"llamafactory template gate format_user\[1\]\[0\] changed from .*user\\n.* to .*user \{",
    ),
    Edit(
        "stop_words of the framework's template",
        "release",
        text_edit("release/llamafactory/data/template.py", 'stop_words=["<|im_end|>"]', 'stop_words=["<|endoftext|>"]'),
        r'llamafactory template gate stop_words\[0\] changed from "<\|im_end\|>" to "<\|endoftext\|>"\.',
    ),
    Edit(
        "a tool prompt of the framework",
        "release",
        text_edit("release/llamafactory/data/tool_utils.py", "Tools:\\n{tool_text}", "Tool list:\\n{tool_text}"),
        r"llamafactory tool prompts DEFAULT_TOOL_PROMPT changed",
    ),
    Edit(
        "a label option of the training config",
        "train.yaml",
        text_edit("train.yaml", "train_on_prompt: false", "train_on_prompt: true"),
        re.escape("train.yaml: option train_on_prompt changed from false to true."),
    ),
    Edit(
        "another label option of the training config",
        "train.yaml",
        text_edit("train.yaml", "train_on_prompt: false", "mask_history: true"),
        re.escape("train.yaml: option mask_history changed from false to true."),
    ),
    Edit(
        "the template of the training config",
        "train.yaml",
        text_edit("train.yaml", "template: llama3", "template: qwen"),
        re.escape("train.yaml: the template of llamafactory changed from llama3 to qwen."),
    ),
    Edit(
        "a row of the training config's data set",
        "train.yaml",
        text_edit("data/small.json", "One, two, three.", "One, two, four."),
        re.escape("row `small#2` says something else than before."),
    ),
)
