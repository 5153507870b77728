"""Plan or run an experiment whose config is composed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from breedlab import distributed
from breedlab.config import Config
from breedlab.config.idle import warn_of_idle
from breedlab.config.validate import accepted, examine
from breedlab.garbage import no_collection
from breedlab.weight_files import file_of


def start(tree: Mapping[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Validate one new experiment, then plan it (dry run) or run it.

    Returns:
        What the table of a grid shows of it.
    """
    from breedlab.backends import own_problems

    with no_collection():
        config, problems = examine(dict(tree))
    if problems:
        problems = problems + own_problems(tree)
    config = accepted(config, problems)
    warn_of_idle(config, overrides)
    return carry_out(config, overrides, None)


def carry_out(config: Config, overrides: list[str], resume: Path | None) -> dict[str, Any]:
    """Plan or run a validated experiment, or the rest of a run."""
    from breedlab.backends import backend

    where = backend(config)
    if resume is None:
        config, overrides = _with_weights_of_a_run(config, overrides)
        config, overrides = where.without_missing_extras(config, overrides)
    if config.dry_run:
        if distributed.is_main():
            print(config.conceal(where.plan(config, resume)))
        return {}
    return dict(where.run(config, overrides, resume))


def _with_weights_of_a_run(config: Config, overrides: list[str]) -> tuple[Config, list[str]]:
    """Replace a run in `model.weights` by its file: `runs/latest` means another run once this one
    has begun."""
    file = file_of(config.model.weights)
    if file == config.model.weights:
        return config, overrides
    model = config.model.model_copy(update={"weights": file})
    words = [
        f'model.weights="{file}"' if word.startswith("model.weights=") else word
        for word in overrides
    ]
    return config.model_copy(update={"model": model}), words
