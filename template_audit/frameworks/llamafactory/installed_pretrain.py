"""Pre-training by the LLaMA-Factory that is installed in another environment, beside the built-in one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from template_audit.blocks import Block, Totals
from template_audit.frameworks.external import Worker
from template_audit.frameworks.interface import Mismatch
from template_audit.frameworks.llamafactory.encoder import LlamaFactoryEncoder
from template_audit.frameworks.llamafactory.parsed_template import NULL
from template_audit.frameworks.llamafactory.pretrain import LlamaFactoryPretrainEncoder
from template_audit.frameworks.llamafactory.rows import map_batches
from template_audit.pretraining import Documents
from template_audit.stream import common_prefix


class InstalledPretrainEncoder(LlamaFactoryPretrainEncoder):
    """Blocks with the installed package's ids; documents and totals are the built-in encoder's.

    Source of the ids: ``PretrainDatasetProcessor.preprocess_dataset``, one call for each map batch.
    `mismatches` says where the two part.
    """

    def __init__(self, encoder: LlamaFactoryEncoder, options: Mapping[str, Any], worker: Worker) -> None:
        """Raises TemplateAuditError when the package refuses the model or the template."""
        super().__init__(encoder, options)
        self.worker = worker
        self.mismatches: list[Mismatch] = []
        self._compared = 0
        worker.request(
            {
                "op": "open",
                "model": str(self.model.path),
                "template": None if encoder.template.name == NULL else encoder.template.name,
                "chat_template": self.model.chat_template,
                "options": {"cutoff_len": self.block_size, "packing": self.packing},
            }
        )

    def blocks(self, documents: Iterable[str], totals: Totals) -> Iterator[Block]:
        """See `PretrainEncoder.blocks`."""
        count = documents.count() if self.workers > 1 and isinstance(documents, Documents) else None
        for batch in map_batches(documents, self.batch_size, self.workers, count):
            texts = list(batch)
            theirs: list[list[int]] = self.worker.request({"op": "pretrain", "texts": texts})["blocks"]
            encode = self._packed if self.packing else self._single
            made = 0
            for block in encode(iter(texts), totals):
                yield self._settled(block, theirs[made] if made < len(theirs) else None)
                made += 1
            if made < len(theirs):
                more = f"the installed package makes {len(theirs) - made} blocks more"
                self.mismatches.append(Mismatch(f"block {totals.blocks}", None, more))

    def _settled(self, block: Block, theirs: list[int] | None) -> Block:
        self._compared += 1
        if block.input_ids == theirs:
            return block
        name = f"block {block.index}"
        if theirs is None or len(theirs) != len(block.input_ids):
            size = "no such block" if theirs is None else f"{len(theirs)} tokens"
            self.mismatches.append(Mismatch(name, None, f"built in {len(block.input_ids)} tokens, installed {size}"))
            return block
        at = common_prefix(block.input_ids, theirs)
        what = f"built in {block.input_ids[at : at + 4]}, installed {theirs[at : at + 4]}"
        self.mismatches.append(Mismatch(name, at, what))
        return replace(block, input_ids=theirs)

    @property
    def remark(self) -> str:
        """What came of the comparison so far."""
        versions = ", ".join(f"{name} {version}" for name, version in self.worker.versions.items())
        if not self.mismatches:
            return f"Verified: the installed framework ({versions}) gives the same {self._compared:,} blocks."
        first = self.mismatches[0]
        place = first.conversation + (f" at token {first.position}" if first.position is not None else "")
        return (
            f"The built-in encoder parts from the installed framework ({versions}) in {len(self.mismatches):,} of "
            f"{self._compared:,} blocks, first in {place}: {first.what}."
        )
