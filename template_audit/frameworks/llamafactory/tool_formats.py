"""How tool definitions and tool calls are written out: the framework's ``tool_format``.

Source: LLaMA-Factory 0.9.5, data/tool_utils.py (the ``tool_formatter`` and ``function_formatter`` of
each class). The prompts are data of the registry. Malformed tools and calls raise the same Python
errors as there (KeyError, TypeError, AttributeError, ValueError); the encoder turns them into
sentences.

Both kinds of writer return their text in parts, so that what was copied from the conversation keeps
its Origin: a part is a plain ``str`` (the format's own text) or one that `Marker` made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from template_audit.frameworks.llamafactory.behaviours import Behaviours
from template_audit.stream import Origin
from template_audit.trace import as_derived, join, literal, traced


class Call(NamedTuple):
    """One tool call: its name and the JSON text of its arguments."""

    name: str
    arguments: str


class Marker(NamedTuple):
    """Gives text the Origin of the field it was made from."""

    origin: Origin

    def copied(self, text: Any) -> str:
        """Text that stands in the field as it is."""
        return traced(str(text), self.origin)

    def made(self, text: Any) -> str:
        """Text that was computed from the field."""
        return traced(str(text), as_derived(self.origin))

    def json(self, value: Any, **layout: Any) -> str:
        """`value` as JSON."""
        return self.made(json.dumps(value, ensure_ascii=False, **layout))


class Release(NamedTuple):
    """What a release writes tools with: its prompts, the moment it runs at, and its code's ways."""

    prompts: Mapping[str, str]
    """By constant name, as the release's source has them."""
    clock: datetime
    behaviours: Behaviours = Behaviours()

    def fill(self, name: str, **values: Sequence[str]) -> list[str]:
        """The prompt `name` with its fields replaced, as ``str.format`` does it."""
        texts = {field: join(parts) for field, parts in values.items()}
        return [literal(self.prompts[name]).format(**texts)]

    def function(self, tool: Any, missing: Any) -> Any:
        """The function inside an OpenAI tool object; any other object is taken for the function itself."""
        if self.behaviours.tool_definitions_unwrapped and tool.get("type") == "function":
            return tool.get("function", missing)
        return tool

    def wrapped(self, tool: Any) -> Any:
        """The OpenAI tool object around a function; one that is there already is kept."""
        if self.behaviours.tool_definitions_unwrapped and tool.get("type") == "function":
            return tool
        return {"type": "function", "function": tool}


ToolWriter = Callable[[Any, Marker, Release], list[str]]
CallWriter = Callable[[list[Call], Marker, Release], list[str]]


class ToolFormat(NamedTuple):
    """A tool format: how it writes the definitions (into the system text) and the calls."""

    tools: ToolWriter
    calls: CallWriter


def joined(separator: str, groups: Sequence[Sequence[str]]) -> list[str]:
    """All parts of all groups, with `separator` between the groups."""
    out: list[str] = []
    for i, group in enumerate(groups):
        if i and separator:
            out.append(separator)
        out.extend(group)
    return out


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _default_tools(tools: Any, mark: Marker, release: Release) -> list[str]:
    parts: list[str] = []
    names: list[str] = []
    for tool in tools:
        function = release.function(tool, "")
        arguments: list[str] = []
        for name, schema in function["parameters"]["properties"].items():
            notes: list[str] = []
            if name in function["parameters"].get("required", []):
                notes.append(", required")
            arguments += ["  - ", mark.copied(name), " (", mark.copied(schema.get("type", "")), *notes, "): "]
            arguments.append(mark.copied(schema.get("description", "")))
            if schema.get("enum", None):
                arguments += [", should be one of [", mark.copied(", ".join(schema["enum"])), "]"]
            if schema.get("items", None):
                arguments += [", where each item should be ", mark.copied(schema["items"].get("type", ""))]
            arguments.append("\n")
        parts += ["> Tool Name: ", mark.copied(function["name"]), "\nTool Description: "]
        parts += [mark.copied(function.get("description", "")), "\nTool Args:\n", *arguments, "\n"]
        names.append(function["name"])
    return release.fill("DEFAULT_TOOL_PROMPT", tool_text=parts, tool_names=[mark.copied(", ".join(names))])


