"""The pre-commit hook for training configs: ``python -m template_audit.precommit [OPTION]... FILE...``.

pre-commit hands over every changed file of a type in one call. Those that are training configs are audited,
each as ``template-audit audit [OPTION]... FILE`` would; others are passed over.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from template_audit.training import SUFFIXES

_NAMES_A_MODEL = re.compile(r"""^[ \t{]*["']?model_name_or_path["']?[ \t]*:""", re.MULTILINE)
_LARGEST = 1 << 20  # bytes; no training config is as long, and a data set may be


def main(arguments: Sequence[str]) -> int:
    """Audit the training configs among the files and return the gravest exit code; 0 when there are none.

    Files are the last arguments, as pre-commit gives them. An option whose value is such a file, too, has
    it behind an equals sign.
    """
    from template_audit import cli

    options = list(arguments)
    files: list[str] = []
    while options and _is_file(options[-1]):
        files.insert(0, options.pop())
    worst = 0
    for file in files:
        if describes_a_run(Path(file)):
            print(f"{_shown(file)}:", flush=True)
            worst = max(worst, cli.main(["audit", file, *options]))
            sys.stdout.flush()
    return worst


def _is_file(argument: str) -> bool:
    """Not an option, and no KEY=VALUE unless there is a file of that name."""
    if not argument.endswith(SUFFIXES) or argument.startswith("-"):
        return False
    return "=" not in argument or Path(argument).is_file()


def describes_a_run(path: Path) -> bool:
    """True for a training config of a known framework, and for a broken one: the audit says what is wrong with it."""
    import yaml

    from template_audit.training import config_readers

    try:
        if path.stat().st_size > _LARGEST:
            return False
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    except OSError:
        return True
    if not _NAMES_A_MODEL.search(text):
        return False
    try:
        config = yaml.safe_load(text)  # JSON is YAML, too
    except (yaml.YAMLError, ValueError, RecursionError):
        return True
    return isinstance(config, dict) and any(reader.recognises(config) for reader in config_readers().values())


def _shown(file: str) -> str:
    from template_audit.report.sanitize import one_line

    return one_line(file, encoding=getattr(sys.stdout, "encoding", None) or "utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
