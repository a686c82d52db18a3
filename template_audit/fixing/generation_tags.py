"""The fix ``generation-tags``: the model's chat template with ``{% generation %}`` tags around what it writes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import TYPE_CHECKING, Any

from template_audit.conversation import Conversation
from template_audit.errors import EncodingError
from template_audit.fixing.interface import Fix, FixRequest
from template_audit.fixing.limits import left_over, padded
from template_audit.frameworks import load_encoder
from template_audit.stream import IGNORE, EncodedStream

if TYPE_CHECKING:
    from template_audit.findings import Level
    from template_audit.fixing.marking import Mark
    from template_audit.frameworks.chat_template import ChatTemplateEncoder
    from template_audit.model import Model

_TAG = re.compile(r"\{%(-?)\s*(?:end)?generation\s*(-?)%\}")

_OWN_RULES = ("generation-mask-wrong", "missing-generation-tags", "template-broken", "template-missing")
_MAX_MARKS = 48
_MAX_COVERS = 24

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Wanted:
    """One conversation: how the model's own template writes it, and what of it is trained."""

    conversation: Conversation
    stream: EncodedStream
    ranges: list[tuple[range, range]]
    """Where each mark may begin, and where it may end."""


class GenerationTags:
    """The plug-in; see `template_audit.fixing.interface.FixKind`."""

    name = "generation-tags"
    title = "the model's chat template with `{% generation %}` tags"

    def make(self, request: FixRequest) -> Fix:
        """Never raises for a template in which no place for tags is found: that is a Fix without text."""
        from template_audit.probes import load_probes

        model = request.model
        template = model.chat_template
        if template is None:
            return Fix(self.name, None, f"Nothing could be made: {model.id} has no chat template.")
        conversations = [*load_probes(model), *request.conversations]
        if "tool_use" in model.chat_templates:
            conversations = [c for c in conversations if not c.tools]
        options = {key: value for key, value in request.options.items() if key in ("clock", "enable_thinking")}
        wanted = _wanted(model, conversations, options)
        if not wanted:
            return Fix(self.name, None, f"Nothing could be made: the chat template of {model.id} takes no probe.")
        bare = _TAG.sub(r"{#\1 \2#}", template)
        if bare != template and not _faults(model, template, wanted, options):
            return self._proven(request, template, wanted, f"The chat template of {model.id} has right tags already.")
        found, reason = _search(model, bare, wanted, options)
        if found is not None:
            return self._proven(request, found, wanted, f"The chat template of {model.id} with generation tags.")
        # a token that takes in the blanks at the edge of an answer can be out of reach of any tag
        found, _ = _search(model, bare, [one for one in wanted if not padded(one.conversation)], options)
        if found is None:
            return Fix(self.name, None, f"No placement of tags was proven: {reason}")
        faults = [(one, _faults(model, found, [one], options)) for one in wanted]
        return self._proven(
            request,
            found,
            [one for one, fault in faults if fault is None],
            f"The chat template of {model.id} with generation tags that are right on most probes.",
            [f"With the tags {fault}." for _, fault in faults if fault is not None],
        )

    def _proven(
        self, request: FixRequest, text: str, wanted: Sequence[Wanted], summary: str, failures: Sequence[str] = ()
    ) -> Fix:
        from template_audit.audit import audit
        from template_audit.rules import all_rules

        model = with_template(request.model, text)
        options = {key: value for key, value in request.options.items() if key in ("clock", "enable_thinking")}
        conversations = [one.conversation for one in wanted]
        others: dict[str, Level] = {name: "off" for name in all_rules() if name not in _OWN_RULES}
        report = audit(
            model,
            subject="chat-template",
            subject_why="The template with tags is held against its own traced mask.",
            conversations=conversations,
            config=request.config,
            options=options,
            severities=others,
        )
        advice = ["Save it as chat_template.jinja beside the tokenizer, in place of the old one."]
        inexpressible = []
        if "tool_use" in request.model.chat_templates:
            inexpressible.append(
                "The model's template for tools (`tool_use`) is a file of its own and was not changed."
            )
        return Fix(
            self.name,
            text,
            summary,
            tuple(advice),
            tuple(inexpressible),
            (
                f"On {len(wanted)} probes text and generation prompts are the model's own, byte for byte.",
                f"On {len(wanted)} probes the tags mark exactly the tokens that the traced mask trains.",
            ),
            tuple(failures),
            left_over(report.findings, (), {c.id: c for c in conversations}),
            report,
        )


def with_template(model: Model, template: str) -> Model:
    """The model with another default template."""
    from template_audit.fixing.saved_template import with_template_and_tokenizer

    return with_template_and_tokenizer(model, model.tokenizer, {**model.chat_templates, "default": template})


def _encoder(model: Model, options: dict[str, Any]) -> ChatTemplateEncoder:
    encoder: Any = load_encoder("chat-template", model, **options)
    made: ChatTemplateEncoder = encoder
    return made


def _wanted(model: Model, conversations: Sequence[Conversation], options: dict[str, Any]) -> list[Wanted]:
    streams = _encoder(model, options).encode_batch(conversations, keep_errors=True)
    return [
        Wanted(conversation, stream, _trained_ranges(stream))
        for conversation, stream in zip(conversations, streams, strict=True)
        if isinstance(stream, EncodedStream)
    ]


