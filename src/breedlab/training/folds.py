"""Cross-validation on cached features (`tuner.folds`): a trial is judged by all images of train and
validation, each by a head that was not trained on it.

All folds train side by side, an epoch of each at a time, so that a trial has one curve, and ends
early as others do. A head that is solved takes one penalty for all folds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import mean
from typing import TYPE_CHECKING

import psutil
import torch

from breedlab.config import Config
from breedlab.data.cuts import spread_evenly
from breedlab.errors import TrainingError
from breedlab.evaluation.label_errors import stratified_folds
from breedlab.registry import HEADS
from breedlab.training import loop, solving
from breedlab.training.activations import Activations
from breedlab.training.auto_values import training_precision
from breedlab.training.tasks import task_of

if TYPE_CHECKING:
    from breedlab.training.context import TrainingContext


def fold_numbers(
    labels: torch.Tensor, groups: Sequence[str], folds: int, seed: int
) -> torch.Tensor:
    """Return the fold of each image (n,): each class spread evenly, no group in two folds.

    Args:
        labels: int64 (n,), or with `data.multi_label` zeros and ones, (n, classes).
        groups: Of each image; empty texts where there are none.
        folds: How many.
        seed: Decides which image is in which.
    """
    several = labels.ndim == 2
    if several or any(groups):
        names = groups if any(groups) else [str(index) for index in range(len(labels))]
        own = _labels_of_each(labels) if several else [[label] for label in labels.tolist()]
        fold_of = spread_evenly(own, names, folds, seed)
        return torch.tensor([fold_of[name] for name in names])
    return stratified_folds(labels, folds, seed)


def _labels_of_each(targets: torch.Tensor) -> list[list[int]]:
    """Return the labels of multi-label images; those without any get an additional label, so that
    they are spread evenly, too."""
    classes = targets.shape[1]
    return [row.nonzero().flatten().tolist() or [classes] for row in targets]


def divided(whole: Activations, fold: torch.Tensor) -> Iterator[Activations]:
    """Yield for each fold what is trained on, and that fold as validation.

    Args:
        whole: Train and validation.
        fold: Of the images of train, then those of validation.
    """
    labels = torch.cat([whole.labels, whole.valid_labels])
    # validation has been computed only in the first view, which is validation's own
    views = [torch.cat([view, whole.valid]) for view in whole.train]
    for number in torch.unique(fold):
        inside = fold != number
        yield replace(
            whole,
            train=tuple(view[inside] for view in views),
            labels=labels[inside],
            valid=views[0][~inside],
            valid_labels=labels[~inside],
        )


def folds_of(context: TrainingContext, config: Config) -> list[Activations]:
    """Return the folds of a trial's features.

    Raises:
        TrainingError: If its features are not cached.
    """
    whole = context.activations(context.classifier(config), config)
    if whole is None:
        raise TrainingError(
            "tuner.folds: features are not cached (the reason is above), and cross-validation is"
            " done on them; raise cache.max_gb, or set tuner.folds=1"
        )
    size = sum(view.nbytes for view in (*whole.train, whole.valid)) * config.tuner.folds
    if size > (free := psutil.virtual_memory().available) / 2:
        raise TrainingError(
            f"tuner.folds: {config.tuner.folds} folds of these features take {size / 1e9:.1f} GB of"
            f" memory, of which {free / 1e9:.1f} GB are free; set tuner.folds=1, or cache.views=1"
        )
    splits = context.report.images.splits
    groups = [image.group for split in ("train", "valid") for image in splits[split]]
    labels = torch.cat([whole.labels, whole.valid_labels])
    return [*divided(whole, fold_numbers(labels, groups, config.tuner.folds, context.config.seed))]


def epochs(context: TrainingContext, config: Config, count: int) -> Iterator[loop.Epoch]:
    """Train on each fold's others with the lean loop, an epoch at a time, and yield the means; a
    head that is solved has one."""
    parts = folds_of(context, config)
    if HEADS.chosen(config.model).solved:
        yield solve(context, config, parts)[1]
        return
    runs = [_trained(context, config, part, count) for part in parts]
    for epochs_of_folds in zip(*runs, strict=True):
        yield _mean(epochs_of_folds, config)


def _trained(
    context: TrainingContext, config: Config, part: Activations, count: int
) -> Iterator[loop.Epoch]:
    learner, feed = context.learner(context.classifier(config), config, count, on=part)
    precision = training_precision(config, context.accelerator, context.precision, cached=True)
    yield from loop.epochs(
        learner,
        feed,
        config,
        count=count,
        accelerator=context.accelerator,
        precision=precision,
    )


def solve(
    context: TrainingContext, config: Config, parts: Sequence[Activations]
) -> tuple[float, loop.Epoch]:
    """Return the penalty that is best over all folds of a head that is solved, and what it comes
    to.

    Args:
        context: Of the run.
        config: A trial's.
        parts: The folds.
    """
    loss = task_of(config.data).solved_loss(
        context.data(config).solving_weights(), config.optim.label_smoothing
    )
    fixed = context.penalty(config)
    problems = [
        solving.Regression(
            part.train[0].to(context.device).float(),
            part.labels.to(context.device),
            len(context.classes),
            loss,
            torch.float32,
        )
        for part in parts
    ]

    def reach(c: float) -> loop.Epoch:
        context.heed()
        results = [
            solving.reached(problem, part, c, config.monitor)
            for problem, part in zip(problems, parts, strict=True)
        ]
        return _mean(results, config)

    penalties = solving.PENALTIES if fixed is None else (fixed,)
    c, epoch, _ = solving.best_penalty(reach, penalties, config.monitor)
    return c, epoch


def _mean(epochs: Sequence[loop.Epoch], config: Config) -> loop.Epoch:
    metric = config.monitor.metric
    valid = {}
    for name in epochs[0].valid:
        valid[name] = mean(each.valid[name] for each in epochs)
    return loop.Epoch(
        epochs[0].number,
        mean(each.train_loss for each in epochs),
        valid,
        tuple(each.valid[metric] for each in epochs),
    )
