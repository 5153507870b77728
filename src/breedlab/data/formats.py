"""Which formats are read here besides the usual ones: AVIF by Pillow from 11.3 on, HEIC with the
`heic` extra."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec

HEIC_EXTRA = "pip install 'breedlab[heic]'"
HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
AVIF_BRANDS = (b"avif", b"avis")
_HEIC_ENDINGS = (".heic", ".heif", ".hif")
_AVIF_ENDINGS = (".avif",)
_USUAL = ("JPEG", "PNG", "WebP", "BMP", "GIF", "TIFF")


@cache
def reads_heic() -> bool:
    """Return whether HEIC is read here."""
    return find_spec("pillow_heif") is not None


@cache
def reads_avif() -> bool:
    """Return whether AVIF is read here."""
    return find_spec("PIL._avif") is not None


def more_endings() -> frozenset[str]:
    """Return the file endings of the formats that are read here besides the usual ones."""
    heic = _HEIC_ENDINGS if reads_heic() else ()
    avif = _AVIF_ENDINGS if reads_avif() else ()
    return frozenset((*heic, *avif))


def in_words(last: str = "and") -> str:
    """Return the formats that are read here, such as `JPEG, PNG, WebP, BMP, GIF, TIFF and AVIF`."""
    names = [*_USUAL, *(["AVIF"] if reads_avif() else []), *(["HEIC"] if reads_heic() else [])]
    return f"{', '.join(names[:-1])} {last} {names[-1]}"


def kind_by_brand(data: bytes) -> str:
    """Return `HEIC` or `AVIF` if the first bytes of a file say that it is one, else an empty
    text."""
    if data[4:8] != b"ftyp":
        return ""
    if data[8:12] in AVIF_BRANDS:
        return "AVIF"
    return "HEIC" if data[8:12] in HEIC_BRANDS else ""


def is_read(kind: str) -> bool:
    """Return whether a kind from `kind_by_brand` is read here."""
    return reads_heic() if kind == "HEIC" else reads_avif()


def how_to_read(kind: str) -> str:
    """Return what to do about a file of a kind that is not read here."""
    way = f"run {HEIC_EXTRA}" if kind == "HEIC" else "install Pillow 11.3 or newer"
    return f"{way}, or convert it to JPEG, PNG or WebP"


def hint(endings: Iterable[str]) -> str:
    """Return what would have files with some endings read, which were left out; empty for
    others."""
    kinds = set(endings)
    if kinds & {*_HEIC_ENDINGS} and not reads_heic():
        return f"; HEIC is read after {HEIC_EXTRA}"
    if kinds & {*_AVIF_ENDINGS} and not reads_avif():
        return "; AVIF is read with Pillow 11.3 or newer"
    return ""
