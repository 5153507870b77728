"""The images of a run, fetched where they have to be, and each of them looked at once."""

from __future__ import annotations

from pathlib import Path

from breedlab.config import Config
from breedlab.console import note, progress, warn
from breedlab.data.check import BALANCE_HINT, KEEP_ONE, Report, check
from breedlab.data.folders import first_few
from breedlab.data.source import obtain


def checked_images(config: Config) -> Report:
    """Fetch the images if needed and read every file once.

    Raises:
        DataError: If they are missing, broken or inconsistent.
    """
    images = obtain(config)
    counts = ", ".join(f"{len(own):,} {split}" for split, own in images.splits.items())
    note(config.conceal(f"{images.root}: {len(images.classes)} classes; {counts}"))
    for text in images.notes:
        note(config.conceal(text))
    with progress("checking images") as update:
        report = check(
            images,
            Path(config.cache.dir, "checks"),
            on_bad_file=config.data.on_bad_file,
            progress=update,
        )
    for findings in (
        report.bad,
        report.conflicts,
        report.leaks,
    ):  # the run's splits.json has them all
        for text in first_few(
            [f"left out: {finding.path} {finding.reason}" for finding in findings]
        ):
            warn(config.conceal(text))
    if report.conflicts:
        note(KEEP_ONE)
    if report.bad or report.conflicts or report.leaks:
        note(
            "left: "
            + ", ".join(f"{len(own):,} {split}" for split, own in report.images.splits.items())
        )
    for text in report.warnings:
        balanced = (
            "balanced" in (config.data.class_weights, config.data.sampling)
            or config.optim.loss == "logit_adjusted"
        )
        warn(config.conceal(text.removesuffix(BALANCE_HINT) if balanced else text))
    return report
