"""For `breedlab DIR`: what is in a folder of images, which experiment suits it, and about how long
that takes."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from breedlab import extras, hardware
from breedlab.commands import command
from breedlab.config import Config, search_space, trial_count, validate
from breedlab.config.compose import load
from breedlab.config.yaml_folders import literally
from breedlab.console import stage
from breedlab.data.check import KEEP_ONE, Report
from breedlab.data.fixes import apply_fixes
from breedlab.data.folders import FEW, SPLITS, listed, splitting, survey
from breedlab.data.image_set import ImageSet
from breedlab.data.label_cells import SeveralLabels
from breedlab.errors import DataError, UsageError
from breedlab.files import why_no_folder
from breedlab.names import counted, printable

ENOUGH_TO_FINE_TUNE = 1000
"""Training images from which on every layer is trained, where a GPU makes that quick."""
ENOUGH_TO_SEARCH = 30
"""Validation images below which trials differ only by chance, so that a search would follow
chance."""
_IMBALANCE = 10
_START_SECONDS, _EXPORT_SECONDS = 15.0, 25.0
"""Seconds that every run takes: loading libraries, timing engines, converting, the report. Measured
on two cores."""
_HEAD_STEP_SECONDS = 0.004
"""For a training step of a head on cached activations, with its share of validation."""
_BRANDS = {"resnet34": "ResNet34", "timm/tf_efficientnet_lite0": "EfficientNet-Lite0"}
_BACKWARD = 3
"""A training step of all layers takes this many times its forward pass."""


@dataclass(frozen=True)
class Proposal:
    """An experiment for a folder.

    Attributes:
        words: Overrides that say all of it.
        reasons: What in the data made it this one.
    """

    words: tuple[str, ...]
    reasons: tuple[str, ...]


def propose(root: Path, report: Report, own: Sequence[str] = (), *, gpu: bool) -> Proposal:
    """Return the experiment that suits the images of a folder.

    Args:
        root: The folder.
        report: What the check found.
        own: The user's overrides. What they decide is not proposed.
        gpu: Whether training has one.
    """
    images = report.images
    decided = {word.lstrip("+~").partition("=")[0] for word in own}
    words, reasons = [f"name={_name_of(root)}"], []
    if "experiment" not in decided:
        words.insert(0, f"experiment={_experiment(images, gpu)}")
        if not decided & {"model", "model.name", "model.weights"} and extras.has("pretrained"):
            words.append("model=efficientnet_lite0")
    if not extras.has("debugger") and "debugger" not in {path.split(".")[0] for path in decided}:
        words.append("debugger=none")
    if images.multi_label:
        reasons.append("the data is multi-label: data=multi_label; the best model is chosen by mAP")
    kind = "multi_label" if images.multi_label else "image_folder"
    words += [f"data={kind}", f"data.root={literally(str(root))}"]
    if report.bad or report.conflicts or report.leaks:
        words.append("data.on_bad_file=skip")
        reasons.append("files that cannot be used are left out")
    counts = [count for count in images.counts("train") if count]
    if max(counts) >= _IMBALANCE * min(counts):
        words.append("data.class_weights=balanced")
        reasons.append("imbalanced classes: the loss weights rare ones higher")
        if not images.multi_label:
            # By accuracy, always predicting the most frequent class is almost the best.
            words.append("monitor.metric=valid/f1")
            reasons.append("the best model is chosen by macro F1, which counts all classes equally")
    return Proposal(tuple(words), tuple(reasons))


def _experiment(images: ImageSet, gpu: bool) -> str:
    """Return the name of the experiment that suits a folder."""
    if gpu and len(images.splits["train"]) >= ENOUGH_TO_FINE_TUNE:
        return "resnet34_finetune"
    return "resnet34_hpo" if len(images.splits["valid"]) >= ENOUGH_TO_SEARCH else "resnet34"


def how_it_trains(config: Config, images: ImageSet, *, gpu: bool) -> Iterator[str]:
    """Yield lines on what trains and why, with the user's overrides counted in."""
    from breedlab.models.backbone import is_path

    train, valid = len(images.splits["train"]), len(images.splits["valid"])
    name = _BRANDS.get(config.model.name, config.model.name)
    if config.model.freeze == "none":
        why = f": a GPU and {train:,} training images" if gpu else ""
        yield f"every layer is trained{why}"
    else:
        why = f"{train:,} training images" if gpu else "no GPU"
        search = "; a search tunes the training of its head" if trial_count(config) else ""
        yield f"{why}: the backbone stays frozen{search}"
    if not trial_count(config) and valid < ENOUGH_TO_SEARCH:
        yield f"no search: {counted(valid, 'validation image')} could not tell trials apart"
    if config.model.weights.startswith("package:"):
        yield f"{name}: its ImageNet weights are installed"
    elif config.model.weights != "none" and not is_path(config.model.weights):
        size = " (87 MB)" if config.model.name == "resnet34" else ""
        yield f"{name}: its ImageNet weights{size} are downloaded once"


