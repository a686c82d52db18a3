"""The lock file: its shape, and reading it with one sentence for whatever is wrong with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from template_audit.conversation import Conversation
from template_audit.errors import DataError, EncodingError, UsageError
from template_audit.findings import Severity
from template_audit.lock.layout import digest, dumps, in_order
from template_audit.stream import IGNORE, EncodedStream

SCHEMA_VERSION = 1
"""Raised whenever an older template-audit could not read the file."""

_MESSAGE = 240
_CONFLICT = re.compile(r"^(<{7}|={7}|>{7})( |$)", re.MULTILINE)


class Request(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an entry asks for: everything that is needed to make it again.

    `options` and `reference_options` are those that were given. `config` is the training config that
    `model` and `revision` come from, with its `overrides`; of its data sets the first `rows` rows are
    encoded. `named` says that conversations were named; else they are the built-in ones, and those rows.
    """

    model: str
    encoder: str
    reference: str = "chat-template"
    revision: str | None = None
    chat_template: str | None = None
    framework_source: str | None = None
    options: dict[str, Any] = {}
    reference_options: dict[str, Any] = {}
    config: str | None = None
    overrides: list[str] = []
    rows: int | None = None
    named: bool = False

    @property
    def key(self) -> str:
        """Entries of one key replace each other; entries are sorted by it."""
        if self.config is not None:
            return digestible(Path(self.config).as_posix(), "", self.overrides, self.encoder)
        return digestible(
            plain_name(self.model, self.revision),
            self.encoder,
            self.reference,
            self.options,
            self.reference_options,
            self.chat_template or "",
            self.framework_source or "",
        )

    @property
    def title(self) -> str:
        """What a report calls the entry."""
        return self.config or (f"{self.model}@{self.revision}" if self.revision else self.model)


def plain_name(model: str, revision: str | None = None) -> str:
    """One name for the ways to type a model: ``./ours/`` is ``ours``, and ``hf://org/name`` ``org/name``."""
    name = model.removeprefix("hf://").rstrip("/") or model
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return f"{name}@{revision}" if revision else name


def digestible(*parts: Any) -> str:
    """Parts of a key in one text that sorts as its first part does."""
    return "\x00".join(part if isinstance(part, str) else json.dumps(part, sort_keys=True) for part in parts)


class LockedModel(msgspec.Struct, frozen=True):
    """The model as it was: `files` are sha256 by path, `tokenizer_class` and the rest are as transformers read it.

    `special_tokens` maps ``eos_token`` and its like to their text and id; `templates` maps the names of
    chat templates to the place that each was taken from.
    """

    id: str
    revision: str | None
    files: dict[str, str]
    tokenizer_class: str
    tokenizer_size: int
    special_tokens: dict[str, tuple[str, int | None]]
    templates: dict[str, str]


class LockedEncoder(msgspec.Struct, frozen=True):
    """One side: its SPEC, every option in force, and why it was taken."""

    spec: str
    options: dict[str, Any]
    why: str


class Side(msgspec.Struct, frozen=True, omit_defaults=True):
    """One stream. `text` is split at line breaks; `trained` are half-open token ranges whose label is the token.

    `labels` is there only where ranges cannot say it. `error` and `kind` stand for a stream that could not be had.
    """

    text: list[str] = []
    ids: list[int] = []
    trained: list[tuple[int, int]] = []
    labels: list[int] | None = None
    error: str | None = None
    kind: str | None = None

    @property
    def all_labels(self) -> list[int]:
        """A label for each token, −100 where masked."""
        if self.labels is not None:
            return self.labels
        out = [IGNORE] * len(self.ids)
        for start, end in self.trained:
            out[start:end] = self.ids[start:end]
        return out

    @property
    def whole_text(self) -> str:
        """The text in one piece."""
        return "\n".join(self.text)

    @classmethod
    def of(cls, stream: EncodedStream | EncodingError) -> Side:
        """What is recorded of a stream, or of the refusal to make one."""
        if isinstance(stream, EncodingError):
            return cls(error=str(stream), kind=stream.kind)
        ids, labels = list(stream.input_ids), list(stream.labels)
        ranges: list[tuple[int, int]] = []
        for i, (token, label) in enumerate(zip(ids, labels, strict=False)):
            if label == token:
                if ranges and ranges[-1][1] == i:
                    ranges[-1] = (ranges[-1][0], i + 1)
                else:
                    ranges.append((i, i + 1))
        side = cls(text=stream.text.split("\n"), ids=ids, trained=ranges)
        return side if side.all_labels == labels else msgspec.structs.replace(side, trained=[], labels=labels)


class LockedConversation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One conversation through both encoders. `content` is the digest of what it says.

    What it says stands under that digest in the file's `conversations`, unless it is a row of a
    training config's data set, which is read again.
    """

    id: str
    content: str
    reference: Side
    subject: Side
    probe: bool = False
    evaluated: bool = True
    reason: str | None = None


def short_message(message: str) -> str:
    """As much of a finding's message as is locked."""
    return message if len(message) <= _MESSAGE else message[: _MESSAGE - 1] + "…"


class LockedFinding(msgspec.Struct, frozen=True):
    """A finding that was there when the entry was locked, and so is accepted."""

    rule: str
    severity: Severity
    conversation: str | None
    fingerprint: str
    message: str