def _default_calls(calls: list[Call], mark: Marker, release: Release) -> list[str]:
    parts = joined(
        "\n",
        [["Action: ", mark.copied(call.name), "\nAction Input: ", mark.made(call.arguments)] for call in calls],
    )
    return [*parts, "\n"] if release.behaviours.default_calls_end_with_newline and calls else parts


def _glm4_tools(tools: Any, mark: Marker, release: Release) -> list[str]:
    parts: list[str] = []
    for tool in tools:
        function = release.function(tool, "")
        parts += ["\n\n## ", mark.copied(function["name"]), "\n\n", mark.json(function, indent=4)]
        parts.append("\n在调用上述函数时，请使用 Json 格式表示调用的参数。")
    return release.fill("GLM4_TOOL_PROMPT", tool_text=parts)


def _glm4_calls(calls: list[Call], mark: Marker, release: Release) -> list[str]:
    if len(calls) > 1:
        raise ValueError("GLM-4 does not support parallel functions.")
    return [mark.copied(calls[0].name), "\n", mark.made(calls[0].arguments)]


def _llama3_tools(tools: Any, mark: Marker, release: Release) -> list[str]:
    parts: list[str] = []
    for tool in tools:
        parts += [mark.json(release.wrapped(tool), indent=4), "\n\n"]
    return release.fill("LLAMA3_TOOL_PROMPT", date=[release.clock.strftime("%d %b %Y")], tool_text=parts)


def _llama3_calls(calls: list[Call], mark: Marker, release: Release) -> list[str]:
    if len(calls) > 1 and not release.behaviours.llama3_parallel_calls:
        raise ValueError("Llama-3 does not support parallel functions.")
    written = _call_objects(calls, mark, release, "parameters")
    return written[0] if len(written) == 1 else ["[", *joined(", ", written), "]"]


def _call_objects(calls: list[Call], mark: Marker, release: Release, arguments: str) -> list[list[str]]:
    """Each call as a JSON object; before 0.9.3 its parts were pasted together, names unescaped."""
    if release.behaviours.tool_calls_as_json:
        return [[mark.json({"name": call.name, arguments: json.loads(call.arguments)})] for call in calls]
    return [
        ['{"name": "', mark.copied(call.name), f'", "{arguments}": ', mark.made(call.arguments), "}"] for call in calls
    ]


def _minimax1_tools(tools: Any, mark: Marker, release: Release) -> list[str]:
    parts: list[str] = []
    for tool in tools:
        parts += [mark.json(release.function(tool, "")), "\n"]
    return release.fill("MINIMAX_M1_TOOL_PROMPT", tool_text=parts)


def _minimax1_calls(calls: list[Call], mark: Marker, release: Release) -> list[str]:
    lines = [[mark.json({"name": call.name, "arguments": json.loads(call.arguments)})] for call in calls]
    return ["<tool_calls>\n", *joined("\n", lines), "\n</tool_calls>"]


def _minimax2_tools(tools: Any, mark: Marker, release: Release) -> list[str]:
    parts: list[str] = []
    for tool in tools:
        parts += ["<tool>", mark.json(release.function(tool, "")), "</tool>\n"]
    return release.fill("MINIMAX_M2_TOOL_PROMPT", tool_text=parts)


def _minimax2_calls(calls: list[Call], mark: Marker, release: Release) -> list[str]:
    if release.behaviours.minimax2_calls_lost:
        raise RuntimeError("Expected a string, got None")
    return _tagged(calls, mark, ('<invoke name="', '">'), ('\n<parameter name="', '">', "</parameter>"), "\n</invoke>")


def _tagged(
    calls: list[Call], mark: Marker, head: tuple[str, str], argument: tuple[str, str, str], tail: str
) -> list[str]:
    """Calls in XML: `head` around the name, `argument` around each key and value, then `tail`."""
    groups = []
    for call in calls:
        group = [head[0], mark.copied(call.name), head[1]]
        for key, value in json.loads(call.arguments).items():
            group += [argument[0], mark.copied(key), argument[1], mark.made(_value(value)), argument[2]]
        groups.append([*group, tail] if tail else group)
    return joined("\n", groups)


