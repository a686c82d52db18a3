"""The fix ``saved-template``: the chat template to save beside weights that LLaMA-Factory trained."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from template_audit.errors import UsageError
from template_audit.fixing.interface import Fix, FixRequest, outcome
from template_audit.fixing.limits import Limit, left_over, with_tools
from template_audit.frameworks import parse_spec

if TYPE_CHECKING:
    from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
    from template_audit.model import Model

_TRAINING = (
    *("foreign-special-token", "special-token-split", "unknown-special-token", "vocabulary-grows", "double-bos"),
    *("missing-bos", "bogus-bos", "turn-end-untrained", "missing-turn-end", "header-trained", "prompt-trained"),
    *("all-tokens-trained", "history-trained", "history-untrained", "trained-after-turn-end", "template-rewritten"),
    *("truncated-supervision", "example-dropped", "field-dropped", "eos-mismatch", "pad-equals-eos"),
    "nondeterministic-template",
)


class SavedTemplate:
    """The plug-in; see `template_audit.fixing.interface.FixKind`."""

    name = "saved-template"
    title = "the chat template that shows at inference what training with --encoder saw"

    def make(self, request: FixRequest) -> Fix:
        """Raises UsageError for an encoder that is not LLaMA-Factory's, and for what it does not know."""
        from template_audit.audit import audit
        from template_audit.frameworks.llamafactory import LlamaFactory
        from template_audit.frameworks.llamafactory.jinja_template import jinja_template
        from template_audit.matching import choose_encoder
        from template_audit.probes import load_probes

        if parse_spec(request.encoder).framework != LlamaFactory.name:
            raise UsageError(f"`{self.name}` knows what LLaMA-Factory trains; `{request.encoder}` is not its encoder.")
        encoder, why = choose_encoder(
            request.encoder,
            request.model,
            framework_source=request.framework_source,
            python=request.python,
            **request.options,
        )
        loaded: Any = encoder
        built_in: LlamaFactoryEncoder = getattr(loaded, "built_in", loaded)
        text, missing = jinja_template(built_in)
        trained = trained_model(built_in, text)
        conversations = [*load_probes(trained), *request.conversations]
        clock = {"clock": str(built_in.options["clock"])} if built_in.options.get("clock") else {}
        report = audit(
            trained,
            subject=encoder,
            subject_why=why,
            reference_options=clock,
            conversations=conversations,
            config=request.config,
            severities={"tokenizer-files-disagree": "off"},  # the trained model's files are not written yet
        )
        limits = [*_limits(missing)]
        remaining = left_over(report.findings, limits, {c.id: c for c in conversations})
        reasons = {left.because for left in remaining}
        checks = [f"Audited against {encoder.spec}: {outcome(report.summary)}."]
        failures = []
        for mismatch in report.mismatches or ():
            failures.append(f"The installed LLaMA-Factory parts from the built-in encoder on {mismatch.conversation}.")
        if report.mismatches == ():
            checks.append("The ids and labels are those of the installed LLaMA-Factory.")
        return Fix(
            self.name,
            text,
            f"The chat template of {request.model.id} after training with {encoder.spec}.",
            tuple(_advice(built_in)),
            tuple(dict.fromkeys([*missing, *(limit.sentence for limit in limits if limit.sentence in reasons)])),
            tuple(checks),
            tuple(failures),
            remaining,
            report,
        )


def trained_model(encoder: LlamaFactoryEncoder, template: str) -> Model:
    """The model as it lies beside the trained weights: the tokenizer as the framework left it, and `template`."""
    return with_template_and_tokenizer(encoder.model, encoder.tokenizer, {"default": template})


def with_template_and_tokenizer(model: Model, tokenizer: Any, templates: Mapping[str, str]) -> Model:
    """The model with other chat templates and a copy of `tokenizer` that has the default one."""
    from template_audit.model import TemplateSource

    copied = copy.copy(tokenizer)  # no deeper: a deep copy may encode otherwise (Yi on transformers 4.57)
    copied.chat_template = templates["default"]
    sources = tuple(TemplateSource("--chat-template (the fix)", name, text, True) for name, text in templates.items())
    return replace(model, tokenizer=copied, chat_templates=dict(templates), template_sources=sources)


def _advice(encoder: LlamaFactoryEncoder) -> Iterator[str]:
    before, after = encoder.effects.chat_template
    yield "Save it as chat_template.jinja in the folder of the trained model."
    if before != after:
        yield "It takes the place of the one that LLaMA-Factory writes there by itself."
    if encoder.effects.eos_token[0] != encoder.effects.eos_token[1]:
        yield (
            f"Keep the tokenizer that LLaMA-Factory saved: its eos token is {encoder.effects.eos_token[1]}, and "
            "generation has to stop there."
        )
    yield "The assistant's header is part of the question's slot, so it is written with and without generation prompt."


def _limits(missing: Sequence[str]) -> Iterator[Limit]:
    for sentence in missing:
        yield Limit(
            sentence,
            ("role-unsupported", "tool-layout-drift", "encoding-failed", "token-drift", "message-dropped"),
            with_tools,
        )
    yield Limit(
        "LLaMA-Factory tokenizes every slot on its own and inference the whole text; where the tokenizer treats the "
        "beginning of a text differently, or merges across the border, ids differ although the text is the same.",
        ("segmentation-drift", "generation-prompt-drift"),
    )
    yield Limit("It is about how the model was trained, which no chat template changes.", _TRAINING)


FIX = SavedTemplate()
