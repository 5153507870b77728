"""The class folders of a split: their images, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from breedlab.commands import command
from breedlab.data import formats
from breedlab.data.layout import listed
from breedlab.data.listing import Leftovers, find_images, is_litter, loose_images, subfolders
from breedlab.errors import LayoutError
from breedlab.names import composed, printable, unprintable


def read_class_folders(
    folder: Path, leftovers: Leftovers, ignore: Sequence[str]
) -> dict[str, tuple[str, list[Path], str]]:
    """Return for each class its folder's name, its images and what else is in there; NFC and NFD
    are one class."""
    ignored = {composed(name) for name in ignore}
    classes: dict[str, tuple[str, list[Path], str]] = {}
    for entry in subfolders(folder, leftovers):
        name = composed(entry.name)
        if name in ignored:
            continue
        own = Leftovers()
        images = find_images(entry, own)
        leftovers.litter += own.litter
        leftovers.endings += own.endings
        first, others, unread = classes.get(name, (entry.name, [], ""))
        classes[name] = (first, sorted([*others, *images]), unread or own.unread())
    if loose := loose_images(folder):
        leftovers.loose[folder.name] += loose
    for entry in folder.iterdir():
        # Photos, too, but of a format that is not read here.
        if formats.hint([entry.suffix.lower()]) and not is_litter(entry.name):
            leftovers.endings[entry.suffix.lower()] += 1
    return classes


def folders_in_classes(
    folder: Path, classes: dict[str, tuple[str, list[Path], str]]
) -> tuple[str, ...]:
    """Return a line about folders that may have been meant as classes, since the class folders hold
    nothing else."""
    inside = []
    for own, images, _ in classes.values():
        if images and not loose_images(folder / own):
            inside += [f"{own}/{entry.name}" for entry in subfolders(folder / own)]
    if len(inside) < 2:
        return ()
    return (
        f"folders in class folders are not classes of their own: {listed(inside, 4)}; if they"
        " should be, move them up",
    )


def refuse_unlabeled(root: Path, folders: dict[str, Path]) -> None:
    """Refuse a split of images without class folders, which is what competitions give for a
    test."""
    for split, folder in folders.items():
        count = loose_images(folder)
        if split == "train" or not count or subfolders(folder):
            continue
        raise LayoutError(
            f"{folder}: holds {count:,} images and no class folders; without labels they cannot"
            f" {_PURPOSE[split]}. {_leaving_out(split, folder, root)}; the trained model labels"
            f" them: {command('predict', 'runs/latest', folder)}"
        )


def _leaving_out(split: str, folder: Path, root: Path) -> str:
    top = folder.relative_to(root).parts[0]
    return f"Leave it out with data.ignore=[{top}], and a {split} split is cut from train"


_PURPOSE = {"train": "train a model", "valid": "choose a model", "test": "test a model"}


def bad_names(
    classes_by_split: dict[str, dict[str, tuple[str, list[Path], str]]], folders: dict[str, Path]
) -> Iterator[str]:
    """Say which class names cannot go into a model's archive, its answers and its reports."""
    for split, classes in classes_by_split.items():
        for name in classes:
            if wrong := unprintable(name):
                yield (
                    f"{folders[split]}: the name of the class folder '{printable(name)}' {wrong};"
                    f" rename it{_likely_name(name)}"
                )


def _likely_name(name: str) -> str:
    """Return what a name in no UTF-8 probably was meant to be, as a hint."""
    try:
        guess = name.encode("utf-8", "surrogateescape").decode("cp1252")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return ""
    return f" (in Windows' cp1252 it reads {guess})" if unprintable(guess) is None else ""


def disagreements(
    by_split: dict[str, dict[str, list[Path]]], folders: dict[str, Path], root: Path
) -> Iterator[str]:
    """Say which splits hold classes that train does not have, or nothing that their purpose needs.

    A split that only lacks some, as one of a long tail does, is fine; the check warns of it.
    """
    train = set(by_split["train"])
    train_names = {name.casefold() for name in train}
    wrong = []
    for split, classes in by_split.items():
        count = sum(map(len, classes.values()))
        if not count or train_names.isdisjoint(name.casefold() for name in classes):
            # `test/unknown/1.jpg` or `test/test/1.jpg`, which is how loaders are made to read them
            folders_of = (
                f"{count:,} images in {listed(sorted(classes))}, not in a class of train"
                if count
                else "no images"
            )
            yield (
                f"{folders[split]}: holds {folders_of}, and cannot {_PURPOSE[split]}."
                f" {_leaving_out(split, folders[split], root)}"
            )
            continue
        if extra := sorted(set(classes) - train):
            wrong.append(
                f"{folders[split]} has {listed(extra)}, which {folders['train']} does not have"
            )
            if missing := sorted(train - set(classes)):
                wrong.append(f"{folders[split]} is missing {listed(missing)}")
    if wrong:
        yield "the splits hold different classes; expected those of train in each:"
        yield from (f"  {text}" for text in wrong)
