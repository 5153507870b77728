"""The final training: the network as a config trains it, and as fine-tuning may change it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breedlab import config as configs
from breedlab import distributed
from breedlab.config import Config
from breedlab.console import note
from breedlab.evaluation.figures import objective
from breedlab.pipeline import extension

if TYPE_CHECKING:
    import lightning
    import torch

    from breedlab.data.module import ImageData
    from breedlab.models.classifier import Classifier
    from breedlab.pipeline.soup import Member
    from breedlab.training.context import TrainingContext
    from breedlab.training.fit import Fitted
    from breedlab.training.solving import Solution


@dataclass
class Trained:
    """The trained network, and what the later stages need of its training.

    Attributes:
        classifier: The network.
        config: What it was trained with, including the search's values, and those of a solved head.
        data: The images as it was trained on them.
        fitted: How the training ended.
        folder: The folder with `checkpoints/`: the run directory, or fine-tuning's.
        precision: Of the training.
        solution: Of a solved head; None for a trained one.
        head: The head that fine-tuning started from; None without fine-tuning.
        epoch_seconds: How long an epoch of fine-tuning took; None if that is not known.
        alpha: The share of the fine-tuned weights in the network that was kept.
        members: The fine-tunings in a soup; none of a single one.
        before: What it was trained with before fine-tuning; None without that.
    """

    classifier: Classifier
    config: Config
    data: ImageData
    fitted: Fitted
    folder: Path
    precision: str
    solution: Solution | None = None
    head: Mapping[str, torch.Tensor] | None = None
    epoch_seconds: float | None = None
    alpha: float = 1.0
    members: tuple[Member, ...] = ()
    before: Config | None = None


def train(
    context: TrainingContext,
    config: Config,
    directory: Path,
    profiled_from: float,
    callbacks: Sequence[lightning.Callback],
) -> Trained:
    """Solve the head, or train the network, after a probe if the config asks for one.

    Args:
        context: The run's.
        config: With the search's values.
        directory: The run's.
        profiled_from: When the profiler's recording started.
        callbacks: Those of the caller.
    """
    from breedlab.pipeline.observers import observers
    from breedlab.training.architecture import is_solved
    from breedlab.training.auto_values import training_precision
    from breedlab.training.fit import ActivationData, fit
    from breedlab.training.probe import probe
    from breedlab.training.solving import SOLVED

    classifier = context.classifier(config, synced=distributed.world() > 1)
    fresh = not (directory / "checkpoints" / "last.ckpt").exists()
    # DDP sends the probed head to the other processes
    if config.trainer.probe_epochs and fresh and distributed.is_main():
        probe(context, classifier, config)
    with distributed.rank_zero_first():
        activations = context.activations(classifier, config)
        image_data: ImageData = (
            context.live_data(config) if activations is None else context.data(config)
        )
    solution = None
    if is_solved(config):
        solution = distributed.rank_zero_only(lambda: context.solve(classifier, config))
        solution.put_into(classifier.head)
        note(solution.describe(config.monitor.metric))
        config = configs.replace(config, SOLVED)
    learner, _ = context.learner(classifier, config, config.trainer.max_epochs)
    data = image_data if activations is None else ActivationData(activations, image_data)
    precision = training_precision(
        config, context.accelerator, context.precision, cached=activations is not None
    )
    if precision != context.precision and solution is None:
        note(
            f"only the head trains, in {precision}: for that, a CPU is faster than in"
            f" {context.precision}"
        )
    fitted = fit(
        learner,
        data,
        config,
        directory,
        accelerator=context.accelerator,
        precision=precision,
        extended_after=distributed.rank_zero_only(lambda: extension.extended_after(directory)),
        callbacks=[*observers(config, directory, profiled_from), *callbacks],
    )
    ties = f", the lowest valid/loss of {fitted.tied + 1} epochs that tie" if fitted.tied else ""
    images = len(context.report.images.splits["valid"])
    note(
        f"{fitted.reason}; kept epoch {fitted.best_epoch}, {config.monitor.metric}"
        f" {objective(config.monitor.metric, fitted.best, images)}{ties}"
    )
    return Trained(classifier, config, image_data, fitted, directory, precision, solution)


def training_metrics(trained: Trained, search: dict[str, Any] | None) -> dict[str, Any]:
    """Return the part of metrics.json on the training and the search."""
    fitted = trained.fitted
    training: dict[str, Any] = {
        "epochs": fitted.epochs,
        "ended": fitted.reason,
        "best_epoch": fitted.best_epoch,
        "precision": trained.precision,
    }
    if trained.solution is not None:
        training["logistic"] = trained.solution.as_dict()
    return {
        "monitor": {"metric": trained.config.monitor.metric, "best": fitted.best},
        "training": training,
        "search": search,
    }


def fine_tune(
    trained: Trained,
    context: TrainingContext,
    directory: Path,
    deadline: float | None,
    metrics: dict[str, Any],
) -> None:
    """Fine-tune, and replace the trained network if that made it better.

    Args:
        trained: By `train`.
        context: The run's.
        directory: The run's.
        deadline: On the monotonic clock, when `tuner.minutes` are over; None for no limit.
        metrics: The run's, to which the outcome is added.
    """
    from breedlab.pipeline import fine_tuning

    seconds = None if deadline is None else deadline - time.monotonic()
    result = fine_tuning.fine_tune(context, trained.config, directory, trained.fitted, seconds)
    metrics["training"]["fine_tune"] = result.metrics
    if result.config is None or result.fitted is None:
        return
    trained.before = trained.config
    trained.config, trained.fitted = result.config, result.fitted
    trained.folder = directory / fine_tuning.FOLDER
    trained.head, trained.precision, trained.solution = result.head, result.precision, None
    trained.epoch_seconds, trained.alpha = result.epoch_seconds, result.alpha
    trained.members = result.members
    trained.data = context.live_data(result.config)
    metrics["monitor"]["best"] = result.fitted.best


def has_time_to_refit(trained: Trained, deadline: float | None) -> bool:
    """Return whether a refit ends in time; say so if it does not.

    Fine-tuning plans its epochs so that it does. But a machine that others use may have become
    slower since an epoch was timed.

    Args:
        trained: Fine-tuned or not.
        deadline: As for `fine_tune`.
    """
    if deadline is None or trained.epoch_seconds is None:
        return True
    epochs = sum(each.epochs for each in trained.members) or trained.fitted.best_epoch
    seconds = trained.epoch_seconds * epochs
    late = time.monotonic() + seconds - deadline
    minutes = trained.config.tuner.minutes or 0.0
    if late <= _TOLERATED_SHARE * 60 * minutes:
        return True
    note(
        f"no refit on train and validation: epochs took longer than planned, and it would end"
        f" {late:,.0f} s after tuner.minutes={minutes:g}"
    )
    return False


_TOLERATED_SHARE = 0.05
"""How late a refit may end, as a share of `tuner.minutes`."""
