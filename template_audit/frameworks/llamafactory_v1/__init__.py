"""LLaMA-Factory's v1: the renderer of its 0.9.6 development line, and the named templates of release 0.9.5's v1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from template_audit.errors import UsageError
from template_audit.frameworks import nearest
from template_audit.frameworks.interface import Choice, Encoder, EncoderRequest, Option

if TYPE_CHECKING:
    from template_audit.conversation import Conversation
    from template_audit.model import Model

RELEASE, DEVELOPMENT = "0.9.5", "0.9.6.dev0"
TEMPLATES = ("chatml", "qwen3", "qwen3_nothink")
"""The templates of the release; the development line has none."""
DEFAULT_TEMPLATE = "qwen3_nothink"
"""``ModelArguments.template`` of the release."""

_OPTIONS = (
    Option("cutoff_len", "int", 2048, "tokens that are kept of a sample, from its start"),
    Option("custom_chat_template", "str?", None, f"{DEVELOPMENT}: template text in place of the model's own"),
    Option("cut", "int?", None, f"{DEVELOPMENT}: the sample of so many messages; null: the longest one"),
    Option("clock", "str", "2024-07-26T12:00:00", "the date and time that strftime_now tells, in ISO form"),
)
_DEVELOPMENT_ONLY = ("custom_chat_template", "cut")


class LlamaFactoryV1:
    """The framework object; see `template_audit.frameworks.interface.Framework`.

    Without a version, a named template means release 0.9.5, and no template the development line.
    """

    name = "llamafactory-v1"
    title = "LLaMA-Factory v1"

    def versions(self) -> Sequence[str]:
        """The release first: the templates that are listed without a version are its own."""
        return (RELEASE, DEVELOPMENT)

    def templates(self, version: str | None = None) -> Sequence[str]:
        """Template names of a version. Raises UsageError for an unknown one."""
        return () if _known(version) == DEVELOPMENT else TEMPLATES

    def options(self) -> Sequence[Option]:
        """The framework's own option names, the data engine's `cut`, and the clock."""
        return _OPTIONS

    def choose(self, model: Model, version: str | None = None) -> Choice | None:
        """The model's own chat template; in release 0.9.5 ``qwen3_nothink``, for every model."""
        if _known(version) == RELEASE:
            return Choice(DEFAULT_TEMPLATE, f"It is the default of LLaMA-Factory {RELEASE} v1, whatever the model.")
        return Choice(None, f"LLaMA-Factory {DEVELOPMENT} v1 has no templates: it takes the model's own chat template.")

    def texts(
        self, model: Model, conversations: Sequence[Conversation], version: str | None = None
    ) -> Mapping[str, list[str | None]]:
        """What every named template writes; see `Framework.texts`."""
        from template_audit.frameworks.llamafactory_v1.named_encoder import text_of

        names = self.templates(version)
        return {name: [text_of(name, conversation) for conversation in conversations] for name in names}

    def load(self, request: EncoderRequest) -> Encoder:
        """Build the encoder. Raises UsageError for an unknown version or template, and for options out of place."""
        from template_audit.frameworks.llamafactory_v1.encoder import RendererEncoder
        from template_audit.frameworks.llamafactory_v1.named_encoder import NamedTemplateEncoder

        if request.python is not None:
            raise UsageError(f"{self.title} is not run by `--python`; leave it out.")
        template, options = request.template, request.options
        version = _known(request.version) or (RELEASE if template else DEVELOPMENT)
        if options["cutoff_len"] < 1:
            raise UsageError(f"Option `cutoff_len` of {self.title} must be at least 1, got {options['cutoff_len']}.")
        if version == DEVELOPMENT and template is None:
            return RendererEncoder(request.model, version, options)
        template = template or DEFAULT_TEMPLATE
        if version == DEVELOPMENT:
            raise UsageError(
                f"LLaMA-Factory {DEVELOPMENT} v1 has no templates by name, so no `{template}`; write "
                f"`{self.name}@{DEVELOPMENT}`, or name one of release {RELEASE}: {', '.join(TEMPLATES)}."
            )
        if template not in TEMPLATES:
            raise UsageError(
                f"LLaMA-Factory {RELEASE} v1 has no template `{template}`; it has {', '.join(TEMPLATES)}."
                + nearest(template, TEMPLATES)
            )
        for name in _DEVELOPMENT_ONLY:
            if options[name] is not None:
                raise UsageError(f"Option `{name}` is not in LLaMA-Factory {RELEASE} v1, which has `{template}`.")
        return NamedTemplateEncoder(request.model, version, template, options)


def _known(version: str | None) -> str | None:
    if version not in (None, RELEASE, DEVELOPMENT):
        raise UsageError(
            f"LLaMA-Factory v1 is known of {RELEASE} and {DEVELOPMENT}, not of {version}."
            + nearest(version, (RELEASE, DEVELOPMENT))
        )
    return version


FRAMEWORK = LlamaFactoryV1()
