"""MLflow's logger, whose server may go away, and may ask for a password."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.utilities import rank_zero_only

from breedlab.config import Config
from breedlab.config.logger import TRACKING_VARIABLE
from breedlab.config.passwords import without_passwords
from breedlab.console import warn
from breedlab.errors import LoggerError

_TRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
_ALLOW_FILES = "MLFLOW_ALLOW_FILE_STORE"


def tracking_uri(config: Config) -> str:
    """Return where MLflow's metrics go: what the config says, else the environment, else a database
    next to the runs."""
    database = (Path(config.runs_dir) / "mlflow.db").absolute()
    return (
        config.logger.tracking_uri or os.environ.get(TRACKING_VARIABLE) or f"sqlite:///{database}"
    )


class ForgivingMLFlowLogger(MLFlowLogger):
    """MLflow's logger, which does not end training if its server cannot be reached."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        try:
            super().log_metrics(metrics, step)
        except Exception as error:  # requests', SQLAlchemy's, MLflow's own
            warn(f"logger=mlflow: metrics were not logged ({_reason(error)}); training continues")

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        try:
            super().finalize(status)
        except Exception as error:
            warn(f"logger=mlflow: the run was not ended there ({_reason(error)})")


def mlflow_logger(config: Config, run: Path, run_id: str) -> MLFlowLogger:
    """Return the logger of a run; of a new one there if it has no id yet."""
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return ForgivingMLFlowLogger(
        experiment_name=config.logger.experiment or config.name,
        run_name=run.name,
        tracking_uri=tracking_uri(config),
        tags={"breedlab.run": f"{config.name}/{run.name}"},
        run_id=run_id or None,
    )


def reach(config: Config, run: Path, run_id: str) -> str:
    """Return the id of a run at MLflow, begun where it was not.

    Raises:
        LoggerError: If the server does not answer, or MLflow refuses the place.
    """
    before = os.environ.get(_TRIES)
    os.environ.setdefault(_TRIES, "1")  # its seven tries take minutes
    try:
        logger = mlflow_logger(config, run, run_id)
        there = logger.run_id
        assert there is not None
        logger.experiment.get_run(there)
        return str(there)
    except Exception as error:
        place = without_passwords(tracking_uri(config))
        if _ALLOW_FILES in str(error):
            raise LoggerError(
                f"logger=mlflow: {place} is a folder, to which MLflow no longer logs; expected a"
                " database, such as logger.tracking_uri=sqlite:///mlflow.db, or"
                f" {_ALLOW_FILES}=true in the environment"
            ) from error
        raise LoggerError(
            f"logger=mlflow: {place} does not answer ({_reason(error)}); set"
            f" logger.tracking_uri or {TRACKING_VARIABLE}, or choose logger=tensorboard"
        ) from error
    finally:
        if before is None:
            os.environ.pop(_TRIES, None)


def _reason(error: Exception) -> str:
    return without_passwords(" ".join(str(error).split()))[:160] or type(error).__name__
