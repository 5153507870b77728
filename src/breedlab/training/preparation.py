"""Build what training needs, from a config and its checked images."""

from __future__ import annotations

import torch

from breedlab import weight_files
from breedlab.config import Config
from breedlab.data.check import Report
from breedlab.models import backbone as backbones
from breedlab.training import start_checks
from breedlab.training.auto_values import (
    choose_accelerator,
    choose_precision,
    evaluation_transform,
)
from breedlab.training.context import TrainingContext


def prepare(config: Config, report: Report) -> TrainingContext:
    """Build the network and resolve what the config leaves open.

    Raises:
        ConfigError: If the backbone, its weights, the frozen stage or the accelerator are not
            available.
    """
    start_checks.refuse_constant_monitor(config, len(report.images.classes))
    accelerator = choose_accelerator(config.trainer.accelerator)
    # weights=none must draw the same numbers again when a run is resumed
    torch.manual_seed(config.seed)
    backbone = backbones.build(config.model.name, weight_files.file_of(config.model.weights))
    context = TrainingContext(
        config=config,
        report=report,
        backbone=backbone,
        evaluation=evaluation_transform(config.data, backbone.pretraining),
        accelerator=accelerator,
        precision=choose_precision(config.trainer.precision, accelerator),
    )
    start_checks.refuse_what_cannot_train(context, config)
    return context
