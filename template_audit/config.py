"""The configuration: severities, the threshold and ignored findings, from template-audit.toml or pyproject.toml.

A file looks like this (in pyproject.toml the tables are ``tool.template-audit`` and below)::

    fail-on = "warning"

    [severities]
    whitespace-drift = "info"
    missing-generation-tags = "off"

    [[ignore]]
    rule = "system-prompt-drift"
    reason = "Our server sends the same system prompt with every request."
    model = "*EXAONE-3.5*"          # these three are optional, and patterns
    encoder = "llamafactory:exaone"
    probe = "single*"
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_args

from template_audit.errors import UsageError
from template_audit.findings import Finding, IgnoreRecord, Level, SuppressedRecord, Threshold
from template_audit.frameworks import nearest
from template_audit.rules import all_rules

FILE = "template-audit.toml"
PYPROJECT = "pyproject.toml"
TABLE = "template-audit"

_LEVELS: tuple[str, ...] = get_args(Level)
_THRESHOLDS: tuple[str, ...] = get_args(Threshold)
_KEYS = ("severities", "fail-on", "ignore")
_SCOPES = ("model", "encoder", "probe")
_IGNORE_KEYS = ("rule", "reason", *_SCOPES)


@dataclass(frozen=True, slots=True)
class Ignore:
    """Findings that are known and accepted, and why. A scope that is None is every one.

    `model`, `encoder` and `probe` are patterns (``*``, ``?``, ``[…]``, case counts) for the model's
    name, the subject's SPEC (with or without its version) and the conversation's name. A finding
    about the model as such belongs to no conversation, so no `probe` fits it.
    """

    rule: str
    reason: str
    model: str | None = None
    encoder: str | None = None
    probe: str | None = None

    def concerns(self, model: str, encoder: str) -> bool:
        """True when the scope takes in this model and this subject."""
        return _fits(self.model, model) and (_fits(self.encoder, encoder) or _fits(self.encoder, versionless(encoder)))

    def takes(self, finding: Finding) -> bool:
        """True when `finding`, in an audit that is concerned, is one of those."""
        if finding.rule != self.rule:
            return False
        return self.probe is None or (finding.conversation is not None and _fits(self.probe, finding.conversation))

    def record(self) -> IgnoreRecord:
        """The entry as the JSON report has it."""
        return IgnoreRecord(self.rule, self.reason, self.model, self.encoder, self.probe)


@dataclass(frozen=True, slots=True)
class Suppressed:
    """A finding that does not count, and the entry that says why."""

    finding: Finding
    ignore: Ignore

    def record(self) -> SuppressedRecord:
        """The finding and the reason as the JSON report has them."""
        return SuppressedRecord(self.finding.record(), self.ignore.reason)


@dataclass(frozen=True, slots=True)
class Sifted:
    """Findings that count, findings that do not, and ignores of this audit that took none."""

    findings: tuple[Finding, ...]
    suppressed: tuple[Suppressed, ...] = ()
    unused: tuple[Ignore, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """What a project decided about findings. `path` is the file it was read from, None when made in Python.

    `severities` are rules' severities in place of their own; ``off`` leaves the rule out. `fail_on`
    None is the default.
    """

    severities: Mapping[str, Level] = field(default_factory=dict)
    fail_on: Threshold | None = None
    ignores: tuple[Ignore, ...] = ()
    path: Path | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for an unknown rule, severity or threshold and an ignore without a reason."""
        where = str(self.path or "Config")
        for name, severity in self.severities.items():
            _check_rule(name, f"{where}: `severities`")
            _check_choice(severity, _LEVELS, f"{where}: `severities.{name}`")
        if self.fail_on is not None:
            _check_choice(self.fail_on, _THRESHOLDS, f"{where}: `fail-on`")
        for number, ignore in enumerate(self.ignores, 1):
            place = f"{where}: `ignore` entry {number}"
            _check_rule(ignore.rule, place)
            if not ignore.reason.strip():
                raise UsageError(
                    f"{place} ({ignore.rule}) has no `reason`; say in a sentence why these findings are fine."
                )

    def sift(
        self,
        findings: Iterable[Finding],
        *,
        model: str,
        encoder: str,
        conversations: Iterable[str] = (),
        scopes: Iterable[str] = (),
    ) -> Sifted:
        """Part the findings of one audit.

        `conversations` are the names of all that were audited and `scopes` those of the rules that
        were applied: an ignore is unused only where it could have taken something.
        """
        found, names, applied, rules = list(findings), list(conversations), set(scopes), all_rules()
        ignores = [ignore for ignore in self.ignores if ignore.concerns(model, encoder)]
        kept: list[Finding] = []
        suppressed: list[Suppressed] = []
        for finding in found:
            taken = next((ignore for ignore in ignores if ignore.takes(finding)), None)
            if taken is None:
                kept.append(finding)
            else:
                suppressed.append(Suppressed(finding, taken))
        unused = [
            ignore
            for ignore in ignores
            if not any(ignore.takes(finding) for finding in found)
            and rules[ignore.rule].scope in applied
            and (ignore.probe is None or any(_fits(ignore.probe, name) for name in names))
        ]
        return Sifted(tuple(kept), tuple(suppressed), tuple(unused))


