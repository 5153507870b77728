"""What gets training's curves and the test's metrics besides the run directory."""

from __future__ import annotations

import secrets
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from breedlab import extras
from breedlab.config.section import Section
from breedlab.registry import LOGGERS

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

    from breedlab.config import Config


class LoggerKind(Section):
    """A logger.

    A run is one run there, too, however often it is resumed: `logger.json` of the run directory
    keeps the id that `begin` returned.

    Attributes:
        extra: The extra of breedlab that it needs; empty for none.
        every_process: Whether each process of a distributed training builds it, not the first
            alone.
    """

    extra: ClassVar[str] = ""
    every_process: ClassVar[bool] = False

    def begin(self, config: Config, run: Path, run_id: str) -> str:
        """Begin a run there, or find it again, and return its id; empty where there are no ids.

        It is called before anything is computed, so that what cannot be reached is reported at
        once.

        Args:
            config: The experiment.
            run: Its run directory.
            run_id: What `begin` returned when the run was started; empty then.

        Raises:
            LoggerError: If it cannot be reached, or no one is logged in.
        """
        return run_id

    def describe(self, config: Config, run: Path, run_id: str) -> None:
        """Log the config, once, when the run has begun there."""

    @abstractmethod
    def build(self, config: Config, run: Path, run_id: str) -> Logger | None:
        """Return Lightning's logger of the final training; None for no other than the run's own."""

    def finish(self, config: Config, run: Path, run_id: str, metrics: Mapping[str, float]) -> None:
        """Log the metrics of the test, and end the run there.

        Args:
            metrics: `test/NAME`, and where it has an interval `test/NAME_low` and `_high`.
        """
        logger = self.build(config, run, run_id)
        if logger is not None:
            logger.log_metrics(dict(metrics))
            logger.finalize("success")


class _TrainingOnly(LoggerKind):
    """A logger that gets the curves, not the test."""

    def finish(self, config: Config, run: Path, run_id: str, metrics: Mapping[str, float]) -> None:
        pass


@LOGGERS.register("tensorboard")
class TensorBoard(_TrainingOnly):
    """Event files in the run directory."""

    def build(self, config: Config, run: Path, run_id: str) -> None:
        return None  # the run's own curves, with events


@LOGGERS.register("csv")
class Csv(_TrainingOnly):
    """Lightning's `csv/version_N/metrics.csv` in the run directory; a resumed run begins another
    version."""

    every_process = True

    def build(self, config: Config, run: Path, run_id: str) -> Logger:
        from lightning.pytorch.loggers import CSVLogger

        return CSVLogger(run, name="csv")


@LOGGERS.register("mlflow")
class MlFlow(LoggerKind):
    """A run on an MLflow server, in a database, or on SageMaker."""

    extra = "mlflow"

    def begin(self, config: Config, run: Path, run_id: str) -> str:
        from breedlab.training.mlflow_logger import reach

        return reach(config, run, run_id)

    def describe(self, config: Config, run: Path, run_id: str) -> None:
        self.build(config, run, run_id).log_hyperparams(config.recorded())

    def build(self, config: Config, run: Path, run_id: str) -> Logger:
        from breedlab.training.mlflow_logger import mlflow_logger

        return mlflow_logger(config, run, run_id)


@LOGGERS.register("wandb")
class Wandb(LoggerKind):
    """A run on Weights & Biases."""

    extra = "wandb"

    def begin(self, config: Config, run: Path, run_id: str) -> str:
        from breedlab.training.wandb_logger import refuse_without_login

        if run_id:
            return run_id
        refuse_without_login(config)
        return secrets.token_hex(4)

    def build(self, config: Config, run: Path, run_id: str) -> Logger:
        from breedlab.training.wandb_logger import wandb_logger

        return wandb_logger(config, run, run_id)

    def finish(self, config: Config, run: Path, run_id: str, metrics: Mapping[str, float]) -> None:
        from breedlab.training.wandb_logger import finish

        finish(config, run, run_id, metrics)


def require_extra(config: Config) -> None:
    """Refuse a logger whose extra is not installed.

    Raises:
        MissingExtra: If it is not.
    """
    kind = logger_of(config)
    if kind is not None and kind.extra:
        extras.require(kind.extra, f"logger={config.logger.name}")


def logger_of(config: Config) -> LoggerKind | None:
    """Return the logger that a config names, with its settings; None for `none`."""
    return None if config.logger.name == "none" else LOGGERS.chosen(config.logger)
