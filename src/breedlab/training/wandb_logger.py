"""The logger for Weights & Biases, the check of its login, and what it shows of the test."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers import WandbLogger

from breedlab.config import Config
from breedlab.errors import LoggerError
from breedlab.training.log_filters import quiet_lightning


def wandb_logger(config: Config, run: Path, run_id: str) -> WandbLogger:
    """Return the logger of a run, which continues the run with its id if there is one."""
    return WandbLogger(
        name=run.name,
        project=config.logger.experiment or config.name,
        save_dir=run,
        offline=config.logger.offline,
        id=run_id or None,
        resume="allow",
        log_model=False,
        config=config.recorded(),
    )


def finish(config: Config, run: Path, run_id: str, metrics: Mapping[str, float]) -> None:
    """Add the test's metrics to the run's summary, and end it."""
    with quiet_lightning():  # it warns that it continues an existing run
        logger = wandb_logger(config, run, run_id)
        logger.experiment.summary.update(dict(metrics))
        logger.experiment.finish(quiet=True)


def refuse_without_login(config: Config) -> None:
    """Raise LoggerError if Weights & Biases would ask for a login, which in a job no one
    answers."""
    if config.logger.offline or os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return
    import wandb

    if not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
        raise LoggerError(
            "logger=wandb: not logged in; run wandb login, set WANDB_API_KEY, or choose"
            " logger.offline=true"
        )