def _trained_ranges(stream: EncodedStream) -> list[tuple[range, range]]:
    """Of each run of trained tokens where a mark may begin and end: anywhere inside of the first and last token."""
    out: list[tuple[range, range]] = []
    first: int | None = None
    for i in range(len(stream) + 1):
        trained = i < len(stream) and stream.labels[i] != IGNORE
        if trained and first is None:
            first = i
        elif not trained and first is not None:
            (start, cut), (begin, end) = stream.spans[first], stream.spans[i - 1]
            out.append((range(start, max(cut, start + 1)), range(end, begin, -1)))
            first = None
    return out


def _faults(
    model: Model, template: str, wanted: Sequence[Wanted], options: dict[str, Any], *, partly: bool = False
) -> str | None:
    """What is wrong with the tags of `template`, None when the text and the mask are right everywhere.

    With `partly` tokens that are not marked yet are no fault.
    """
    tagged = with_template(model, template)
    encoder = _encoder(tagged, options)
    for one in wanted:
        try:
            stream = encoder.encode(one.conversation)
            ranges = encoder.renderer.render(one.conversation).generation_ranges
        except EncodingError as error:
            return f"it does not render {one.conversation.id} ({error})"
        if stream.text != one.stream.text or stream.prompts != one.stream.prompts:
            return f"it writes {one.conversation.id} differently"
        marked = marked_tokens(stream, ranges)
        trained = {i for i, label in enumerate(one.stream.labels) if label != IGNORE}
        if marked - trained or (trained - marked and not partly):
            return f"it marks other tokens of {one.conversation.id} than those that the template trains"
    return None


def marked_tokens(stream: EncodedStream, ranges: Sequence[Span]) -> set[int]:
    """The tokens that transformers marks for these character ranges.

    From the token of the first character through that of the last (``apply_chat_template`` of 5.x).
    """
    out: set[int] = set()
    for start, end in ranges:
        out.update(i for i, (first, last) in enumerate(stream.spans) if first < end and last > start and last > first)
    return out


def _search(model: Model, template: str, wanted: Sequence[Wanted], options: dict[str, Any]) -> tuple[str | None, str]:
    """The template with tags, proven, or None; and what stood in the way."""
    from template_audit.fixing.jinja_source import parse
    from template_audit.fixing.marking import announcing, captures, marks, message_name, segments, tagged

    source = parse(template)
    if source is None:
        return None, "its source cannot be taken apart."
    renderer = _encoder(with_template(model, announcing(source)), options).renderer
    groups: dict[frozenset[Mark], None] = {}
    for one in wanted:
        try:
            text, written, entries = segments(renderer.render(one.conversation).text)
        except EncodingError as error:
            return None, f"its parts cannot be told apart ({error})"
        if text != one.stream.text:
            return None, "its parts cannot be told apart: it looks at its own text while it writes it."
        edges = {edge for segment in written for edge in (segment.start, segment.end)}
        edges |= {len(prompt.text) for prompt in one.stream.prompts if one.stream.text.startswith(prompt.text)}
        for starts, ends in one.ranges:
            found: list[Mark] = []
            for start, end in product(
                [start for start in starts if start == starts[0] or start in edges],
                [end for end in ends if end == ends[0] or end in edges],
            ):
                found += marks(source, written, start, end) + captures(source, written, entries, start, end)
            groups[frozenset(found)] = None
    problem = "an answer begins or ends inside of something that is no part of the template's own."

    def fits(chosen: Sequence[Mark]) -> bool:
        nonlocal problem
        trial = tagged(source, chosen)
        fault = "the tags would overlap" if trial is None else _faults(model, trial, wanted, options, partly=True)
        problem = problem if fault is None else f"with the tags {fault}."
        return fault is None

    covers: dict[Mark, set[frozenset[Mark]]] = {}
    for group in groups:
        for mark in group:
            covers.setdefault(mark, set()).add(group)
    for kept in (False, True):  # an answer that is kept and cut is the last resort
        ranked = [item for item in covers.items() if kept or item[0].captured is None]
        sound: dict[Mark, set[frozenset[Mark]]] = {}
        for mark, covered in sorted(ranked, key=lambda item: -len(item[1]))[:_MAX_MARKS]:
            for way in (mark, replace(mark, only_answers=True)):
                if (not way.only_answers or message_name(way) is not None) and fits([way]):
                    sound[way] = covered
                    break
        for chosen in _covers(list(groups), sound):
            finished = tagged(source, chosen)
            fault = "the tags would overlap" if finished is None else _faults(model, finished, wanted, options)
            if fault is None:
                return finished, ""
            problem = f"with the tags {fault}."
    return None, problem


def _covers(groups: Sequence[frozenset[Mark]], sound: Mapping[Mark, set[frozenset[Mark]]]) -> Iterator[list[Mark]]:
    """Sets of marks that cover all groups, a few of them, the smallest ones first."""

    def extend(chosen: list[Mark], left: list[frozenset[Mark]]) -> Iterator[list[Mark]]:
        if not left:
            yield chosen
            return
        ways = [mark for mark, covered in sound.items() if left[0] in covered]
        for mark in sorted(ways, key=lambda mark: -len(sound[mark] & set(left))):
            yield from extend([*chosen, mark], [group for group in left if group not in sound[mark]])

    yield from islice(sorted(islice(extend([], list(groups)), 4 * _MAX_MARKS), key=len), _MAX_COVERS)


FIX = GenerationTags()
