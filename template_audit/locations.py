"""Where a finding's cause stands: the line of a chat template, a key of the model's files, a line of a training config.

What is not certain is left out: where several lines of a template could have written a text, the file
alone is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from template_audit.findings import Finding, Location
from template_audit.keylines import json_key_line, yaml_entries
from template_audit.stream import EncodedStream
from template_audit.template_lines import Literal, line_of, literal_runs, literals, role_at

if TYPE_CHECKING:
    from template_audit.model import Model, TemplateSource
    from template_audit.results import Comparison

_LONGEST = 300_000  # characters of a template that is cut into tokens
_TOKENIZER = "tokenizer_config.json"
_KEYS: Mapping[str, Sequence[tuple[str, str | None]]] = {
    "eos-mismatch": ((_TOKENIZER, "eos_token"), ("special_tokens_map.json", "eos_token")),
    "pad-equals-eos": ((_TOKENIZER, "pad_token"), ("special_tokens_map.json", "pad_token")),
    "bogus-bos": ((_TOKENIZER, "add_bos_token"), (_TOKENIZER, "bos_token")),
    "double-bos": ((_TOKENIZER, "add_bos_token"), (_TOKENIZER, "bos_token")),
    "missing-bos": ((_TOKENIZER, "add_bos_token"), (_TOKENIZER, "bos_token")),
    "tokenizer-files-disagree": (("tokenizer.json", None), (_TOKENIZER, None)),
    "template-missing": ((_TOKENIZER, None),),
}
"""Rules whose cause is an entry of the model's files: the first of these that is there."""

_OPTIONS: Mapping[str, Sequence[str]] = {
    "truncated-supervision": ("cutoff_len",),
    "prompt-trained": ("train_on_prompt",),
    "all-tokens-trained": ("train_on_prompt",),
    "history-trained": ("mask_history",),
    "history-untrained": ("mask_history",),
    "thinking-injected": ("enable_thinking",),
    "thinking-stripped": ("enable_thinking",),
    "system-prompt-drift": ("default_system",),
    "tool-layout-drift": ("tool_format",),
    "example-dropped": ("dataset",),
    "unfilled-placeholder": ("dataset",),
    "empty-response": ("dataset",),
    "special-token-injection": ("dataset",),
}
"""Keys of a training config that a rule's findings hang on; without them it is `template`."""

_OF_THE_MODEL = ("Model files", "Hostile")
_ALSO_OF_THE_MODEL = ("eos-mismatch", "pad-equals-eos", "role-unsupported", "not-prefix-stable")
_LINE = re.compile(r"\(line (\d{1,7})(?: of the template)?[^()]*\)\.$")
_CODE_POINT = re.compile(r"U\+([0-9A-F]{4,6}) ")


