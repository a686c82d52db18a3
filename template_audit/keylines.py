"""On which line of a JSON or YAML file an entry stands."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

_PART = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.S)


def json_key_line(text: str, key: str) -> int | None:
    """The line, from 1, of the entry `key` of the object in `text`; None when it has no such entry of its own."""
    depth = 0
    for part in _PART.finditer(text):
        sign = part[0]
        if sign in "{[":
            depth += 1
        elif sign in "}]":
            depth -= 1
        elif depth == 1 and text[part.end() : part.end() + 200].lstrip().startswith(":") and _means(sign, key):
            return text.count("\n", 0, part.start()) + 1
    return None


def yaml_entries(text: str) -> Mapping[str, tuple[int, str | None]]:
    """The entries of the mapping in `text` (YAML or JSON): each key's line, from 1, and its scalar as it is written.

    The scalar is None for null, a list and a mapping; there are no entries in what is no mapping.
    """
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return {}
    if not isinstance(node, yaml.MappingNode):
        return {}
    return {
        key.value: (
            key.start_mark.line + 1,
            value.value if isinstance(value, yaml.ScalarNode) and not value.tag.endswith(":null") else None,
        )
        for key, value in node.value
        if isinstance(key, yaml.ScalarNode)
    }


def _means(string: str, key: str) -> bool:
    if string == f'"{key}"':
        return True
    try:
        return bool("\\" in string and json.loads(string) == key)
    except ValueError:
        return False
