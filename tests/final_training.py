"""The final training of a run by itself, for tests that look at what it leaves."""

from __future__ import annotations

from pathlib import Path

import lightning

from breedlab.config import Config
from breedlab.models.classifier import Classifier
from breedlab.training.context import TrainingContext
from breedlab.training.fit import ActivationData, Fitted, fit


def train(
    context: TrainingContext, config: Config, run: Path, *callbacks: lightning.Callback
) -> tuple[Classifier, Fitted]:
    """Train as a config says, into a run directory, and return what came of it."""
    classifier = context.classifier(config)
    activations = context.activations(classifier, config)
    learner, _ = context.learner(classifier, config, config.trainer.max_epochs)
    images = context.data(config)
    data = images if activations is None else ActivationData(activations, images)
    run.mkdir(exist_ok=True)
    fitted = fit(
        learner,
        data,
        config,
        run,
        accelerator="cpu",
        precision=context.precision,
        callbacks=callbacks,
    )
    return classifier, fitted
