"""LLaMA-Factory as an encoder: its templates, its SFT processor, its changes to the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from template_audit.errors import UsageError
from template_audit.frameworks import nearest, parse_spec
from template_audit.frameworks.interface import Choice, Encoder, EncoderRequest, Option, TrainingRun
from template_audit.frameworks.llamafactory import config as training_config
from template_audit.frameworks.llamafactory.options import DEFAULT_CLOCK, OPTIONS
from template_audit.frameworks.llamafactory.registry import Registry, builtin_versions, load_registry

if TYPE_CHECKING:
    from template_audit.conversation import Conversation
    from template_audit.model import Model
    from template_audit.pretraining import PretrainEncoder


class LlamaFactory:
    """The framework object; see `template_audit.frameworks.interface.Framework`."""

    name = "llamafactory"
    title = "LLaMA-Factory"

    def versions(self) -> Sequence[str]:
        """The releases whose registries ship with this package, newest first."""
        return builtin_versions()

    def templates(self, version: str | None = None) -> Sequence[str]:
        """Template names of a release, in its own order. Raises UsageError for an unknown release."""
        return tuple(load_registry(version).templates)

    def options(self) -> Sequence[Option]:
        """The framework's own option names, and the clock."""
        return OPTIONS

    def choose(self, model: Model, version: str | None = None) -> Choice | None:
        """The template that the release itself proposes for this model, by hub id or by the folder's name."""
        return _choose(load_registry(version), model)

    def texts(
        self, model: Model, conversations: Sequence[Conversation], version: str | None = None
    ) -> Mapping[str, list[str | None]]:
        """What every template writes, without tokenizing; see `Framework.texts`."""
        from template_audit.frameworks.llamafactory.plain_text import texts

        return texts(model, conversations, load_registry(version))

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """True when a parsed config file is one of LLaMA-Factory's."""
        return training_config.recognises(config)

    def training_run(self, config: Mapping[str, Any], path: Path) -> TrainingRun:
        """The run that the config describes. Raises UsageError."""
        return training_config.training_run(config, path)

    def first_rows(self, run: TrainingRun, encoder: Encoder, limit: int) -> list[Conversation]:
        """The first rows of the run's data sets, through the converter of the encoder's release."""
        from template_audit.frameworks.llamafactory.run import first_rows

        version = parse_spec(encoder.spec).version
        return first_rows(run, load_registry(version).behaviours, limit)

    def load(self, request: EncoderRequest) -> Encoder:
        """Build the encoder. Raises UsageError for an unknown release, template or option value.

        The template ``null`` is that of a training config without one: it is read off the model's
        chat template.
        """
        from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
        from template_audit.frameworks.llamafactory.parsed_template import NULL, null_template

        if request.python is not None:
            raise UsageError(
                "`--python` is for commands that compare with an installed LLaMA-Factory; leave it out here."
            )
        registry = _registry_of(request)
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
            return LlamaFactoryEncoder(request.model, registry, spec, request.options)
        if name not in registry.templates:
            raise UsageError(
                f"LLaMA-Factory {registry.version} has no template `{name}`."
                f"{nearest(name, list(registry.templates))} `template-audit encoders llamafactory` lists them."
            )
        return LlamaFactoryEncoder(request.model, registry, registry.templates[name], request.options)

    def pretrain_options(self) -> Sequence[Option]:
        """The options that matter in stage ``pt``."""
        from template_audit.frameworks.llamafactory.pretrain import OPTIONS as PRETRAIN_OPTIONS

        return PRETRAIN_OPTIONS

    def load_pretrain(self, request: EncoderRequest) -> PretrainEncoder:
        """The encoder of stage ``pt``; the template still decides what happens to the tokenizer. Raises as `load`."""
        from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
        from template_audit.frameworks.llamafactory.pretrain import LlamaFactoryPretrainEncoder

        encoder = self.load(replace(request, options={}))
        if not isinstance(encoder, LlamaFactoryEncoder):
            raise UsageError(f"Pre-training is not encoded by {encoder.spec}.")
        return LlamaFactoryPretrainEncoder(encoder, request.options)


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


def _registry_of(request: EncoderRequest) -> Registry:
    if request.source is None:
        return load_registry(request.version)
    from template_audit.frameworks.llamafactory.importer import import_registry

    registry = import_registry(request.source)
    if request.version not in (None, registry.version):
        raise UsageError(
            f"The LLaMA-Factory source at {request.source} is release {registry.version}, not {request.version}."
        )
    return registry


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()


FRAMEWORK = LlamaFactory()
