"""The test of a trained network: its checkpoint, its temperature, and how good it is on images that
decided nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from breedlab.config import Config
from breedlab.config.sections import Monitor
from breedlab.console import note, progress
from breedlab.data.image_set import ImageSet
from breedlab.data.layout import listed
from breedlab.data.module import ImageData
from breedlab.evaluation import multi_label
from breedlab.evaluation.answers import ScoredImages
from breedlab.evaluation.calibration import FEWEST_IMAGES, calibrating_temperature
from breedlab.evaluation.figures import logged
from breedlab.models.classifier import Classifier
from breedlab.pipeline import flip_tta, weight_averaging
from breedlab.serving.engine_output import mirrored
from breedlab.training.checkpoints import of_classifier, read_checkpoint
from breedlab.training.context import TrainingContext
from breedlab.training.evaluation import Evaluation, evaluate
from breedlab.training.inference import ValidationPass, logits_of, validation_pass
from breedlab.training.label_evaluation import LabelEvaluation, evaluate_labels
from breedlab.training.precision import autocast

HeldOut = tuple[torch.Tensor, torch.Tensor]
"""Probabilities (n, classes) and labels (n,) of images that a network was not trained on."""


@dataclass(frozen=True)
class FinalTest:
    """The test's results.

    Attributes:
        evaluation: On the test images.
        checkpoint: The file with the tested weights.
        decisions: What validation decided about answers: `temperature`, or for multi-label data
            the `thresholds`; and `flip_tta` if `serving.flip_tta` is set.
        validation: Of the weights that validation chose, without mirror images.
        valid_features: Of the tested network on the validation images, (n, width); None where they
            have to be computed for it.
        held_out: Probabilities and labels of validation by the network before a refit; None without
            a refit, and for multi-label data.
        flip_tta: What `serving.flip_tta` gains and costs; None without it.
        refit: Whether the tested network was trained on validation, too.
    """

    evaluation: Evaluation | LabelEvaluation
    checkpoint: Path
    decisions: dict[str, Any]
    validation: ValidationPass
    valid_features: torch.Tensor | None
    held_out: HeldOut | None = None
    flip_tta: dict[str, Any] | None = None
    refit: bool = False

    def monitored(self, monitor: Monitor, value: float) -> dict[str, Any]:
        """Return for metrics.json the 95% interval of the monitored metric on validation, and say
        it where it was not said after training, as that of a rate was; empty if it is not known."""
        scores = ScoredImages(monitor.metric.removeprefix("valid/"), monitor)
        scores.update(self.validation.logits, self.validation.labels)
        ends = scores.interval(value)
        if ends is None:
            return {}
        if not scores.is_rate:
            note(f"{monitor.metric} {logged(value, ends)}")
        return {"interval": [*ends]}


def final_test(
    context: TrainingContext,
    classifier: Classifier,
    config: Config,
    data: ImageData,
    folder: Path,
) -> FinalTest:
    """Test the weights that validation chose, or their refit, and leave them in the classifier.

    Args:
        context: Of the run.
        classifier: As `context` made it.
        config: Of its training.
        data: The images.
        folder: Where the checkpoints are.
    """
    checkpoint = weight_averaging.weights(folder)
    load_checkpoint(classifier, checkpoint)
    with progress(
        "predicting validation" if config.data.multi_label else "calibrating on validation"
    ):
        validation = passed = validation_pass(context, classifier, config)
        if config.serving.flip_tta:
            mirror_images = flip_tta.logits_of_mirror_images(context, classifier, data)
            validation = replace(validation, logits=(validation.logits + mirror_images) / 2)
    decisions: dict[str, Any] = (
        _thresholds(validation, context.classes)
        if config.data.multi_label
        else {"temperature": _temperature(validation)}
    )
    if config.serving.flip_tta:
        decisions["flip_tta"] = True
    features, held_out = validation.features, None
    if config.trainer.refit:
        if not config.data.multi_label:
            # the refit has seen the validation images, and is more confident about them than others
            held_out = (
                (validation.logits / decisions["temperature"]).softmax(1),
                validation.labels,
            )
        checkpoint = folder / "refit.ckpt"
        load_checkpoint(classifier, checkpoint)
        if classifier.freeze != "backbone":
            features = None
    evaluation = measure(context, classifier, data, decisions, config.monitor)
    gained = _gained(context, classifier, config, data, decisions, evaluation)
    return FinalTest(
        evaluation, checkpoint, decisions, passed, features, held_out, gained, config.trainer.refit
    )


def _gained(
    context: TrainingContext,
    classifier: Classifier,
    config: Config,
    data: ImageData,
    decisions: Mapping[str, Any],
    evaluation: Evaluation | LabelEvaluation,
) -> dict[str, Any] | None:
    """Return what mirror images gain and cost; None without `serving.flip_tta`."""
    if not config.serving.flip_tta:
        return None
    metric = "map" if config.data.multi_label else "top1"
    without = measure(context, classifier, data, {**decisions, "flip_tta": False}, config.monitor)
    return flip_tta.report(context, classifier, data, metric, without, evaluation)


def _thresholds(validation: ValidationPass, classes: Sequence[str]) -> dict[str, Any]:
    """Return the thresholds from which images are given labels, by the best F1 on validation."""
    probabilities, targets = validation.logits.double().sigmoid().numpy(), validation.labels.numpy()
    if unseen := multi_label.unseen(targets, classes):
        note(
            f"validation has no image of {listed(unseen)}: the threshold stays"
            f" {multi_label.UNDECIDED:g}"
        )
    thresholds = multi_label.best_thresholds(probabilities, targets)
    note(
        f"each class has the threshold of its best F1 on {len(targets)} validation images, from"
        f" {min(thresholds):.2f} to {max(thresholds):.2f}"
    )
    return {"temperature": 1.0, "thresholds": thresholds}


def _temperature(validation: ValidationPass) -> float:
    """Return the temperature that calibrates the network on validation; 1 if there are too few
    images, or if they do not show that another one helps."""
    images = len(validation.labels)
    if images < FEWEST_IMAGES:
        note(
            f"scores are not calibrated: that takes at least {FEWEST_IMAGES} validation images,"
            f" and there are {images}"
        )
        return 1.0
    temperature, fitted = calibrating_temperature(validation.logits, validation.labels)
    if temperature == 1.0:
        note(
            f"scores are not calibrated: {images} validation images do not show that a"
            f" temperature of {fitted:.2f} helps"
        )
    return temperature


def measure(
    context: TrainingContext,
    classifier: Classifier,
    data: ImageData,
    decisions: Mapping[str, Any] = MappingProxyType({}),
    monitor: Monitor | None = None,
) -> Evaluation | LabelEvaluation:
    """Return how good a classifier is on the test images.

    Args:
        context: Of the run.
        classifier: Of the weights to test.
        data: The images.
        decisions: What validation decided; without it scores are taken as they are.
        monitor: Where metrics that have settings find them; the defaults without it.
    """
    total = len(data.images.splits["test"])
    scores, batches = logits_of(context, classifier), data.test_dataloader()
    if decisions.get("flip_tta"):
        scores = mirrored(scores)
    with progress("testing") as report, autocast(context.device, context.precision):
        if data.images.multi_label:
            return evaluate_labels(
                scores,
                batches,
                context.classes,
                total=total,
                progress=report,
                monitor=monitor,
                thresholds=decisions.get("thresholds")
                or [multi_label.UNDECIDED] * len(context.classes),
            )
        evaluation = evaluate(
            scores,
            batches,
            context.classes,
            total=total,
            progress=report,
            monitor=monitor,
            temperature=decisions.get("temperature", 1.0),
        )
    return replace(evaluation, most_frequent_class=most_frequent_class(data.images))


def most_frequent_class(images: ImageSet) -> str:
    """Return the class with the most training images, the first of ties."""
    counts = images.counts("train")
    return images.classes[counts.index(max(counts))]


def load_checkpoint(classifier: Classifier, path: Path) -> None:
    """Put a Lightning checkpoint's weights into a classifier; the checkpoint is read as plain
    data."""
    classifier.load_state_dict(of_classifier(read_checkpoint(path)["state_dict"]))
