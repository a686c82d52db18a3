"""Which rule answers for which hunk, so that one cause is reported once. No rule is defined here."""

from __future__ import annotations

from template_audit.alignment import Hunk
from template_audit.rules.evidence import THOUGHT, Facts
from template_audit.rules.markers import split_markers, unknown_in_template
from template_audit.rules.prompts import PromptDrift, prompt_drifts
from template_audit.rules.sides import Side, Span
from template_audit.rules.turn_ends import ends_found

TOOL_FIELDS = ("tools", "tool_call", "tool_result")
SYSTEM_FIELDS = ("system", "default_system")


def owners(facts: Facts) -> list[str]:
    """For each hunk the name of the rule that reports it; the most specific one wins."""
    hunks = facts.case.alignment.hunks
    if all(hunk.kind == "equal" for hunk in hunks):
        return [""] * len(hunks)
    return _Owners(facts).all()


class _Owners:
    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.splits = list(split_markers(facts))
        self.unknown = unknown_in_template(facts.sub, facts.control)
        self.drifts = [drift for drift in prompt_drifts(facts) if not drift.history]
        self.ends = list(ends_found(facts))
        self.last = _last_that_counts(facts)

    def all(self) -> list[str]:
        return [self.owner(hunk) if hunk.kind != "equal" else "" for hunk in self.facts.case.alignment.hunks]

    def owner(self, hunk: Hunk) -> str:
        facts = self.facts
        ref, sub = (hunk.ref_start, hunk.ref_end), (hunk.sub_start, hunk.sub_end)
        if self.only_bos(ref, sub):
            return "missing-bos"
        if any(sub[0] <= index < sub[1] for index in self.unknown):
            return "unknown-special-token"
        if hunk.kind == "segmentation":
            return "special-token-split" if self.split(sub, own=True) else "segmentation-drift"
        if facts.truncated and (hunk.kind == "missing" or self.cut_away(ref) or self.header_cut(ref, sub)):
            return "truncated-supervision"
        if any(facts.overlaps(ref, facts.ref.body(m) or (0, 0)) for m in facts.missing_in_subject) or any(
            facts.overlaps(sub, facts.sub.body(m) or (0, 0)) for m in facts.missing_in_reference
        ):
            return "message-dropped"
        if rule := self.fields(ref, sub):
            return rule
        if rule := self.at_end(hunk):
            return rule
        if ref[0] > self.last[0] and sub[0] > self.last[1]:
            return "after-training"
        if self.split(sub, own=False):
            return "foreign-special-token"
        if self.split(sub, own=True):
            return "special-token-split"
        if any(_about(ref, theirs) and _about(sub, ours) for theirs, ours in map(self.header_of, self.drifts)):
            return "generation-prompt-drift"
        if hunk.kind == "whitespace":
            return "whitespace-drift"
        if self.system_text(ref, sub):
            return "system-prompt-drift"
        if self.near_tools(ref, sub):
            return "tool-layout-drift"
        return self.in_opening(ref, sub) or "token-drift"

    def only_bos(self, ref: Span, sub: Span) -> bool:
        bos = self.facts.control.bos
        case = self.facts.case
        ids = [*case.reference.input_ids[slice(*ref)], *case.subject.input_ids[slice(*sub)]]
        return bos is not None and set(ids) == {bos} and ref[0] <= 1 and sub[0] <= 1

    def cut_away(self, ref: Span) -> bool:
        """True when the reference holds text here that the length limit took from the subject."""
        ref_side = self.facts.ref
        return any(
            self.facts.overlaps(ref, ref_side.body(m) or (0, 0)) for m in ref_side.messages() if self.facts.is_cut(m)
        )

    def header_cut(self, ref: Span, sub: Span) -> bool:
        """True for what the length limit took from the end of an answer's header."""
        facts = self.facts
        return sub[0] == sub[1] and any(
            facts.overlaps(ref, facts.ref.before(m)) for m in facts.answers if facts.header_cut(m)
        )

    def split(self, sub: Span, *, own: bool) -> bool:
        return any(self.facts.overlaps(split.tokens, sub) for split in self.splits if (split.own is not None) == own)

    def fields(self, ref: Span, sub: Span) -> str:
        """Reasoning and other fields of a message that only one side writes."""
        facts = self.facts
        theirs, ours = facts.ref.fields(ref), facts.sub.fields(sub)
        for origin in sorted(theirs | ours, key=str):
            message, field, _ = origin
            if message is None or field not in ("reasoning", "content", "tool_call"):
                continue
            there, here = facts.ref.has(message, field), facts.sub.has(message, field)
            if there == here:
                continue
            if field == "reasoning" and not there:
                return "thinking-injected"
            if field == "reasoning" and message != facts.last_answer:
                return "thinking-stripped"
            if message not in facts.missing_in_subject | facts.missing_in_reference:
                return "field-dropped"
        thoughts = (THOUGHT.search(facts.ref.text(ref)) is not None, THOUGHT.search(facts.sub.text(sub)) is not None)
        if thoughts == (True, False) and self.half_a_thought(ref):
            return ""
        return {(True, False): "thinking-stripped", (False, True): "thinking-injected"}.get(thoughts, "")

    def half_a_thought(self, ref: Span) -> bool:
        """True when these tokens open a thought or close one, and the subject writes a thought in that turn, too."""
        facts = self.facts
        words = THOUGHT.findall(facts.ref.text(ref))
        if 2 * sum("/" in word or "END_" in word for word in words) == len(words):
            return False
        message = next((m for m, turn in facts.ref.turns.items() if turn.start <= ref[0] < turn.end), None)
        turn = None if message is None else facts.sub.turns.get(message)
        return turn is not None and bool(THOUGHT.search(facts.sub.text((turn.start, turn.end))))

    def header_of(self, drift: PromptDrift) -> tuple[Span, Span]:
        """The tokens of a header that differs; of an empty answer up to its end marker."""
        theirs, ours = drift.reference, drift.subject
        for end in self.facts.ends:
            if end.message == drift.message and end.subject_tail[0] == ours[1] and end.subject is not None:
                return (theirs[0], end.reference + 1), (ours[0], end.subject + 1)
        return theirs, ours

    def at_end(self, hunk: Hunk) -> str:
        """The turn-end rule whose markers this hunk holds, and nothing else of weight."""
        facts = self.facts
        theirs, ours = (hunk.ref_start, hunk.ref_end), (hunk.sub_start, hunk.sub_end)
        for rule, end, hit in self.ends:
            missing = rule == "missing-turn-end"
            ref_marker, sub_marker = (end.reference, end.reference + 1), (0, 0) if missing else (hit.subject or (0, 0))
            if not (facts.overlaps(theirs, ref_marker) or facts.overlaps(ours, sub_marker)):
                continue
            ref_rest, sub_rest = _without(facts.ref, theirs, ref_marker), _without(facts.sub, ours, sub_marker)
            if ref_rest == sub_rest or (missing and not ref_rest):  # what stands there instead is the next turn's
                return rule
        return ""

    def in_opening(self, ref: Span, sub: Span) -> str:
        """The rule for a difference before the first turn: the system prompt's, unless only its header differs."""
        facts = self.facts
        if not (_inside(ref, facts.openings[0]) and _inside(sub, facts.openings[1])):
            return ""
        both = facts.ref.said(facts.openings[0], SYSTEM_FIELDS) and facts.sub.said(facts.openings[1], SYSTEM_FIELDS)
        same = facts.ref.said(ref, SYSTEM_FIELDS) == facts.sub.said(sub, SYSTEM_FIELDS)
        ids = [*facts.case.reference.input_ids[slice(*ref)], *facts.case.subject.input_ids[slice(*sub)]]
        replaced = ref[0] < ref[1] and sub[0] < sub[1]
        header = both and same and (replaced or any(token in facts.control for token in ids))
        return "token-drift" if header else "system-prompt-drift"

    def system_text(self, ref: Span, sub: Span) -> bool:
        """True where both sides write a system prompt and nothing else."""
        fields = {origin.field for origin in self.facts.ref.fields(ref) | self.facts.sub.fields(sub)}
        return bool(fields) and fields <= set(SYSTEM_FIELDS)

    def near_tools(self, ref: Span, sub: Span) -> bool:
        """True in or beside tool definitions, calls and results."""
        facts = self.facts
        return _gap_has(facts.ref, ref, facts.first_message) or _gap_has(facts.sub, sub, facts.first_message)


