"""What a job's logger needs besides the config: MLflow's address in its environment, and access to
its server."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from breedlab.config import Config
from breedlab.config.logger import TRACKING_VARIABLE
from breedlab.config.passwords import holds_password, without_passwords
from breedlab.config.problems import Problem

_HERE = re.compile(r"(sqlite:|file:|[./~]|https?://(localhost|127\.|\[::1\])).*|[^:]*")
"""What an address of MLflow begins with that only this machine has."""
_SERVER = re.compile(r"arn:[^:]+:sagemaker:[^:]+:\d+:(mlflow-tracking-server|mlflow-app)/[\w-]+")


def tracking_uri(config: Config) -> str | None:
    """Return where a job's MLflow is: of the config, the job's own variables, or this shell; None
    if nothing says, or another logger is chosen."""
    if config.logger.name != "mlflow":
        return None
    return (
        config.logger.tracking_uri
        or config.backend.environment.get(TRACKING_VARIABLE)
        or os.environ.get(TRACKING_VARIABLE)
    )


def tracked(config: Config) -> Config:
    """Return the config with MLflow's address among the variables of its jobs."""
    uri = tracking_uri(config)
    if uri is None:
        return config
    if holds_password(uri):
        uri = _in_shell(config, uri)
    variables = {TRACKING_VARIABLE: uri, **config.backend.environment}
    backend = config.backend.model_copy(update={"environment": variables})
    return config.model_copy(update={"backend": backend})


def _in_shell(config: Config, uri: str) -> str:
    """Return the name of the shell's variable that holds an address, for a record; a password goes
    from there to the job."""
    text = str(config.recorded()["logger"]["tracking_uri"])
    if re.fullmatch(r"\$\{oc\.env:\w+\}", text):
        return text
    same = uri == os.environ.get(TRACKING_VARIABLE)
    return f"${{oc.env:{TRACKING_VARIABLE}}}" if same else uri


def is_sagemaker(uri: str | None) -> bool:
    """Return whether an address of MLflow is the ARN of a tracking server or app of SageMaker's."""
    return bool(uri and _SERVER.fullmatch(uri))


def logger_problems(config: Config) -> Iterator[Problem]:
    """Yield why a job could not log where `logger` says."""
    name = config.logger.name
    if name == "mlflow":
        uri = tracking_uri(config)
        if uri is None or _HERE.fullmatch(uri):
            value = "nothing" if uri is None else repr(without_passwords(uri))
            yield Problem(
                "logger.tracking_uri",
                f"got {value}; expected an address that a job can reach, such as https://mlflow.example"
                f" or the ARN of a SageMaker MLflow app, here or as {TRACKING_VARIABLE}",
            )
    online = name == "wandb" and not config.logger.offline
    if online and "WANDB_API_KEY" not in config.backend.environment:
        yield Problem(
            "logger",
            "Weights & Biases needs a key in the job: export WANDB_API_KEY and add"
            " backend.environment.WANDB_API_KEY='', or set logger.offline=true",
        )
    if (name == "mlflow" or online) and config.backend.network_isolation:
        yield Problem(
            "logger",
            f"{name} cannot be reached from an isolated container; set"
            " backend.network_isolation=false, or choose logger=tensorboard or csv",
        )
