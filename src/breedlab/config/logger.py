"""Where a run's metrics are logged besides its directory."""

from typing import Annotated

from pydantic import Field

from breedlab.config.components import choice
from breedlab.config.section import Section
from breedlab.registry import LOGGERS

TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"
"""The variable by which MLflow's own tools find their server, too."""


class Logger(Section):
    """Where training curves and test metrics go, besides the run directory."""

    name: Annotated[str, choice(LOGGERS)] = "tensorboard"
    """The logger; `none` writes only the run's own `curves.csv`, which reports always read."""
    experiment: Annotated[str, Field(min_length=1)] | None = None
    """The experiment in MLflow, or the project in Weights & Biases; null is the config's `name`."""
    tracking_uri: Annotated[str, Field(min_length=1)] | None = None
    """MLflow's server, database, or SageMaker ARN; null is $MLFLOW_TRACKING_URI, else `mlflow.db`
    in `runs_dir`."""
    offline: bool = False
    """Whether Weights & Biases only writes to the run directory, for `wandb sync` later."""
