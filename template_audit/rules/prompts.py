"""Rules of the group Stream that look at what stands before an answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from template_audit.model.tokenizer import token_text
from template_audit.rules.evidence import Facts, sentence, show
from template_audit.rules.interface import Case, Hit, rule
from template_audit.rules.sides import Span
from template_audit.stream import EncodedStream, Prompt, common_prefix


@dataclass(frozen=True, slots=True)
class PromptDrift:
    """What stands before an answer in training, against what inference shows there.

    `reference` and `subject` are the token ranges of the header in the two streams. `history` is
    True when the header agrees and something earlier, in an otherwise equal stream, does not.
    """

    message: int
    shown: str
    trained: str
    reference: Span
    subject: Span
    at: int
    """Index of the first token that differs, in the subject."""
    shown_id: int | None
    history: bool = False
    merged: bool = False
    """The text is the same, but the prompt's last characters are one token with the answer's first."""


def prompt_drifts(facts: Facts) -> Iterator[PromptDrift]:
    """Answers whose own header is not what inference shows before them.

    What differs earlier (a system prompt, an earlier turn) is another rule's to say, once.
    """
    prompts = {prompt.message: prompt for prompt in facts.case.reference.prompts if prompt.error is None}
    unexplained = True
    for message in facts.answers:
        prompt = prompts.get(message)
        if prompt is None:
            continue
        found = _drift(facts, message, prompt)
        if found is not None and (not found.history or unexplained):
            unexplained = unexplained and not found.history
            yield found


def _drift(facts: Facts, message: int, prompt: Prompt) -> PromptDrift | None:
    sub, ids, shown_ids = facts.sub, facts.case.subject.input_ids, prompt.input_ids
    zone, body = sub.before(message)
    first = next(sub.trained(zone, sub.after(message)[1]), None)
    if first is None:
        return None
    first = min(first, body)
    if ids[: len(shown_ids)] == shown_ids and all(sub.is_trained(i) for i in range(len(shown_ids), first)):
        return None  # tokens that inference shows and training trains are a matter of labels
    trained = sub.stream.text[sub.text_before(message) : sub.char(first)]
    shown = _shown(facts, prompt, message)
    if facts.header_cut(message) or (
        facts.truncated and any(facts.is_cut(m) for m in facts.ref.messages() if m <= message)
    ):
        return None  # the length limit cut the prompt, or the answer
    shared = common_prefix(ids[:first], shown_ids)
    merged = all(
        stream.input_ids[: len(shown_ids)] != shown_ids and stream.text.startswith(prompt.text)
        for stream in (facts.case.reference, facts.case.subject)
    )
    if _same_header(prompt, trained, shown, sub.stream.text[: sub.text_before(message)]):
        if any(hunk.kind != "equal" and hunk.sub_start < first for hunk in facts.case.alignment.hunks):
            return None  # something earlier differs, and its own rule says so
        there = _item(shown_ids, shared)
        found = PromptDrift(message, prompt.text, trained, (0, 0), (0, first), shared, there, history=True)
        if merged:  # the text of a border that has no header
            return replace(found, shown=shown or "", subject=(min(zone, shared), first), history=False, merged=True)
        return found
    header = facts.ref.before(message) if facts.ref.body(message) is not None else (shared, shared)
    if shown_ids[: header[0]] == facts.case.reference.input_ids[: header[0]]:
        theirs, ours = shown_ids[header[0] :], ids[zone:first]
        if ids[zone : zone + len(theirs)] == theirs and first <= zone + len(theirs):
            return None  # the same tokens, trained or not; and markers that swallow the whitespace behind them
        same = common_prefix(theirs, ours)
        at, there = zone + same, _item(theirs, same)
    else:
        at, there = shared, _item(shown_ids, shared)
    return PromptDrift(
        message, prompt.text[-80:] if shown is None else shown, trained, header, (zone, first), at, there, merged=merged
    )


def _item(ids: list[int], index: int) -> int | None:
    return ids[index] if index < len(ids) else None


def _same_header(prompt: Prompt, trained: str, shown: str | None, before: str) -> bool:
    """True when the header is the same, so that only something earlier can differ."""
    if shown is not None:
        return shown == trained
    rest = prompt.text.removesuffix(trained)
    return len(rest) + len(trained) == len(prompt.text) and rest.rstrip()[-1:] == before.rstrip()[-1:]


def _shown(facts: Facts, prompt: Prompt, message: int) -> str | None:
    """The part of the prompt that stands after the last message; None when the prompt is no prefix of the whole."""
    if facts.ref.body(message) is None:
        return None
    start = facts.ref.text_before(message)
    same = prompt.text[:start] == facts.case.reference.text[:start]
    return prompt.text[start:] if same else None


@rule(
    "generation-prompt-drift",
    severity="error",
    group="Stream",
    reads="structure",
    what="The tokens before a trained answer are not the ones that inference shows the model at that place. Where the "
    "text is the same and only a token is drawn across the border, it is a warning; and info when the answer itself "
    "begins with the whitespace that is drawn in.",
    why="The model learns to answer after one sequence and is asked to answer after another. It starts off its "
    "training distribution at the very first token, which shows as ignored instructions, repeated headers or "
    "answers in the wrong format.",
    advice="Use the framework template whose header equals the chat template's generation prompt, or save the "
    "template that was trained beside the weights.",
)
def generation_prompt_drift(case: Case) -> Iterator[Hit]:
    for drift in prompt_drifts(case.facts):
        sub = case.facts.sub
        if drift.history and not case.reference.text.startswith(_prompt(case, drift.message).text):
            continue  # not-prefix-stable says so
        if drift.history:
            yield Hit(
                f"Before the answer of message {drift.message} inference shows an earlier part of the conversation "
                f"differently than the whole conversation is written: from token {drift.at} on it has id "
                f"{drift.shown_id} where training has {_token(case, drift.at)}.",
                key="history",
                turn=drift.message,
                subject=(drift.at, min(drift.at + 1, len(case.subject))),
            )
            continue
        if drift.merged:
            yield _merged(case, drift)
            continue
        shown = "the end of the prompt" if drift.shown_id is None else _shown_token(case, drift)
        first = _token(case, drift.at) if drift.at < drift.subject[1] else "the answer"
        yield Hit(
            f"Before the answer of message {drift.message} training has {show(drift.trained)} and inference shows "
            f"{show(drift.shown)}; the first token that differs is {first} in training and {shown} at inference.",
            key=f"{_cause(drift.shown)}\x1f{_cause(drift.trained)}",
            turn=drift.message,
            reference=drift.reference,
            subject=(sub.before(drift.message)[0], drift.subject[1]),
        )


def _merged(case: Case, drift: PromptDrift) -> Hit:
    """The same text, in which a token crosses the border; info where the answer's own whitespace is drawn in."""
    end = len(_prompt(case, drift.message).text)
    beyond = case.subject.text[end : max(case.subject.spans[min(drift.at, len(case.subject) - 1)][1], end)]
    return Hit(
        f"Before the answer of message {drift.message} the text is what inference shows, {show(drift.shown)}, but its "
        f"end is one token with the beginning of the answer: training has {_token(case, drift.at)} where the prompt "
        f"has {_shown_token(case, drift)}.",
        key=f"merged\x1f{_cause(drift.shown)}",
        turn=drift.message,
        reference=drift.reference,
        subject=(drift.at, min(drift.at + 1, len(case.subject))),
        severity="info" if beyond.isspace() else "warning",
    )


