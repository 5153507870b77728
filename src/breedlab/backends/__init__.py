"""Where an experiment runs. A backend decides that, and nothing else: everywhere the same
`train.run(config)` runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from breedlab.config import Config
from breedlab.config.problems import Problem
from breedlab.errors import BackendError
from breedlab.registry import BACKENDS


class Backend(Protocol):
    """A place to run: it plans an experiment, and runs it."""

    def plan(self, config: Config, resume: Path | None) -> str:
        """What `dry_run=true` prints; nothing is started, and neither network nor credentials are
        needed."""
        ...

    def run(self, config: Config, overrides: list[str], resume: Path | None) -> Mapping[str, Any]:
        """Runs the experiment, shows how it goes, and returns what a grid's table shows of it.

        Raises:
            BreedlabError: With one message for the person.
        """
        ...

    def deploy(self, model: Path) -> str:
        """Puts a model, or a run's, behind an endpoint: its address or name, as `backends.client`
        takes it.

        Raises:
            BreedlabError: If the model is not there, or its endpoint does not answer a photo.
        """
        ...

    def delete(self, endpoint: str) -> None:
        """Takes away an endpoint that `deploy` made."""
        ...


def own_problems(tree: Mapping[str, Any]) -> list[Problem]:
    """What a backend refuses of its own section, to be told beside what else is wrong with the
    config."""
    section = tree.get("backend")
    if not isinstance(section, Mapping) or section.get("name") != "sagemaker":
        return []
    from breedlab.config.backend import Backend as Section
    from breedlab.config.components import section_of
    from breedlab.config.schema import schema

    kind = section_of(schema().model_fields["backend"].annotation)
    assert kind is not None and issubclass(kind, Section)
    try:
        wanted = kind.model_validate(section)
    except ValueError:
        return []  # which is told as the rest of the config is
    from breedlab.backends.sagemaker import images
    from breedlab.backends.sagemaker.session import planned

    try:
        return images.problems(wanted, planned(wanted).region)
    except (BackendError, ImportError):
        return []  # without the extra, which is asked for once the rest is in order


def backend(config: Config) -> Backend:
    """The backend that a config names; only that one is imported."""
    return BACKENDS.chosen(config.backend).build()
