"""`make demo`: the main job on a fixture model, first with the wrong template, then with the best match."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = Path("fixtures/models/exaone35-like")


def run(*arguments: str, expect: tuple[int, ...]) -> None:
    """Run one command as a user would and stop the demo when its exit code is not as told."""
    print(f"\n$ template-audit {' '.join(arguments)}\n", flush=True)
    code = subprocess.run([sys.executable, "-m", "template_audit", *arguments], cwd=ROOT, check=False).returncode
    print(f"\n(exit code {code})", flush=True)
    if code not in expect:
        sys.exit(f"demo: expected exit code {' or '.join(map(str, expect))}, got {code}.")


def main() -> None:
    """Show what goes wrong with `template: llama3`, and what is left with the template that fits best."""
    print("A model whose role markers are not special tokens, trained with `template: llama3`:")
    run(str(MODEL), "--encoder", "llamafactory:llama3", expect=(1,))
    print("\nThe same model with the template that fits it best:")
    run(str(MODEL), expect=(0, 1))


if __name__ == "__main__":
    main()
