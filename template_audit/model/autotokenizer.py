"""Running transformers' AutoTokenizer: quietly, and with one sentence for whatever it raises."""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from template_audit.errors import ModelError
from template_audit.model.hub import Location, has_tokenizer_files
from template_audit.model.templates import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ADVICE = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
_WITHOUT_VOCABULARY = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")


def load_tokenizer(
    location: Location, config: dict[str, Any], *, trust_remote_code: bool
) -> tuple[PreTrainedTokenizerBase, list[str]]:
    """The tokenizer as `AutoTokenizer.from_pretrained` gives it, and the warnings it gave.

    A hub model is loaded by its name and not by its folder: transformers looks at the name too.
    `config` is the parsed tokenizer_config.json. Raises ModelError.
    """
    if location.gguf is None:
        _check_files(location, config, trust_remote_code)
    auto = _auto_tokenizer()
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if location.gguf is not None:
        options["gguf_file"] = location.gguf
    with _quietly() as said:
        try:
            if location.repo is not None:
                hub = {"revision": location.revision, "local_files_only": location.local_only}
                try:
                    return auto.from_pretrained(location.repo, **hub, **options), said
                except Exception:
                    if not location.local_only:
                        raise
                    said.clear()  # releases differ in what they can load offline by name (5.6 wants a config.json)
            return auto.from_pretrained(str(location.path), **options), said
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # Rust panics are BaseExceptions
            reason = _explain(location, config, error)
        raise ModelError(reason)


def _auto_tokenizer() -> Any:
    """AutoTokenizer, imported without the remark that there is no PyTorch."""
    if "transformers" in sys.modules or _ADVICE in os.environ:
        from transformers import AutoTokenizer

        return AutoTokenizer
    os.environ[_ADVICE] = "1"
    try:
        from transformers import AutoTokenizer
    finally:
        del os.environ[_ADVICE]
    return AutoTokenizer


class _Listener(logging.Handler):
    def __init__(self, said: list[str]) -> None:
        super().__init__(logging.WARNING)
        self.said = said

    def emit(self, record: logging.LogRecord) -> None:
        text = " ".join(record.getMessage().split())
        if "tokeniz" in record.name and text not in self.said:  # the others speak of model classes
            self.said.append(text)


@contextmanager
def _quietly() -> Iterator[list[str]]:
    """Collect what transformers logs, and keep warnings, progress bars and Rust's panics off stderr."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    said: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        for name, listener in (("transformers", _Listener(said)), ("huggingface_hub", logging.NullHandler())):
            logger = logging.getLogger(name)
            stack.callback(setattr, logger, "handlers", logger.handlers)
            stack.callback(setattr, logger, "propagate", logger.propagate)
            logger.handlers, logger.propagate = [listener], False
        if not are_progress_bars_disabled():
            disable_progress_bars()
            stack.callback(enable_progress_bars)
        _mute_stderr(stack)
        yield said


def _mute_stderr(stack: ExitStack) -> None:
    """Send file descriptor 2 to nowhere: Rust and C++ write to it past sys.stderr."""
    try:
        sys.stderr.flush()
        saved = os.dup(2)
    except (OSError, ValueError, AttributeError):
        return
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    stack.callback(os.close, saved)
    stack.callback(os.dup2, saved, 2)


def _check_files(location: Location, config: dict[str, Any], trust_remote_code: bool) -> None:
    """Refuse a folder without a vocabulary (transformers 5 would build an empty tokenizer) or with a hollow one."""
    names = [file.name for file in location.path.iterdir()]
    needs_none = config.get("tokenizer_class") in _WITHOUT_VOCABULARY or (_needs_code(config) and trust_remote_code)
    if not has_tokenizer_files(names) and not needs_none:
        raise ModelError(_no_tokenizer(location, config))
    tokenizer = location.path / "tokenizer.json"
    if tokenizer.is_file() and tokenizer.stat().st_size < 1024:  # the usual accidents, without parsing megabytes
        read_json(tokenizer)


def _needs_code(config: dict[str, Any]) -> bool:
    return bool(config.get("auto_map"))


def _no_tokenizer(location: Location, config: dict[str, Any]) -> str:
    base = read_json(location.path / "adapter_config.json").get("base_model_name_or_path")
    if isinstance(base, str) and base:
        return f"{location.id} is an adapter without a tokenizer; audit its base model {base}."
    if _needs_code(config):
        return _remote_code(location)
    return f"{location.id} holds no tokenizer (no tokenizer.json, tokenizer.model, vocab.json or the like)."


def _remote_code(location: Location) -> str:
    return (
        f"{location.id} needs the Python code in its own repository to load the tokenizer; read that code, and if "
        "you trust it pass --trust-remote-code."
    )


def _explain(location: Location, config: dict[str, Any], error: BaseException) -> str:
    """One sentence for an exception of AutoTokenizer: which file, or which lack, is to blame."""
    import tokenizers
    import transformers

    for name in ("config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"):
        read_json(location.path / name)  # raises the better sentence when the file is broken
    text, kind = " ".join(str(error).split()), type(error).__name__
    if "trust_remote_code" in text or (_needs_code(config) and not (location.path / "tokenizer.json").is_file()):
        return _remote_code(location)
    if location.gguf is not None:
        return (
            f"transformers {transformers.__version__} cannot load the tokenizer of {location.path / location.gguf} "
            f"({kind}: {text[:120]}); it needs the packages torch and gguf for that. Without them name the model's hub "
            "id or folder, and give the .gguf as --chat-template."
        )
    package = re.search(r"pip install ['\"`]?([\w.-]+)", text)
    if isinstance(error, ImportError) or (package and "requires" in text):
        missing = package.group(1) if package else getattr(error, "name", None) or text[:200]
        return f"The tokenizer of {location.id} needs the Python package {missing}; install it and try again."
    unknown = re.search(r"[Tt]okenizer class '?(\w+)'? .*(?:does not exist|not found)", text)
    if unknown:
        return (
            f"{location.id} asks for the tokenizer class {unknown.group(1)}, which transformers "
            f"{transformers.__version__} does not have; use the release that the model's card names."
        )
    if type(error) is Exception and (location.path / "tokenizer.json").is_file():
        place = location.path / "tokenizer.json"
        return f"{place} cannot be read by tokenizers {tokenizers.__version__}: {text[:200]}."
    return (
        f"transformers {transformers.__version__} cannot load the tokenizer of {location.id} ({kind}: {text[:200]}); "
        "check that its files are complete."
    )
