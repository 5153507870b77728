"""Cut the splits that have no folder from train: image by image, or group by group."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

Files = dict[str, list[list[Path]]]
"""The images of each split, by class."""


def cut_missing(
    files: Files,
    fractions: Mapping[str, float],
    class_names: Sequence[tuple[Path | str, str]],
    seed: int,
    group_of: Mapping[Path, str] | None = None,
) -> tuple[tuple[str, ...], list[str]]:
    """Cut the splits that are missing from train, in place, stratified by class.

    Args:
        files: The images of each split, by class.
        fractions: How much of train each split gets.
        class_names: For each class, its name in messages, and the name that seeds its cut.
        seed: Seeds the cut, too.
        group_of: Each image's group, where no group may be in two splits.

    Returns:
        The splits that were cut, and what is too little to be cut so.
    """
    cut = tuple(split for split in ("valid", "test") if split not in files)
    if group_of and cut:
        return cut, _cut_groups(files, {split: fractions[split] for split in cut}, group_of, seed)
    few: list[str] = []
    for split in cut:
        files[split] = []
    for index, (place, name) in enumerate(class_names if cut else ()):
        whole = files["train"][index]
        parts = _cut(whole, {split: fractions[split] for split in cut}, f"{seed}/{name}")
        if whole and not all(parts.values()):
            images = "1 image is" if len(whole) == 1 else f"{len(whole)} images are"
            few.append(
                f"{place}: {images} too few to cut {' and '.join(cut)} from;"
                f" expected at least {len(cut) + 1}, or a folder for each split"
            )
        files["train"][index] = parts["train"]
        for split in cut:
            files[split].append(parts[split])
    return cut, few


def _cut(paths: list[Path], fractions: dict[str, float], seed: str) -> dict[str, list[Path]]:
    shuffled = list(paths)
    random.Random(seed.encode("utf-8", "surrogateescape")).shuffle(shuffled)
    parts = {}
    for cut, (split, fraction) in enumerate(fractions.items(), 1):
        # one stays for train, and one for each cut to come
        spare = len(shuffled) - 1 - (len(fractions) - cut)
        count = min(max(1, round(len(paths) * fraction)), max(0, spare))
        parts[split], shuffled = sorted(shuffled[:count]), shuffled[count:]
    return {**parts, "train": sorted(shuffled)}


def _cut_groups(
    files: Files, fractions: Mapping[str, float], group_of: Mapping[Path, str], seed: int
) -> list[str]:
    """Cut splits from train, in place: no group in two of them, the classes as even as whole groups
    allow."""
    counts: dict[str, Counter[int]] = {}
    whole = files["train"]
    for label, paths in enumerate(whole):
        for path in paths:
            counts.setdefault(group_of[path], Counter())[label] += 1
    if len(counts) <= len(fractions):
        for split in fractions:
            files[split] = [[] for _ in whole]
        return [
            f"data.group: the training images are of {len(counts)} groups, too few to cut"
            f" {' and '.join(fractions)} from; expected at least {len(fractions) + 1}"
        ]
    split_of = spread(counts, fractions, seed)
    for split in ("train", *fractions):
        files[split] = [[] for _ in whole]
    for label, paths in enumerate(whole):
        for path in paths:
            files[split_of[group_of[path]]][label].append(path)
    return []


def spread(
    counts: Mapping[str, Counter[int]], fractions: Mapping[str, float], seed: int
) -> dict[str, str]:
    """Return the split of each group, `train` or one of those to cut; each has every class, if its
    groups are enough.

    Args:
        counts: How many images of each class a group has.
        fractions: The share of each split to cut.
        seed: Decides between groups alike.
    """
    shares = {"train": 1 - sum(fractions.values()), **fractions}
    split_of, totals = _spread(counts, shares, seed)
    labels = sorted({label for classes in counts.values() for label in classes})
    for split in shares:  # train before the others: a class without training images is worst
        for label in labels:
            if not totals[split][label]:
                _bring(label, split, counts, split_of, totals)
    return split_of


def spread_evenly(
    labels: Sequence[Sequence[int]], groups: Sequence[str], parts: int, seed: int
) -> dict[str, int]:
    """Return the part of each group, from 0, of parts with as many images of each class as whole
    groups allow.

    Args:
        labels: The labels of each image, at least one.
        groups: Of each image.
        parts: How many.
        seed: Decides between groups alike.
    """
    counts: dict[str, Counter[int]] = {}
    for own, group in zip(labels, groups, strict=True):
        counts.setdefault(group, Counter()).update(own)
    part_of, _ = _spread(counts, {str(part): 1 / parts for part in range(parts)}, seed)
    return {group: int(part) for group, part in part_of.items()}


def _spread(
    counts: Mapping[str, Counter[int]], shares: Mapping[str, float], seed: int
) -> tuple[dict[str, str], dict[str, Counter[int]]]:
    """Return the part of each group, and how many images of each class each part has then.

    Largest first, each group goes where it brings the numbers of each class nearest to their shares
    (the sum of squares over the share, as in a chi-squared test); of equal parts to the first.
    """
    total: Counter[int] = Counter()
    for classes in counts.values():
        total.update(classes)
    names = sorted(counts)
    random.Random(f"{seed}/groups").shuffle(names)
    names.sort(key=lambda name: -counts[name].total())  # keeps the shuffled order of those alike
    totals = {part: Counter[int]() for part in shares}
    part_of: dict[str, str] = {}

    def cost(part: str, name: str) -> float:
        return sum(
            count
            * (count - 2 * (shares[part] * total[label] - totals[part][label]))
            / (shares[part] * total[label])
            for label, count in counts[name].items()
        )

    for name in names:
        part_of[name] = min(shares, key=lambda part: cost(part, name))
        totals[part_of[name]].update(counts[name])
    return part_of, totals


def _bring(
    label: int,
    split: str,
    counts: Mapping[str, Counter[int]],
    split_of: dict[str, str],
    totals: Mapping[str, Counter[int]],
) -> None:
    """Move a small group with a class into a split that has none of it, if its own can spare it."""

    def spares(name: str) -> bool:
        if split == "train":
            return True
        train = totals["train"]
        return split_of[name] == "train" and all(
            train[each] > count for each, count in counts[name].items()
        )

    spare = [name for name, classes in counts.items() if classes[label] and spares(name)]
    if spare:
        name = min(spare, key=lambda name: (counts[name].total(), name))
        totals[split_of[name]].subtract(counts[name])
        totals[split].update(counts[name])
        split_of[name] = split
