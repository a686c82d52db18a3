"""A report made by hand, with every kind of line that a format has to print; no rule is run for it."""

from __future__ import annotations

from typing import Any

from template_audit.alignment import compare
from template_audit.errors import EncodingError
from template_audit.findings import Evidence, Finding
from template_audit.frameworks.interface import TokenizerEffects
from template_audit.results import Comparison, Report
from template_audit.stream import EncodedStream
from tests.builders import StandInEncoder, Vocabulary, conversation, model, stream

EXPECTED = (
    "<s>{default_system:Be kind.}<|im_end|>\n<|im_start|>user\n{0:What is  2 + 2?}<|im_end|>\n"
    "<|im_start|>assistant\n«{1:Four: \x1b[31m한국어\u202e.}<|im_end|>»\n"
)
FED = (
    "<|start_of_turn|>user\n{0:What is  2 + 2?}<|eot_id|>\n"
    "<|im_start|>assistant\n«{1:Four: \x1b[31m한국어\u202e.}<|im_end|>\n»"
)
EQUAL = "<|im_start|>user\n{0:hi}<|im_end|>\n<|im_start|>assistant\n«{1:hello}<|im_end|>»\n"
SPLIT = "<|im_start|>user\n{0:hi}<|im_end|>\n<|im_start|>assistant\n«{1:hel¦lo}<|im_end|>»\n"


def comparison(id: str, reference: str | EncodingError, subject: str | EncodingError) -> Comparison:
    """A Comparison of two streams in the notation of `tests.builders`."""
    vocabulary = Vocabulary()
    notation = next((side for side in (reference, subject) if isinstance(side, str)), "{0:hi}{1:hello}")
    sides = [
        side if isinstance(side, EncodingError) else stream(side, vocabulary=vocabulary)
        for side in (reference, subject)
    ]
    both = all(isinstance(side, EncodedStream) for side in sides)
    return Comparison(conversation(notation, id=id), sides[0], sides[1], compare(*sides) if both else None)  # type: ignore[arg-type]


def finding(rule: str, severity: Any, where: str | None, message: str, **fields: Any) -> Finding:
    """A Finding with texts that say what they are."""
    values: dict[str, Any] = {
        "turn": None,
        "role": None,
        "reference": None,
        "subject": None,
        "why": f"Why {rule} matters.",
        "advice": f"What to do about {rule}.",
        "fingerprint": f"{rule}/{where}/{message}",
        "cause": f"{rule}/{message}",
        **fields,
    }
    return Finding(rule=rule, severity=severity, conversation=where, message=message, **values)


def report(comparisons: list[Comparison] | None = None, findings: list[Finding] | None = None, **fields: Any) -> Report:
    """The report, or one with other comparisons and findings."""
    refused = EncodingError("The template refuses a tool\x07 message.", kind="role-unsupported")
    endless = EncodingError("The chat template ran for 5 seconds.", kind="template-timeout")
    if comparisons is None:
        comparisons = [
            comparison("single", EXPECTED, FED),
            comparison("split", EQUAL, SPLIT),
            comparison("equal", EQUAL, EQUAL),
            comparison("refused", EQUAL, refused),
            comparison("endless", endless, EQUAL),
        ]
    if findings is None:
        foreign = "`<|start_of_turn|>` is no token of this model\x1b[2J: it becomes 9 ordinary tokens."
        findings = [
            finding("foreign-special-token", "error", "single", foreign, turn=0, role="user", subject=evidence()),
            finding("foreign-special-token", "error", "split", foreign, turn=0, role="user", subject=evidence()),
            finding("template-timeout", "error", "endless", "The chat template ran for 5 seconds."),
            finding(
                "system-prompt-drift",
                "warning",
                "single",
                "Training has no system prompt.",
                reference=Evidence(1, 5, [20, 21, 22, 23], "Be kind. "),
            ),
            finding("role-unsupported", "info", "refused", "The template refuses a tool message."),
        ]
    toy = fields.pop("model", None) or model(id="org/toy", notes=("Two places hold a chat template.",))
    effects = TokenizerEffects(added_tokens=("<|new|>",))
    return Report(
        model=toy,
        reference=StandInEncoder("chat-template", toy, {}),
        subject=StandInEncoder("llamafactory@0.9.5:llama3", toy, {}, options={"cutoff_len": 512}, effects=effects),
        reference_why="It was asked for.",
        subject_why="LLaMA-Factory 0.9.5 proposes `llama3` for org/toy.",
        comparisons=tuple(comparisons),
        findings=tuple(findings),
        versions={"template-audit": "0.1.0", "transformers": "5.0.0", "tokenizers": "0.22.0"},
        **fields,
    )


def evidence() -> Evidence:
    """Nine tokens of a split marker."""
    return Evidence(0, 9, [30, 31, 32, 33, 34, 33, 35, 31, 36], "<|start_of_turn|>")