class Entry(msgspec.Struct, frozen=True):
    """Everything that a later run of `request` is held against.

    `settings` are the model's files as data (`template_audit.lock.outline`), `templates` the source of
    its chat templates by place and name, in lines, `framework` what the subject's framework says of
    itself, and `data` the sha256 of a training config and its data files. `configuration` is a digest of
    severities and ignores. `digest` is one of all else in the entry.
    """

    request: Request
    model: LockedModel
    versions: dict[str, str]
    settings: dict[str, Any]
    templates: dict[str, dict[str, list[str]]]
    framework: dict[str, Any]
    data: dict[str, str]
    reference: LockedEncoder
    subject: LockedEncoder
    configuration: str
    conversations: list[LockedConversation]
    findings: list[LockedFinding]
    digest: str = ""

    def sealed(self) -> Entry:
        """The same with its digest filled in."""
        return msgspec.structs.replace(self, digest=self.seal())

    def seal(self) -> str:
        """What `digest` must be."""
        return digest(msgspec.to_builtins(msgspec.structs.replace(self, digest="")), 64, any_order=True)


class Lock(msgspec.Struct, frozen=True):
    """A lock file. `conversations` holds the conversations of all entries by the digest of their content."""

    schema_version: int
    entries: list[Entry]
    conversations: dict[str, Any] = {}

    def with_entries(self, entries: Iterable[Entry], contents: Mapping[str, Any]) -> Lock:
        """The same with `entries` added, or put in the place of those with the same key; sorted."""
        by_key = {entry.request.key: entry for entry in self.entries}
        by_key |= {entry.request.key: entry for entry in entries}
        chosen = [by_key[key] for key in sorted(by_key)]
        used = {conversation.content for entry in chosen for conversation in entry.conversations}
        known = {**self.conversations, **contents}
        return Lock(SCHEMA_VERSION, chosen, {key: known[key] for key in sorted(used) if key in known})

    def text(self) -> str:
        """The file's text. Keys are sorted, but for those of what conversations say: templates print them in order."""
        data = {
            "conversations": dict(sorted(self.conversations.items())),
            "entries": in_order(msgspec.to_builtins(self.entries)),
            "schema_version": self.schema_version,
        }
        return dumps(data)


EMPTY = Lock(SCHEMA_VERSION, [])


def content_of(conversation: Conversation) -> dict[str, Any]:
    """What a conversation says, as plain data; the inverse of `conversation_of`."""
    content: dict[str, Any] = {"messages": conversation.openai_messages()}
    if conversation.tools is not None:
        content["tools"] = [dict(tool) for tool in conversation.tools]
    if conversation.row is not None and "format" in conversation.row:
        content["row"] = dict(conversation.row)
    return content


def conversation_of(content: Any, id: str, where: str) -> Conversation:
    """The conversation that `content_of` recorded. Raises UsageError when it is none."""
    try:
        conversation = Conversation.from_openai(content, where=where)
    except DataError as error:
        raise UsageError(f"{error} The lock file was edited; lock the model again.") from None
    row = content.get("row") if isinstance(content, Mapping) else None
    return replace(conversation, id=id, row=row if isinstance(row, Mapping) else None)


def read_lock(path: str | Path) -> Lock | None:
    """The lock file at `path`, None when there is none. Raises UsageError, naming the place, for one that is broken."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"Cannot read the lock file {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"The lock file {path} is not UTF-8 text (byte {error.start}); {_AGAIN}.") from None
    return parse_lock(text, path)


_AGAIN = "restore it, or delete it and lock the models again"


def parse_lock(text: str, path: str | Path) -> Lock:
    """The lock in `text`; `path` names it in errors. Raises UsageError."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        conflict = _CONFLICT.search(text)
        if conflict is not None:
            line = text.count("\n", 0, conflict.start()) + 1
            raise UsageError(
                f"{path}, line {line}: there are markers of a merge conflict; take one side whole and run "
                "`template-audit lock` again for the entries of the other."
            ) from None
        what = "is empty" if not text.strip() else f"is not valid JSON ({error.msg})"
        raise UsageError(
            f"{path}, line {error.lineno}, column {error.colno}: the lock file {what}; {_AGAIN}."
        ) from None
    except RecursionError:
        raise UsageError(f"{path} is nested too deeply to be a lock file; {_AGAIN}.") from None
    except ValueError:
        raise UsageError(f"{path} holds a number with too many digits to be a lock file; {_AGAIN}.") from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if type(version) is not int or version < 1:
        raise UsageError(f"{path} is no lock file of template-audit (it has no `schema_version`); {_AGAIN}.")
    if version > SCHEMA_VERSION:
        raise UsageError(
            f"{path} was written by a newer template-audit (schema {version}; this one reads up to {SCHEMA_VERSION}); "
            "upgrade template-audit."
        )
    try:
        lock = msgspec.convert(data, Lock)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {_place(error)}; {_AGAIN}.") from None
    keys = [entry.request.key for entry in lock.entries]
    double = next((lock.entries[i].request.title for i, key in enumerate(keys) if key in keys[:i]), None)
    if double is not None:
        raise UsageError(f"{path} has two entries for {double} with the same encoder and options; delete one of them.")
    return lock


def _place(error: msgspec.ValidationError) -> str:
    """msgspec's “what - at `$.place`” as “place: what”."""
    what, _, where = str(error).partition(" - at ")
    place = where.strip("`").removeprefix("$.").removeprefix("$")
    return f"{place or 'the file'}: {what[:1].lower()}{what[1:]}"