@dataclass(frozen=True)
class RunFile:
    """The training config of an audited run, and the framework's template that was audited.

    Where the file names another template (it was overridden), no line of it is named.
    """

    path: Path
    template: str | None

    @cached_property
    def entries(self) -> Mapping[str, tuple[int, str | None]]:
        """The entries of the file, as `yaml_entries` gives them; none when it cannot be read."""
        try:
            return yaml_entries(self.path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            return {}

    def place(self, rule: str) -> Location:
        """The line of the option that the rule's findings hang on, else that of `template`."""
        for key in _OPTIONS.get(rule, ()):
            if key in self.entries:
                return Location(_relative(self.path), self.entries[key][0])
        line, named = self.entries.get("template", (None, None))
        return Location(_relative(self.path), line if named == self.template else None)


def located(
    findings: Iterable[Finding],
    model: Model,
    comparisons: Sequence[Comparison] = (),
    *,
    reference: str = "chat-template",
    run: RunFile | None = None,
) -> list[Finding]:
    """The findings with a `location` each.

    `reference` is the SPEC of the reference encoder: only the chat template's text is looked for in the chat
    template. With a `run`, what is not about the model's own files is about the run's.
    """
    places = _Places(model, {c.conversation.id: c for c in comparisons}, reference, run)
    return [msgspec.structs.replace(finding, location=places.of(finding)) for finding in findings]


@dataclass(frozen=True)
class _Places:
    model: Model
    comparisons: Mapping[str, Comparison]
    reference: str
    run: RunFile | None
    literals: dict[str, list[Literal]] = field(default_factory=dict)
    key_lines: dict[tuple[str, str], int | None] = field(default_factory=dict)

    def of(self, finding: Finding) -> Location:
        if self.run is not None and not self._about_model(finding):
            return self.run.place(finding.rule)
        if finding.rule == "template-source-conflict":
            for source in self.model.template_sources:
                if not source.wins and f"template in {source.place} " in finding.message:
                    return self._in_source(source, None)
        if finding.rule in _KEYS:
            return self._in_files(finding)
        used = self._source(finding)
        if used is None:
            return self._file(_TOKENIZER)
        return self._in_source(used, self._line(used.template, finding))

    def _about_model(self, finding: Finding) -> bool:
        from template_audit.rules import all_rules

        rule = all_rules().get(finding.rule)
        return finding.rule in _ALSO_OF_THE_MODEL or (rule is not None and rule.group in _OF_THE_MODEL)

    def _in_files(self, finding: Finding) -> Location:
        wanted = list(_KEYS[finding.rule])
        if finding.rule == "eos-mismatch" and " generation_config.json stops at " in finding.message:
            wanted.insert(0, ("generation_config.json", "eos_token_id"))
        for name, key in wanted:
            if key is None and (self._folder / name).is_file():
                return self._file(name)
            if key is not None and (line := self._key_line(name, key)) is not None:
                return self._file(name, line)
        return self._file(wanted[0][0])

    def _key_line(self, name: str, key: str) -> int | None:
        if (name, key) not in self.key_lines:
            try:
                line = json_key_line((self._folder / name).read_text(encoding="utf-8"), key)
            except (OSError, UnicodeDecodeError):
                line = None
            self.key_lines[name, key] = line
        return self.key_lines[name, key]

    def _source(self, finding: Finding) -> TemplateSource | None:
        """Where the template that wrote the reference comes from."""
        comparison = self.comparisons.get(finding.conversation or "")
        used = self.model.template_for(bool(comparison and comparison.conversation.tools))
        named = re.search(r"of the template `([^`]*)`|in the template `([^`]*)`", finding.message)
        name = (named[1] or named[2]) if named else None
        winners = [source for source in self.model.template_sources if source.wins]
        return next(
            (source for source in winners if (source.name == name if name else source.template == used)),
            winners[0] if winners else None,
        )

    def _in_source(self, source: TemplateSource, line: int | None) -> Location:
        """A template's own file with the line; within another file the line of the entry."""
        option, _, file = source.place.partition("--chat-template ")
        if not option and file:
            own = not file.endswith((".json", ".gguf"))
            return Location(_relative(Path(file)), line if own else None)
        name, entry, _ = source.place.partition("#")
        if name.endswith(".gguf"):
            return self._file(name)
        if entry:
            return self._file(name, self._key_line(name, "chat_template"))
        return self._file(name, line) if name.endswith(".jinja") else self._file(_TOKENIZER)

    def _line(self, template: str, finding: Finding) -> int | None:
        """The line of `template` that the finding is about, where that is certain."""
        if (said := _LINE.search(finding.message)) and int(said[1]) <= template.count("\n") + 1:
            return int(said[1])
        if finding.rule == "hidden-characters" and (code := _CODE_POINT.match(finding.message)):
            at = template.find(chr(int(code[1], 16)))
            return template.count("\n", 0, at) + 1 if at >= 0 else None
        comparison = self.comparisons.get(finding.conversation or "")
        if comparison is None or finding.reference is None or not self.reference.startswith("chat-template"):
            return None
        if not isinstance(comparison.reference, EncodedStream) or len(template) > _LONGEST:
            return None
        if template not in self.literals:
            self.literals[template] = literals(template, self._variables())
        stream = comparison.reference
        run = next(literal_runs(stream, finding.reference.start, finding.reference.end), None)
        if run is None:
            return None
        return line_of(self.literals[template], run.text, run.start, run.end, role_at(stream, run.at))

    def _variables(self) -> dict[str, str]:
        tokens = {name: getattr(self.model.tokenizer, name, None) for name in ("bos_token", "eos_token", "pad_token")}
        return {name: str(value) for name, value in tokens.items() if value}

    @property
    def _folder(self) -> Path:
        return self.model.path if self.model.path.is_dir() else self.model.path.parent

    def _file(self, name: str, line: int | None = None) -> Location:
        if self.model.revision is not None:
            return Location(f"{self.model.id}/{name}", line)
        path = self._folder / name
        return Location(_relative(path if path.exists() else self.model.path), line)


def _relative(path: Path) -> str:
    """`path` from the working directory on when it lies in it, else as an absolute path."""
    whole, here = path.absolute(), Path.cwd()
    return (whole.relative_to(here) if whole.is_relative_to(here) else whole).as_posix()