def look(root: Path, words: Sequence[str]) -> tuple[Config, ImageSet]:
    """Read a folder; return what is asked for of it, and its images, with `data.fixes` applied.

    What the words say of the data counts before anything is read: `data.ignore`, `data.labels`,
    `seed`.

    Args:
        root: The folder.
        words: The user's overrides.

    Raises:
        BreedlabError: If a word is not a setting, or the folder cannot be understood.
    """
    if not root.is_dir():
        raise DataError(
            f"data.root: {root} {why_no_folder(root)}; expected a folder of labeled images: class"
            " folders, or images beside a file such as labels.csv"
        )
    if other := next((w for w in words if w.lstrip("+~").startswith("data.root=")), None):
        raise UsageError(f"{other}: the images are those of {root}; name one folder only")
    kind = "multi_label" if "data.multi_label=true" in words else "image_folder"
    base = ["experiment=resnet34", f"data={kind}", "name=images", "data.root=."]
    requested = validate(load([*base, *words]))
    stage(f"Looking at {root}")
    how = splitting(requested)
    try:
        images = survey(root, **how)
    except SeveralLabels:  # which the proposal says
        how["multi"] = True
        images = survey(root, **how)
    if requested.data.fixes is not None:
        images = apply_fixes(images, Path(requested.data.fixes))
    return requested, images


def describe(images: ImageSet, report: Report) -> Iterator[str]:
    """Yield lines on a folder: its layout, classes and splits, and what is wrong with it."""
    yield from describe_layout(images)
    for title, findings in (
        ("broken", report.bad),
        ("in two classes", report.conflicts),
        ("in two splits", report.leaks),
    ):
        if findings:
            first = findings[0]
            yield printable(
                f"problem   {len(findings):,} {title}, left out; the first: {first.path}"
                f" {first.reason}"
            )
    if report.conflicts:
        yield f"          {KEEP_ONE}"
    for text in report.warnings:
        yield f"problem   {printable(text)}"
    if report.warnings or report.stops:
        listing = command("check", shlex.quote(str(images.root)))
        yield f"          to list all of it, and what a network finds: {listing}"


def describe_layout(images: ImageSet) -> Iterator[str]:
    """Yield lines on a folder's layout, classes, and splits."""
    yield f"layout    {_layout(images)}"
    yield f"classes   {len(images.classes)}: {listed(images.classes, FEW)}"
    counts = ", ".join(f"{len(images.splits[split]):,} {split}" for split in SPLITS)
    cut = f" ({' and '.join(images.cut)} cut from train, stratified)" if images.cut else ""
    yield f"images    {counts}{cut}"
    for text in images.notes:
        yield f"          {text}"


def _layout(images: ImageSet) -> str:
    if images.label_files:
        return (
            "images labeled by"
            f" {listed([str(file.relative_to(images.root)) for file in images.label_files])}"
        )
    tops: dict[str, None] = {}  # in order, each once
    for split in SPLITS:
        if split not in images.cut:
            for image in images.splits[split]:
                tops[image.path.relative_to(images.root).parts[0]] = None
    if len(images.cut) == 2 and len(tops) > 1:
        return "class folders at the top"
    return f"class folders in {listed(list(tops))}"


def _name_of(root: Path) -> str:
    """Return a folder's name as an experiment may be called."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", root.resolve().name).strip("_.-")
    return name or "images"


def estimate(config: Config, report: Report, *, gpu: bool) -> float:
    """Return about how many seconds an experiment takes here, after timing a few of its images.

    Args:
        config: The experiment's.
        report: What the check found.
        gpu: Whether training has one.
    """
    counts = {split: len(report.images.splits[split]) for split in SPLITS}
    loading, forward = _seconds_of_an_image(config, report, gpu)
    view = max(loading / hardware.available(), forward)
    seconds = _START_SECONDS + _EXPORT_SECONDS
    # Each engine that the export times predicts the validation images again.
    seconds += view * (2 * counts["valid"] + counts["test"])
    if config.tuner.minutes:
        return seconds + 60 * config.tuner.minutes
    epochs = config.trainer.max_epochs + trial_count(config) * config.tuner.max_epochs
    if config.model.freeze == "none":
        step = max(loading / hardware.available(), _BACKWARD * forward)
        seconds += epochs * (counts["train"] * step + counts["valid"] * view)
        seconds += counts["train"] * view * min(1, config.trainer.probe_epochs)
        return seconds
    smallest = config.data.batch_size if "data.batch_size" not in search_space(config) else 32
    steps = max(1, counts["train"] // smallest)
    return (
        seconds + view * config.cache.views * counts["train"] + epochs * steps * _HEAD_STEP_SECONDS
    )


def _seconds_of_an_image(config: Config, report: Report, gpu: bool) -> tuple[float, float]:
    """Return how long one core takes to load an image, and the network for its forward pass."""
    import torch

    from breedlab.data.decode import decode, read_image
    from breedlab.models import backbone as backbones

    extras.require_backbone(config.model.name, config.model.weights)
    hardware.heed()
    train = report.images.splits["train"]
    some = train[:: max(1, len(train) // 16)][:16]
    started = time.perf_counter()
    for image in some:
        decode(read_image(image.path))
    loading = (time.perf_counter() - started) / len(some)
    device = torch.device("cuda" if gpu else "cpu")
    backbone = backbones.build(config.model.name, "none")
    side = backbone.pretraining.crop if config.data.image_size == "auto" else config.data.image_size
    network = backbone.network.eval().to(device)
    images = torch.zeros(8, 3, side, side, device=device).contiguous(
        memory_format=torch.channels_last
    )
    best = float("inf")
    with torch.no_grad():
        for _ in range(3):  # the first is slower: libraries choose their algorithms
            started = time.perf_counter()
            network(images).sum().item()
            best = min(best, time.perf_counter() - started)
    return loading, best / len(images)


def in_words(seconds: float) -> str:
    """Return a time as a person says it of a guess: `about 3 minutes`."""
    if seconds < 90:
        return "about a minute"
    if seconds < 5400:
        return f"about {round(seconds / 60)} minutes"
    return f"about {seconds / 3600:.1f} hours"
