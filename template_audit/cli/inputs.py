"""What is encoded: the model, the conversations and the options, as commands take them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from template_audit.cli.options import assignments
from template_audit.errors import UsageError

if TYPE_CHECKING:
    from template_audit.conversation import Conversation
    from template_audit.frameworks.interface import Framework, TrainingRun
    from template_audit.model import Model

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Inputs:
    """The shared options of `audit`, `encode` and `match`, parsed."""

    target: str
    revision: str | None
    chat_template: str | None
    trust_remote_code: bool
    conversations: tuple[str, ...] = ()
    conversation_format: str | None = None
    framework_source: str | None = None
    python: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    template_kwargs: dict[str, Any] = field(default_factory=dict)

    def load_model(self) -> Model:
        """Read the model, with the process that will run its template started beside."""
        from template_audit.model.sandbox import shared_sandbox
        from template_audit.model.source import load_model

        shared_sandbox().start()  # it gets ready while this process imports transformers
        gc.disable()  # importing makes many objects and no garbage: a tenth of the time until here
        try:
            return load_model(
                self.target,
                revision=self.revision,
                chat_template=self.chat_template,
                trust_remote_code=self.trust_remote_code,
            )
        finally:
            gc.freeze()  # what is there now stays
            gc.enable()

    def for_run(self, run: TrainingRun) -> Inputs:
        """The same request for the model that a training config names; what was asked for here wins."""
        return replace(
            self,
            target=run.model,
            revision=self.revision or run.revision,
            trust_remote_code=self.trust_remote_code or run.trust_remote_code,
        )

    def read_conversations(self, default: tuple[str, ...] = ()) -> list[Conversation | str]:
        """The conversations of every file that was named (or of `default`), and the names of probes.

        Done before the model is loaded, so that a mistake shows at once; `with_probes` does the rest.
        """
        names = self.conversations or default
        return [found for name in names for found in _read(name, self.conversation_format)]

    def options_for(self, framework: Framework, other: Framework | None = None) -> dict[str, Any]:
        """The options for one of the two encoders.

        An option goes to every encoder that knows it: `enable_thinking`, say, reaches the framework
        and the chat template alike. A template variable (``--template-kwarg``) goes to encoders that
        take such. Raises UsageError for an option that neither knows.
        """
        from template_audit.frameworks import check_options

        mine = {option.name for option in framework.options()}
        theirs = {option.name for option in other.options()} if other else set()
        unknown = {key: value for key, value in self.options.items() if key not in mine | theirs}
        if unknown:
            check_options(framework, unknown)
        chosen = {key: value for key, value in self.options.items() if key in mine}
        if self.template_kwargs and "template_kwargs" in mine:
            chosen["template_kwargs"] = self.template_kwargs
        return chosen


def model_inputs(command: Command) -> Command:
    """Give a command the arguments that name a model; it receives an `Inputs` as its first argument."""
    return _model_inputs(command, _MODEL)


def _model_inputs(command: Command, model: Sequence[Callable[[Any], Any]]) -> Command:
    @wraps(command)
    def run(target: str, revision: str | None, chat_template: str | None, trust_remote_code: bool, **rest: Any) -> Any:
        return command(Inputs(target, revision, chat_template, trust_remote_code), **rest)

    decorated: Command = _with(run, model)
    return decorated


def inputs(command: Command) -> Command:
    """Give a command the arguments that say what to encode, and how; they are in its `Inputs`, too."""
    decorated: Command = model_inputs(_with(_encoding(command), (*_ENCODING, _PYTHON)))
    return decorated


def inputs_without_conversations(command: Command) -> Command:
    """As `inputs`, for a command that has its own way of naming rows, and needs no installed framework."""
    decorated: Command = model_inputs(_with(_encoding(command), _ENCODING[len(_CONVERSATIONS) :]))
    return decorated


def inputs_of_several(command: Command) -> Command:
    """As `inputs`, for a command that takes one MODEL or more; it receives a list of `Inputs`, one for each."""

    @wraps(command)
    def run(given: Inputs, **rest: Any) -> Any:
        # click gives all of them in the place of the one
        return command([replace(given, target=target) for target in given.target], **rest)

    several = click.argument("target", metavar="MODEL...", nargs=-1, required=True)
    decorated: Command = _model_inputs(_with(_encoding(run), _ENCODING), (several, *_MODEL[1:]))
    return decorated


def _encoding(command: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(command)
    def run(
        given: Inputs,
        option: tuple[str, ...],
        template_kwarg: tuple[str, ...],
        clock: str | None,
        framework_source: str | None,
        conversation: tuple[str, ...] = (),
        conversation_format: str | None = None,
        python: str | None = None,
        **rest: Any,
    ) -> Any:
        options = assignments(option, "-o")
        if clock is not None:
            if "clock" in options:
                raise UsageError("`--clock` and `-o clock=…` are the same option; give one of them.")
            options["clock"] = clock
        given = replace(
            given,
            conversations=conversation,
            conversation_format=conversation_format,
            framework_source=framework_source,
            python=python,
            options=options,
            template_kwargs=assignments(template_kwarg, "--template-kwarg", scalars=False),
        )
        return command(given, **rest)

    return run


def _with(command: Any, options: Sequence[Callable[[Any], Any]]) -> Any:
    for option in reversed(options):
        command = option(command)
    return command


_MODEL = (
    click.argument("target", metavar="MODEL"),
    click.option("--revision", metavar="REV", help="Branch, tag or commit of the model repository."),
    click.option("--chat-template", metavar="FILE", help="Use this chat template (or that of a .gguf) instead."),
    click.option("--trust-remote-code", is_flag=True, help="Let the model repository run its own Python code."),
)

_CONVERSATIONS = (
    click.option(
        "--conversation",
        metavar="FILE|PROBE",
        multiple=True,
        help="A file of conversations (JSON, JSON lines, .gz, .zst, Parquet), a folder of such files, or a built-in "
        "probe; may be repeated.",
    ),
    click.option("--conversation-format", metavar="NAME", help="Row format of the files: openai, sharegpt or alpaca."),
)

_ENCODING = (
    *_CONVERSATIONS,
    click.option(
        "-o",
        "--option",
        metavar="KEY=VALUE",
        multiple=True,
        help="An option of the framework under its own name, such as cutoff_len=1024; may be repeated.",
    ),
    click.option(
        "--template-kwarg",
        metavar="KEY=VALUE",
        multiple=True,
        help="A variable for the chat template, value in YAML; may be repeated.",
    ),
    click.option(
        "--framework-source", metavar="PATH", help="Read the framework's templates from this copy of its source."
    ),
    click.option("--clock", metavar="TIME", help="The moment that templates see, in ISO 8601."),
)
_PYTHON = click.option(
    "--python",
    metavar="PATH",
    help="Take ids and labels from the framework that is installed there: the bin/python of its environment.",
)


def with_probes(found: list[Conversation | str], model: Model) -> list[Conversation] | None:
    """Probes in place of their names, with `model`'s own control tokens in them; None for an empty list."""
    from template_audit.probes import probe

    return _apart([probe(item, model) if isinstance(item, str) else item for item in found]) or None


def _apart(conversations: Sequence[Conversation]) -> list[Conversation]:
    """The conversations, later ones of the same id with a number behind it, so that findings can be told apart."""
    seen: dict[str, int] = {}
    out = []
    for one in conversations:
        count = seen[one.id] = seen.get(one.id, 0) + 1
        out.append(one if count == 1 else replace(one, id=f"{one.id} ({count})"))
    return out


def _read(name: str, row_format: str | None) -> Sequence[Conversation | str]:
    from template_audit.probes import probes

    path = Path(name)
    if name in probes() and not path.is_file():
        return [name]
    if path.exists() or path.suffix or len(path.parts) > 1:
        from template_audit.datasets import read_conversations

        return read_conversations(name, row_format)  # a hub name, too
    from template_audit.frameworks import nearest

    raise UsageError(
        f"`{name}` is neither a file nor a built-in probe; the probes are {', '.join(probes())}."
        f"{nearest(name, list(probes()))}"
    )
