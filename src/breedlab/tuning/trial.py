"""One trial: a config with some values changed, trained for a few epochs."""

from __future__ import annotations

import errno
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from breedlab import config as configs
from breedlab.errors import BreedlabError, DiskFull, OutOfTime
from breedlab.evaluation.answers import ScoredImages
from breedlab.evaluation.statistics import fold_ends
from breedlab.training import folds
from breedlab.training.architecture import is_solved
from breedlab.training.context import TrainingContext
from breedlab.training.objective import better
from breedlab.training.probe import probe


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        state: `complete`, `pruned` or `failed`.
        objective: The best value of the monitored metric over its epochs, None if there was none.
        epochs: Metrics by name, one mapping per epoch.
        seconds: Its duration.
        reason: Why it failed or was pruned, else empty.
        folds: With `tuner.folds` the monitored metric of each fold in the best epoch; their mean is
            the objective.
        interval: Where the objective's true value is with 95% confidence; None with `tuner.folds`,
            without an objective, and for a plugin's metric that cannot be computed for parts of the
            images.
        images: How many an epoch's metrics are of; 0 with `tuner.folds`, and if not known.
    """

    state: str
    objective: float | None
    epochs: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    reason: str = ""
    folds: list[float] = field(default_factory=list)
    interval: tuple[float, float] | None = None
    images: int = 0

    def span(self, metric: str) -> tuple[float, float] | None:
        """Return the 95% interval of the objective, over its folds if it has any; None if it is not
        known.

        Args:
            metric: The monitored metric.
        """
        return fold_ends(self.folds, metric) or self.interval


def run_trial(
    context: TrainingContext, values: Mapping[str, Any], stop_early: Callable[[int, float], bool]
) -> Outcome:
    """Train with `values` replacing the config's; the network is freed afterwards.

    A trial that diverges or fails is an outcome too; what would fail every trial alike (a full
    disk) is raised.

    Args:
        context: Shared by all trials.
        values: By config path.
        stop_early: Called with the epoch's number and its best objective so far; true prunes the
            trial.
    """
    try:
        return _trained(context, values, stop_early)
    finally:
        # Fabric ties network and optimizer into reference cycles. With this many objects, Python
        # collects them so rarely that the networks of dozens of trials stayed in memory, also on a
        # GPU.
        gc.collect()


@contextmanager
def quickly_collected() -> Iterator[None]:
    """Have `gc.collect` look only at objects created inside, which takes no time.

    What the process had frozen before, such as everything it imported, stays frozen.
    """
    was_frozen = gc.get_freeze_count() > 0
    gc.freeze()
    try:
        yield
    finally:
        if not was_frozen:
            gc.unfreeze()


def _trained(
    context: TrainingContext, values: Mapping[str, Any], stop_early: Callable[[int, float], bool]
) -> Outcome:
    started = time.monotonic()
    history: list[dict[str, float]] = []
    best: float | None = None
    of_folds: list[float] = []
    scores: ScoredImages | None = None

    def outcome(state: str, reason: str = "") -> Outcome:
        span = None if scores is None or best is None else scores.interval(best)
        seconds = time.monotonic() - started
        images = 0 if scores is None else scores.images
        return Outcome(state, best, history, seconds, reason, of_folds, span, images)

    try:
        config = configs.replace(context.config, values)
        context = context.suited(config)
        classifier = context.classifier(config)
        if config.trainer.probe_epochs:
            probe(context, classifier, config)
        count = 1 if is_solved(config) else config.tuner.max_epochs
        running = (
            folds.epochs(context, config, count)
            if config.tuner.folds > 1
            else context.epochs(classifier, config, count)
        )
        for epoch in running:
            history.append({"train/loss": epoch.train_loss, **epoch.valid})
            value = epoch.valid[config.monitor.metric]
            if better(value, best, config.monitor.mode):
                best, of_folds, scores = value, [*epoch.folds], epoch.scores
            assert best is not None
            last = epoch.number + 1 == count
            if stop_early(epoch.number, best) and not last:
                return outcome("pruned", f"fell behind after epoch {epoch.number + 1}")
    except DiskFull:
        raise
    except OutOfTime as error:
        return outcome("pruned", str(error))
    except (BreedlabError, RuntimeError, ValueError, MemoryError) as error:
        return outcome("failed", " ".join(str(error).split()) or type(error).__name__)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        return outcome("failed", str(error))
    return outcome("complete")
