"""What the framework does to the tokenizer before it encodes, done to a copy.

Source: LLaMA-Factory 0.9.5, data/template.py (``fix_special_tokens``, ``fix_jinja_template``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from template_audit.errors import UsageError
from template_audit.frameworks.interface import TokenizerEffects
from template_audit.frameworks.llamafactory.behaviours import Behaviours
from template_audit.frameworks.llamafactory.registry import TemplateSpec
from template_audit.frameworks.llamafactory.saved_template import saved_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FALLBACK_EOS = "<|endoftext|>"
_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")


def fixed_tokenizer(
    tokenizer: PreTrainedTokenizerBase,
    spec: TemplateSpec,
    behaviours: Behaviours,
    reload: Callable[[], PreTrainedTokenizerBase] | None = None,
) -> tuple[PreTrainedTokenizerBase, TokenizerEffects]:
    """A copy of `tokenizer` as the framework leaves it, and what changed. `reload`: see `copy_tokenizer`.

    Raises UsageError for a template that replaces the eos token without naming a stop word.
    """
    fixed = copy_tokenizer(tokenizer, reload)
    stop_words = list(spec.stop_words)
    wanted: list[str] = []
    if spec.replace_eos:
        if not stop_words:
            raise UsageError(f"Template `{spec.name}` replaces the eos token but has no stop words.")
        wanted += _set_eos(fixed, stop_words.pop(0), behaviours.eos_replaced_by_itself)
    if fixed.eos_token_id is None:
        wanted += _set_eos(fixed, _FALLBACK_EOS, behaviours.eos_replaced_by_itself)
    if fixed.pad_token_id is None:
        fixed.pad_token = fixed.eos_token
    if stop_words:
        wanted += stop_words
        try:  # transformers 4 keeps the special tokens that are there; 5 has another name for that and does not
            fixed.add_special_tokens({"additional_special_tokens": stop_words}, replace_additional_special_tokens=False)
        except TypeError:
            fixed.add_special_tokens({"additional_special_tokens": stop_words})
    template_before = template_after = tokenizer.chat_template
    if template_before is None or spec.replace_jinja_template:
        template_after = saved_template(spec, fixed, behaviours) or template_before
        fixed.chat_template = template_after
    added, made_special = _changes(tokenizer, wanted)
    return fixed, TokenizerEffects(
        added_tokens=added,
        made_special=made_special,
        eos_token=(tokenizer.eos_token, fixed.eos_token),
        pad_token=(tokenizer.pad_token, fixed.pad_token),
        chat_template=(_one_template(template_before), _one_template(template_after)),
    )


def _set_eos(tokenizer: PreTrainedTokenizerBase, token: str, even_if_set: bool) -> list[str]:
    if tokenizer.eos_token == token and not even_if_set:
        return []
    tokenizer.add_special_tokens({"eos_token": token})
    return [token]


def _changes(tokenizer: PreTrainedTokenizerBase, wanted: list[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which of the tokens that became special were not in the vocabulary, and which were, as ordinary ones."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    special.update(tokenizer.all_special_tokens)
    changed = [token for token in dict.fromkeys(wanted) if token not in special]
    added = tuple(token for token in changed if not _in_vocabulary(tokenizer, token))
    return added, tuple(token for token in changed if token not in added)


def _in_vocabulary(tokenizer: PreTrainedTokenizerBase, token: str) -> bool:
    if tokenizer.is_fast:
        return tokenizer.backend_tokenizer.token_to_id(token) is not None
    return token in tokenizer.get_vocab()


def _one_template(template: Any) -> str | None:
    """A tokenizer with named templates holds them by name; the default one is meant."""
    return template.get("default") if isinstance(template, dict) else template


_FLAT = 1000  # larger containers are vocabularies and merges, which hold no containers


def copy_tokenizer(
    tokenizer: PreTrainedTokenizerBase, reload: Callable[[], PreTrainedTokenizerBase] | None = None
) -> PreTrainedTokenizerBase:
    """An independent copy that encodes alike; a hundred times faster than ``copy.deepcopy``.

    The vocabulary, which no tokenizer changes after it is built, is shared; added tokens, special
    tokens and settings are not. A tokenizer can hold back how it treats an added token that was
    added twice (Yi on transformers 4.57: ``copy.deepcopy`` loses it too), so the copy is tried on
    every added token, and `reload` loads the tokenizer anew where it differs.
    """
    backend = _copy_backend(tokenizer.backend_tokenizer) if tokenizer.is_fast else None
    if backend is None:
        return reload() if reload is not None else copy.deepcopy(tokenizer)
    fixed = copy.copy(tokenizer)
    for name, value in vars(tokenizer).items():
        vars(fixed)[name] = _copy_containers(value)  # past the setters, which would add the tokens again
    vars(fixed)["_tokenizer"] = backend
    return fixed


def _copy_containers(value: Any) -> Any:
    if type(value) not in (dict, list, set):
        return value
    if len(value) > _FLAT:
        return value.copy()
    if type(value) is dict:
        return {key: _copy_containers(item) for key, item in value.items()}
    return type(value)(_copy_containers(item) for item in value)


def _copy_backend(backend: Any) -> Any:
    """A second ``tokenizers.Tokenizer`` over the same model, or None where it would not be the same."""
    from tokenizers import Tokenizer

    if type(backend) is not Tokenizer:
        return None
    out = Tokenizer(backend.model)
    for part in _PARTS:
        if getattr(backend, part) is not None:
            setattr(out, part, getattr(backend, part))
    added = backend.get_added_tokens_decoder()
    out.add_tokens([added[i] for i in sorted(added)])
    out.encode_special_tokens = backend.encode_special_tokens
    if backend.truncation is not None:
        out.enable_truncation(**backend.truncation)
    if backend.padding is not None:
        out.enable_padding(**backend.padding)
    return out if _treat_added_tokens_alike(backend, out, added) else None


def _treat_added_tokens_alike(one: Any, other: Any, added: Mapping[int, Any]) -> bool:
    theirs = {i: token.__getstate__() for i, token in other.get_added_tokens_decoder().items()}
    if {i: token.__getstate__() for i, token in added.items()} != theirs:
        return False
    text = "".join(f" {token.content} x{token.content}{token.content}\n" for token in added.values())
    return bool(one.encode(text, add_special_tokens=False).ids == other.encode(text, add_special_tokens=False).ids)
