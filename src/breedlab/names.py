"""Names of files and classes as people and file systems write them."""

from __future__ import annotations

import unicodedata

_UNPRINTABLE = {"Cc", "Zl", "Zp"}
"""Unicode categories that break a line or steer a terminal."""


def printable(text: str) -> str:
    """Return a text that any output can take: bytes that are not UTF-8, and control characters,
    become escapes.

    `caf\\udce9`, which is how Python reads the byte E9 in a file's name, becomes `caf\\xe9`.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(character) for character in text)


def unprintable(name: str) -> str | None:
    """Return what is wrong with a name that has to travel, in words; None if nothing is."""
    if any(_is_surrogate(character) for character in name):
        return "is not UTF-8"
    if any(unicodedata.category(character) in _UNPRINTABLE for character in name):
        return "holds a line break or another control character"
    return None


def composed(name: str) -> str:
    """Return a name in Unicode's form NFC, which makes two names that look the same the same."""
    return unicodedata.normalize("NFC", name)


def _is_surrogate(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # os.fsdecode's name for a byte
        return f"\\x{ord(character) - 0xDC00:02x}"
    if _is_surrogate(character) or unicodedata.category(character) in _UNPRINTABLE:
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")
    return character


def counted(count: int, noun: str) -> str:
    """Return a count with its noun: `1 job`, `2,000 jobs`."""
    return f"{count} {noun}" if count == 1 else f"{count:,} {noun}s"
