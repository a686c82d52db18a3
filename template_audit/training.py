"""Training configs: which run a YAML or JSON file describes, whatever framework it belongs to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from template_audit.errors import UsageError
from template_audit.frameworks import frameworks, parse_spec
from template_audit.frameworks.interface import ConfigReader, Encoder, TrainingRun

if TYPE_CHECKING:
    from template_audit.conversation import Conversation
    from template_audit.model import Model

# What is encoded of a run that is not supervised fine-tuning
_SHOWN = {
    "rm": "of each pair the chosen answer is shown",
    "kto": "of each row its own answer is shown, wanted or not",
    "ppo": "the run writes its own answers, and those of the data set are shown as in stage sft",
}
SUFFIXES = (".yaml", ".yml", ".json")


def is_training_config(argument: str) -> bool:
    """True when a MODEL argument names a config file and no model."""
    return argument.endswith(SUFFIXES) and not Path(argument).is_dir()


def config_readers() -> dict[str, ConfigReader]:
    """The frameworks whose training configs can be read, by name."""
    return {name: f for name, f in frameworks().items() if isinstance(f, ConfigReader)}


def read_training_run(path: str | Path, overrides: Sequence[str] = ()) -> TrainingRun:
    """The run that the config at `path` describes, with ``key=value`` overrides laid over it.

    Values of overrides are YAML; dots in a key go into nested objects. Raises UsageError for a file
    that cannot be read, is no object or belongs to no known framework, and for a malformed override.
    """
    path = Path(path)
    config = _read(path)
    for override in overrides:
        _override(config, override)
    for reader in config_readers().values():
        if reader.recognises(config):
            return reader.training_run(config, path)
    known = ", ".join(frameworks()[name].title for name in config_readers())
    raise UsageError(
        f"{path} is no training config of a framework that is known here ({known}); "
        "one has at least `model_name_or_path` and `template`, `stage` or `dataset`."
    )


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"Cannot read the training config {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise UsageError(f"The training config {path} is not UTF-8 text.") from None
    try:
        config = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON: {error}.") from None
    except RecursionError:
        raise UsageError(f"{path} is nested too deeply to be a training config.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise UsageError(f"{path}{where}: not valid YAML ({problem}).") from None
    if not isinstance(config, Mapping):
        raise UsageError(f"{path} must hold an object of training options, got {type(config).__name__}.")
    return {str(key): value for key, value in config.items()}


def _override(config: dict[str, Any], override: str) -> None:
    import yaml

    key, equals, value = override.partition("=")
    if not equals or not key:
        raise UsageError(f"Override `{override}` must read key=value.")
    *path, last = key.split(".")
    place = config
    for part in path:
        inner = place.setdefault(part, {})
        if not isinstance(inner, dict):
            raise UsageError(f"Override `{override}`: `{part}` of the config is no object.")
        place = inner
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(f"Override `{override}`: the value is not valid YAML.") from None


@dataclass(frozen=True, slots=True)
class RunSubject:
    """What a supervised run feeds: its encoder, why it is this one, and conversations to look at."""

    encoder: Encoder
    why: str
    conversations: list[Conversation]


def spec_of(run: TrainingRun, encoder: str | None = None) -> str:
    """The SPEC of the run's encoder. `encoder` may name a version: ``framework@version``.

    Raises UsageError when it names another framework or a template, which is the config's to say.
    """
    parsed = parse_spec(encoder or run.framework)
    if parsed.framework != run.framework or parsed.template is not None:
        raise UsageError(
            f"{run.config} is a config of {run.framework} and names the template itself; "
            f"`--encoder {encoder}` may only add a version, as in `{run.framework}@VERSION`."
        )
    prefix = f"{run.framework}@{parsed.version}" if parsed.version else run.framework
    return f"{prefix}:{run.template if run.template is not None else 'null'}"


def run_subject(
    run: TrainingRun,
    model: Model,
    *,
    encoder: str | None = None,
    rows: int = 20,
    options: Mapping[str, Any] | None = None,
    framework_source: str | None = None,
    python: str | None = None,
) -> RunSubject:
    """The encoder of a supervised or preference run, the built-in probes and the first `rows` rows of each data set.

    `options` are laid over those of the config. Raises UsageError or DataError for a template,
    option or data set that the framework does not have.
    """
    from template_audit.frameworks import load_encoder
    from template_audit.probes import load_probes

    spec = spec_of(run, encoder)
    subject = load_encoder(
        spec, model, framework_source=framework_source, python=python, **{**run.options, **(options or {})}
    )
    why = f"{run.config} says `template: {'null' if run.template is None else run.template}`"
    why += f"; {_SHOWN[run.stage]}." if run.stage in _SHOWN else "."
    reader = config_readers()[run.framework]
    why = " ".join([why, *run.remarks, *reader.run_remarks(run, subject)])
    return RunSubject(subject, why, [*load_probes(model), *reader.first_rows(run, subject, rows)])
