"""The fix ``register-template``: a LLaMA-Factory template that writes what the model's chat template writes."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from template_audit.conversation import Conversation
from template_audit.errors import EncodingError, TemplateAuditError, UsageError
from template_audit.fixing.deriving import frames, spec_of, terminator_of, with_headers_in_answers
from template_audit.fixing.expressible import limits_of
from template_audit.fixing.interface import Fix, FixRequest, outcome
from template_audit.fixing.limits import left_over
from template_audit.fixing.shown import Shown, shown
from template_audit.fixing.tool_layout import with_tools
from template_audit.frameworks import check_options, get_framework, parse_spec
from template_audit.stream import EncodedStream

if TYPE_CHECKING:
    from template_audit.findings import Level
    from template_audit.frameworks.interface import Encoder
    from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
    from template_audit.frameworks.llamafactory.registry import Registry, TemplateSpec
    from template_audit.model import Model
    from template_audit.results import Comparison, Report

_OF_THE_MODEL = ("tokenizer-files-disagree", "template-source-conflict", "missing-generation-tags")
_NO_NAMES = ("", ".", "..", "model", "models", "package", "tokenizer")
_EXISTING = 3  # templates of the release that are tried, best matches first


@dataclass(frozen=True)
class Tried:
    """A template and the audit of it."""

    spec: TemplateSpec
    report: Report

    @cached_property
    def rank(self) -> tuple[int, ...]:
        """Better is smaller: errors, warnings, tokens that differ."""
        summary = self.report.summary
        return summary.error, summary.warning, sum(map(_differing, self.report.comparisons))


def _differing(comparison: Comparison) -> int:
    """Tokens of either side that are not equal in place."""
    hunks = comparison.alignment.hunks if comparison.alignment is not None else ()
    return sum(max(h.ref_end - h.ref_start, h.sub_end - h.sub_start) for h in hunks if h.kind != "equal")


class RegisterTemplate:
    """The plug-in; see `template_audit.fixing.interface.FixKind`."""

    name = "register-template"
    title = "a LLaMA-Factory `register_template(…)` snippet for this model"

    def make(self, request: FixRequest) -> Fix:
        """Raises UsageError for an encoder that is not LLaMA-Factory's, or one older than 0.9.2."""
        from template_audit.frameworks.llamafactory import LlamaFactory
        from template_audit.frameworks.llamafactory.snippet import read_snippet, snippet

        parsed = parse_spec(request.encoder)
        if parsed.framework != LlamaFactory.name:
            raise UsageError(
                f"`{self.name}` writes LLaMA-Factory templates; `{request.encoder}` is none of its encoders."
            )
        if parsed.template is not None:
            raise UsageError(f"`{self.name}` makes a template of its own; write `{request.encoder.partition(':')[0]}`.")
        worker = None
        source = request.framework_source
        if request.python is not None:
            from template_audit.frameworks.llamafactory.installed import start

            worker = start(request.python)
            source = source or worker.source
        framework = LlamaFactory(source)
        registry = framework.registry(parsed.version)
        read_snippet("", registry)  # refuses an old release at once
        bench = Bench(request, registry, framework.notes())
        seen = bench.shown()
        if seen is None:
            return Fix(self.name, None, f"Nothing could be made: {bench.reason()}")
        derived = bench.derive(seen)
        existing = bench.existing(parsed.version, source)
        best = min([*([derived] if derived else []), *existing], key=lambda tried: tried.rank, default=None)
        if best is None:
            return Fix(self.name, None, "Nothing could be made: no template takes the model's conversations apart.")
        own = derived is not None and derived.rank <= best.rank
        spec = replace(derived.spec if own and derived else best.spec, name=bench.template_name)
        text = snippet(spec, registry)
        return _proven(
            bench, seen, spec, text, [tried for tried in existing if tried.rank <= best.rank], source, worker
        )