def _prompt(case: Case, message: int) -> Prompt:
    return next(prompt for prompt in case.reference.prompts if prompt.message == message)


def _cause(text: str) -> str:
    return text[-120:]


def _token(case: Case, index: int) -> str:
    return f"{show(case.subject.token_text(index), 30)} (id {case.subject.input_ids[index]})"


def _shown_token(case: Case, drift: PromptDrift) -> str:
    tokenizer = case.model.tokenizer
    if drift.shown_id is None or not hasattr(tokenizer, "decode"):
        return f"id {drift.shown_id}"
    return f"{show(token_text(tokenizer, drift.shown_id), 30)} (id {drift.shown_id})"


@rule(
    "not-prefix-stable",
    severity="warning",
    group="Stream",
    reads="structure",
    what="What inference shows before an answer is not how the whole conversation begins: the chat template writes "
    "a message differently once another follows.",
    why="A conversation trained as one sequence then shows earlier turns in a form that the model never sees when "
    "it writes the answer after them. Prefix caches miss, too.",
    advice="Train such conversations turn by turn (one example per answer), or use a template that writes history "
    "the same way at every turn.",
)
def not_prefix_stable(case: Case) -> Iterator[Hit]:
    for prompt in case.reference.prompts:
        if prompt.error is None and not case.reference.text.startswith(prompt.text):
            at = common_prefix(case.reference.text, prompt.text)
            if _only_answer_differs(case, prompt, at):
                continue
            yield Hit(
                f"Before message {prompt.message} inference shows {show(prompt.text[at : at + 60])} where the whole "
                f"conversation has {show(case.reference.text[at : at + 60])}.",
                key="prefix",
                turn=prompt.message,
            )


