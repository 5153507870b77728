"""Whether a network rebuilt from an archive's files answers what the trained network answers."""

from __future__ import annotations

from pathlib import Path

import torch

from breedlab.errors import TrainingError
from breedlab.models.classifier import Classifier
from breedlab.serving.engine_kinds import EAGER
from breedlab.serving.model import Model

_FAR = 2e-3
"""The largest difference of two logits, as a share of the largest logit, that rounding explains."""


def refuse_another_network(
    folder: Path, classifier: Classifier, images: torch.Tensor, checkpoint: Path
) -> None:
    """Raise unless an archive's content makes exactly the network that was trained.

    What no file of weights holds (an attribute, a default that changed, a buffer that is not saved)
    shows here alone.

    Args:
        folder: From `write_folder`.
        classifier: What was trained and tested.
        images: Real ones, as the network takes them, uint8 (n, 3, side, side).
        checkpoint: Where the trained weights are, for the message.

    Raises:
        TrainingError: If any logit differs by more than rounding, or is NaN.
    """
    device = next(classifier.parameters()).device
    rebuilt = Model(folder, device, EAGER).network
    with torch.no_grad():
        trained = classifier.eval()(images.to(device)).float().cpu()
        served = rebuilt(images.to(device)).float().cpu()
    if not bool(torch.isfinite(trained).all()):
        raise TrainingError(
            "export: the trained network answers NaN or infinity on validation images; nothing is"
            " exported"
        )
    largest = float((trained - served).abs().max())
    if largest <= _FAR * max(float(trained.abs().max()), 1e-3):
        return
    alike = float((trained.argmax(1) == served.argmax(1)).float().mean())
    raise TrainingError(
        f"export: the archive does not answer what the trained network answers: on {len(images)}"
        f" validation images their logits differ by up to {largest:.3g} (of"
        f" {float(trained.abs().max()):.3g}), and {alike:.0%} get the same class."
        f" {classifier.architecture.name} keeps something that its weights do not hold. No archive"
        f" is written; the trained weights are in {checkpoint}"
    )
