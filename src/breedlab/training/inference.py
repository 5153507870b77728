"""What a trained classifier gives for images, computed as its training computed it: logits and
features."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import nn

from breedlab.config import Config
from breedlab.models.classifier import Classifier
from breedlab.training.context import TrainingContext
from breedlab.training.engine_choice import EAGER
from breedlab.training.feature_engines import BATCH
from breedlab.training.precision import autocast

ToFeatures = Callable[[torch.Tensor], torch.Tensor]
"""From images or activations to what a head gets."""


def logits_of(
    context: TrainingContext, classifier: Classifier
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what gives a trained classifier's logits (n, classes) on the CPU, its frozen part by
    the run's engine."""
    network = classifier.to(context.device).eval()
    choice = None
    if classifier.freeze != "none":
        choice = context.engines.recorded(classifier.freeze)
    if choice is None or choice.engine == EAGER:
        return lambda images: network(images.to(context.device)).float().cpu()
    _, engine = context.engines.engine_or_eager(classifier, choice)
    tail = classifier.tail().eval()
    return lambda images: tail(engine(images).to(context.device)).float().cpu()


@torch.no_grad()
def features(
    context: TrainingContext,
    classifier: Classifier,
    config: Config,
    split: str,
    indices: torch.Tensor,
) -> torch.Tensor:
    """Return what a trained classifier's head gets of some images of `train` or `valid`, as
    training left it."""
    network = classifier.to(context.device).eval()
    activations = context.activations(classifier, config)
    if activations is not None:
        rows = activations.train[0] if split == "train" else activations.valid
        batches: Iterable[torch.Tensor] = (
            rows[part].float() for part in torch.split(indices, BATCH)
        )
        to_features = _rest(network)
    else:
        loader = context.data(config).view_dataloader(split, 0, indices=indices.tolist())
        batches, to_features = (images for images, _ in loader), _eager(network)
    with autocast(context.device, context.precision):
        computed = [to_features(batch.to(context.device)).float().cpu() for batch in batches]
    return torch.cat(computed)


@dataclass(frozen=True)
class ValidationPass:
    """What a trained classifier gives for the validation images, in one pass over them.

    Attributes:
        logits: (n, classes), on the CPU.
        labels: (n,).
        features: What its head gets, (n, width); None where that is no vector an image.
    """

    logits: torch.Tensor
    labels: torch.Tensor
    features: torch.Tensor | None


@torch.no_grad()
def validation_pass(
    context: TrainingContext, classifier: Classifier, config: Config
) -> ValidationPass:
    """Pass the validation images, or their cached activations, through a trained classifier
    once."""
    network = classifier.to(context.device).eval()
    activations = context.activations(classifier, config)
    if activations is not None:
        batches: Iterable[tuple[torch.Tensor, torch.Tensor]] = activations.valid_batches()
        labels, to_features = activations.valid_labels, _rest(network)
    else:
        data = context.live_data(config)
        batches, labels = data.view_dataloader("valid", 0), data.labels("valid")
        to_features = _features_of_images(context, network)
    features, logits = [], []
    with autocast(context.device, context.precision):
        for inputs, _ in batches:
            rows = to_features(inputs.to(context.device))
            logits.append(network.head(rows).float().cpu())
            if rows.ndim == 2:
                features.append(rows.float().cpu())
    return ValidationPass(torch.cat(logits), labels, torch.cat(features) if features else None)


def _features_of_images(context: TrainingContext, network: Classifier) -> ToFeatures:
    """Return what gives the head's input for images, the frozen part by the run's engine."""
    choice = None
    if network.freeze != "none":
        choice = context.engines.recorded(network.freeze)
    if choice is None or choice.engine == EAGER:
        return _eager(network)
    _, engine = context.engines.engine_or_eager(network, choice)
    rest = _rest(network)
    return lambda images: rest(engine(images.cpu()).to(context.device))


def _eager(network: Classifier) -> ToFeatures:
    """Return PyTorch's own way from images to the head's input."""
    return lambda images: network.backbone(network.normalized(images))


def _rest(network: Classifier) -> ToFeatures:
    """Return what leads from the boundary's activations to the head's input."""
    if network.freeze == "backbone":
        return lambda activations: activations
    tail = network.tail().eval()
    assert isinstance(tail, nn.Sequential)
    return tail[0]
