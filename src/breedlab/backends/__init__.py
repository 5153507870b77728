"""Where an experiment runs. A backend decides that, and nothing else: everywhere the same
`pipeline.run(config)` runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from breedlab.backends.base import Backend
from breedlab.backends.kinds import BackendKind
from breedlab.config import Config
from breedlab.config.problems import Problem
from breedlab.registry import BACKENDS


def own_problems(tree: Mapping[str, Any]) -> list[Problem]:
    """Return the problems of a backend's own section, to report together with the config's other
    problems."""
    section = tree.get("backend")
    if not isinstance(section, Mapping) or section.get("name") not in BACKENDS.names():
        return []
    kind: type[BackendKind] = BACKENDS.get(section["name"])
    return kind.problems(section)


def backend(config: Config) -> Backend:
    """Return the backend that a config names, importing only that one."""
    kind: BackendKind = BACKENDS.chosen(config.backend)
    return kind.build()