def _only_answer_differs(case: Case, prompt: Prompt, at: int) -> bool:
    """True when all of the history agrees and the difference lies in the header of the answer itself."""
    body = case.facts.ref.body(prompt.message)
    if body is None:
        return False
    zone = case.facts.ref.before(prompt.message)[0]
    return zone < len(case.reference.spans) and at >= case.reference.spans[zone][0]


@rule(
    "system-prompt-drift",
    severity="warning",
    group="Stream",
    reads="structure",
    what="What stands before the first turn differs: a system prompt that only one side adds, drops or rewrites.",
    why="The model is trained under one system prompt and used under another (or under none). Small models lean on "
    "it heavily: persona, date and tool habits learned in training may not show at inference.",
    advice="Give the system prompt explicitly in the data and at inference, or choose the framework template (or its "
    "`default_system`) that writes what the chat template writes.",
)
def system_prompt_drift(case: Case) -> Iterator[Hit]:
    facts = case.facts
    hunks = list(facts.owned("system-prompt-drift"))
    if not hunks:
        yield from _system_message_lost(facts)
        return
    ref = _without_bos(case.reference, (hunks[0].ref_start, hunks[-1].ref_end), facts.control.bos)
    sub = _without_bos(case.subject, (hunks[0].sub_start, hunks[-1].sub_end), facts.control.bos)
    theirs, ours = facts.ref.text(ref), facts.sub.text(sub)
    both = facts.first_message > 0 and None not in (facts.ref.body(0), facts.sub.body(0))
    where = "in the system turn" if both else "before the first turn"
    if not ours.strip():
        message, key = (
            f"{sentence(case.reference_name)} writes {show(theirs)} {where}; training has nothing there.",
            f"dropped\x1f{_cause(_template_s_own(facts, theirs))}",
        )
    elif not theirs.strip():
        message, key = (
            f"Training has {show(ours)} {where}; {case.reference_name} writes nothing there.",
            f"injected\x1f{_cause(_template_s_own(facts, ours))}",
        )
    else:
        message, key = (
            f"Before the first turn training has {show(ours)} and {case.reference_name} {show(theirs)}.",
            "changed",
        )
    yield Hit(message, key=key, turn=0 if facts.first_message else None, reference=ref, subject=sub)


def _template_s_own(facts: Facts, text: str) -> str:
    """The text without the system prompt that the conversation gives, and without whitespace."""
    given = (facts.case.conversation.system or "").strip()
    return "".join((text.replace(given, "") if given else text).split())


def _system_message_lost(facts: Facts) -> Iterator[Hit]:
    """The system message that one side leaves out, where another rule answers for the place (a foreign marker)."""
    text = (facts.case.conversation.system or "").strip()
    there, here = facts.ref.body(0), facts.sub.body(0)
    if not text or (there is None) == (here is None) or facts.truncated:
        return
    who = f"{facts.case.reference_name if there is None else 'training'} leaves it out"
    key = "injected" if there is None else "dropped"
    yield Hit(f"The system message {show(text)}: {who}.", key=key, turn=0, reference=there, subject=here)


def _without_bos(stream: EncodedStream, span: Span, bos: int | None) -> Span:
    """The range without a BOS at its start, which is another rule's matter."""
    start, end = span
    return (start + 1, end) if start < end and stream.input_ids[start] == bos else span
