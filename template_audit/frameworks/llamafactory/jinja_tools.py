"""The tool formats as Jinja: definitions and calls as a chat template has to write them.

The counterpart of `template_audit.frameworks.llamafactory.tool_formats`, whose text it reproduces; the
prompts are data of the registry.
"""

from __future__ import annotations

from string import Formatter as FormatString
from typing import NamedTuple

from template_audit.frameworks.llamafactory.tool_formats import Release


class ToolJinja(NamedTuple):
    """A format's definitions (Jinja that writes them from ``tools``), and its calls (from ``message.tool_calls``)."""

    tools: str
    calls: str


def literal(text: str) -> str:
    """`text` as a Jinja string."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r") + "'"


def put(*parts: str) -> str:
    """Jinja that writes the expressions one after the other."""
    kept = [part for part in parts if part != "''"]
    return "{{- " + " ~ ".join(kept) + " -}}" if kept else ""


def _each(body: str, items: str = "tools", name: str = "tool") -> str:
    return f"{{%- for {name} in {items} -%}}{body}{{%- endfor -%}}"


def _function(release: Release) -> str:
    """The function inside of a tool; releases that do not look for it take the tool itself."""
    return "(tool.function if tool.type == 'function' else tool)" if _unwraps(release) else "tool"


def _wrapped(release: Release) -> str:
    """The tool object around a function."""
    around = "{'type': 'function', 'function': tool}"
    return f"(tool if tool.type == 'function' else {around})" if _unwraps(release) else around


def _unwraps(release: Release) -> bool:
    return release.behaviours.tool_definitions_unwrapped


_CALL = "{%- set call = item.function if item.function is defined else item -%}"
_CALLS = "message.tool_calls"
_VALUE = "(value if value is string else value | tojson)"


def _prompt(release: Release, name: str, **fields: str) -> str:
    """The prompt `name` with Jinja in place of its fields."""
    out = []
    for text, field, _, _ in FormatString().parse(release.prompts[name]):
        out.append(put(literal(text)))
        if field is not None:
            out.append(fields[field])
    return "".join(out)


def _calls(each: str, between: str, before: str = "", after: str = "") -> str:
    """All calls with `between` between them."""
    gap = f"{{%- if not loop.first -%}}{put(literal(between))}{{%- endif -%}}" if between else ""
    return put(literal(before)) + _each(f"{gap}{_CALL}{each}", _CALLS, "item") + put(literal(after))


def _object(arguments: str = "arguments") -> str:
    return "{'name': call.name, '" + arguments + "': call.arguments} | tojson"


def _tagged(head: tuple[str, str], argument: tuple[str, str, str], tail: str) -> str:
    """Calls in XML, a key and its value at a time."""
    pair = put(literal(argument[0]), "key", literal(argument[1]), _VALUE, literal(argument[2]))
    each = (
        put(literal(head[0]), "call.name", literal(head[1]))
        + f"{{%- for key, value in call.arguments.items() -%}}{pair}{{%- endfor -%}}"
        + put(literal(tail))
    )
    return _calls(each, "\n")


def _json_lines(release: Release, name: str, tool: str | None = None) -> str:
    return _prompt(release, name, tool_text=_each(put(literal("\n"), f"{tool or _wrapped(release)} | tojson")))


def _default(release: Release) -> ToolJinja:
    schema = "function.parameters.properties"
    notes = (
        "{%- if name in (function.parameters.required or []) -%}{{- ', required' -}}{%- endif -%}"
        + put(literal("): "), "(schema.description or '')")
        + "{%- if schema.enum -%}"
        + put(literal(", should be one of ["), "schema.enum | join(', ')", literal("]"))
        + "{%- endif -%}{%- if schema.get('items') -%}"
        + put(literal(", where each item should be "), "(schema.get('items').type or '')")
        + "{%- endif -%}"
        + put(literal("\n"))
    )
    arguments = (
        f"{{%- for name, schema in {schema}.items() -%}}"
        + put(literal("  - "), "name", literal(" ("), "(schema.type or '')")
        + notes
        + "{%- endfor -%}"
    )
    each = (
        f"{{%- set function = {_function(release)} -%}}"
        + put(literal("> Tool Name: "), "function.name", literal("\nTool Description: "))
        + put("(function.description or '')", literal("\nTool Args:\n"))
        + arguments
        + put(literal("\n"))
    )
    gap = "{%- if not loop.first -%}{{- ', ' -}}{%- endif -%}"
    names = _each(gap + put(f"{_function(release)}.name"))
    call = put(literal("Action: "), "call.name", literal("\nAction Input: "), "call.arguments | tojson")
    end = "\n" if release.behaviours.default_calls_end_with_newline else ""
    return ToolJinja(
        _prompt(release, "DEFAULT_TOOL_PROMPT", tool_text=_each(each), tool_names=names), _calls(call, "\n", after=end)
    )


def _llama3(release: Release) -> ToolJinja:
    tools = _prompt(
        release,
        "LLAMA3_TOOL_PROMPT",
        date="{{- strftime_now('%d %b %Y') -}}",
        tool_text=_each(put(f"{_wrapped(release)} | tojson(indent=4)", literal("\n\n"))),
    )
    many = f"{_CALLS} | length > 1"
    brackets = ["{%- if " + many + " -%}{{- '" + char + "' -}}{%- endif -%}" for char in "[]"]
    return ToolJinja(tools, brackets[0] + _calls(put(_object("parameters")), ", ") + brackets[1])


def _mistral(release: Release) -> ToolJinja:
    gap = "{%- if not loop.first -%}{{- ', ' -}}{%- endif -%}"
    tools = put(literal("[AVAILABLE_TOOLS] [")) + _each(gap + put(f"{_wrapped(release)} | tojson"))
    return ToolJinja(tools + put(literal("][/AVAILABLE_TOOLS]")), _calls(put(_object()), ", ", "[", "]"))


def _qwen_calls() -> str:
    return _calls(put(literal("<tool_call>\n"), _object(), literal("\n</tool_call>")), "\n")


def _glm4(release: Release) -> ToolJinja:
    each = put(
        literal("\n\n## "), f"{_function(release)}.name", literal("\n\n"), f"{_function(release)} | tojson(indent=4)"
    )
    each += put(literal("\n在调用上述函数时，请使用 Json 格式表示调用的参数。"))
    refused = "{{- raise_exception('GLM-4 does not support parallel functions.') -}}"
    call = f"{{%- if loop.length > 1 -%}}{refused}{{%- endif -%}}"
    call += put("call.name", literal("\n"), "call.arguments | tojson")
    return ToolJinja(_prompt(release, "GLM4_TOOL_PROMPT", tool_text=_each(each)), _calls(call, ""))


def _minimax1(release: Release) -> ToolJinja:
    each = put(f"{_function(release)} | tojson", literal("\n"))
    calls = _calls(put(_object()), "\n", "<tool_calls>\n", "\n</tool_calls>")
    return ToolJinja(_prompt(release, "MINIMAX_M1_TOOL_PROMPT", tool_text=_each(each)), calls)


def _minimax2(release: Release) -> ToolJinja:
    each = put(literal("<tool>"), f"{_function(release)} | tojson", literal("</tool>\n"))
    calls = _tagged(('<invoke name="', '">'), ('\n<parameter name="', '">', "</parameter>"), "\n</invoke>")
    return ToolJinja(_prompt(release, "MINIMAX_M2_TOOL_PROMPT", tool_text=_each(each)), calls)


def _qwen35(release: Release) -> ToolJinja:
    argument = ("\n<parameter=", ">\n", "\n</parameter>")
    calls = _tagged(("<tool_call>\n<function=", ">"), argument, "\n</function>\n</tool_call>")
    return ToolJinja(_json_lines(release, "QWEN35_TOOL_PROMPT", _function(release)), calls)


def _glm4_moe(release: Release) -> ToolJinja:
    argument = ("\n<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>")
    return ToolJinja(_json_lines(release, "GLM4_MOE_TOOL_PROMPT"), _tagged(("\n<tool_call>", ""), argument, ""))


def _ling(release: Release) -> ToolJinja:
    tools = _json_lines(release, "LING_TOOL_PROMPT") + put(literal("\ndetailed thinking off"))
    return ToolJinja(tools, _qwen_calls())


def _seed(release: Release) -> ToolJinja:
    tools = _prompt(release, "SEED_TOOL_PROMPT", tool_text=put(literal("\n"), "tools | tojson"))
    head, tail = ("\n<seed:tool_call>\n<function=", ""), "\n</function>\n</seed:tool_call>"
    return ToolJinja(tools, _tagged(head, ("\n<parameter=", ">", "</parameter>"), tail))


def _lfm2(release: Release) -> ToolJinja:
    gap = "{%- if not loop.first -%}{{- ', ' -}}{%- endif -%}"
    listed = put("'['") + _each(gap + put(f"{_function(release)} | tojson")) + put("']'")
    value = "{%- if value is string -%}" + put("'\"'", "value", "'\"'") + "{%- else -%}" + put("value | tojson")
    pair = put("key", "'='") + value + "{%- endif -%}"
    pairs = f"{{%- for key, value in call.arguments.items() -%}}{gap}{pair}{{%- endfor -%}}"
    calls = _calls(put("call.name", "'('") + pairs + put("')'"), ", ", "<|tool_call_start|>[", "]<|tool_call_end|>")
    return ToolJinja(_prompt(release, "LFM2_TOOL_PROMPT", tool_text=listed), calls)


_FORMATS = {
    "default": _default,
    "glm4": _glm4,
    "glm4_moe": _glm4_moe,
    "lfm2": _lfm2,
    "ling": _ling,
    "llama3": _llama3,
    "minimax1": _minimax1,
    "minimax2": _minimax2,
    "mistral": _mistral,
    "qwen": lambda release: ToolJinja(_json_lines(release, "QWEN_TOOL_PROMPT"), _qwen_calls()),
    "qwen3_5": _qwen35,
    "seed_oss": _seed,
}


def tool_jinja(name: str, release: Release) -> ToolJinja | None:
    """A tool format as Jinja; None for one that is not written here (``gemma4``)."""
    make = _FORMATS.get(name)
    return None if make is None else make(release)
