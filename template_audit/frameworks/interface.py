"""The plug point for training frameworks: what a framework must offer to be audited.

A framework is a module or folder beside this file that defines ``FRAMEWORK``, an object with the
shape of `Framework`. Nothing else names it: `template_audit.frameworks` finds it by its folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from template_audit.conversation import Conversation
from template_audit.errors import DataError, EncodingError
from template_audit.stream import EncodedStream

if TYPE_CHECKING:
    from template_audit.model import Model


@dataclass(frozen=True, slots=True)
class Option:
    """One of the framework's own options, under its own name. `default` is what the framework uses."""

    name: str
    type: str  # "int", "bool", "str", "bool?" … (a question mark admits null)
    default: Any
    help: str


@dataclass(frozen=True, slots=True)
class TokenizerEffects:
    """What an encoder does to its copy of the tokenizer before it encodes.

    `added_tokens` are new: their ids lie beyond the model's vocabulary. `made_special` were ordinary
    vocabulary before. The pairs are (before, after). `chat_template` is what the framework will
    save beside the weights.
    """

    added_tokens: tuple[str, ...] = ()
    made_special: tuple[str, ...] = ()
    eos_token: tuple[str | None, str | None] = (None, None)
    pad_token: tuple[str | None, str | None] = (None, None)
    chat_template: tuple[str | None, str | None] = (None, None)


@dataclass(frozen=True, slots=True)
class Choice:
    """A template that was chosen for a model, and why, in one sentence for the report."""

    template: str | None
    why: str


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Where the built-in encoder and the installed framework part: at a token index, or altogether (None)."""

    conversation: str
    position: int | None
    what: str


class Encoder(Protocol):
    """Turns conversations into streams for one model. It never changes the model it was given."""

    spec: str
    """Canonical SPEC, such as ``llamafactory@0.9.5:llama3``."""
    model: Model
    options: Mapping[str, Any]
    """Every option with the value in force."""
    effects: TokenizerEffects
    notes: tuple[str, ...]
    """Remarks for the report on what this encoder is made of and what about it is not certain."""

    def encode(self, conversation: Conversation) -> EncodedStream:
        """Encode one conversation. Raises EncodingError when it cannot be encoded."""
        ...

    def encode_batch(
        self, conversations: Sequence[Conversation], *, keep_errors: bool = False
    ) -> list[EncodedStream | EncodingError]:
        """Encode many at once; same result as `encode`, in order.

        With `keep_errors` a conversation that cannot be encoded gives its EncodingError in place of
        a stream; without, the first one is raised.
        """
        ...


@runtime_checkable
class Dated(Protocol):
    """What an encoder offers beside `Encoder` when its text may depend on the day."""

    def at(self, clock: str) -> Encoder:
        """The same encoder at another moment (ISO 8601)."""
        ...


@dataclass(frozen=True, slots=True)
class EncoderRequest:
    """A parsed SPEC with its options, as handed to a framework."""

    model: Model
    version: str | None = None
    template: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None  # --framework-source PATH
    python: str | None = None  # --python PATH


@dataclass(frozen=True, slots=True)
class TrainingRun:
    """What a training config says about the data that the run will feed.

    `stage` is ``sft``, ``pt`` or a preference stage in the framework's own words. `dataset_dir` is a
    folder, or the framework's own description of data sets. `batch_size` is the number of rows that
    the framework processes at a time, where its result depends on it.
    `seed` is what rows are drawn with. `remarks` say what else the config asks for that an audit of it
    does not follow.
    """

    framework: str
    stage: str
    model: str
    template: str | None
    config: Path
    revision: str | None = None
    trust_remote_code: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    datasets: tuple[str, ...] = ()
    dataset_dir: str | Mapping[str, Any] = "data"
    max_samples: int | None = None
    seed: int = 42
    batch_size: int = 1000
    resizes_vocabulary: bool = False
    remarks: tuple[str, ...] = ()


@runtime_checkable
class ConfigReader(Protocol):
    """What a framework offers beside `Framework` when its training configs can be read."""

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """True when the parsed config file is one of this framework's."""
        ...

    def training_run(self, config: Mapping[str, Any], path: Path) -> TrainingRun:
        """The run that the config describes. Raises UsageError, naming the key, for wrong values."""
        ...

    def first_rows(self, run: TrainingRun, encoder: Encoder, limit: int) -> list[Conversation]:
        """The first rows of every data set of the run, as the framework's own converter reads them."""
        ...

    def run_remarks(self, run: TrainingRun, encoder: Encoder) -> list[str]:
        """What the report should say of the run beside its conversations, such as what packing makes of them."""
        ...


@runtime_checkable
class RunReader(Protocol):
    """What a `ConfigReader` offers beside it when it can give all rows of a run, and not the first ones alone."""

    def run_rows(self, run: TrainingRun, encoder: Encoder) -> Iterator[Conversation | DataError]:
        """All rows that the run takes, one at a time, as the framework's own converter reads them.

        A row that cannot be read is its DataError. Raises UsageError and DataError for a data set that
        cannot be read at all.
        """
        ...


@runtime_checkable
class SourceReader(Protocol):
    """What a framework offers beside `Framework` when ``--framework-source`` can name a copy of its source."""

    def from_source(self, source: str) -> Framework:
        """The same framework with the versions, templates and behaviours that `source` has.

        `source` is read, never run. What cannot be read raises UsageError when it is asked for.
        """
        ...


@runtime_checkable
class Described(Protocol):
    """What a framework offers beside `Framework` so that the drift gate can say what of it is different."""

    def describe(self, version: str | None, template: str | None) -> Mapping[str, Any]:
        """All that an encoder of this version and template is made of, as plain JSON data, without a model.

        `version` None is the newest. The key ``version`` holds the version; the others are the places
        that a report names. Raises UsageError for an unknown version and a source that cannot be read.
        """
        ...


@runtime_checkable
class DataFiles(Protocol):
    """What a `ConfigReader` offers beside it when the files that its rows come from can be told."""

    def data_files(self, run: TrainingRun, version: str | None) -> list[Path]:
        """The local files that decide about the rows of `run`. Raises UsageError or DataError."""
        ...


class Framework(Protocol):
    """A training framework (or the chat template itself)."""

    name: str
    title: str

    def versions(self) -> Sequence[str]:
        """Versions that can be asked for by ``framework@version``, newest first; may be empty."""
        ...

    def templates(self, version: str | None = None) -> Sequence[str]:
        """Template names of a version (default: newest); empty when the framework has none."""
        ...

    def options(self) -> Sequence[Option]:
        """The options that ``-o KEY=VALUE`` takes."""
        ...

    def choose(self, model: Model, version: str | None = None) -> Choice | None:
        """The framework's own default template for this model, or None when it has none."""
        ...

    def texts(
        self, model: Model, conversations: Sequence[Conversation], version: str | None = None
    ) -> Mapping[str, list[str | None]]:
        """For every template the text that it writes for each conversation, None where it takes none.

        Only text, no ids: this is what templates are ranked by before the best ones are encoded.
        Empty when the framework has no templates.
        """
        ...

    def load(self, request: EncoderRequest) -> Encoder:
        """Build the encoder. Raises UsageError for unknown templates (with the nearest name)."""
        ...
