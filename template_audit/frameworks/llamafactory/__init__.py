"""LLaMA-Factory as an encoder: its templates, its SFT processor, its changes to the tokenizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from template_audit.errors import DataError, UsageError
from template_audit.frameworks import nearest
from template_audit.frameworks.interface import Choice, Encoder, EncoderRequest, Option, TrainingRun
from template_audit.frameworks.llamafactory import config as training_config
from template_audit.frameworks.llamafactory.options import DEFAULT_CLOCK, OPTIONS
from template_audit.frameworks.llamafactory.registry import (
    Registry,
    builtin_versions,
    load_registry,
    unfamiliar_code,
)

if TYPE_CHECKING:
    from template_audit.conversation import Conversation
    from template_audit.model import Model
    from template_audit.pretraining import PretrainEncoder

_SHOWN = 5  # names of unfamiliar functions in a note


class LlamaFactory:
    """The framework object; see `template_audit.frameworks.interface.Framework`.

    With a `source` (a wheel, an installed copy, a checkout) it is the release that lies there, read
    and never run; without, the releases whose registries ship with this package.
    """

    name = "llamafactory"
    title = "LLaMA-Factory"
    remarks = (
        "The template `null` is that of a training config without `template:`: the framework reads it off the "
        "model's chat template (since 0.9.2), or takes `empty`.",
    )

    def __init__(self, source: str | None = None) -> None:
        self.source = source

    def from_source(self, source: str) -> LlamaFactory:
        """The same framework as it lies at `source`; see `SourceReader`."""
        return LlamaFactory(source)

    def versions(self) -> Sequence[str]:
        """The releases that can be asked for, newest first: the built-in ones, or the source's own."""
        return builtin_versions() if self.source is None else (self.registry().version,)

    def registry(self, version: str | None = None) -> Registry:
        """What a release registers. Raises UsageError for an unknown one and a source that cannot be read."""
        if self.source is None:
            return load_registry(version)
        from template_audit.frameworks.llamafactory.importer import import_registry

        registry = import_registry(self.source)
        if version not in (None, registry.version):
            raise UsageError(
                f"The LLaMA-Factory source at {self.source} is release {registry.version}, not {version}; "
                "leave the version or the source out."
            )
        return registry

    def templates(self, version: str | None = None) -> Sequence[str]:
        """Template names of a release, in its own order. Raises UsageError for an unknown release."""
        return tuple(self.registry(version).templates)

    def options(self) -> Sequence[Option]:
        """The framework's own option names, and the clock."""
        return OPTIONS

    def choose(self, model: Model, version: str | None = None) -> Choice | None:
        """The template that the release itself proposes for this model, by hub id or by the folder's name."""
        return _choose(self.registry(version), model)

    def texts(
        self, model: Model, conversations: Sequence[Conversation], version: str | None = None
    ) -> Mapping[str, list[str | None]]:
        """What every template writes, without tokenizing; see `Framework.texts`."""
        from template_audit.frameworks.llamafactory.plain_text import texts

        return texts(model, conversations, self.registry(version))

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """True when a parsed config file is one of LLaMA-Factory's."""
        return training_config.recognises(config)

    def training_run(self, config: Mapping[str, Any], path: Path) -> TrainingRun:
        """The run that the config describes. Raises UsageError."""
        return training_config.training_run(config, path)

    def first_rows(self, run: TrainingRun, encoder: Encoder, limit: int) -> list[Conversation]:
        """The first rows of the run's data sets, through the converter of the encoder's release."""
        from template_audit.frameworks.llamafactory.run import first_rows

        registry: Registry = encoder.registry  # type: ignore[attr-defined]  # only this framework's encoders come here
        return first_rows(run, registry.behaviours, limit)

    def run_rows(self, run: TrainingRun, encoder: Encoder) -> Iterator[Conversation | DataError]:
        """All rows of the run's data sets; see `RunReader`."""
        from template_audit.frameworks.llamafactory.run import run_rows

        registry: Registry = encoder.registry  # type: ignore[attr-defined]  # only this framework's encoders come here
        return run_rows(run, registry.behaviours)

    def run_remarks(self, run: TrainingRun, encoder: Encoder) -> list[str]:
        """What packing makes of the run's examples, where it packs."""
        from template_audit.frameworks.llamafactory.installed import InstalledEncoder
        from template_audit.frameworks.llamafactory.run import packing_remark

        built_in: Any = encoder.built_in if isinstance(encoder, InstalledEncoder) else encoder
        remark = packing_remark(run, built_in)
        return [] if remark is None else [remark]

    def describe(self, version: str | None, template: str | None) -> Mapping[str, Any]:
        """What an encoder is made of, as data; see `Described`."""
        from template_audit.frameworks.llamafactory.description import describe

        return describe(self.registry(version), template)

    def data_files(self, run: TrainingRun, version: str | None) -> list[Path]:
        """The files that a run's rows come from; see `DataFiles`."""
        from template_audit.frameworks.llamafactory.description import data_files

        return data_files(run, self.registry(version))

    def load(self, request: EncoderRequest) -> Encoder:
        """Build the encoder. Raises UsageError for an unknown release, template or option value.

        The template ``null`` is that of a training config without one: it is read off the model's
        chat template.
        """
        from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
        from template_audit.frameworks.llamafactory.parsed_template import NULL, null_template

        if request.python is not None:
            return self._load_installed(request, request.python)
        framework = self if request.source is None else self.from_source(request.source)
        registry, notes = framework.registry(request.version), framework.notes()
        name = request.template
        if name is None:
            choice = _choose(registry, request.model)
            if choice is None or choice.template is None:
                raise UsageError(
                    f"LLaMA-Factory {registry.version} has no default template for {request.model.id}; name one, as in "
                    "`llamafactory:llama3`."
                )
            name = choice.template
        if name == NULL:
            spec = null_template(request.model, registry, str(request.options.get("clock", DEFAULT_CLOCK)))
            return LlamaFactoryEncoder(request.model, registry, spec, request.options, notes)
        if name not in registry.templates:
            raise UsageError(
                f"LLaMA-Factory {registry.version} has no template `{name}`."
                f"{nearest(name, list(registry.templates))} `template-audit encoders llamafactory` lists them."
            )
        return LlamaFactoryEncoder(request.model, registry, registry.templates[name], request.options, notes)

    def _load_installed(self, request: EncoderRequest, python: str) -> Encoder:
        """The installed package's encoder, with the built-in one for the source that is installed there."""
        from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
        from template_audit.frameworks.llamafactory.installed import InstalledEncoder, start

        worker = start(python)
        built_in = self.load(replace(request, python=None, source=request.source or worker.source))
        assert isinstance(built_in, LlamaFactoryEncoder)
        return InstalledEncoder(built_in, worker)

    def notes(self) -> tuple[str, ...]:
        """What a report must say about encoders of this source: that it was read, and what in it is not certain."""
        if self.source is None:
            return ()
        registry = self.registry()
        read = f"LLaMA-Factory {registry.version} was read from {self.source}."
        unknown = unfamiliar_code(registry)
        if not unknown:
            return (read,)
        shown = ", ".join(unknown[:_SHOWN]) + (f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else "")
        return (
            read,
            f"Not certain: {len(unknown)} of its functions do something that no release from {builtin_versions()[-1]} "
            f"to {builtin_versions()[0]} does, and were not compared with the real package: {shown}.",
        )

    def pretrain_options(self) -> Sequence[Option]:
        """The options that matter in stage ``pt``."""
        from template_audit.frameworks.llamafactory.pretrain import OPTIONS as PRETRAIN_OPTIONS

        return PRETRAIN_OPTIONS

    def load_pretrain(self, request: EncoderRequest) -> PretrainEncoder:
        """The encoder of stage ``pt``; the template still decides what happens to the tokenizer. Raises as `load`."""
        from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
        from template_audit.frameworks.llamafactory.pretrain import LlamaFactoryPretrainEncoder

        worker = None
        if request.python is not None:
            from template_audit.frameworks.llamafactory.installed import start

            worker = start(request.python)
            request = replace(request, python=None, source=request.source or worker.source)
        encoder = self.load(replace(request, options={}))
        if not isinstance(encoder, LlamaFactoryEncoder):
            raise UsageError(f"Pre-training is not encoded by {encoder.spec}.")
        if worker is None:
            return LlamaFactoryPretrainEncoder(encoder, request.options)
        from template_audit.frameworks.llamafactory.installed_pretrain import InstalledPretrainEncoder

        return InstalledPretrainEncoder(encoder, request.options, worker)


def _choose(registry: Registry, model: Model) -> Choice | None:
    known_as = model.config.get("_name_or_path")
    names = [model.id, *([known_as] if isinstance(known_as, str) and known_as else [])]
    for name in names:
        template = registry.default_template(name)
        if template is not None:
            return Choice(template, f"LLaMA-Factory {registry.version} proposes `{template}` for {name}.")
    for name in filter(None, map(_last_part, names)):
        for hub_id, template in registry.models.items():
            if template is not None and _last_part(hub_id) == name:
                why = f"LLaMA-Factory {registry.version} proposes `{template}` for {hub_id}, whose name this model has."
                return Choice(template, why)
    return None


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()


FRAMEWORK = LlamaFactory()
