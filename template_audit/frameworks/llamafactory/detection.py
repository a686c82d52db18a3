"""Finds a release's named behaviours in its source, by the structure of the functions that show them."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from template_audit.errors import UsageError
from template_audit.frameworks.llamafactory.behaviours import Behaviours
from template_audit.frameworks.llamafactory.reader.source import SourceTree

_ABSENT = object()


@dataclass(frozen=True)
class Rule:
    """Which of `choices` (value, pattern) the first function of `places` that exists shows.

    A place is ``path:Qualified.name``. The pattern is searched in the function as ``ast.unparse`` writes it,
    without docstring. `absent` is the value of a release that has none of the places; without it the release
    is refused.
    """

    behaviour: str
    places: tuple[str, ...]
    choices: tuple[tuple[Any, str], ...]
    absent: Any = _ABSENT


def _yes(pattern: str) -> tuple[tuple[Any, str], ...]:
    return ((True, pattern), (False, ""))


def _no(pattern: str) -> tuple[tuple[Any, str], ...]:
    return ((False, pattern), (True, ""))


_SUPERVISED = (
    "data/processor/supervised.py:SupervisedDatasetProcessor._encode_data_example",
    "data/processors/supervised.py:_encode_supervised_example",
)
_PACKED = (
    "data/processor/supervised.py:PackedSupervisedDatasetProcessor.preprocess_dataset",
    "data/processors/supervised.py:preprocess_packed_supervised_dataset",
)
_PRETRAIN = (
    "data/processor/pretrain.py:PretrainDatasetProcessor.preprocess_dataset",
    "data/processors/pretrain.py:preprocess_pretrain_dataset",
)
_FEEDBACK = (
    "data/processor/feedback.py:FeedbackDatasetProcessor.preprocess_dataset",
    "data/processors/feedback.py:preprocess_feedback_dataset",
)
_SHAREGPT = (
    "data/converter.py:SharegptDatasetConverter.__call__",
    "data/aligner.py:convert_sharegpt",
)
_OPENAI = ("data/converter.py:OpenAIDatasetConverter.__call__",)
_DATA_ARGS = ("hparams/data_args.py:DataArguments.__post_init__",)
_PARSER = ("data/parser.py:get_dataset_list",)
_LOADER = ("data/loader.py:get_dataset",)
_ALIGN = ("data/aligner.py:align_dataset", "data/converter.py:get_dataset_converter")
_FUNCTION = ("data/formatter.py:FunctionFormatter.apply",)
_TEMPLATE = "data/template.py:"
_TOOLS = "data/tool_utils.py:"

RULES = (
    Rule(
        "efficient_eos_label_on_first_turn",
        _SUPERVISED,
        (
            (
                False,
                r"elif (\S*template\.efficient_eos and turn_idx != 0|turn_idx != 0 and \S*template\.efficient_eos):",
            ),
            (True, r"elif \S*template\.efficient_eos:"),
        ),
    ),
    Rule(
        "mask_history_keeps_last_turns",
        _SUPERVISED,
        ((True, r"encoded_pairs\[::-1\]"), (False, r"mask_history and turn_idx != len\(encoded_pairs\) - 1")),
    ),
    Rule("mask_history_drops_thoughts", _SUPERVISED, _yes(r"discarding_history_cot")),
    Rule("empty_thought", (_TEMPLATE + "Template.add_thought",), (("spaced", r"\\n\\n"), ("joined", "")), "joined"),
    Rule(
        "thought_search_strips_words",
        (_TEMPLATE + "ReasoningTemplate.encode_multiturn",),
        _yes(r"thought_words\[0\]\.strip\(\)"),
        True,
    ),
    Rule(
        "function_formatter",
        _FUNCTION,
        (
            ("template_words", r"tool_call_words"),
            ("think_tags", r"<think>\(\.\*\)</think>"),
            ("slots_per_call", r"for name, arguments in functions:\s+for slot in self\.slots:"),
        ),
    ),
    Rule("llama2_function_words", (_TEMPLATE + "Llama2Template._encode",), _yes(r"tool_call_words=")),
    Rule(
        "invalid_tool_json",
        _FUNCTION,
        (("error", r"raise RuntimeError\(f?['\"]Invalid JSON"), ("nothing", r"functions = \[\]")),
    ),
    Rule("tool_definitions_unwrapped", (_TOOLS + "DefaultToolUtils.tool_formatter",), _yes(r"== 'function'")),
    Rule("tool_calls_as_json", (_TOOLS + "QwenToolUtils.function_formatter",), _yes(r"json\.dumps\(\{"), True),
    Rule("llama3_parallel_calls", (_TOOLS + "Llama3ToolUtils.function_formatter",), _no(r"\braise "), True),
    Rule(
        "default_calls_end_with_newline",
        (_TOOLS + "DefaultToolUtils.function_formatter",),
        _no(r"return '\\n'\.join\("),
        False,
    ),
    Rule("minimax2_calls_lost", (_TOOLS + "MiniMaxM2ToolUtils.function_formatter",), _no(r"\breturn "), False),
    Rule(
        "media_placeholders_checked",
        ("data/mm_plugin.py:MMPluginMixin._validate_messages",),
        (("all", r"raise ValueError"),),
        "plugin",
    ),
    Rule(
        "llava_image_text_repeated",
        ("data/mm_plugin.py:LlavaPlugin.process_messages",),
        _yes(r"self\.image_token \* image_seqlen"),
        False,
    ),
    Rule(
        "chat_template_parser",
        (_TEMPLATE + "parse_template",),
        (("reasoning_aware", r"ReasoningTemplate if "), ("plain", "")),
        "none",
    ),
    Rule(
        "parsed_thoughts_have_newlines",
        (_TEMPLATE + "parse_template",),
        _yes(r"'<think>\\n', '\\n</think>\\n\\n'"),
        True,
    ),
    Rule(
        "eos_replaced_by_itself",
        (_TEMPLATE + "Template._add_or_replace_eos_token", _TEMPLATE + "_add_or_replace_eos_token"),
        _no(r"if tokenizer\.eos_token == eos_token:"),
    ),
    Rule(
        "llama2_jinja",
        (_TEMPLATE + "Llama2Template._get_jinja_template", _TEMPLATE + "_get_jinja_template"),
        (("override", r"isinstance\(template, Llama2Template\)"), ("if_else", r"else %\}.?\{% set content")),
    ),
    Rule("ollama_modelfile", (_TEMPLATE + "Template.get_ollama_modelfile",), ((True, ""),), False),
    Rule(
        "pretrain_bos",
        _PRETRAIN,
        (("add_bos_token", r"'add_bos_token'"), ("gemma_template", r"template == 'gemma'")),
    ),
    Rule("split_before_encoding", _LOADER, _yes(r"train_dict, eval_dict = split_dataset"), True),
    Rule("packing_lowers_cutoff_len", _DATA_ARGS, _yes(r"if self\.packing:\s+self\.cutoff_len -= 1")),
    Rule("packing_pad_inside_cutoff_len", _PACKED, _no(r"cutoff_len \+ 1:")),
    Rule(
        "packing_reserves_padding", _PACKED, _yes(r"cutoff_len ([+]) 1:|greedy_knapsack\(lengths, \S*cutoff_len - 1\)")
    ),
    Rule("packing_position_ids", _PACKED, _yes(r"'position_ids'")),
    Rule("packing_params", _PACKED, _yes(r"'packing_params'")),
    Rule(
        "kl_pairs",
        _FEEDBACK,
        (("shifted", r"\[-1\]\] \+ examples\['_?response'\]\[:-1\]"), ("reversed", r"\['_?response'\]\[::-1\]")),
    ),
    Rule("dataset_columns_by_formatting", _PARSER, _yes(r"formatting == 'alpaca'")),
    Rule("openai_formatting", _OPENAI, (("openai", ""),), None),
    Rule(
        "openai_formatting",
        _ALIGN,
        (("sharegpt", r"if \S*formatting == 'alpaca':(?s:.*?)else:"), ("unknown", r"not in DATASET_CONVERTERS")),
    ),
    Rule("openai_null_tool_calls_fail", _OPENAI, _yes(r"'tool_calls' in message and len\("), False),
    Rule("sharegpt_reads_past_bad_role", _SHAREGPT, _no(r"broken_data = True\s+break")),
    Rule("pairwise_bad_role_dropped", _SHAREGPT, _no(r"prompt, response = \(\[\], \[\]\)\s+elif ")),
)


def detect_behaviours(source: SourceTree) -> Behaviours:
    """The behaviours that the source shows.

    Raises UsageError, naming the function, when a place is missing or shows none of the known behaviours.
    """
    encode = find(source, "data/template.py:Template._encode")
    if encode is not None and any(argument.arg == "cutoff_len" for argument in encode.args.args):  # up to 0.8.2
        raise source.error(
            "data/template.py", encode.lineno, "cuts turns inside `Template._encode`, which is not followed here"
        )
    found: dict[str, Any] = {}
    for rule in RULES:
        if found.get(rule.behaviour) is None:
            found[rule.behaviour] = _judge(rule, source)
    found["default_cutoff_len"] = data_args(source).get("cutoff_len", 1024)
    return Behaviours(**found)


def _judge(rule: Rule, source: SourceTree) -> Any:
    for place in rule.places:
        function = find(source, place)
        if function is None:
            continue
        text = _plain(function)
        for value, pattern in rule.choices:
            if re.search(pattern, text):
                return value
        path, _, name = place.partition(":")
        raise source.error(
            path, function.lineno, f"has a `{name}` that shows none of the known kinds of {rule.behaviour}"
        )
    if rule.absent is not _ABSENT:
        return rule.absent
    path, _, name = rule.places[0].partition(":")
    raise UsageError(
        f"Cannot read the LLaMA-Factory source {source.where}: {path} has no `{name}`, "
        f"so that its {rule.behaviour} is not known."
    )


def find(source: SourceTree, place: str) -> ast.FunctionDef | None:
    """The function at a place, None when there is no such file, class or function."""
    path, _, qualified = place.partition(":")
    body: list[ast.stmt] = getattr(source.tree(path), "body", [])
    *classes, name = qualified.split(".")
    for wanted in classes:
        cls = next((node for node in body if isinstance(node, ast.ClassDef) and node.name == wanted), None)
        body = cls.body if cls is not None else []
    return next((node for node in body if isinstance(node, ast.FunctionDef) and node.name == name), None)


def data_args(source: SourceTree) -> dict[str, Any]:
    """The training config's data options with their defaults: the fields of ``DataArguments``."""
    tree = source.tree("hparams/data_args.py")
    options: dict[str, Any] = {}
    for cls in tree.body if tree is not None else ():
        if not isinstance(cls, ast.ClassDef) or cls.name != "DataArguments":
            continue
        for statement in cls.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                default: ast.expr | None = statement.value
                if isinstance(default, ast.Call):
                    default = next((word.value for word in default.keywords if word.arg == "default"), None)
                if isinstance(default, ast.Constant) and isinstance(default.value, str | int | float | bool | None):
                    options[statement.target.id] = default.value
    return options


