"""Read every image once before training, in parallel, and remember the result by file."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from breedlab.commands import command
from breedlab.data.file_facts import Facts, Progress, read_all
from breedlab.data.folders import FEW, SPLITS, first_few, listed
from breedlab.data.groups import groups_concern
from breedlab.data.image_set import ImageSet, LabeledImage
from breedlab.data.near_duplicates import Pair, describe, near_duplicates
from breedlab.data.odd_images import Odd, odd_images
from breedlab.errors import DataError
from breedlab.files import (
    atomic_write_text,
)
from breedlab.names import printable

_IMBALANCE = 10
"""The largest class may be this many times the smallest before it is worth a warning."""

BALANCE_HINT = "; data.class_weights=balanced weighs them evenly"
"""How a warning of imbalance ends; of no use to a user who has set that."""

KEEP_ONE = (
    "data.on_bad_file=skip leaves out all copies of an image with different labels, since any of"
    " them may be wrong; to keep one, delete the others, or remove them in data.fixes."
)


@dataclass(frozen=True)
class Finding:
    """One thing about one file; `own_cut` if it came about by cutting a split from train, and the
    file whose copy it is, where that is all."""

    path: Path
    reason: str
    own_cut: bool = False
    copy_of: Path | None = None


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
        lacking: What has to be added or fixed before the images can be used at all.
        missing: Whether it is lacking only because files cannot be used.
        near: Images that are nearly the same.
        odd: Images unlike the rest by size, shape, brightness, or contrast.
        digests: Of the content of each image to use.
    """

    images: ImageSet
    bad: tuple[Finding, ...]
    leaks: tuple[Finding, ...]
    warnings: tuple[str, ...]
    fingerprint: str
    conflicts: tuple[Finding, ...] = ()
    lacking: tuple[str, ...] = ()
    missing: bool = False
    near: tuple[Pair, ...] = ()
    odd: tuple[Odd, ...] = ()
    digests: Mapping[Path, str] = field(default_factory=dict)

    @property
    def shared(self) -> tuple[Finding, ...]:
        """The leaks that are the user's: two copies in train that a cut put apart are none."""
        return tuple(leak for leak in self.leaks if not leak.own_cut)

    @property
    def apart(self) -> str:
        """A line on copies in train that a cut put apart; empty if there are none."""
        count = len(self.leaks) - len(self.shared)
        if not count:
            return ""
        copies = (
            "1 copy of an image of train was"
            if count == 1
            else f"{count:,} copies of images of train were"
        )
        return f"{copies} put into another split by the cut, and will be left out"

    @property
    def stops(self) -> bool:
        """Whether a run with `data.on_bad_file=error` would stop."""
        return bool(self.lacking or self.bad or self.conflicts or self.shared)


def check(
    images: ImageSet, memory: Path, *, on_bad_file: str, progress: Progress | None = None
) -> Report:
    """Decode every image, as training will.

    Args:
        images, memory, progress: As for `inspect`.
        on_bad_file: `error` refuses files that are broken, leaked or in two classes; `skip` leaves
            them out.

    Raises:
        DataError: Naming all that is wrong: flaws and classes without an image left always, broken
            and leaked files under `error`.
    """
    report = inspect(images, memory, progress)
    skip = on_bad_file == "skip"
    if report.lacking or (report.stops and not skip):
        raise _refusal(report, memory, skip=skip)
    return report


def inspect(images: ImageSet, memory: Path, progress: Progress | None = None) -> Report:
    """Decode every image, as training will, and return all that is wrong.

    Args:
        images: What a scan found.
        memory: A folder for what is known of files by path, size and time, so that each is read
            once.
        progress: Called with how many files are done and how many there are.
    """
    facts = read_all(images.root, [image.path for image in _all(images)], memory, progress)
    bad = tuple(
        Finding(p.path, facts[p.path].problem) for p in _all(images) if facts[p.path].problem
    )
    conflicts = _conflicts(images, facts)
    leaks = _leaks(images, facts, {finding.path for finding in conflicts})
    excluded = {finding.path for finding in (*bad, *conflicts, *leaks)}
    leaks = (*leaks, *_straddling(images, excluded))
    dropped = {finding.path for finding in (*bad, *conflicts, *leaks)}
    clean = replace(
        images,
        splits={s: tuple(p for p in images.splits[s] if p.path not in dropped) for s in SPLITS},
    )
    missing = tuple(_lacking(images, clean))
    traits = {p.path: trait for p in _all(clean) if (trait := facts[p.path].traits)}
    digests, hashes = (
        {path: getattr(fact, name) for path, fact in facts.items()} for name in ("digest", "hash")
    )
    near, odd = near_duplicates(clean, digests, hashes), tuple(odd_images(traits))
    warnings = (
        *_warnings(clean),
        *describe(near, images.multi_label),
        *(each.describe() for each in odd),
    )
    return Report(
        clean,
        bad,
        leaks,
        warnings,
        _fingerprint(clean, facts),
        conflicts,
        (*images.flaws, *missing),
        bool(missing),
        tuple(near),
        odd,
        {image.path: digests[image.path] for image in _all(clean)},
    )


def _all(images: ImageSet) -> Iterator[LabeledImage]:
    for split in SPLITS:
        yield from images.splits[split]


def _conflicts(images: ImageSet, facts: dict[Path, Facts]) -> tuple[Finding, ...]:
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
    images: ImageSet, facts: dict[Path, Facts], conflicting: set[Path]
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
                own_cut = {split, other_split} <= {"train", *images.cut}
                findings.append(Finding(image.path, reason, own_cut, other))
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


def _refusal(report: Report, memory: Path, *, skip: bool) -> DataError:
    """Return everything in one error, so that a user who fixes it all is not refused again."""
    bad, conflicts, leaks = report.bad, report.conflicts, report.shared
    if skip and not report.missing:
        # Where files are left out, they are named only if too little is left for that.
        bad = conflicts = leaks = ()
    images, lacking = report.images, report.lacking
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
    if text := report.apart:
        lines.append(text)
    if bad or conflicts or leaks:
        rest = ", and fix the rest" if lacking else ""
        skipping = f", or set data.on_bad_file=skip to leave them out{rest}"
        too_few = "; too few images are left without them"
        instead = too_few if skip else skipping
        listing = command("check", shlex.quote(str(images.root)))
        lines.append(f"To list them with whatever else may be wrong: {listing}")
        lines.append(f"Fix or remove them{instead}.")
    if conflicts:
        lines.append(KEEP_ONE)
    if conflicts and not images.multi_label:
        lines.append("For images with several classes at once, train with data=multi_label.")
    return DataError("\n".join(printable(line) for line in lines))


def _write_all(memory: Path, findings: tuple[Finding, ...]) -> Path:
    path = memory / "refused.txt"
    atomic_write_text(path, "".join(f"{finding.path} {finding.reason}\n" for finding in findings))
    return path


def _warnings(images: ImageSet) -> Iterator[str]:
    yield from images.left_out
    if concern := groups_concern([image.group for image in _all(images)]):
        yield concern
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


def _fingerprint(images: ImageSet, facts: dict[Path, Facts]) -> str:
    digest = hashlib.sha256("\0".join(images.classes).encode())
    for split in SPLITS:
        for image in images.splits[split]:
            labels = "+".join(map(str, image.classes))
            digest.update(f"{split}/{labels}/{facts[image.path].digest}".encode())
    return digest.hexdigest()[:32]
