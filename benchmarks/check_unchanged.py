"""How long `template-audit check` takes when nothing has changed, and that it loads no tokenizer for the answer.

    python benchmarks/check_unchanged.py [FOLDER ...] [--entries 20] [--rounds N] [--check]

Locks `--entries` entries (the model folders in turn, each with as many templates as it takes), then
times whole processes of `check`. ``--check`` exits with 1 when the median is above a second, or when
transformers, tokenizers or deepdiff were imported.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 1.0  # seconds
TEMPLATES = ("chatml", "llama3", "qwen", "mistral", "phi", "exaone", "gemma", "yi", "default", "vicuna")
HEAVY = ("transformers", "tokenizers", "deepdiff", "torch", "rapidfuzz")


def folders() -> list[Path]:
    """The real tokenizers beside the repository when they are there, else the fixtures."""
    real = ROOT.parent / "shared" / "models"
    place = real if real.is_dir() else ROOT / "fixtures" / "models"
    return sorted(path for path in place.iterdir() if path.is_dir() and path.name != "base-no-template")


def lock(path: Path, models: list[Path], entries: int) -> None:
    """A lock file with so many entries."""
    made = 0
    for template in TEMPLATES:
        chosen = models[: entries - made]
        if not chosen:
            return
        command = [sys.executable, "-m", "template_audit", "lock", "--no-config", "--lock", str(path)]
        done = subprocess.run(
            [*command, *map(str, chosen), "--encoder", f"llamafactory:{template}"], capture_output=True, text=True
        )
        if not path.exists():
            raise SystemExit(f"nothing was locked: {done.stderr}")
        made += len(chosen)


def seconds(path: Path) -> float:
    """One process from start to end."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "template_audit", "check", "--no-config", "--lock", str(path)],
        capture_output=True,
        text=True,
    )
    taken = time.perf_counter() - start
    if done.returncode != 0 or "unchanged." not in done.stdout:
        raise SystemExit(f"not everything was unchanged ({done.returncode}): {done.stdout}{done.stderr}")
    return taken


def imported(path: Path) -> list[str]:
    """Which of the heavy packages a check imports."""
    code = (
        "import sys; from template_audit.cli import main; "
        f"code = main(['check', '--no-config', '--quiet', '--lock', {str(path)!r}]); "
        f"print('HEAVY', *[name for name in {HEAVY!r} if name in sys.modules]); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1].split()[1:]


def main() -> int:
    parser = argparse.ArgumentParser(description="Time of a check of unchanged entries.")
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--entries", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--check", action="store_true", help="exit with 1 when a limit is exceeded")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    models = [folder.resolve() for folder in arguments.folders] or folders()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "template-audit.lock"
        lock(path, models, arguments.entries)
        times = [seconds(path) for _ in range(arguments.rounds + 1)][1:]  # the first one fills the caches
        heavy = imported(path)
        size = path.stat().st_size
    hashed = sum(file.stat().st_size for model in models for file in model.iterdir() if file.is_file())
    what = f"{arguments.entries} entries of {len(models)} models ({hashed / 1e6:.0f} MB of files)"
    print(f"{what}, lock file {size / 1e6:.2f} MB")
    print(f"median {statistics.median(times):.2f} s, fastest {min(times):.2f} s, slowest {max(times):.2f} s")
    print(f"heavy imports: {', '.join(heavy) or 'none'}")
    return int(arguments.check and (statistics.median(times) > LIMIT or bool(heavy)))


if __name__ == "__main__":
    sys.exit(main())
