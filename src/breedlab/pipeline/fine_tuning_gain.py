"""What fine-tuning gained: the frozen network and the kept one on the same validation images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from breedlab.config import Config
from breedlab.console import note
from breedlab.evaluation.answers import ValidationScores, columns_of
from breedlab.evaluation.paired import compared
from breedlab.pipeline.final_test import load_checkpoint
from breedlab.reporting.search_facts import fine_tuning_in_words
from breedlab.training.context import TrainingContext
from breedlab.training.inference import ValidationPass, validation_pass


def report(
    context: TrainingContext,
    config: Config,
    run: Path,
    kept: ValidationPass,
    fine_tuning: Mapping[str, Any],
    best: float,
) -> dict[str, Any]:
    """Say what fine-tuning gained, and return it for metrics.json.

    Args:
        context: Of the run.
        config: Of the training of the head.
        run: The run directory.
        kept: The kept network on validation.
        fine_tuning: What metrics.json says of it.
        best: The monitored metric of the kept network.
    """
    classifier = context.classifier(config)
    load_checkpoint(classifier, run / "checkpoints" / "best.ckpt")
    frozen = validation_pass(context, classifier, config)
    metric = config.monitor.metric.removeprefix("valid/")
    spans = []
    for network, value in ((frozen, fine_tuning["before"]), (kept, best)):
        scores = ValidationScores(metric)
        scores.update(network.logits, network.labels)
        ends = scores.interval(value)
        spans.append(None if ends is None else [*ends])
    labels, after = columns_of(kept.logits, kept.labels)
    _, before = columns_of(frozen.logits, frozen.labels)
    record = {
        "before_interval": spans[0],
        "best_interval": spans[1],
        "compared": compared(labels, after, before, metric),
    }
    gained = fine_tuning_in_words(config.monitor.metric, {**fine_tuning, **record}, best)
    note(f"fine-tuning: {gained}")
    return record