_FINGERPRINTED = (
    "data/template.py",
    "data/formatter.py",
    "data/tool_utils.py",
    "data/converter.py",
    "data/aligner.py",
    "data/parser.py",
    "data/data_utils.py",
    "data/loader.py",
    "data/preprocess.py",
    *(
        f"data/{folder}/{name}.py"
        for folder in ("processor", "processors")
        for name in ("supervised", "pretrain", "processor_utils", "pairwise", "feedback", "unsupervised")
    ),
    "hparams/data_args.py",
)


def fingerprints(source: SourceTree) -> dict[str, str]:
    """Place → digest of every function of the data path; equal code has equal digests, whatever its layout.

    Docstrings, comments, annotations and log lines do not count, so that a digest changes only with what the
    function does. The same on every Python version.
    """
    found: dict[str, str] = {}
    for path in _FINGERPRINTED:
        tree = source.tree(path)
        for name, function in _functions(tree.body if tree is not None else []):
            digest = hashlib.sha256()
            for piece in _canonical(function.args, *_without_docstring(function.body)):
                digest.update(piece.encode("utf-8", "surrogatepass") + b"\0")
            found[f"{path}:{name}"] = digest.hexdigest()[:12]
    return found


def _functions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function and method with its qualified name, but those that only print or read model output."""
    for node in body:
        if isinstance(node, ast.FunctionDef):
            if not node.name.startswith(("print_", "extract")) and not node.name.endswith("_extractor"):
                yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node.body, f"{prefix}{node.name}.")


def _canonical(*roots: ast.AST) -> Iterator[str]:
    """The tree as a stream of names and values, depth first, without what only describes."""
    stack: list[Any] = list(reversed(roots))
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            yield f"[{len(node)}"
            stack.extend(reversed(node))
        elif isinstance(node, ast.AST):
            if isinstance(node, ast.Expr) and _is_log(node.value):
                continue
            yield type(node).__name__
            for name in node._fields:
                value = getattr(node, name, None)
                if name not in (
                    "annotation",
                    "returns",
                    "type_comment",
                    "type_params",
                    "kind",
                    "ctx",
                    "decorator_list",
                ):
                    stack.append(value)
        else:
            yield repr(node)


def _is_log(node: ast.expr) -> bool:
    while isinstance(node, ast.Call | ast.Attribute):
        node = node.func if isinstance(node, ast.Call) else node.value
    return isinstance(node, ast.Name) and node.id in ("logger", "print")


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    described = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return body[1:] if described else body


def _plain(function: ast.FunctionDef) -> str:
    """The body as text, without docstring, in the layout of ``ast.unparse``."""
    try:
        return "\n".join(ast.unparse(statement) for statement in _without_docstring(function.body))
    except RecursionError:
        return ""
