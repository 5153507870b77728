"""A run at its logger: begun before anything is computed, logged to while it trains, and ended with
the metrics of the test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from breedlab import distributed
from breedlab.config import Config
from breedlab.evaluation.figures import named_ends
from breedlab.files import atomic_write_json, read_json_if_whole
from breedlab.training.curves import curve_logger
from breedlab.training.logger_kinds import logger_of, require_extra

KEPT = "logger.json"


def begin(config: Config, run: Path) -> None:
    """Begin a run at its logger, or find it again, so that a logger that cannot be reached is
    reported before anything is computed.

    Raises:
        LoggerError: If it cannot be reached, or no one is logged in.
        MissingExtra: If its extra is not installed.
    """
    kind = logger_of(config)
    if kind is None:
        return
    require_extra(config)
    before = _run_id(config, run)
    run_id = kind.begin(config, run, before)
    if run_id != before:
        atomic_write_json(run / KEPT, {"name": config.logger.name, "id": run_id})
        kind.describe(config, run, run_id)


def make_loggers(config: Config, run: Path) -> list[Logger]:
    """Return what logs a training: the run's own curves, which reports read, and what `logger`
    names."""
    loggers: list[Logger] = [
        curve_logger(run / "tensorboard", events=config.logger.name == "tensorboard")
    ]
    kind = logger_of(config)
    if kind is not None and (kind.every_process or distributed.is_main()):
        logger = kind.build(config, run, _run_id(config, run))
        if logger is not None:
            loggers.append(logger)
    return loggers


def finish(config: Config, run: Path, test: Mapping[str, Any]) -> None:
    """Log the metrics of the test with the ends of their intervals, and end the run there.

    Args:
        config: The experiment.
        run: The run directory.
        test: `test` of metrics.json.
    """
    kind = logger_of(config)
    if kind is None:
        return
    metrics = {f"test/{metric}": float(value) for metric, value in test["metrics"].items()}
    for metric, span in (test.get("intervals") or {}).items():
        metrics |= named_ends(f"test/{metric}", span)
    kind.finish(config, run, _run_id(config, run), metrics)


def _run_id(config: Config, run: Path) -> str:
    """Return the id that the run has at its logger; empty if it has none yet."""
    record = read_json_if_whole(run / KEPT)
    if isinstance(record, dict) and record.get("name") == config.logger.name:
        return str(record.get("id", ""))
    return ""
