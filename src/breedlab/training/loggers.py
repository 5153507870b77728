"""What gets a run's figures beside its directory: `logger` of the config, by Lightning's loggers.

A run is one run there, too, however often it is resumed: `logger.json` of the run directory keeps
its id.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from breedlab import distributed, extras
from breedlab.config import Config
from breedlab.config.logger import TRACKING_VARIABLE
from breedlab.config.passwords import without_passwords
from breedlab.console import warn
from breedlab.errors import LoggerError
from breedlab.files import atomic_write_json, read_json_if_whole
from breedlab.training.curves import curve_logger
from breedlab.training.log_filters import quiet_lightning

KEPT = "logger.json"
_TRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"


def begin(config: Config, run: Path) -> None:
    """Begin, or find again, a run at its logger, so that one that cannot be reached is told before
    anything is computed.

    Raises:
        ConfigError: If it cannot be reached, or nobody is logged in.
        MissingExtra: If its extra is not installed.
    """
    name = config.logger.name
    if name not in ("mlflow", "wandb"):
        return
    extras.require(name, f"logger={name}")
    kept = _kept(run)
    if kept.get("name") == name:
        if name == "mlflow":
            _reach(_mlflow(config, run), config)
        return
    if name == "wandb":
        _refuse_stranger(config)
        atomic_write_json(run / KEPT, {"name": name, "id": secrets.token_hex(4)})
        return
    logger = _mlflow(config, run)
    atomic_write_json(run / KEPT, {"name": name, "id": _reach(logger, config)})
    logger.log_hyperparams(config.recorded())


def make_loggers(config: Config, run: Path) -> list[Logger]:
    """Return what logs a training: the run's own curves, which reports read, and what `logger`
    names."""
    name = config.logger.name
    loggers = [curve_logger(run / "tensorboard", events=name == "tensorboard")]
    if name == "csv":  # a resumed run begins another version
        loggers.append(CSVLogger(run, name="csv"))
    elif name == "mlflow" and distributed.is_main():
        loggers.append(_mlflow(config, run))
    elif name == "wandb" and distributed.is_main():
        loggers.append(_wandb(config, run))
    return loggers


def finish(config: Config, run: Path, test: Mapping[str, Any]) -> None:
    """Log the metrics of the test with the ends of their intervals, and end the run there.

    Args:
        config: The experiment.
        run: The run directory.
        test: `test` of metrics.json.
    """
    name = config.logger.name
    if name not in ("mlflow", "wandb"):
        return
    figures = {f"test/{metric}": float(value) for metric, value in test["metrics"].items()}
    for metric, (low, high) in (test.get("intervals") or {}).items():
        figures |= {f"test/{metric}_low": float(low), f"test/{metric}_high": float(high)}
    if name == "mlflow":
        logger = _mlflow(config, run)
        logger.log_metrics(figures)
        logger.finalize("success")
        return
    with quiet_lightning():  # which warns that it goes on with the run that there is
        made = _wandb(config, run)
        made.experiment.summary.update(figures)
        made.experiment.finish(quiet=True)


def tracking_uri(config: Config) -> str:
    """Return where MLflow's figures go: what the config says, else the environment, else a database
    beside the runs."""
    database = (Path(config.runs_dir) / "mlflow.db").absolute()
    return (
        config.logger.tracking_uri or os.environ.get(TRACKING_VARIABLE) or f"sqlite:///{database}"
    )


class ForgivingMLFlowLogger(MLFlowLogger):
    """MLflow's logger, which ends no training because its server is away."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        try:
            super().log_metrics(metrics, step)
        except Exception as error:  # requests', SQLAlchemy's, MLflow's own
            warn(f"logger=mlflow: figures were not logged ({_reason(error)}); training continues")

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        try:
            super().finalize(status)
        except Exception as error:
            warn(f"logger=mlflow: the run was not ended there ({_reason(error)})")


def _mlflow(config: Config, run: Path) -> MLFlowLogger:
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    kept = _kept(run)
    return ForgivingMLFlowLogger(
        experiment_name=config.logger.experiment or config.name,
        run_name=run.name,
        tracking_uri=tracking_uri(config),
        tags={"breedlab.run": f"{config.name}/{run.name}"},
        run_id=kept["id"] if kept.get("name") == "mlflow" else None,
    )


def _reach(logger: MLFlowLogger, config: Config) -> str:
    """Return the id of a run at MLflow, begun where it was not."""
    before = os.environ.get(_TRIES)
    os.environ.setdefault(_TRIES, "1")  # its seven tries take minutes
    try:
        known = logger.run_id
        assert known is not None
        logger.experiment.get_run(known)
        return str(known)
    except Exception as error:
        place = without_passwords(tracking_uri(config))
        raise LoggerError(
            f"logger=mlflow: {place} does not answer ({_reason(error)}); set"
            f" logger.tracking_uri or {TRACKING_VARIABLE}, or choose logger=tensorboard"
        ) from error
    finally:
        if before is None:
            os.environ.pop(_TRIES, None)


def _wandb(config: Config, run: Path) -> WandbLogger:
    return WandbLogger(
        name=run.name,
        project=config.logger.experiment or config.name,
        save_dir=run,
        offline=config.logger.offline,
        id=_kept(run).get("id"),
        resume="allow",
        log_model=False,
        config=config.recorded(),
    )


def _refuse_stranger(config: Config) -> None:
    """Raise if Weights & Biases would ask who this is, which in a job nobody answers."""
    if config.logger.offline or os.environ.get("WANDB_MODE") in ("offline", "disabled"):
        return
    import wandb

    if not (os.environ.get("WANDB_API_KEY") or wandb.api.api_key):
        raise LoggerError(
            "logger=wandb: not logged in; run wandb login, set WANDB_API_KEY, or choose"
            " logger.offline=true"
        )


def _kept(run: Path) -> dict[str, Any]:
    found = read_json_if_whole(run / KEPT)
    return found if isinstance(found, dict) else {}


def _reason(error: Exception) -> str:
    return without_passwords(" ".join(str(error).split()))[:160] or type(error).__name__
