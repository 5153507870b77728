"""Find labels that are probably wrong, from the predictions of a model that did not train on the
image, by confident learning."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
FOLDS = 5
_DECAY = 1e-3


def out_of_fold(
    features: torch.Tensor, labels: torch.Tensor, folds: int = FOLDS, seed: int = 0
) -> torch.Tensor:
    """Return each image's probabilities (n, classes), by a logistic regression on the other folds'
    features.

    Args:
        features: (n, width).
        labels: int64 (n,), every class at least once.
        folds: Each class is spread over them evenly.
        seed: Decides which image is in which.
    """
    fold, classes = stratified_folds(labels, folds, seed), int(labels.max()) + 1
    return out_of_fold_logits(features, labels, fold, classes, nn.functional.cross_entropy).softmax(
        1
    )


def stratified_folds(labels: torch.Tensor, folds: int, seed: int) -> torch.Tensor:
    """Return the fold of each image (n,), each class spread evenly.

    Args:
        labels: int64 (n,).
        folds: How many.
        seed: Decides which image is in which.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    by_class = order[torch.argsort(labels[order], stable=True)]
    fold = torch.empty(len(labels), dtype=torch.int64)
    fold[by_class] = torch.arange(len(labels)) % folds
    return fold


def out_of_fold_logits(
    features: torch.Tensor,
    targets: torch.Tensor,
    fold: torch.Tensor,
    classes: int,
    criterion: Criterion,
) -> torch.Tensor:
    """Return each image's logits (n, classes), by a regression on the other folds' features.

    Args:
        features: (n, width).
        targets: What the criterion takes, (n, ...).
        fold: Of each image, (n,).
        classes: Number of classes.
        criterion: The loss of logits and targets.
    """
    features = features.float()
    logits = torch.zeros(len(features), classes)
    for number in torch.unique(fold):
        inside = fold != number
        scaled = _scaled_by(features, features[inside])
        layer = _fit_regression(scaled[inside], targets[inside], classes, criterion)
        logits[~inside] = layer(scaled[~inside]).detach()
    return logits


def _scaled_by(features: torch.Tensor, some: torch.Tensor) -> torch.Tensor:
    """Standardize features (n, width) by the mean and deviation of some of them, (m, width), and
    divide them by the square root of the width."""
    mean, deviation = some.mean(0), some.std(0).clamp(min=1e-6)
    scaled: torch.Tensor = (features - mean) / deviation / features.shape[1] ** 0.5
    return scaled


def _fit_regression(
    features: torch.Tensor, targets: torch.Tensor, classes: int, criterion: Criterion
) -> nn.Linear:
    """Return the layer that minimizes a loss of its logits and the targets, plus a small L2 penalty
    on its weights."""
    layer = nn.Linear(features.shape[1], classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=40, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value: torch.Tensor = (
            criterion(layer(features), targets) + _DECAY * layer.weight.square().sum() / 2
        )
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return layer


def margins(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return how much more likely the given label is than the most likely other one (n,): the
    lower, the more suspect."""
    own = probabilities.gather(1, labels[:, None])[:, 0]
    others = probabilities.scatter(1, labels[:, None], -1.0).max(1).values
    return own - others


def can_judge(probabilities: torch.Tensor, labels: torch.Tensor) -> bool:
    """Return whether the probabilities separate the classes well enough to doubt a label: errors on
    classes that a model hardly knows are the model's, not the labels'.

    Their accuracy has to be at least halfway from that of always predicting the most frequent class
    to 1.
    """
    right = float((probabilities.argmax(1) == labels).float().mean())
    guessing = float(torch.bincount(labels).max()) / len(labels)
    return right >= (1 + guessing) / 2


def worth_a_look(probabilities: torch.Tensor, labels: torch.Tensor) -> list[int]:
    """Return the indices of images whose own class is not the most likely, the most suspect first;
    none where the probabilities are too often wrong themselves."""
    if not can_judge(probabilities, labels):
        return []
    apart = margins(probabilities, labels)
    return [index for index in apart.argsort(stable=True).tolist() if apart[index] < 0]


def suspects(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the indices of images whose label is probably wrong, the most suspect first.

    Confident learning (Northcutt et al. 2021): an image is counted for the most likely class whose
    probability is at least the average of the images with that label; an image is suspect if it is
    counted for another class than its own.
    """
    thresholds = torch.stack(
        [
            (
                probabilities[labels == label, label].mean()
                if bool((labels == label).any())
                else torch.tensor(2.0)
            )
            for label in range(probabilities.shape[1])
        ]
    )
    confident = probabilities >= thresholds
    counted_for = torch.where(confident, probabilities, -1.0).argmax(1)
    suspect = confident.any(1) & (counted_for != labels)
    indices = suspect.nonzero()[:, 0]
    return indices[margins(probabilities, labels)[indices].argsort(stable=True)]
