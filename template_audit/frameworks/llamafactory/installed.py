"""The LLaMA-Factory that is installed in another environment, as an encoder beside the built-in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from template_audit.conversation import Conversation
from template_audit.errors import EncodingError
from template_audit.frameworks.external import Worker
from template_audit.frameworks.interface import Mismatch
from template_audit.frameworks.llamafactory.converters import plain
from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
from template_audit.frameworks.llamafactory.parsed_template import NULL
from template_audit.model.tokenizer import token_text
from template_audit.stream import LITERAL, EncodedStream, Piece, common_prefix

WORKER = Path(__file__).with_name("real_worker.py")
_OWN_OPTIONS = ("packing", "neat_packing")  # they group examples and change none, once cutoff_len is lowered


def start(python: str) -> Worker:
    """The worker in the environment of `python`. Raises UsageError when it cannot serve."""
    return Worker(python, WORKER)


class InstalledEncoder:
    """Ids and labels come from the installed package; text and origins from `built_in` where both agree.

    Where they part, the stream is the installed package's, its text decoded token by token, and
    `mismatches` says where.
    """

    def __init__(self, built_in: LlamaFactoryEncoder, worker: Worker, *, snippet: str | None = None) -> None:
        """`snippet` registers the template, which the package does not have.

        It is run in the package's own environment, so it must be of our own writing. Raises TemplateAuditError when
        the package refuses the model, the template, the snippet or the options.
        """
        self.built_in, self.worker = built_in, worker
        self.model = built_in.model
        self.spec = built_in.spec
        self.options: Mapping[str, Any] = built_in.options
        self.effects = built_in.effects
        self.tokenizer = built_in.tokenizer
        self.notes = built_in.notes
        self.registry = built_in.registry
        self.versions = worker.versions
        self.mismatches: list[Mismatch] = []
        worker.request(
            {
                "op": "open",
                "model": str(self.model.path),
                "template": None if built_in.template.name == NULL else built_in.template.name,
                "chat_template": self.model.chat_template,
                "register": snippet,
                "options": {key: value for key, value in self.options.items() if key not in _OWN_OPTIONS}
                | {"cutoff_len": built_in.settings.cutoff_len},
            }
        )

    def at(self, clock: str) -> LlamaFactoryEncoder:
        """The built-in encoder at another moment: the installed package keeps the one it was opened with."""
        return self.built_in.at(clock)

    def encode(self, conversation: Conversation) -> EncodedStream:
        """The installed package's ids and labels of one conversation. Raises EncodingError."""
        stream = self.encode_batch([conversation])[0]
        assert isinstance(stream, EncodedStream)
        return stream

    def encode_batch(
        self, conversations: Sequence[Conversation], *, keep_errors: bool = False
    ) -> list[EncodedStream | EncodingError]:
        """Many conversations in one request; with `keep_errors` an EncodingError takes a stream's place."""
        examples = self.built_in.examples_of(conversations)
        ours = self.built_in.encode_examples(examples, keep_errors=True)
        sent = [
            (i, {**plain(example), "_stage": example.stage})
            for i, example in enumerate(examples)
            if not isinstance(example, EncodingError)
        ]
        replies = dict(zip((i for i, _ in sent), self.worker.encode([example for _, example in sent]), strict=True))
        out: list[EncodedStream | EncodingError] = []
        for i, (conversation, own) in enumerate(zip(conversations, ours, strict=True)):
            result = own if i not in replies else self._settle(conversation.id, own, replies[i])
            if isinstance(result, EncodingError) and not keep_errors:
                raise result
            out.append(result)
        return out

    def _settle(
        self, name: str, own: EncodedStream | EncodingError, reply: Mapping[str, Any]
    ) -> EncodedStream | EncodingError:
        if "input_ids" not in reply:
            refusal = "drops it" if reply.get("dropped") else f"stops ({reply.get('type')}: {reply.get('error')})"
            if isinstance(own, EncodingError):
                return own
            self.mismatches.append(Mismatch(name, None, f"the installed package {refusal}"))
            kind = "example-dropped" if reply.get("dropped") else "encoding-failed"
            return EncodingError(f"The installed LLaMA-Factory {refusal}.", kind=kind)
        ids, labels = reply["input_ids"], reply["labels"]
        if isinstance(own, EncodingError):
            # ids of None are the framework's own: it fails only when the batch is built
            if None not in ids and len(ids) == len(labels):
                self.mismatches.append(Mismatch(name, None, f"the built-in encoder refuses it ({own})"))
                return self._decoded(ids, labels)
            return own
        if own.input_ids == ids and own.labels == labels:
            return own
        at = common_prefix(list(zip(own.input_ids, own.labels, strict=True)), list(zip(ids, labels, strict=True)))
        what = f"built in {_around(own.input_ids, own.labels, at)}, installed {_around(ids, labels, at)}"
        self.mismatches.append(Mismatch(name, at, what))
        return replace(
            self._decoded(ids, labels), turns=[], notes=(f"The built-in encoder parts from it at token {at}.",)
        )

    def _decoded(self, ids: list[int], labels: list[int]) -> EncodedStream:
        spans, texts, at = [], [], 0
        for token_id in ids:
            text = token_text(self.built_in.tokenizer, token_id)
            spans.append((at, at + len(text)))
            texts.append(text)
            at += len(text)
        return EncodedStream(ids, labels, "".join(texts), spans, [Piece(0, at, LITERAL)] if at else [])


def _around(ids: Sequence[int], labels: Sequence[int], at: int) -> str:
    return f"{list(ids[at : at + 4])} with labels {list(labels[at : at + 4])}"
