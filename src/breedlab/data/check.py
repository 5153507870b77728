"""Read every image once before training, in parallel, and remember the result by file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

from breedlab import hardware
from breedlab.data import formats
from breedlab.data.decode import ImageError, decode, read_image
from breedlab.data.folders import FEW, SPLITS, first_few, listed
from breedlab.data.image_set import ImageSet, LabeledImage
from breedlab.data.near_duplicates import difference_hash, near_duplicates
from breedlab.data.odd_images import Traits, odd_images, traits_of
from breedlab.errors import DataError
from breedlab.files import (
    DamagedFile,
    atomic_write_json,
    atomic_write_text,
    read_json,
    remove_leftovers,
)
from breedlab.names import printable

Progress = Callable[[int, int], None]
_VERSION = 5
"""Raised when the decoder learns to judge differently: what an older one said is then read
again."""

_IMBALANCE = 10
"""The largest class may be this many times the smallest before it is worth a warning."""

BALANCE_HINT = "; data.class_weights=balanced weighs them evenly"
"""How a warning of imbalance ends; of no use to a user who has set that."""


@dataclass(frozen=True)
class Finding:
    """One thing about one file; `own_cut` if it came about by cutting a split from train."""

    path: Path
    reason: str
    own_cut: bool = False


@dataclass(frozen=True)
class Report:
    """What the check found.

    Attributes:
        images: The images that are left to use.
        bad: Files that no image could be read from.
        leaks: Files whose content, or group (`data.group`), another split has, too; the test split
            keeps its own, and validation what the test split has not.
        conflicts: Files whose content several classes of one split have; which one is wrong cannot
            be known here.
        warnings: What a user should know but nothing must stop for.
        fingerprint: A digest of every usable file's content, class and split.
    """

    images: ImageSet
    bad: tuple[Finding, ...]
    leaks: tuple[Finding, ...]
    warnings: tuple[str, ...]
    fingerprint: str
    conflicts: tuple[Finding, ...] = ()


def check(
    images: ImageSet, memory: Path, *, on_bad_file: str, progress: Progress | None = None
) -> Report:
    """Decode every image, as training will.

    Args:
        images: What a scan found.
        memory: A folder for what is known of files by path, size and time, so that each is read
            once.
        on_bad_file: `error` refuses files that are broken, leaked or in two classes; `skip` leaves
            them out.
        progress: Called with how many files are done and how many there are.

    Raises:
        DataError: Naming all that is wrong: flaws and classes without an image left always, broken
            and leaked files under `error`.
    """
    facts = _read_all(images, memory, progress)
    bad = tuple(
        Finding(p.path, facts[p.path].problem) for p in _all(images) if facts[p.path].problem
    )
    conflicts = _conflicts(images, facts)
    leaks = _leaks(images, facts, {finding.path for finding in conflicts})
    excluded = {finding.path for finding in (*bad, *conflicts, *leaks)}
    leaks = (*leaks, *_straddling(images, excluded))
    # two copies in train are no fault of the user's
    shared = tuple(leak for leak in leaks if not leak.own_cut)
    dropped = {finding.path for finding in (*bad, *conflicts, *leaks)}
    clean = replace(
        images,
        splits={s: tuple(p for p in images.splits[s] if p.path not in dropped) for s in SPLITS},
    )
    missing = list(_lacking(images, clean))
    lacking = [*images.flaws, *missing]
    skip = on_bad_file == "skip"
    if lacking or (not skip and (bad or conflicts or shared)):
        # Where files are left out, they are named only if too little is left for that.
        errors = (bad, conflicts, shared) if missing or not skip else ((), (), ())
        raise _refusal(clean, *errors, lacking, len(leaks) - len(shared), memory, skip=skip)
    traits = {p.path: trait for p in _all(clean) if (trait := facts[p.path].traits)}
    digests, hashes = (
        {path: getattr(fact, name) for path, fact in facts.items()} for name in ("digest", "hash")
    )
    notes = (*_warnings(clean), *near_duplicates(clean, digests, hashes), *odd_images(traits))
    return Report(clean, bad, leaks, notes, _fingerprint(clean, facts), conflicts)


@dataclass(frozen=True)
class _Facts:
    digest: str
    problem: str
    hash: str = ""
    traits: Traits | None = None


def _all(images: ImageSet) -> Iterator[LabeledImage]:
    for split in SPLITS:
        yield from images.splits[split]


def _read_all(images: ImageSet, memory: Path, progress: Progress | None) -> dict[Path, _Facts]:
    book = memory / f"{hashlib.sha256(os.fsencode(images.root.resolve())).hexdigest()[:16]}.json"
    results: dict[str, list[object]] = _load(book)
    stamps = {image.path: _stamp(image.path) for image in _all(images)}
    fresh = [path for path, stamp in stamps.items() if results.get(str(path), [None])[0] != stamp]
    if fresh:
        try:
            for number, (path, facts) in enumerate(
                zip(fresh, hardware.in_threads(_read, fresh), strict=True), 1
            ):
                traits = astuple(facts.traits) if facts.traits else ()
                results[str(path)] = [stamps[path], facts.digest, facts.problem, facts.hash, traits]
                if progress:
                    progress(number, len(fresh))
        finally:  # after a stop, the next start reads only the rest
            _save(book, results)
    return {path: _facts(results[str(path)]) for path in stamps}


def _facts(entry: list[Any]) -> _Facts:
    _, digest, problem, hash_, traits = entry
    return _Facts(digest, problem, hash_, Traits(*traits) if traits else None)


def _load(book: Path) -> dict[str, list[object]]:
    try:
        loaded: dict[str, list[object]] = read_json(book)
    except (OSError, DamagedFile):  # every file is read again
        return {}
    return {
        path: entry for path, entry in loaded.items() if isinstance(entry, list) and len(entry) == 5
    }


def _save(book: Path, entries: dict[str, list[object]]) -> None:
    book.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(book.parent, older_than_s=86_400)
    # What could not be read at all may be readable the next time.
    atomic_write_json(book, {path: entry for path, entry in entries.items() if entry[1]})


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:  # a dangling link, or deleted since the scan: reading it will report that
        return ""
    readable = "h" * formats.reads_heic() + "a" * formats.reads_avif()
    return f"{_VERSION}{readable}/{status.st_size}/{status.st_mtime_ns}"


def _read(path: Path) -> _Facts:
    try:
        data = read_image(path)
    except ImageError as error:
        return _Facts("", str(error))
    except OSError as error:
        return _Facts("", f"cannot be read ({error.strerror})")
    digest = hashlib.blake2b(data, digest_size=16).hexdigest()
    try:
        pixels = decode(data)
    except ImageError as error:
        return _Facts(digest, str(error))
    return _Facts(digest, "", difference_hash(pixels), traits_of(pixels))


def _conflicts(images: ImageSet, facts: dict[Path, _Facts]) -> tuple[Finding, ...]:
    """Find images that are in two classes; a split that was cut from train counts as train, since
    their images were in one folder."""
    copies: dict[tuple[str, str], list[LabeledImage]] = {}
    for split in SPLITS:
        folder = "train" if split in images.cut else split
        for image in images.splits[split]:
            if not facts[image.path].problem:
                copies.setdefault((folder, facts[image.path].digest), []).append(image)
    findings = []
    for same in copies.values():
        for image in same:
            other = next((one for one in same if one.classes != image.classes), None)
            if other is not None:
                labels = "of another class" if image.labels is None else "with other labels"
                findings.append(Finding(image.path, f"is the same image as {other.path}, {labels}"))
    return tuple(sorted(findings, key=lambda finding: finding.path))


def _leaks(
    images: ImageSet, facts: dict[Path, _Facts], conflicting: set[Path]
) -> tuple[Finding, ...]:
    """Find images that are in two splits. The test split is kept whole: what it shares with
    training is a leak of the training split."""
    first: dict[str, tuple[str, Path]] = {}
    findings = []
    for split in ("test", "valid", "train"):
        for image in images.splits[split]:
            if facts[image.path].problem or image.path in conflicting:
                continue
            other_split, other = first.setdefault(facts[image.path].digest, (split, image.path))
            if other_split != split:
                reason = f"is the same image as {other} of the {other_split} split"
                findings.append(
                    Finding(image.path, reason, {split, other_split} <= {"train", *images.cut})
                )
    return tuple(findings)


def _straddling(images: ImageSet, passed_over: set[Path]) -> Iterator[Finding]:
    """Find images of groups that given splits divide; the test keeps its own, and validation what
    the test has not."""
    first: dict[str, str] = {}
    for split in ("test", "valid", "train"):
        for image in images.splits[split]:
            if not image.group or image.path in passed_over:
                continue
            other = first.setdefault(image.group, split)
            if other != split:
                yield Finding(
                    image.path,
                    f"is of the group {printable(image.group)}, which the {other} split has, too",
                )


def _lacking(images: ImageSet, clean: ImageSet) -> Iterator[str]:
    """Yield what is missing once broken and leaked files are left out; what was missing before is
    among the flaws."""
    for split in SPLITS:
        if not clean.splits[split]:
            yield f"{images.root}: no usable image is left in the {split} split"
    counts = zip(images.classes, images.counts("train"), clean.counts("train"), strict=True)
    empty = [name for name, before, now in counts if before and not now]
    if empty:
        yield f"{images.root}: no usable training image is left of {listed(empty)}"


def _refusal(
    images: ImageSet,
    bad: tuple[Finding, ...],
    conflicts: tuple[Finding, ...],
    leaks: tuple[Finding, ...],
    lacking: list[str],
    apart: int,
    memory: Path,
    *,
    skip: bool,
) -> DataError:
    """Return everything in one error, so that a user who fixes it all is not refused again."""
    lines = []
    if bad or conflicts or leaks:
        counts = []
        if bad:
            counts.append("1 broken file" if len(bad) == 1 else f"{len(bad):,} broken files")
        for findings, where in ((conflicts, "classes"), (leaks, "splits")):
            if findings:
                counts.append(
                    "1 image that stands"
                    if len(findings) == 1
                    else f"{len(findings):,} images that stand"
                )
                counts[-1] += f" in two {where}"
        lines.append(f"{images.root}: {' and '.join(counts)}")
        for findings in (bad, conflicts, leaks):
            texts = [f"{finding.path} {finding.reason}" for finding in findings]
            lines += [f"  {text}" for text in first_few(texts)]
        if max(len(bad), len(conflicts), len(leaks)) > FEW:
            lines.append(f"  all of them: {_write_all(memory, (*bad, *conflicts, *leaks))}")
    lines += lacking
    lines += _warnings(images)
    if apart:
        copies = (
            "1 copy of an image of train" if apart == 1 else f"{apart:,} copies of images of train"
        )
        lines.append(f"{copies} was put into another split by the cut, and will be left out")
    if bad or conflicts or leaks:
        rest = ", and fix the rest" if lacking else ""
        skipping = f", or set data.on_bad_file=skip to leave them out{rest}"
        too_few = "; too few images are left without them"
        instead = too_few if skip else skipping
        lines.append(f"Fix or remove them{instead}.")
    if conflicts and not images.multi_label:
        lines.append("For images with several classes at once, train with data=multi_label.")
    return DataError("\n".join(printable(line) for line in lines))


def _write_all(memory: Path, findings: tuple[Finding, ...]) -> Path:
    path = memory / "refused.txt"
    atomic_write_text(path, "".join(f"{finding.path} {finding.reason}\n" for finding in findings))
    return path


def _warnings(images: ImageSet) -> Iterator[str]:
    yield from images.left_out
    counts = {
        name: count
        for name, count in zip(images.classes, images.counts("train"), strict=True)
        if count
    }
    for split in ("valid", "test"):
        if images.flaws and split in images.cut:
            continue  # the flaws say what could not be cut
        pairs = zip(images.classes, images.counts(split), strict=True)
        empty = [name for name, count in pairs if not count and name in counts]
        if empty:
            yield f"the {split} split has no image of {listed(empty)}"
    if counts and max(counts.values()) >= _IMBALANCE * min(counts.values()):
        most, least = max(counts, key=counts.__getitem__), min(counts, key=counts.__getitem__)
        yield (
            f"classes are imbalanced: {most} has {counts[most]} training images, {least}"
            f" {counts[least]}{BALANCE_HINT}"
        )


def _fingerprint(images: ImageSet, facts: dict[Path, _Facts]) -> str:
    digest = hashlib.sha256("\0".join(images.classes).encode())
    for split in SPLITS:
        for image in images.splits[split]:
            labels = "+".join(map(str, image.classes))
            digest.update(f"{split}/{labels}/{facts[image.path].digest}".encode())
    return digest.hexdigest()[:32]
