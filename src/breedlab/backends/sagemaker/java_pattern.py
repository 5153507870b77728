r"""Match a string as AWS does: by `String.matches()` of Java, whose patterns are not quite
Python's.

In Java `.` takes no line terminator, `\w`, `\d` and `\s` are ASCII, and `\p{...}` names a class of
characters.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

_LINE_END = r"\n\r\u0085\u2028\u2029"
_AT_END = rf"(?:(?=(?:\r\n|[{_LINE_END}])?\Z))"
_ASCII = [chr(code) for code in range(128)]
_POSIX = {
    "ASCII": _ASCII,
    "Alnum": [c for c in _ASCII if c.isalnum()],
    "Alpha": [c for c in _ASCII if c.isalpha()],
    "Digit": [c for c in _ASCII if c.isdigit()],
    "Lower": [c for c in _ASCII if c.islower()],
    "Upper": [c for c in _ASCII if c.isupper()],
    "Print": [c for c in _ASCII if " " <= c <= "~"],
    "Graph": [c for c in _ASCII if "!" <= c <= "~"],
    "Space": list(" \t\n\x0b\f\r"),
}
_TOKEN = re.compile(
    # two halves of one character
    r"\\[uU][dD][89aAbB][0-9a-fA-F]{2}\\[uU][dD][c-fC-F][0-9a-fA-F]{2}"
    r"|\\p\{\^?\w+\}|\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|\\.|.",
    re.DOTALL,
)


def matches(pattern: str, text: str) -> bool:
    """Return whether Java's `text.matches(pattern)` is true.

    Raises:
        re.error: If the pattern uses syntax that is not translated: nested classes, intersections,
            unknown `\\p`.
    """
    beyond = "".join(sorted({char for char in text if char > "\x7f"}))
    return _translated(pattern, beyond).fullmatch(text) is not None


@cache
def _translated(pattern: str, beyond: str) -> re.Pattern[str]:
    """Return the pattern in Python's syntax; of `\\p{...}` only the ASCII part and the characters
    in `beyond`."""
    return re.compile("".join(_tokens(pattern, beyond)), re.ASCII)


def _tokens(pattern: str, beyond: str) -> Iterator[str]:
    inside, first, after_class = False, False, False
    for token in _TOKEN.findall(pattern):
        if token.startswith(r"\p{"):
            # U+FFFF is not a character: it means "none of these" where the class would be empty.
            members = _members(token[3:-1], beyond) or "\uffff"
            yield members if inside else f"[{members}]"
            first, after_class = False, True
            continue
        if len(token) == 12:  # a surrogate pair
            high, low = int(token[2:6], 16), int(token[8:12], 16)
            first = False
            yield re.escape(chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)))
        elif inside:
            if token == "[" or (token == "&" and "&&" in pattern):
                raise re.error(f"nested classes and intersections are not translated: {pattern}")
            if token == "-" and after_class:  # Java reads [\w-_] as three members
                token = r"\-"
            inside = token != "]" or first
            yield r"\]" if token == "]" and first else token
            first = first and token == "^"
        elif token == "[":
            inside = first = True
            yield token
        else:
            yield {
                ".": f"[^{_LINE_END}]",
                "$": _AT_END,
                r"\Z": _AT_END,
                "^": r"\A",
                r"\z": r"\Z",
            }.get(token, token)
        after_class = inside and token in (r"\w", r"\d", r"\s", r"\W", r"\D", r"\S")


def _members(name: str, beyond: str) -> str:
    negated, name = name.startswith("^"), name.removeprefix("^").removeprefix("Is")
    if name in _POSIX:
        members = set(_POSIX[name])
    elif re.fullmatch("[A-Z][a-z]?", name):
        members = {
            char for char in [*_ASCII, *beyond] if unicodedata.category(char).startswith(name)
        }
    else:
        raise re.error(f"unknown class of characters: {name}")
    if negated:
        members = {*_ASCII, *beyond} - members
    return "".join(re.escape(char) for char in sorted(members))
