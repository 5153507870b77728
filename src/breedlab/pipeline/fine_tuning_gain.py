"""What fine-tuning gained: the frozen network and the fine-tuned one on the same validation
images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from breedlab.config import Config
from breedlab.console import note
from breedlab.evaluation.answers import ScoredImages, columns_of
from breedlab.evaluation.paired import compared
from breedlab.pipeline.final_test import load_checkpoint
from breedlab.pipeline.final_training import Trained
from breedlab.pipeline.fine_tuning import FOLDER
from breedlab.pipeline.fine_tuning_settings import settings
from breedlab.reporting.search_facts import fine_tuning_in_words
from breedlab.training.context import TrainingContext
from breedlab.training.inference import ValidationPass, validation_pass


def report(
    context: TrainingContext,
    trained: Trained,
    run: Path,
    validation: ValidationPass,
    recorded: Mapping[str, Any],
) -> dict[str, Any]:
    """Say what fine-tuning gained, and return it for metrics.json.

    Args:
        context: Of the run.
        trained: The network that is kept.
        run: The run directory.
        validation: That network on validation.
        recorded: What metrics.json says of the fine-tuning, which trained.
    """
    frozen = tuned = validation
    after = recorded["best"]
    if trained.before is not None:
        frozen = _passed(context, trained.before, run)
        after = trained.fitted.best
    else:
        config = settings(context, trained.config, recorded["freeze"])
        tuned = _passed(context, config, run / FOLDER)
    metric = trained.config.monitor.metric
    short = metric.removeprefix("valid/")
    spans = []
    for network, value in ((frozen, recorded["before"]), (tuned, after)):
        scores = ScoredImages(short, trained.config.monitor)
        scores.update(network.logits, network.labels)
        ends = scores.interval(value)
        spans.append(None if ends is None else [*ends])
    labels, first = columns_of(tuned.logits, tuned.labels)
    _, second = columns_of(frozen.logits, frozen.labels)
    record = {
        "before_interval": spans[0],
        "best_interval": spans[1],
        "compared": compared(labels, first, second, short),
    }
    note(f"fine-tuning: {fine_tuning_in_words(metric, {**recorded, **record}, after)}")
    return record


def _passed(context: TrainingContext, config: Config, folder: Path) -> ValidationPass:
    """Return what the best epoch of a training gives for validation."""
    classifier = context.classifier(config)
    load_checkpoint(classifier, folder / "checkpoints" / "best.ckpt")
    return validation_pass(context, classifier, config)
