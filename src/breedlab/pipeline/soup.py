"""A greedy soup: the average of the weights of several fine-tunings (`fine_tune.soup`).

Fine-tunings of one head differ in order and augmentation, and end in one basin, where their average
is better than each of them, and costs no more to serve (Wortsman et al. 2022, arXiv 2203.05482).
The best on validation begins; each other one joins, in the order of their validation, if that makes
the average no worse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from breedlab.config import Config
from breedlab.evaluation.figures import objective
from breedlab.files import atomic_write_json, read_json_if_whole
from breedlab.pipeline.validation_passes import ValidationPasses
from breedlab.training.checkpoints import of_classifier, read_checkpoint, write_weights
from breedlab.training.context import TrainingContext
from breedlab.training.fit import Fitted
from breedlab.training.objective import rank

FILE = "soup.ckpt"
"""Beside the first fine-tuning's `best.ckpt`, where a soup, or another fine-tuning, is better."""
_RECORD = "soup.json"


@dataclass(frozen=True)
class Ingredient:
    """A fine-tuning.

    Attributes:
        seed: Of its order and augmentation.
        checkpoints: The folder of its checkpoints.
        fitted: How it ended.
    """

    seed: int
    checkpoints: Path
    fitted: Fitted


@dataclass(frozen=True)
class Member:
    """A fine-tuning that is in the soup: what a refit repeats.

    Attributes:
        seed: Of its order and augmentation.
        epochs: How many validation found to be best.
    """

    seed: int
    epochs: int


@dataclass(frozen=True)
class Soup:
    """The average that validation chose.

    Attributes:
        members: From the best on validation.
        best: The monitored metric.
        loss: The validation loss.
        tried: How many fine-tunings there were.
    """

    members: tuple[Member, ...]
    best: float
    loss: float | None
    tried: int

    def describe(self, metric: str, first: Fitted, images: int) -> str:
        """Return in words what was averaged.

        Args:
            metric: The monitored one.
            first: How the first fine-tuning ended.
            images: Of validation.
        """
        alone, of_all = (objective(metric, value, images) for value in (first.best, self.best))
        whole = f"{metric} {of_all}; {alone} the first alone"
        if len(self.members) == 1:
            return f"no average of {self.tried} fine-tunings is better than the best: {whole}"
        return f"a soup of {len(self.members)} of {self.tried} fine-tunings: {whole}"


def recorded(config: Config, first: Ingredient) -> Soup | None:
    """Return the soup of an earlier start; None if there is none, or if its weights are not there.

    Args:
        config: Of the first fine-tuning.
        first: That fine-tuning.
    """
    known = read_json_if_whole(first.checkpoints / _RECORD, needs=("of", "soup"))
    if known is None or known["of"][:1] != _of([first]):
        return None
    members = tuple(Member(**each) for each in known["soup"]["members"])
    soup = Soup(**{**known["soup"], "members": members})
    is_there = (first.checkpoints / FILE).exists()
    return soup if is_there == _is_another(soup, config) else None


def blended(
    context: TrainingContext,
    config: Config,
    ingredients: Sequence[Ingredient],
    precision: str,
) -> Soup:
    """Return the greedy soup of fine-tunings, record it, and write its weights where they are not
    the first one's.

    Args:
        context: Of the run.
        config: Of the first fine-tuning.
        ingredients: From the first on.
        precision: Of the fine-tunings.
    """
    folder = ingredients[0].checkpoints
    passes = ValidationPasses(context, config, precision)
    mode = config.monitor.mode
    order = sorted(ingredients, key=lambda each: rank(each.fitted.best, each.fitted.loss, mode))
    chosen, state = [order[0]], _weights(order[0])
    best, loss = order[0].fitted.best, order[0].fitted.loss
    for each in order[1:]:
        joined = mean_with(state, _weights(each), len(chosen))
        reached = passes.of(joined, f"validating an average of {len(chosen) + 1} fine-tunings")
        if reached is None or rank(*reached, mode) > rank(best, loss, mode):
            continue
        chosen, state, (best, loss) = [*chosen, each], joined, reached
    members = tuple(Member(each.seed, each.fitted.best_epoch) for each in chosen)
    soup = Soup(members, best, loss, len(ingredients))
    (folder / FILE).unlink(missing_ok=True)
    if _is_another(soup, config):
        named = {f"classifier.{name}": tensor for name, tensor in state.items()}
        write_weights(folder / FILE, named, context.card(config))
    record = {"of": _of(ingredients), "soup": asdict(soup)}
    atomic_write_json(folder / _RECORD, record, indent=1)
    return soup


def weights(checkpoints: Path) -> Path:
    """Return the checkpoint of the soup, or of the one fine-tuning.

    Args:
        checkpoints: The folder of the first fine-tuning's checkpoints.
    """
    soup = checkpoints / FILE
    return soup if soup.exists() else checkpoints / "best.ckpt"


def mean_with(
    mean: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor], count: int
) -> dict[str, torch.Tensor]:
    """Return the mean weights of `count` networks, whose mean is given, and another one; counters
    are those of the first."""
    return {
        name: torch.lerp(tensor, other[name], 1 / (count + 1))
        if tensor.is_floating_point()
        else tensor
        for name, tensor in mean.items()
    }


def as_dict(soup: Soup) -> dict[str, Any]:
    """Return what metrics.json says of a soup."""
    return {"of": soup.tried, "seeds": [each.seed for each in soup.members], "best": soup.best}


def _of(ingredients: Sequence[Ingredient]) -> list[dict[str, Any]]:
    """Return what distinguishes fine-tunings from others of the same run."""
    return [{"seed": each.seed, **asdict(each.fitted)} for each in ingredients]


def _is_another(soup: Soup, config: Config) -> bool:
    """Return whether a soup is another network than the first fine-tuning."""
    return [each.seed for each in soup.members] != [config.seed]


def _weights(of: Ingredient) -> dict[str, torch.Tensor]:
    return of_classifier(read_checkpoint(of.checkpoints / "best.ckpt")["state_dict"])