def _mistral_tools(tools: Any, mark: Marker, release: Release) -> list[str]:
    return ["[AVAILABLE_TOOLS] ", mark.json([release.wrapped(tool) for tool in tools]), "[/AVAILABLE_TOOLS]"]


def _mistral_calls(calls: list[Call], mark: Marker, release: Release) -> list[str]:
    return ["[", *joined(", ", _call_objects(calls, mark, release, "arguments")), "]"]


def _json_lines(prompt: str, unwrap: bool) -> ToolWriter:
    """Definitions as one line of JSON each, every line after a line break."""

    def write(tools: Any, mark: Marker, release: Release) -> list[str]:
        parts: list[str] = []
        for tool in tools:
            parts += ["\n", mark.json(release.function(tool, tool) if unwrap else release.wrapped(tool))]
        return release.fill(prompt, tool_text=parts)

    return write


def _qwen_calls(calls: list[Call], mark: Marker, release: Release) -> list[str]:
    written = _call_objects(calls, mark, release, "arguments")
    return joined("\n", [["<tool_call>\n", *parts, "\n</tool_call>"] for parts in written])


def _qwen35_calls(calls: list[Call], mark: Marker, release: Release) -> list[str]:
    argument = ("\n<parameter=", ">\n", "\n</parameter>")
    return _tagged(calls, mark, ("<tool_call>\n<function=", ">"), argument, "\n</function>\n</tool_call>")


def _named(calls: list[Call]) -> list[Call]:
    """The calls; a name that is not text raises TypeError, as it does where names are added to text."""
    return [call._replace(name="" + call.name) for call in calls]


def _glm4_moe_calls(calls: list[Call], mark: Marker, release: Release) -> list[str]:
    argument = ("\n<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>")
    return _tagged(_named(calls), mark, ("\n<tool_call>", ""), argument, "")


def _seed_tools(tools: Any, mark: Marker, release: Release) -> list[str]:
    return release.fill("SEED_TOOL_PROMPT", tool_text=["\n", mark.json(tools)])


def _seed_calls(calls: list[Call], mark: Marker, release: Release) -> list[str]:
    argument = ("\n<parameter=", ">", "</parameter>")
    head, tail = ("\n<seed:tool_call>\n<function=", ""), "\n</function>\n</seed:tool_call>"
    return _tagged(_named(calls), mark, head, argument, tail)


def _ling_tools(tools: Any, mark: Marker, release: Release) -> list[str]:
    return [*_json_lines("LING_TOOL_PROMPT", unwrap=False)(tools, mark, release), "\ndetailed thinking off"]


def _lfm2_tools(tools: Any, mark: Marker, release: Release) -> list[str]:
    return release.fill("LFM2_TOOL_PROMPT", tool_text=[mark.json([release.function(tool, tool) for tool in tools])])


def _lfm2_calls(calls: list[Call], mark: Marker, release: Release) -> list[str]:
    groups = []
    for call in calls:
        arguments = []
        for key, value in json.loads(call.arguments).items():
            written = ['"', mark.copied(value), '"'] if isinstance(value, str) else [mark.json(value)]
            arguments.append([mark.copied(key), "=", *written])
        groups.append([mark.copied(call.name), "(", *joined(", ", arguments), ")"])
    return ["<|tool_call_start|>[", *joined(", ", groups), "]<|tool_call_end|>"]


_QUOTE = '<|"|>'


def _gemma4_quoted(mark: Marker, text: Any) -> list[str]:
    return [_QUOTE, mark.copied(text), _QUOTE]


def _gemma4_upper(mark: Marker, text: Any) -> list[str]:
    return [_QUOTE, mark.made(str(text).upper()), _QUOTE]


