"""Train the backbone, too, starting from the head that was trained on its frozen features
(`fine_tune`).

Linear probing, then fine-tuning (Kumar et al. 2022, arXiv 2202.10054): with a head that fits, the
gradients do not wreck the backbone as those of a random head would. It trains on smaller crops than
it is tested on, in which objects appear about as large (Touvron et al. 2019, arXiv 1906.06423). The
weights of several such trainings may be averaged (`soup.py`), and are then averaged with those that
they started from (`weight_averaging.py`). The result is kept only if it does better on validation,
so that asking for it never makes a run worse there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from breedlab import config as configs
from breedlab import distributed
from breedlab.config import Config
from breedlab.console import note, warn
from breedlab.errors import TrainingError
from breedlab.pipeline import soup, weight_averaging
from breedlab.pipeline.fine_tuning_plan import Plan, planned
from breedlab.pipeline.fine_tuning_plan import record as record_plan
from breedlab.pipeline.fine_tuning_settings import settings
from breedlab.pipeline.soup import Ingredient, Member
from breedlab.training.checkpoints import of_classifier, read_checkpoint
from breedlab.training.context import TrainingContext
from breedlab.training.fit import Fitted, fit

FOLDER = "fine_tune"
"""Of the run directory: checkpoints, curves, and what was planned."""
_REFIT = 1.25
"""The time of a refit relative to the training, at most: it has validation's images, too."""


@dataclass(frozen=True)
class FineTuned:
    """The outcome of fine-tuning.

    Attributes:
        metrics: What metrics.json says of it.
        config: What the whole network was trained by; None where the frozen one is kept.
        fitted: How its training ended; None likewise.
        precision: What it computed in.
        head: What it started from.
        epoch_seconds: How long an epoch took; None if it resumed.
        alpha: The share of the fine-tuned weights in the network that is kept; the rest is of the
            frozen one's.
        members: The fine-tunings in a soup; none of a single one.
    """

    metrics: dict[str, Any]
    config: Config | None = None
    fitted: Fitted | None = None
    precision: str = ""
    head: Mapping[str, torch.Tensor] | None = None
    epoch_seconds: float | None = None
    alpha: float = 1.0
    members: tuple[Member, ...] = ()


def fine_tune(
    context: TrainingContext, config: Config, run: Path, before: Fitted, seconds: float | None
) -> FineTuned:
    """Train from `checkpoints/best.ckpt`, or resume where that stopped.

    Args:
        context: Of the run.
        config: Of the head's training.
        run: The run directory.
        before: How the head's training ended.
        seconds: What there is for it; None for as long as it takes.
    """
    folder = run / FOLDER
    deadline = None if seconds is None else time.monotonic() + seconds
    plan = distributed.rank_zero_only(lambda: planned(context, config, folder, before, seconds))
    if plan.epochs == 0:
        return FineTuned({"epochs": 0, "kept": False})
    tuned_config = configs.replace(
        settings(context, config, plan.freeze),
        {
            "trainer.max_epochs": plan.epochs,
            "data.batch_size": plan.batch_size or config.fine_tune.batch_size,
        },
    )
    head = distributed.rank_zero_only(
        lambda: of_classifier(
            read_checkpoint(run / "checkpoints" / "best.ckpt")["state_dict"], "head."
        )
    )
    resumes = (folder / "checkpoints" / "last.ckpt").exists()
    started = time.monotonic()
    try:
        fitted = _fitted(context, tuned_config, folder, head, plan.precision)
    except TrainingError as error:  # the head exists, and is worth its test and export
        warn(f"{error}: fine_tune.lr here; the frozen backbone stays")
        none = Plan(0, plan.precision, plan.freeze)
        distributed.rank_zero_only(lambda: record_plan(folder, none, before))
        return FineTuned({"epochs": 0, "kept": False, "failed": str(error)})
    seconds_each = None if resumes else time.monotonic() - started
    epoch_seconds = None if seconds_each is None else seconds_each / fitted.epochs
    images = len(context.report.images.splits["valid"])
    blend, after = None, fitted
    if plan.count > 1:
        first = Ingredient(tuned_config.seed, folder / "checkpoints", fitted)
        blend = distributed.rank_zero_only(lambda: soup.recorded(tuned_config, first))
        if blend is None:
            more = _more(context, tuned_config, folder, head, plan, deadline, seconds_each)
            ingredients = [first, *more]
            blend = distributed.rank_zero_only(
                lambda: soup.blended(context, tuned_config, ingredients, plan.precision)
            )
        note(blend.describe(config.monitor.metric, fitted, images))
        epochs = blend.members[0].epochs
        after = replace(fitted, best=blend.best, loss=blend.loss, best_epoch=epochs)
    mixes = distributed.rank_zero_only(
        lambda: weight_averaging.compare(
            context, tuned_config, folder / "checkpoints", head, before, after, plan.precision
        )
    )
    best = weight_averaging.best_of(mixes, config.monitor.mode)
    note(weight_averaging.describe(mixes, best, config.monitor.metric, images))
    record = {
        "epochs": fitted.epochs,
        "best_epoch": fitted.best_epoch,
        "best": fitted.best,
        "before": before.best,
        "precision": plan.precision,
        "freeze": plan.freeze,
        "kept": best.alpha > 0,
    }
    if blend is not None:
        record["soup"] = soup.as_dict(blend)
    if config.fine_tune.wise_ft:
        record["wise_ft"] = {**asdict(best), "tried": [asdict(mix) for mix in mixes]}
    if not best.alpha:
        return FineTuned(record)
    after = replace(after, best=best.best, loss=best.loss)
    members = () if blend is None else blend.members
    return FineTuned(
        record, tuned_config, after, plan.precision, head, epoch_seconds, best.alpha, members
    )


def _fitted(
    context: TrainingContext,
    config: Config,
    folder: Path,
    head: Mapping[str, torch.Tensor],
    precision: str,
) -> Fitted:
    """Train from a head, or resume where that stopped."""
    classifier = context.classifier(config, synced=distributed.world() > 1)
    classifier.head.load_state_dict(head)
    learner, _ = context.learner(classifier, config, config.trainer.max_epochs)
    with distributed.rank_zero_first():
        data = context.live_data(config)
    accelerator = context.accelerator
    return fit(learner, data, config, folder, accelerator=accelerator, precision=precision)


def _more(
    context: TrainingContext,
    config: Config,
    folder: Path,
    head: Mapping[str, torch.Tensor],
    plan: Plan,
    deadline: float | None,
    seconds: float | None,
) -> Iterator[Ingredient]:
    """Fine-tune again with other seeds, as long as there is time for that and the refits.

    Args:
        context: Of the run.
        config: Of the first fine-tuning.
        folder: Where that was.
        head: What all start from.
        plan: How many there are to be.
        deadline: On the monotonic clock; None for no limit.
        seconds: How long the first took; None if that is not known.
    """
    refits = _REFIT if config.trainer.refit else 0.0
    for done in range(1, plan.count):
        seed = config.seed + done
        needed = (seconds or 0.0) * (1 + refits * (done + 1))
        late = deadline is not None and time.monotonic() + needed > deadline
        if distributed.broadcast(late):
            note(f"{done} of {plan.count} fine-tunings: another would end after tuner.minutes")
            return
        note(f"fine-tuning {done + 1} of {plan.count}, with seed {seed}")
        place = folder / "more" / str(seed)
        again = configs.replace(config, {"seed": seed})
        try:
            fitted = _fitted(context, again, place, head, plan.precision)
        except TrainingError as error:
            note(f"left out of the soup: {error}")
            continue
        yield Ingredient(seed, place / "checkpoints", fitted)
