"""Where an experiment runs. A backend decides that, and nothing else: everywhere the same `train.run(config)` runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from breedlab.config import Config


class Backend(Protocol):
    """A place to run: it plans an experiment, and runs it."""

    def plan(self, config: Config, resume: Path | None) -> str:
        """What `dry_run=true` prints; nothing is started, and neither network nor credentials are needed."""
        ...

    def run(self, config: Config, overrides: list[str], resume: Path | None) -> Mapping[str, Any]:
        """Runs the experiment, shows how it goes, and returns what a grid's table shows of it.

        Raises:
            BreedlabError: With one message for the person.
        """
        ...

    def deploy(self, model: Path) -> str:
        """Puts a model, or a run's, behind an endpoint: its address or name, as `serving.client` takes it.

        Raises:
            BreedlabError: If the model is not there, or its endpoint does not answer a photo.
        """
        ...

    def delete(self, endpoint: str) -> None:
        """Takes away an endpoint that `deploy` made."""
        ...


def backend(config: Config) -> Backend:
    """The backend that a config names; only that one is imported."""
    if config.backend.name == "sagemaker":
        from breedlab.backends.sagemaker.launch import SageMakerBackend

        return SageMakerBackend()
    from breedlab.backends.local import LocalBackend

    return LocalBackend()
