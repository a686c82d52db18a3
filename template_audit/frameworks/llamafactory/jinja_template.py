"""The chat template of a model that LLaMA-Factory trained: what its template wrote, in Jinja.

Unlike the one that the framework makes itself (`template_audit.frameworks.llamafactory.saved_template`), it
knows tools, calls, results, reasoning and default system texts. What it writes for a conversation is meant to be
what the SFT encoder wrote for it, with the options that it had.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from template_audit.frameworks.llamafactory.jinja_tools import literal, put, tool_jinja
from template_audit.frameworks.llamafactory.messages import TOOL_RESULT_SEPARATOR
from template_audit.frameworks.llamafactory.registry import Formatter, Slot, Special, Token
from template_audit.frameworks.llamafactory.saved_template import special_token
from template_audit.frameworks.llamafactory.template import is_reasoning
from template_audit.frameworks.llamafactory.tool_formats import Release

if TYPE_CHECKING:
    from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder


def jinja_template(encoder: LlamaFactoryEncoder) -> tuple[str, list[str]]:
    """The chat template, and in sentences what of the encoder's template it leaves out."""
    return _Writer(encoder).template()


class _Writer:
    def __init__(self, encoder: LlamaFactoryEncoder) -> None:
        self.encoder, self.spec = encoder, encoder.template
        registry = encoder.registry
        self.release = Release(registry.tool_prompts, encoder.settings.clock, registry.behaviours)
        self.missing: list[str] = []

    def template(self) -> tuple[str, list[str]]:
        parts = [self._opening(), "{%- set ns = namespace(turn=0) -%}", self._messages(), self._closing()]
        return "\n".join(part for part in parts if part) + "\n", self.missing

    # Slots -----------------------------------------------------------------------------------

    def _texts(self, slots: Sequence[Slot]) -> str:
        """Slots as one text, special tokens written out."""
        out = []
        for slot in slots:
            if isinstance(slot, str):
                out.append(slot)
            elif isinstance(slot, Token):
                out.append(slot.text)
            elif (special := special_token(slot, self.encoder.tokenizer)) is not None:
                out.append(special[0])
        return "".join(out)

    def _around(self, formatter: Formatter, content: str) -> str:
        """Jinja that writes the slots around `content`, itself Jinja that writes."""
        before, found, after = self._texts(formatter.slots).partition("{{content}}")
        return self._numbered(before) + (content if found else "") + self._numbered(after)

    def _numbered(self, text: str) -> str:
        """A literal in which ``{{idx}}`` is the number of the turn."""
        before, found, after = text.partition("{{idx}}")
        return put(literal(before), "(ns.turn // 2)", literal(after)) if found else put(literal(text))

    # Parts -----------------------------------------------------------------------------------

    def _opening(self) -> str:
        lines = [
            "{%- set rows = messages -%}",
            "{%- set system = '' -%}",
            "{%- if messages and messages[0].role == 'system' -%}",
            "{%- set system = messages[0].content or '' -%}",
            "{%- set rows = messages[1:] -%}",
            "{%- endif -%}",
        ]
        if self.spec.default_system:
            lines.append(f"{{%- set system = system or {literal(self.spec.default_system)} -%}}")
        lines.append(put(literal(self._texts(self.spec.format_prefix.slots))))
        if self.spec.kind != "llama2":
            lines += ["{%- if system or tools -%}", *self._system(), "{%- endif -%}"]
        return "\n".join(line for line in lines if line)

    def _system(self) -> list[str]:
        """Jinja that writes the system slot with system text and tools."""
        slots = self.spec.format_system.slots[:1] if self.spec.kind == "llama2" else self.spec.format_system.slots
        before, _, after = self._texts(slots).partition("{{content}}")
        return [
            put(literal(before), "system") or "{{- system -}}",
            "{%- if tools -%}",
            self._tools(),
            "{%- endif -%}",
            put(literal(after)),
        ]

    def _tools(self) -> str:
        formatter = self.spec.format_tools
        if formatter.kind != "tool":
            before, _, after = self._texts(formatter.slots[:1]).partition("{{content}}")
            return put(literal(before), "tools | tojson", literal(after))
        written = tool_jinja(formatter.tool_format or "default", self.release)
        if written is None:
            self.missing.append(f"Tool definitions in the format `{formatter.tool_format}`.")
            return "{{- raise_exception('Tools are not written by this template.') -}}"
        return written.tools

    def _messages(self) -> str:
        separator = put(literal(self._texts(self.spec.format_separator.slots)))
        between = f"{{%- if ns.turn -%}}{separator}{{%- endif -%}}" if separator else ""
        system = ""
        if self.spec.kind == "llama2":
            system = "\n".join(["{%- if loop.first and (system or tools) -%}", *self._system(), "{%- endif -%}"])
        before, _, after = self._texts(self.spec.format_observation.slots).partition("{{content}}")
        return "\n".join(
            [
                "{%- for message in rows -%}",
                "{%- if message.role == 'user' -%}",
                between + self._around(self.spec.format_user, system + "{{- message.content -}}"),
                "{%- elif message.role == 'tool' -%}",
                "{%- if loop.first or loop.previtem.role != 'tool' -%}",
                between + put(literal(before)),
                "{%- else -%}",
                put(literal(TOOL_RESULT_SEPARATOR)),
                "{%- endif -%}",
                "{{- message.content -}}",
                "{%- if loop.last or loop.nextitem.role != 'tool' -%}",
                put(literal(after)),
                "{%- endif -%}",
                "{%- elif message.role == 'assistant' -%}",
                self._answer(),
                "{%- else -%}",
                "{{- raise_exception('No such role: ' ~ message.role) -}}",
                "{%- endif -%}",
                "{%- if message.role != 'tool' or loop.last or loop.nextitem.role != 'tool' -%}",
                "{%- set ns.turn = ns.turn + 1 -%}",
                "{%- endif -%}",
                "{%- endfor -%}",
            ]
        )

    def _answer(self) -> str:
        """Thought and text, or thought and calls, in the slots; an empty thought in front where one is put in."""
        thinks = is_reasoning(self.spec)
        discards = (
            thinks
            and self.encoder.settings.mask_history
            and not self.spec.preserve_thinking
            and self.encoder.registry.behaviours.mask_history_drops_thoughts
        )
        removed = "true" if thinks and self.spec.enable_thinking is False else "not loop.last" if discards else "false"
        opening, closing = (literal(word) for word in self.spec.thought_words)
        lines = [
            "{%- set content = message.content or '' -%}",
            "{%- set thought = '' -%}",
            f"{{%- if {removed} -%}}",
            "{%- set content = content.lstrip('\\n') -%}",
            "{%- elif message.reasoning_content -%}",
            f"{{%- set thought = {opening} ~ message.reasoning_content ~ {closing} -%}}",
            "{%- endif -%}",
        ]
        if removed == "false":
            lines[2:] = ["{%- if message.reasoning_content -%}", *lines[5:]]
        if thinks:
            lines += self._empty_thought("loop.last" if discards else "true")
        function = self._around(self.spec.format_function, "{{- thought -}}" + self._calls())
        lines += ["{%- if message.tool_calls -%}", function, "{%- else -%}"]
        lines += [self._around(self.spec.format_assistant, "{{- thought ~ content -}}"), "{%- endif -%}"]
        return "\n".join(lines)

    def _calls(self) -> str:
        if self.encoder.registry.behaviours.function_formatter == "slots_per_call":
            self.missing.append("Tool calls as releases up to 0.9.1 write them.")
            return "{{- raise_exception('Tool calls are not written by this template.') -}}"
        written = tool_jinja(self.spec.format_function.tool_format or "default", self.release)
        if written is None:
            self.missing.append(f"Tool calls in the format `{self.spec.format_function.tool_format}`.")
            return "{{- raise_exception('Tool calls are not written by this template.') -}}"
        return written.calls

    def _empty(self) -> str:
        words = self.spec.thought_words
        if self.spec.kind == "glm47_reasoning":
            return words[1]
        spaced = self.encoder.registry.behaviours.empty_thought == "spaced"
        return "".join(word + "\n\n" for word in words) if spaced else words[0] + words[1]

    def _empty_thought(self, condition: str) -> list[str]:
        strips = self.encoder.registry.behaviours.thought_search_strips_words
        words = [literal(word.strip() if strips else word) for word in self.spec.thought_words]
        absent = " and ".join(f"{word} not in thought ~ content" for word in words)
        return [f"{{%- if {condition} and {absent} -%}}", put(literal(self._empty())), "{%- endif -%}"]

    def _closing(self) -> str:
        """What stands after the last message: the one eos of an efficient template, an empty thought as prompt."""
        lines = []
        if self.spec.efficient_eos:
            eos = special_token(Special("eos_token"), self.encoder.tokenizer)
            if eos is not None:
                lines += ["{%- if rows and rows[-1].role == 'assistant' -%}", put(literal(eos[0])), "{%- endif -%}"]
        if is_reasoning(self.spec) and not self.spec.enable_thinking:
            asked = "{%- if add_generation_prompt and rows and rows[-1].role != 'assistant' -%}"
            lines += [asked, put(literal(self._empty())), "{%- endif -%}"]
        return "\n".join(lines)
