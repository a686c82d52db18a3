"""`make test-matrix VERSION…`: the test suite on several releases of transformers, one environment each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(versions: list[str]) -> int:
    """Install and test each version; print one line a version and return 1 when any failed."""
    failed = []
    for version in versions:
        venv = ROOT / f".venv-{version}"
        python = venv / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        pin = "transformers" if version == "latest" else f"transformers=={version}"
        upgrade = ["--upgrade"] if version == "latest" else []
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", *upgrade, pin, "-e", ".[dev]"], cwd=ROOT, check=True
        )
        code = subprocess.run([str(python), "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile"], cwd=ROOT).returncode
        print(f"transformers {version}: {'passed' if code == 0 else f'failed (pytest exit {code})'}", flush=True)
        if code:
            failed.append(version)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["4.57.6", "5.6.0", "latest"]))
