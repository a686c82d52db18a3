"""Operators on chat templates: a literal of the source, or code that changes what the template is given."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator

from mutation_operators import ENDS, HEAD, START, TEXT, TOOL, Edit, Operator, Words, zones

_LITERAL = re.compile(r"\{#.*?#\}|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"", re.S)
_NO_OUTPUT = re.compile(
    r"(?:==|!=|\bin \[|\bin|split\(|starts?with\(|endswith\(|strip\(|replace\("
    r"|strftime_now\(|raise_exception\(|, |\[)\s*$"
)


def _literals(template: str) -> Iterator[tuple[int, int, str]]:
    """String literals that a template writes: where they are in its source, and their text."""
    for match in _LITERAL.finditer(template):
        if match[0].startswith("{#"):
            continue
        text = ast.literal_eval(match[0].replace("\n", "\\n"))
        inside = _NO_OUTPUT.search(template[: match.start()][-20:])
        compared = re.match(r"\s+(?:in|not in)\b|\s*[:\]]", template[match.end() :])
        if not inside and not compared and not re.fullmatch(r"\w*", text):
            yield match.start(), match.end(), text


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


def in_literals(edits: Callable[[str, Words], Iterator[Edit]]) -> Callable[[str, Words], Iterator[Edit]]:
    """A text operator on every literal of a chat template."""

    def mutate(template: str, words: Words) -> Iterator[Edit]:
        for number, (start, end, text) in enumerate(_literals(template)):
            for site, new in edits(text, words):
                yield f"{site} in literal {number}", template[:start] + _quoted(new) + template[end:]

    return mutate


def _sub(pattern: str, change: str) -> Callable[[str, Words], Iterator[Edit]]:
    """Each place of the source that matches, changed alone."""

    def mutate(template: str, words: Words) -> Iterator[Edit]:
        for number, match in enumerate(re.finditer(pattern, template)):
            new = template[: match.start()] + match.expand(change) + template[match.end() :]
            yield f"`{match[0]}`, place {number}", new

    return mutate


def _first(code: str, site: str = "messages") -> Callable[[str, Words], Iterator[Edit]]:
    """Jinja code put before the template."""
    return lambda template, words: iter([(site, code + template)])


def _each(message: str, condition: str = "") -> str:
    """Code that replaces every message `m` by an expression, or leaves out those that fail a condition."""
    return (
        f"{{%- set kept = namespace(out=[]) -%}}{{%- for m in messages{' if ' + condition if condition else ''} -%}}"
        f"{{%- set kept.out = kept.out + [{message}] -%}}{{%- endfor -%}}{{%- set messages = kept.out -%}}"
    )


_MERGE = (
    "{%- set kept = namespace(out=[]) -%}{%- for m in messages -%}"
    "{%- if m.role == 'tool' and kept.out and kept.out[-1].role == 'tool' -%}"
    "{%- set kept.out = kept.out[:-1] + [dict(m, content=kept.out[-1].content ~ '\\n' ~ m.content)] -%}"
    "{%- else -%}{%- set kept.out = kept.out + [m] -%}{%- endif -%}{%- endfor -%}{%- set messages = kept.out -%}"
)


def _bos(change: str) -> Callable[[str, Words], Iterator[Edit]]:
    def mutate(template: str, words: Words) -> Iterator[Edit]:
        if "bos_token" in template:
            yield "bos_token", template.replace("bos_token", change, 1)

    return mutate


def _add_bos(template: str, words: Words) -> Iterator[Edit]:
    if words.has_bos and "bos_token" not in template:
        yield "bos_token", "{{- bos_token -}}" + template


def _inject(template: str, words: Words) -> Iterator[Edit]:
    block = _quoted(words.system_block.replace("Answer in verse.", "You are a mutant."))
    if "bos_token" in template:
        yield "behind BOS", template.replace("bos_token", f"bos_token + {block}", 1)
    else:
        yield "at the start", "{{- " + block + " -}}" + template


def _prompt(change: Callable[[str], str]) -> Callable[[str, Words], Iterator[Edit]]:
    """The literal that stands for the generation prompt: the last one that a condition on it governs."""

    def mutate(template: str, words: Words) -> Iterator[Edit]:
        at = template.rfind("add_generation_prompt")
        if at < 0:
            return
        spans = list(_literals(template))
        after = [one for one in spans if one[0] > at] or [one for one in spans if one[1] <= at][-1:]
        for start, end, text in after[:1]:
            yield "generation prompt", template[:start] + _quoted(change(text)) + template[end:]

    return mutate


_CONTENT = r"(?<=[+(\s])((?:\w+(?:\[0\])?)\.content)(?= *(?:\+|-?\}\}|\)|\| trim))(?! *\| trim)"
_BODY = "whitespace-drift segmentation-drift generation-prompt-drift"
CHAT: tuple[Operator, ...] = tuple(
    Operator(name, does, "chat template", rules, mutate, **extra)
    for name, does, rules, mutate, extra in (  # type: ignore[var-annotated]  # most rows have an empty dict
        ("drop-eos", "takes out `eos_token`", zones(rest=f"{ENDS} token-drift"), _sub("eos_token", "''"), {}),
        (
            "double-eos",
            "writes `eos_token` twice",
            zones(rest="duplicate-turn-end token-drift"),
            _sub("eos_token", "eos_token + eos_token"),
            {},
        ),
        ("drop-bos", "takes out `bos_token`", zones(rest="missing-bos bogus-bos"), _bos("''"), {}),
        (
            "double-bos",
            "writes `bos_token` twice",
            zones(rest="double-bos missing-bos"),
            _bos("bos_token + bos_token"),
            {},
        ),
        ("add-bos", "begins with `bos_token`", zones(rest="bogus-bos missing-bos"), _add_bos, {}),
        ("inject-system", "begins with a system prompt that nobody gave", zones(rest=START), _inject, {}),
        (
            "drop-system",
            "leaves the system message out",
            zones(rest="system-prompt-drift message-dropped"),
            _first("{%- set messages = messages[1:] if messages[0].role == 'system' else messages -%}"),
            {},
        ),
        (
            "reorder-system",
            "writes the system message behind the first question",
            zones(rest="system-prompt-drift token-drift role-unsupported generation-prompt-drift message-dropped"),
            _first(
                "{%- set messages = messages[1:2] + messages[:1] + messages[2:] "
                "if messages[0].role == 'system' else messages -%}"
            ),
            {},
        ),
        (
            "write-the-time",
            "writes the time of day at the start",
            zones(rest=f"{START} nondeterministic-template"),
            _first("{{- strftime_now('%H:%M:%S') -}}"),
            {},
        ),
        (
            "cut-generation-prompt",
            "takes the last character from the generation prompt",
            zones(rest=HEAD),
            _prompt(lambda t: t[:-1]),
            {},
        ),
        ("no-generation-prompt", "leaves the generation prompt out", zones(rest=HEAD), _prompt(lambda t: ""), {}),
        (
            "think-in-generation-prompt",
            "opens a thought in the generation prompt",
            zones(rest=f"{HEAD} thinking-stripped"),
            _prompt(lambda t: t + "<think>\n"),
            {},
        ),
        ("strip-content", "trims the text of messages", zones(rest=_BODY), _sub(_CONTENT, r"\1 | trim"), {}),
        (
            "keep-content",
            "does not trim the text of messages",
            zones(rest=_BODY),
            _sub(r"(\.content) \| trim", r"\1"),
            {},
        ),
        (
            "pad-content",
            "writes a blank before the text of messages",
            zones(rest=f"{_BODY} system-prompt-drift tool-layout-drift"),
            _sub(_CONTENT, r"(' ' + \1)"),
            {},
        ),
        (
            "upper-content",
            "writes the text of messages in capitals",
            zones(rest="token-drift system-prompt-drift tool-layout-drift"),
            _sub(_CONTENT, r"(\1 | upper)"),
            {},
        ),
        (
            "drop-first-turns",
            "leaves the first question and its answer out",
            zones(rest="message-dropped"),
            _first(
                "{%- set messages = messages[2:] if messages[3] and messages[0].role == 'user' "
                "and messages[1].role == 'assistant' and messages[2].role == 'user' else messages -%}"
            ),
            {},
        ),
        (
            "rename-assistant",
            "writes `model` for the role assistant",
            zones(rest=f"{HEAD} token-drift tool-layout-drift foreign-special-token"),
            _sub(
                r"(?<=[+(] )(\w+\.role)\b(?= \+)|(?<=\()(\w+\.role)(?=[,)])", r"(\1\2 | replace('assistant', 'model'))"
            ),
            {},
        ),
        (
            "rename-user",
            "writes `human` for the role user",
            zones(rest=f"{HEAD} token-drift tool-layout-drift foreign-special-token"),
            _sub(r"(?<=[+(] )(\w+\.role)\b(?= \+)|(?<=\()(\w+\.role)(?=[,)])", r"(\1\2 | replace('user', 'human'))"),
            {},
        ),
        (
            "drop-tools",
            "leaves the tool definitions out",
            zones(rest=f"{TOOL} system-prompt-drift"),
            _first("{%- set tools = none -%}", "tools"),
            {},
        ),
        (
            "drop-tool-results",
            "leaves the tool results out",
            zones(rest="message-dropped"),
            _first(_each("m", "m.role != 'tool'")),
            {},
        ),
        (
            "merge-tool-results",
            "puts results that follow each other into one",
            zones(rest=f"{TOOL} token-drift whitespace-drift"),
            _first(_MERGE),
            {},
        ),
        (
            "drop-tool-calls",
            "leaves the calls out",
            zones(rest="field-dropped message-dropped"),
            _first(_each("dict(m, tool_calls=[], content=m.content or '') if m.tool_calls else m")),
            {},
        ),
        (
            "drop-text-beside-call",
            "leaves the text beside a call out",
            zones(rest="field-dropped"),
            _first(_each("dict(m, content='') if m.tool_calls else m")),
            {},
        ),
        (
            "drop-reasoning",
            "leaves the reasoning of answers out",
            zones(rest="field-dropped thinking-stripped thinking-injected"),
            _sub(r"reasoning_content", "no_such_field"),
            {},
        ),
        (
            "keep-all-reasoning",
            "writes the reasoning into the text",
            zones(rest="thinking-injected thinking-stripped field-dropped"),
            _first(
                _each(
                    "dict(m, content='<think>\\n' ~ m.reasoning_content ~ '\\n</think>\\n\\n' ~ m.content, "
                    "reasoning_content='') if m.reasoning_content else m"
                )
            ),
            {},
        ),
    )
)
CHAT = (*(Operator(name, does, "chat template", rules, in_literals(edits)) for name, does, rules, edits in TEXT), *CHAT)