def _gap_has(side: Side, span: Span, first: int) -> bool:
    """True when the text from the body before to the body after these tokens holds a tool field."""
    bodies = sorted(body for m in side.messages() if (body := side.body(m)) is not None)
    before = max((b for b in bodies if b[1] <= span[0]), default=(0, 0))
    after = min((b for b in bodies if b[0] >= span[1]), default=(len(side.stream), len(side.stream)))
    return any(
        origin.field in TOOL_FIELDS and not (origin.field == "tool_result" and before == (0, 0))
        for origin in side.fields((before[0], after[1]))
    )


def _without(side: Side, span: Span, marker: Span) -> str:
    """The text of a range without a marker and whitespace."""
    (start, end), (first, stop) = span, marker
    return "".join((side.text((start, min(first, end))) + side.text((max(stop, start), end))).split())


def _about(inner: Span, outer: Span) -> bool:
    """True for a range that lies inside another but for a token at each end, which may be merged with text."""
    return _inside(inner, (outer[0] - 1, outer[1] + 1))


def _inside(inner: Span, outer: Span) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _last_that_counts(facts: Facts) -> Span:
    """The last token on each side that training or generation can reach.

    That is the last trained one; or the end marker of the last answer, when both sides have the same
    and generation stops at it: whatever is trained after it is never generated.
    """
    last = [max(side.trained(0, len(side.stream)), default=-1) for side in (facts.ref, facts.sub)]
    end = facts.ends[-1] if facts.ends and facts.ends[-1].message == facts.answers[-1] else None
    if end is not None and end.subject is not None and facts.sub.is_trained(end.subject):
        token = facts.case.subject.input_ids[end.subject]
        if token == facts.case.reference.input_ids[end.reference] and token in facts.control.stops:
            return end.reference, end.subject
    return last[0], last[1]
