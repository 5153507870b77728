"""What a trained classifier gives for images, computed as its training computed it: logits and
features."""

from __future__ import annotations

from collections.abc import Callable

import torch

from breedlab.config import Config
from breedlab.models.classifier import Classifier
from breedlab.training.engine_choice import EAGER
from breedlab.training.precision import autocast
from breedlab.training.prepare import Prepared


def logits_of(prepared: Prepared, classifier: Classifier) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what gives a trained classifier's logits (n, classes) on the CPU, its frozen part by
    the run's engine."""
    network = classifier.to(prepared.device).eval()
    choice = None
    if classifier.freeze != "none":
        choice = prepared.engines.recorded(classifier.freeze)
    if choice is None or choice.engine == EAGER:
        return lambda images: network(images.to(prepared.device)).float().cpu()
    _, engine = prepared.engines.engine_or_eager(classifier, choice)
    tail = classifier.tail().eval()
    return lambda images: tail(engine(images).to(prepared.device)).float().cpu()


@torch.no_grad()
def features(
    prepared: Prepared, classifier: Classifier, config: Config, split: str, indices: torch.Tensor
) -> torch.Tensor:
    """Return what a trained classifier's head gets of some images of `train` or `valid`, as
    training left it."""
    if classifier.freeze == "backbone":
        activations = prepared.activations(classifier, config)
        if activations is not None:
            rows = activations.train[0] if split == "train" else activations.valid
            return rows[indices].float()
    network = classifier.to(prepared.device).eval()
    loader = prepared.data(config).view_dataloader(split, 0, indices=indices.tolist())
    with autocast(prepared.device, prepared.precision):
        batches = [
            network.backbone(network.normalised(images.to(prepared.device))) for images, _ in loader
        ]
    return torch.cat([batch.float().cpu() for batch in batches])


@torch.no_grad()
def validation_logits(
    prepared: Prepared, classifier: Classifier, config: Config
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a trained classifier's logits (n, classes) on the validation images, and their labels
    (n,)."""
    classifier.to(prepared.device).eval()
    activations = prepared.activations(classifier, config)
    if activations is None:
        logits, data = logits_of(prepared, classifier), prepared.live_data(config)
        with autocast(prepared.device, prepared.precision):
            rows = [logits(images) for images, _ in data.view_dataloader("valid", 0)]
        return torch.cat(rows), data.labels("valid")
    tail = classifier.tail().eval()
    with autocast(prepared.device, prepared.precision):
        rows = [
            tail(inputs.to(prepared.device)).float().cpu()
            for inputs, _ in activations.valid_batches()
        ]
    return torch.cat(rows), activations.valid_labels
