"""Text from models and data sets, made safe to print: nothing in it can steer a terminal or hide from a reader.

Every report format and every error message passes foreign text through here. What is replaced:
control characters (C0, DEL, C1), format and bidirectional characters, blanks that are not a plain
space, surrogates, private-use and unassigned code points, variation selectors, letters that draw
nothing, and combining marks beyond the fourth in a row. Each becomes ``<U+202E>``, as in `less`. So does the
second ``#`` of what a build server obeys in a log, wherever it stands: ``##[…``, ``##vso[…``, ``##teamcity[…``.
"""

from __future__ import annotations

import re
import unicodedata

_HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Drawn as nothing although their category says letter, mark or symbol.
_BLANK_LETTERS = frozenset({0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0})
_PRINTABLE_ASCII = re.compile(r"[ -~]*\Z")
_MAX_MARKS = 4
_NOT_PLAIN = re.compile(r"[^\x00-\x7e]")
LOG_COMMAND = re.compile(r"##(?=[A-Za-z-]*\[)")
"""What GitHub Actions, Azure Pipelines and TeamCity take for a command within a line."""


def is_hidden(char: str) -> bool:
    """True for a character that a terminal obeys or that a reader cannot see. A plain space is neither."""
    if " " <= char <= "~":
        return False
    category = unicodedata.category(char)
    if category in _HIDDEN_CATEGORIES or (category == "Zs" and char != " "):
        return True
    code = ord(char)
    return code in _BLANK_LETTERS or 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF or 0x180B <= code <= 0x180F


def code_point(char: str) -> str:
    """How a character that cannot be shown is written: ``<U+202E>``."""
    return f"<U+{ord(char):04X}>"


def encodable(char: str, encoding: str) -> bool:
    """True when `char` can be written to a stream of this encoding."""
    try:
        char.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def visible(text: str, *, keep: str = "", encoding: str = "utf-8") -> str:
    """`text` with every character that is hidden, or that `encoding` lacks, written as its code point.

    Characters in `keep` stay as they are (``"\\n"`` for text of several lines).
    """
    if "##" in text:
        text = LOG_COMMAND.sub("#" + code_point("#"), text)
    if _PRINTABLE_ASCII.match(text):
        return text
    out: list[str] = []
    marks = 0
    for char in text:
        marks = marks + 1 if unicodedata.category(char).startswith("M") else 0
        if char in keep or (not is_hidden(char) and marks <= _MAX_MARKS and encodable(char, encoding)):
            out.append(char)
        else:
            out.append(code_point(char))
    return "".join(out)


def one_line(text: str, *, encoding: str = "utf-8", limit: int = 0) -> str:
    """`text` on one line: line breaks become spaces, the rest `visible`; cut to `limit` characters when given."""
    flat = visible(re.sub(r"[ \t]*[\r\n]+[ \t]*", " ", text.strip()), encoding=encoding)
    if limit and len(flat) > limit:
        dots = "…" if encodable("…", encoding) else "..."
        return flat[: limit - len(dots)] + dots
    return flat


def json_escaped(text: str) -> str:
    """JSON text with its hidden characters and lone surrogates as ``\\uXXXX``; readers give them back."""
    return text if text.isascii() and "\x7f" not in text else _NOT_PLAIN.sub(_as_json, text)


def _as_json(match: re.Match[str]) -> str:
    char = match.group()
    if not is_hidden(char):
        return char
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
