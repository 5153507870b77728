"""The whole check of a folder of images before anything is trained on it: its files, and what the
features of a frozen backbone show."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from breedlab import hardware
from breedlab.config import validate
from breedlab.config.compose import load
from breedlab.config.data_rules import PLAIN_VIEWS
from breedlab.config.setting import as_yaml
from breedlab.console import note, progress, warn
from breedlab.data.check import Report
from breedlab.data.fixes import COPY_OF
from breedlab.data.folders import SPLITS
from breedlab.data.image_set import ImageSet
from breedlab.pipeline.proposal import propose
from breedlab.pipeline.suspects import Suspects, find_suspects, listed_rows, rows_of_files

_FROZEN = (
    "model.freeze=backbone",
    "cache.mode=auto",
    *(f"{path}={as_yaml(value)}" for path, value in PLAIN_VIEWS.items()),
    "data.mixup=0",
    "data.cutmix=0",
    "trainer.probe_epochs=0",
    "data.on_bad_file=skip",
)
"""What the pass over the images needs, whatever the words say of the training: the features of each
image as a whole."""


def by_features(root: Path, report: Report, words: Sequence[str]) -> Suspects | None:
    """Return what the features of a frozen backbone show of all usable images; None, with a note,
    where there are none.

    The backbone is that of the training that suits the folder, which finds the features in its
    cache.

    Args:
        root: The folder.
        report: What the check of its files found.
        words: The user's overrides.

    Raises:
        BreedlabError: If a word does not suit the folder, or the backbone is not available.
    """
    splits = [split for split in SPLITS if report.images.splits[split]]
    if "train" not in splits or len(report.images.splits["train"]) < 2:
        note("no features: there are too few usable training images")
        return None
    proposal = propose(root, report, words, gpu=False)
    config = validate(load([*proposal.words, *words, *_FROZEN]))
    hardware.heed()
    with progress("loading PyTorch"):
        from breedlab.training.preparation import prepare
        from breedlab.training.start_checks import concerns

        context = prepare(config, report)
    note(config.conceal(f"{config.model.name}, weights {config.model.weights}, frozen"))
    for text in concerns(context):
        warn(text)
    features = context.features(config, splits)
    if features is None:
        return None
    return find_suspects(features, report.images, splits, config.seed)


def rows(
    images: ImageSet, report: Report, suspects: Suspects | None
) -> Iterator[dict[str, object]]:
    """Yield the rows of a list of fixes: files that cannot be used, then what `listed_rows` yields,
    then copies that a cut put into two splits, which are used once.

    Args:
        images: All of the folder.
        report: What the check of their files found.
        suspects: By the features; None without them.
    """
    faults = (*report.bad, *report.conflicts, *report.shared)
    yield from rows_of_files(((fault.path, fault.reason) for fault in faults), images)
    yield from listed_rows(images, report, suspects)
    # which cost nothing where they are, but should be known
    for leak in report.leaks:
        if leak.own_cut and leak.copy_of is not None:
            why = f"{COPY_OF}{os.path.relpath(leak.copy_of, images.root)}"
            yield from rows_of_files([(leak.path, why)], images)