class Bench:
    """Tries templates on one model."""

    def __init__(self, request: FixRequest, registry: Registry, notes: tuple[str, ...]) -> None:
        from template_audit.frameworks.llamafactory.options import DEFAULT_CLOCK
        from template_audit.probes import load_probes

        self.model, self.registry, self.notes, self.config = request.model, registry, notes, request.config
        framework = get_framework("llamafactory")
        self.options: Mapping[str, Any] = check_options(framework, dict(request.options))
        self.clock = str(self.options.get("clock") or DEFAULT_CLOCK)
        reference = {"clock": self.clock}
        if "enable_thinking" in request.options:
            reference["enable_thinking"] = request.options["enable_thinking"]
        self.variables = {k: v for k, v in reference.items() if k == "enable_thinking" and v is not None}
        self.reference = remembering(self.model, reference)
        self.conversations = [*load_probes(self.model), *request.conversations]
        self.missing: list[str] = []
        self._encoders: dict[tuple[tuple[str, ...], bool], LlamaFactoryEncoder] = {}
        self.template_name = _name(self.model, registry)

    def shown(self) -> Shown | None:
        """What the chat template shows; None when it takes no plain conversation."""
        return shown(self.model, self.clock, self.variables) if self.model.chat_templates else None

    def reason(self) -> str:
        """Why nothing was shown."""
        result = self.reference.encode_batch(self.conversations[:1], keep_errors=True)[0]
        if isinstance(result, EncodingError):
            return str(result)
        return "the chat template hides or changes the messages of a plain conversation, so its slots are not known."

    def encoder(self, spec: TemplateSpec, **options: Any) -> LlamaFactoryEncoder:
        """The release's encoder with this template; `options` are laid over those of the request.

        Templates that do the same to the tokenizer share one: copying a large one takes seconds.
        """
        from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
        from template_audit.frameworks.llamafactory.template import in_force

        key = (spec.stop_words, spec.replace_eos)
        if options:
            return LlamaFactoryEncoder(self.model, self.registry, spec, {**self.options, **options}, self.notes)
        if spec.replace_jinja_template or self.model.tokenizer.chat_template is None:
            return LlamaFactoryEncoder(self.model, self.registry, spec, self.options, self.notes)
        if key not in self._encoders:
            self._encoders[key] = LlamaFactoryEncoder(self.model, self.registry, spec, self.options, self.notes)
        made = copy.copy(self._encoders[key])
        made.template = in_force(spec, made.settings, self.registry)
        made.spec = f"llamafactory@{self.registry.version}:{spec.name}"
        return made

    def audit(self, subject: Encoder, *, everything: bool = True) -> Report:
        """Audit an encoder on the probes; without `everything` the rules that no template changes are left out."""
        from template_audit.audit import audit

        off: dict[str, Level] = {} if everything else dict.fromkeys(_OF_THE_MODEL, "off")
        return audit(
            self.model,
            subject=subject,
            reference=self.reference,
            conversations=self.conversations,
            config=self.config,
            severities=off,
            subject_why="It was derived from the chat template.",
        )

    def tried(self, specs: Iterable[TemplateSpec]) -> list[Tried]:
        """Those of the templates that an encoder can be made of, audited; the best first."""
        out = []
        for spec in specs:
            try:
                out.append(Tried(spec, self.audit(self.encoder(spec), everything=False)))
            except UsageError:
                continue  # the framework refuses it
        return sorted(out, key=lambda tried: tried.rank)

    def derive(self, seen: Shown) -> Tried | None:
        """The best template that can be derived."""
        specs: dict[TemplateSpec, list[str]] = {}
        for frame in frames(self.model, seen, self.registry):
            end = frame.answer[1] or seen.end
            spec = spec_of(self.model, frame, self.template_name, terminator_of(self.model, end))
            spec, missing = with_tools(spec, seen, self.registry, self.clock)
            specs.setdefault(spec, missing)
        ranked = self.tried(specs)
        if not ranked:
            return None
        best = ranked[0]
        self.missing = specs[best.spec]
        again = [other for other in self._variants(best.spec) if other != best.spec]
        # another way has to be better by its findings: more equal ids alone can cost a trained header
        better = [tried for tried in self.tried(again) if tried.rank[:2] < best.rank[:2]]
        return better[0] if better else best

    def _variants(self, spec: TemplateSpec) -> list[TemplateSpec]:
        """Other ways to write the same text, whose tokens may differ."""
        ways = [spec]
        if spec.replace_eos and not spec.efficient_eos:
            ways.append(replace(spec, replace_eos=False, stop_words=()))
        headed = [with_headers_in_answers(self.model, way) for way in ways]
        return [*ways[1:], *(way for way in headed if way is not None)]

    def existing(self, version: str | None, source: str | None) -> list[Tried]:
        """The release's own templates that match best, audited; the best first."""
        from template_audit.matching import NoReference, best_match

        try:
            matches = best_match(self.model, version=version, framework_source=source, top=_EXISTING)[:_EXISTING]
        except NoReference:
            return []
        return self.tried(self.registry.templates[match.template] for match in matches)