def _gemma4_schema(schema: Any, mark: Marker) -> list[str]:
    fields: list[list[str]] = []
    if schema.get("properties"):
        properties = []
        for name, inner in schema["properties"].items():
            parts = []
            if inner.get("description"):
                parts.append(["description:", *_gemma4_quoted(mark, inner["description"])])
            if inner.get("type"):
                parts.append(["type:", *_gemma4_upper(mark, inner["type"])])
            properties.append([mark.copied(name), ":{", *joined(",", parts), "}"])
        fields.append(["properties:{", *joined(",", properties), "}"])
    if schema.get("required"):
        required = [_gemma4_quoted(mark, item) for item in schema["required"]]
        fields.append(["required:[", *joined(",", required), "]"])
    if schema.get("type"):
        fields.append(["type:", *_gemma4_upper(mark, schema["type"])])
    return joined(",", fields)


def _gemma4_tools(tools: Any, mark: Marker, release: Release) -> list[str]:
    groups = []
    for tool in tools:
        function = release.function(tool, tool)
        parts = ["declaration:", mark.copied(function["name"]), "{description:"]
        parts += _gemma4_quoted(mark, function.get("description", ""))
        if function.get("parameters"):
            parts += [",parameters:{", *_gemma4_schema(function["parameters"], mark), "}"]
        response = function.get("response")
        if response:
            fields = []
            if response.get("description"):
                fields.append(["description:", *_gemma4_quoted(mark, response["description"])])
            if str(response.get("type", "")).upper() == "OBJECT":
                fields.append(["type:", *_gemma4_upper(mark, response["type"])])
            parts += [",response:{", *joined(",", fields), "}"]
        groups.append([*parts, "}"])
    return joined("\n", groups)


def _gemma4_value(value: Any, mark: Marker) -> list[str]:
    if isinstance(value, str):
        return _gemma4_quoted(mark, value)
    if isinstance(value, dict):
        return ["{", *_gemma4_pairs(value, mark), "}"]
    if isinstance(value, list):
        return ["[", *joined(",", [_gemma4_value(item, mark) for item in value]), "]"]
    plain = {True: "true", False: "false", None: "null"}
    return [mark.made(plain[value] if isinstance(value, bool) or value is None else value)]


def _gemma4_pairs(value: dict[str, Any], mark: Marker) -> list[str]:
    return joined(",", [[mark.copied(key), ":", *_gemma4_value(value[key], mark)] for key in sorted(value)])


def _gemma4_calls(calls: list[Call], mark: Marker, release: Release) -> list[str]:
    parts: list[str] = []
    for call in calls:
        arguments = json.loads(call.arguments)
        parts += ["<|tool_call>call:", mark.copied(call.name), "{"]
        if isinstance(arguments, dict):
            parts += _gemma4_pairs(arguments, mark)
        elif isinstance(arguments, str):
            parts.append(mark.copied(arguments))
        else:
            parts += _gemma4_value(arguments, mark)
        parts.append("}<tool_call|>")
    return parts


FORMATS: Mapping[str, ToolFormat] = {
    "default": ToolFormat(_default_tools, _default_calls),
    "gemma4": ToolFormat(_gemma4_tools, _gemma4_calls),
    "glm4": ToolFormat(_glm4_tools, _glm4_calls),
    "llama3": ToolFormat(_llama3_tools, _llama3_calls),
    "lfm2": ToolFormat(_lfm2_tools, _lfm2_calls),
    "minimax1": ToolFormat(_minimax1_tools, _minimax1_calls),
    "minimax2": ToolFormat(_minimax2_tools, _minimax2_calls),
    "mistral": ToolFormat(_mistral_tools, _mistral_calls),
    "qwen": ToolFormat(_json_lines("QWEN_TOOL_PROMPT", unwrap=False), _qwen_calls),
    "qwen3_5": ToolFormat(_json_lines("QWEN35_TOOL_PROMPT", unwrap=True), _qwen35_calls),
    "glm4_moe": ToolFormat(_json_lines("GLM4_MOE_TOOL_PROMPT", unwrap=False), _glm4_moe_calls),
    "seed_oss": ToolFormat(_seed_tools, _seed_calls),
    "ling": ToolFormat(_ling_tools, _qwen_calls),
}
