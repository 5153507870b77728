"""The average of a fine-tuned network's weights with those of the frozen one (`fine_tune.wise_ft`).

Fine-tuning starts from the frozen network with its trained head, so every network on the line
between the two is a good one, and some are better than both: WiSE-FT (Wortsman et al. 2022, arXiv
2109.01903). Validation chooses how far to go along the line, from both ends and a few points
between them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from breedlab.config import Config
from breedlab.evaluation.figures import objective
from breedlab.files import atomic_write_json, read_json_if_whole
from breedlab.pipeline import soup
from breedlab.pipeline.validation_passes import ValidationPasses
from breedlab.training.checkpoints import of_classifier, read_checkpoint, write_weights
from breedlab.training.context import TrainingContext
from breedlab.training.fit import Fitted
from breedlab.training.objective import rank

FILE = "averaged.ckpt"
"""Beside `best.ckpt`, where an average is better than that."""
_RECORD = "averaged.json"
_BETWEEN = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Mix:
    """A network on the line from the frozen to the fine-tuned one, and its metrics on validation.

    Attributes:
        alpha: The share of the fine-tuned weights; 0 is the frozen network, 1 the fine-tuned.
        best: The monitored metric.
        loss: The validation loss; None of a training that an older version ended.
    """

    alpha: float
    best: float
    loss: float | None


def weights(checkpoints: Path) -> Path:
    """Return the checkpoint with the weights that validation chose: the average, if one is better
    than the best epoch, or the soup of several fine-tunings.

    Args:
        checkpoints: The folder of a training's checkpoints.
    """
    averaged = checkpoints / FILE
    return averaged if averaged.exists() else soup.weights(checkpoints)


def between(config: Config) -> tuple[float, ...]:
    """Return the shares of the averages that a config compares with the two networks."""
    return _BETWEEN if config.fine_tune.wise_ft else ()


def best_of(mixes: Sequence[Mix], mode: str) -> Mix:
    """Return the best on validation, the nearest to the frozen network of those that tie in metric
    and loss."""
    return min(mixes, key=lambda mix: rank(mix.best, mix.loss, mode))


def describe(mixes: Sequence[Mix], best: Mix, metric: str, images: int) -> str:
    """Return in words what was compared and what is kept.

    Args:
        mixes: From the frozen to the fine-tuned network.
        best: The best of them.
        metric: The monitored one.
        images: Of validation.
    """
    frozen, tuned = mixes[0], mixes[-1]

    def reached(mix: Mix) -> str:
        return objective(metric, mix.best, images)

    tied = sum(mix.best == best.best for mix in mixes)
    ties = f", the lowest valid/loss of {tied} that tie" if tied > 1 else ""
    if 0 < best.alpha < 1:
        return (
            f"weights averaged, {best.alpha:g} of the fine-tuned and {1 - best.alpha:g} of the"
            f" frozen network: {metric} {reached(best)}; {reached(frozen)} frozen,"
            f" {reached(tuned)} fine-tuned{ties}"
        )
    no_average = ", no average of the two is better" if len(mixes) > 2 else ""
    kept = "kept" if best.alpha else "the frozen backbone stays"
    return f"{metric} {reached(frozen)} before, {reached(tuned)} after{no_average}: {kept}"


def compare(
    context: TrainingContext,
    config: Config,
    checkpoints: Path,
    head: Mapping[str, torch.Tensor],
    before: Fitted,
    after: Fitted,
    precision: str,
) -> list[Mix]:
    """Return what the two networks and their averages reach on validation, or what was recorded of
    that, and write the average's weights where one is best.

    Args:
        context: Of the run.
        config: Of the fine-tuning.
        checkpoints: The folder of its checkpoints.
        head: What it started from.
        before: How the head's training ended.
        after: How the fine-tuning ended, or what the soup of several reached.
        precision: Of the fine-tuning.
    """
    mixes = [Mix(0.0, before.best, before.loss), Mix(1.0, after.best, after.loss)]
    of = {"alphas": [*between(config)], "ends": [asdict(mix) for mix in mixes]}
    recorded = read_json_if_whole(checkpoints / _RECORD, needs=("of", "mixes"))
    if recorded is not None and recorded["of"] == of:
        earlier = [Mix(**mix) for mix in recorded["mixes"]]
        is_average = 0 < best_of(earlier, config.monitor.mode).alpha < 1
        if (checkpoints / FILE).exists() == is_average:
            return earlier
    (checkpoints / FILE).unlink(missing_ok=True)
    if not between(config):
        return mixes
    passes = ValidationPasses(context, config, precision)
    first = start(context, config, head)
    last = of_classifier(read_checkpoint(soup.weights(checkpoints))["state_dict"])
    for alpha in between(config):
        title = f"validating an average of the weights, {alpha:g} fine-tuned"
        if reached := passes.of(average(first, last, alpha), title):
            mixes.append(Mix(alpha, *reached))
    mixes.sort(key=lambda mix: mix.alpha)
    best = best_of(mixes, config.monitor.mode)
    if 0 < best.alpha < 1:
        state = average(first, last, best.alpha)
        write_weights(
            checkpoints / FILE,
            {f"classifier.{name}": tensor for name, tensor in state.items()},
            context.card(config),
        )
    atomic_write_json(
        checkpoints / _RECORD, {"of": of, "mixes": [asdict(mix) for mix in mixes]}, indent=1
    )
    return mixes


def start(
    context: TrainingContext, config: Config, head: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the weights that a fine-tuning starts from, on the CPU.

    Args:
        context: Of the run.
        config: Of the fine-tuning.
        head: Trained on the frozen features.
    """
    network = context.classifier(config)
    network.head.load_state_dict(head)
    return {name: tensor.cpu() for name, tensor in network.state_dict().items()}


def average(
    first: Mapping[str, torch.Tensor], last: Mapping[str, torch.Tensor], alpha: float
) -> dict[str, torch.Tensor]:
    """Return the weights `1 - alpha` of the way back from `last` to `first`; counters, such as
    BatchNorm's of its batches, are those of `last`."""
    return {
        name: torch.lerp(first[name], tensor, alpha) if tensor.is_floating_point() else tensor
        for name, tensor in last.items()
    }