def remembering(model: Model, options: Mapping[str, Any]) -> Encoder:
    """The chat template as an encoder that renders a batch once."""
    from template_audit.frameworks.chat_template import ChatTemplateEncoder

    class Remembering(ChatTemplateEncoder):
        """Keeps what it encoded last."""

        last: tuple[list[Conversation], list[EncodedStream | EncodingError]] | None = None

        def encode_batch(
            self, conversations: Sequence[Conversation], *, keep_errors: bool = False
        ) -> list[EncodedStream | EncodingError]:
            if not keep_errors:
                return super().encode_batch(conversations)
            if self.last is None or self.last[0] != list(conversations):
                self.last = (list(conversations), super().encode_batch(conversations, keep_errors=True))
            return list(self.last[1])

    return Remembering(model, None, check_options(get_framework("chat-template"), dict(options)))


def _name(model: Model, registry: Registry) -> str:
    """A name for the template that the release does not have yet, from the model's."""
    parts = [part for part in model.id.split("/") if part not in _NO_NAMES]
    last = parts[-1] if parts else "model"
    name = re.sub(r"[^a-z0-9]+", "_", last.lower()).strip("_") or "model"
    return name if name not in registry.templates else f"{name}_own"


def _proven(
    bench: Bench, seen: Shown, spec: TemplateSpec, text: str, existing: list[Tried], source: str | None, worker: Any
) -> Fix:
    """The fix with everything that is known about it after reading the snippet back and auditing it."""
    from template_audit.frameworks.llamafactory.importer import import_registry
    from template_audit.frameworks.llamafactory.installed import InstalledEncoder
    from template_audit.frameworks.llamafactory.snippet import read_snippet

    checks: list[str] = []
    failures: list[str] = []
    version = bench.registry.version
    read = read_snippet(text, bench.registry).templates[spec.name]
    if source is not None:
        read = import_registry(source, text).templates[spec.name]
        checks.append(f"The snippet was read as a part of the LLaMA-Factory {version} at {source}.")
    else:
        checks.append(f"The snippet was read back as LLaMA-Factory {version} reads it.")
    if _resolved(read) != _resolved(spec):
        failures.append("What was read back is not the template that the snippet was written from.")
    encoder: Encoder = bench.encoder(read)
    if worker is not None:
        try:
            encoder = InstalledEncoder(bench.encoder(read), worker, snippet=text)
        except UsageError:
            raise
        except TemplateAuditError as error:
            failures.append(f"The installed LLaMA-Factory refuses it: {error}")
    report = bench.audit(encoder)
    if isinstance(encoder, InstalledEncoder):
        if encoder.mismatches:
            failures += [
                f"The installed LLaMA-Factory parts from the built-in encoder on {m.conversation}: {m.what}."
                for m in encoder.mismatches
            ]
        else:
            checks.append(
                f"The installed LLaMA-Factory {encoder.versions.get('llamafactory', version)} registered the snippet "
                f"and gave the same ids and labels on all {len(report.comparisons)} probes."
            )
    limits = limits_of(seen, read, bench.missing)
    remaining = left_over(report.findings, limits, {c.id: c for c in bench.conversations})
    reasons = {left.because for left in remaining}
    checks.append(f"Audited: {outcome(report.summary)}.")
    advice_on_history = _with_history_masked(bench, read, seen, report)
    named = existing[0].spec.name if existing else None
    advice = [f"Append it to src/llamafactory/data/template.py and train with `template: {spec.name}`."]
    advice += advice_on_history
    headline = f"A template for {bench.model.id}, derived from its chat template."
    if named is not None:
        headline = f"LLaMA-Factory {version} has a template that fits as well: use `template: {named}`."
        advice.insert(0, "The snippet is needed only where that template is not at hand.")
    return Fix(
        RegisterTemplate.name,
        text,
        headline,
        tuple(advice),
        tuple(dict.fromkeys(limit.sentence for limit in limits if limit.sentence in reasons)),
        tuple(checks),
        tuple(failures),
        remaining,
        report,
    )


def _with_history_masked(bench: Bench, spec: TemplateSpec, seen: Shown, report: Report) -> list[str]:
    """What `mask_history: true` would bring, where the chat template writes earlier answers differently."""
    differs = seen.strips_thoughts or seen.answered[0] != seen.answered[1]
    if not differs or spec.kind not in ("reasoning", "glm47_reasoning") or bench.options.get("mask_history"):
        return []
    masked = bench.audit(bench.encoder(spec, mask_history=True), everything=False).summary
    if masked.error > report.summary.error or masked.agree <= report.summary.agree:
        return []
    return [
        f"With `mask_history: true`, which trains the last answer only, {masked.agree} of {masked.conversations} "
        f"probes agree in every token, and not {report.summary.agree}."
    ]


def _resolved(spec: TemplateSpec) -> TemplateSpec:
    """The template without what no text is made of."""
    return replace(spec, mm_plugin=None)


FIX = RegisterTemplate()
