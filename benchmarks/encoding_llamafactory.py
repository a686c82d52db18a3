"""The other side of benchmarks/encoding.py: LLaMA-Factory's own preprocessing, in its own environment.

    LF_PYTHON benchmarks/encoding_llamafactory.py < job.json

A job names the tokenizer's folder, the template, the options, the rows (question and answer each) and
the values of `num_proc`. Only ``Dataset.map`` with the framework's processor is timed, as its
``_get_preprocessed_dataset`` (data/loader.py) runs it. The answer is one JSON line: seconds per
`num_proc`, CPU seconds of the run in one process, and a digest of all ids and labels.
"""

import array
import hashlib
import importlib.machinery
import json
import sys
import time
import types

try:
    import torchaudio  # noqa: F401 - only whether it is there
except Exception:  # it is needed for audio rows only
    module = types.ModuleType("torchaudio")
    module.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    sys.modules["torchaudio"] = module


class AnyProcessor:
    """Stands in for a multimodal processor; text-only rows never look inside."""

    def __getattr__(self, name):
        return AnyProcessor()


def main():
    """Read the job, run it, print the answer."""
    job = json.load(sys.stdin)
    output, sys.stdout = sys.stdout, sys.stderr
    import datasets
    from llamafactory.data.processor.supervised import SupervisedDatasetProcessor
    from llamafactory.data.template import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    arguments = DataArguments(template=job["template"], **job["options"])
    tokenizer = AutoTokenizer.from_pretrained(job["tokenizer"], trust_remote_code=False)
    template = get_template_and_fix_tokenizer(tokenizer, arguments)
    rows = {
        "_prompt": [[{"role": "user", "content": question}] for question, _ in job["rows"]],
        "_response": [[{"role": "assistant", "content": answer}] for _, answer in job["rows"]],
        "_system": [""] * len(job["rows"]),
        "_tools": [""] * len(job["rows"]),
        "_images": [None] * len(job["rows"]),
        "_videos": [None] * len(job["rows"]),
        "_audios": [None] * len(job["rows"]),
    }
    dataset = datasets.Dataset.from_dict(rows)
    processor = SupervisedDatasetProcessor(template, tokenizer, AnyProcessor(), arguments)
    answer = {"seconds": {}}
    for workers in job["num_proc"]:
        started, used = time.perf_counter(), time.process_time()
        made = dataset.map(
            processor.preprocess_dataset,
            batched=True,
            batch_size=arguments.preprocessing_batch_size,
            remove_columns=dataset.column_names,
            num_proc=workers if workers > 1 else None,
            load_from_cache_file=False,
            desc="Running tokenizer on dataset",
        )
        answer["seconds"][str(workers)] = time.perf_counter() - started
        if workers == 1:
            answer["cpu"] = time.process_time() - used
    digest = hashlib.sha256()
    tokens = 0
    for batch in made.iter(1000):
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            digest.update(array.array("i", [len(ids), *ids, *labels]).tobytes())
            tokens += len(ids)
    answer.update(digest=digest.hexdigest(), tokens=tokens, versions={"datasets": datasets.__version__})
    output.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