def find_config(start: Path | None = None) -> Path | None:
    """The configuration that holds in folder `start` (default: the working directory), or None.

    Looks there and in every folder above, and takes the first template-audit.toml, or pyproject.toml
    with a ``tool.template-audit`` table; of the two in one folder the former. Raises UsageError for
    a pyproject.toml that names the tool and is not valid TOML.
    """
    folder = (start or Path.cwd()).absolute()
    for place in (folder, *folder.parents):
        if (place / FILE).is_file():
            return place / FILE
        project = place / PYPROJECT
        if project.is_file() and _names_the_tool(project) and _table_of(project, _parsed(project)) is not None:
            return project
    return None


def read_config(path: str | Path) -> Config:
    """The configuration in `path`, a pyproject.toml or a file of the form of template-audit.toml.

    Raises UsageError, naming the file and the key, for what cannot be read or is not known.
    """
    path = Path(path)
    data = _parsed(path)
    table = _table_of(path, data) if path.name == PYPROJECT else data
    if table is None:
        raise UsageError(f"{path} has no table `tool.{TABLE}`.")
    prefix = f"tool.{TABLE}." if path.name == PYPROJECT else ""
    if not isinstance(table, dict):
        raise UsageError(f"{path}: `tool.{TABLE}` must be a table.")
    _check_keys(table, _KEYS, str(path), prefix)
    severities = table.get("severities", {})
    if not isinstance(severities, dict):
        raise UsageError(f"{path}: `{prefix}severities` must be a table of rules and their severities.")
    entries = table.get("ignore", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path}: `{prefix}ignore` must be a list of tables, each opened by `[[{prefix}ignore]]`.")
    ignores = tuple(_ignore(entry, f"{path}: `{prefix}ignore` entry {n}") for n, entry in enumerate(entries, 1))
    return Config(severities, table.get("fail-on"), ignores, path)


def load_config(path: str | Path | None = None) -> Config:
    """The configuration in `path`, or the one that holds in the working directory, or an empty one."""
    found = Path(path) if path is not None else find_config()
    if found is None:
        return Config()
    config = read_config(found)
    return config if path is not None else replace(config, path=_short(found))


def _short(path: Path) -> Path:
    """`path` from the working directory on, where it lies in or above it by no more than a folder or two."""
    folder = Path.cwd().absolute()
    for up, place in enumerate((folder, *folder.parents[:2])):
        if path.parent == place:
            return Path(*[".."] * up, path.name)
    return path


def _ignore(entry: dict[str, Any], where: str) -> Ignore:
    _check_keys(entry, _IGNORE_KEYS, where, "")
    for key, value in entry.items():
        if not isinstance(value, str):
            raise UsageError(f"{where}: `{key}` must be a text, not {type(value).__name__}.")
    if "rule" not in entry:
        raise UsageError(f"{where} names no `rule`.")
    return Ignore(**{"reason": "", **entry})


def _check_keys(table: Mapping[str, Any], known: tuple[str, ...], where: str, prefix: str) -> None:
    for key in table:
        if key not in known:
            close = nearest(key, list(known))
            raise UsageError(f"{where}: there is no key `{prefix}{key}`; known are {', '.join(known)}.{close}")


def _check_rule(name: str, where: str) -> None:
    if name not in all_rules():
        raise UsageError(f"{where}: there is no rule `{name}`.{nearest(name, list(all_rules()))}")


def _check_choice(value: Any, known: tuple[str, ...], where: str) -> None:
    if value not in known:
        raise UsageError(f"{where} is {value!r:.60}; it must be one of {', '.join(known)}.")


def _fits(pattern: str | None, text: str) -> bool:
    return pattern is None or fnmatchcase(text, pattern)


def versionless(spec: str) -> str:
    """A SPEC without the framework's version: what a finding is told by across upgrades."""
    framework, colon, template = spec.partition(":")
    return framework.partition("@")[0] + colon + template


def _names_the_tool(path: Path) -> bool:
    """Spares parsing, and complaints about, files that are none of ours."""
    try:
        return TABLE.encode() in path.read_bytes()
    except OSError:
        return False


def _table_of(path: Path, data: Mapping[str, Any]) -> Any:
    tools = data.get("tool")
    return tools.get(TABLE) if isinstance(tools, dict) else None


def _parsed(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"Cannot read the configuration {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UsageError(f"The configuration {path} is not UTF-8 text.") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}.") from None
    except RecursionError:
        raise UsageError(f"{path} is nested too deeply to be a configuration.") from None
