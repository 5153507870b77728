"""Rules of the SageMaker backend that need only the config, so that they are reported with all the
others."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from breedlab.config.backend import Backend
from breedlab.config.problems import Problem
from breedlab.config.sections import Data, Model, Tuner
from breedlab.config.space import (
    Choices,
    Range,
    Space,
    SpaceError,
    grid_points,
    leaves,
    read_dimension,
)
from breedlab.registry import BACKENDS
from breedlab.weight_files import names_file

_BUCKET = re.compile(r"[a-zA-Z0-9._-]{1,255}")
"""What boto3 accepts as a bucket's name, including old ones with capitals."""

MOST_CHOICES = 30
"""What a categorical range of SageMaker may hold."""


def kind_of(backend: Backend) -> type[Any]:
    """Return the registered class of the backend that a config chooses."""
    return BACKENDS.get(backend.name)


def data_is_where_it_runs(backend: Backend, data: Data) -> Iterator[Problem]:
    if data.root.startswith("s3:"):
        if kind_of(backend).scheme != "s3":
            readers = [name for name, kind in BACKENDS.items() if kind.scheme == "s3"]
            yield Problem(
                "data.root",
                f"{data.root} is in S3; expected a folder here, or backend={' or '.join(readers)}",
            )
        elif not data.root.removeprefix("s3://").strip("/") or not data.root.startswith("s3://"):
            yield Problem("data.root", f"got {data.root!r}; expected s3://bucket/folder")
        elif not _BUCKET.fullmatch(data.root.removeprefix("s3://").partition("/")[0]):
            yield Problem(
                "data.root",
                f"got {data.root!r}; expected s3://bucket/folder, the bucket's name of letters,"
                " digits, '-' and '.'",
            )


def launch_has_a_place(backend: Backend, dry_run: bool) -> Iterator[Problem]:
    """Yield the settings that a launch needs but lacks; a dry run prints `<role>` and `<bucket>`
    instead."""
    if not kind_of(backend).aws or dry_run:
        return
    if backend.role is None:
        yield Problem(
            "backend.role",
            "has no value; a launch needs the execution role of the jobs, by ARN or name",
            "BL102",
        )
    if backend.bucket is None:
        yield Problem(
            "backend.bucket", "has no value; a launch needs a bucket in the jobs' region", "BL102"
        )


def trials_are_jobs(trials: str, strategy: str, freeze: str, warm_start: Sequence[str]) -> bool:
    """Return whether each trial of a search is a training job of its own, given the config's
    values.

    A frozen backbone is computed once for all trials of one job, and once for each trial that is a
    job.
    """
    if strategy == "none":
        return False
    if trials == "auto":
        return freeze != "backbone" or bool(warm_start)
    return trials == "job_each"


def search_suits_backend(backend: Backend, tuner: Tuner, model: Model) -> Iterator[Problem]:
    if tuner.strategy == "none":
        return
    if tuner.early_stopping and tuner.strategy == "hyperband":
        yield Problem(
            "tuner.early_stopping",
            "got true; expected false, since hyperband stops trials by itself",
        )
    each = kind_of(backend).aws and trials_are_jobs(
        backend.trials, tuner.strategy, model.freeze, tuner.warm_start
    )
    if tuner.warm_start and not each:
        yield Problem(
            "tuner.warm_start",
            f"needs backend={' or '.join(name for name, kind in BACKENDS.items() if kind.aws)} and"
            " backend.trials=job_each: parents are tuning jobs",
        )
    if not each:
        return
    if len(tuner.warm_start) > 5:
        yield Problem(
            "tuner.warm_start", f"has {len(tuner.warm_start)} parents; expected at most 5"
        )
    space = dict(_space(tuner))
    if tuner.strategy == "grid" and all(
        isinstance(dimension, Choices) for dimension in space.values()
    ):
        yield from _too_many(
            "tuner.space", "the grid has", len(grid_points(space)), backend.limits.trials
        )
    elif tuner.trials is not None:
        yield from _too_many("tuner.trials", "got", tuner.trials, backend.limits.trials)
    if tuner.parallel > backend.limits.parallel:
        yield Problem(
            "tuner.parallel",
            f"got {tuner.parallel}; expected at most {backend.limits.parallel}, the account's limit"
            " (backend.limits.parallel, if yours was raised)",
        )
    yield from _ranges_fit(space)


def machines_fit(backend: Backend) -> Iterator[Problem]:
    if not kind_of(backend).aws:
        return
    if backend.spot and backend.keep_alive_minutes:
        yield Problem(
            "backend.keep_alive_minutes",
            "expected 0, since backend.spot=true leaves no instance warm",
        )
    if backend.max_wait_hours is not None:
        if not backend.spot:
            yield Problem(
                "backend.max_wait_hours",
                "expected null, since only backend.spot=true waits for capacity",
            )
        elif backend.max_wait_hours < backend.max_run_hours:
            least = (
                f"expected at least backend.max_run_hours ({backend.max_run_hours:g}), which it"
                " includes"
            )
            yield Problem("backend.max_wait_hours", f"got {backend.max_wait_hours:g}; {least}")
    if bool(backend.vpc.subnets) != bool(backend.vpc.security_groups):
        missing = "security_groups" if backend.vpc.subnets else "subnets"
        yield Problem(
            f"backend.vpc.{missing}", "is empty; a VPC needs both subnets and security groups"
        )
    for key in backend.tags:
        if key == "breedlab" or key.startswith("breedlab:"):
            yield Problem(
                f"backend.tags.{key}",
                "is reserved: breedlab identifies its jobs by it; choose another key",
            )
    reserved = [
        name for name in backend.environment if name.startswith(("SM_", "BREEDLAB_", "SAGEMAKER_"))
    ]
    for name in reserved:
        yield Problem(
            f"backend.environment.{name}", "is set by the job itself; choose another name"
        )


def pipeline_has_what_it_needs(backend: Backend) -> Iterator[Problem]:
    if not kind_of(backend).aws:
        return
    if backend.orchestrate != "pipeline":
        if backend.register_in is not None:
            yield Problem(
                "backend.register_in",
                f"got {backend.register_in!r}; expected null without backend.orchestrate=pipeline;"
                " `deploy RUN --register GROUP` registers what a run left",
            )
    elif backend.tensorboard:
        yield Problem(
            "backend.tensorboard",
            "expected false with backend.orchestrate=pipeline: its folder has the job's name,"
            " which AWS gives; events reach S3 without it, with the checkpoints",
        )


def isolation_needs_nothing(backend: Backend, model: Model) -> Iterator[Problem]:
    """Refuse what a job would download under network isolation: packages and weights."""
    if not kind_of(backend).aws or not backend.network_isolation:
        return
    if "/" not in backend.image and not backend.vendor:
        yield Problem(
            "backend.image",
            f"got {backend.image!r}; expected the URI of an image that holds breedlab's packages,"
            " since backend.network_isolation=true installs none; or backend.vendor=true, which"
            " sends them along",
        )
    if (
        not names_file(model.weights)
        and model.weights != "none"
        and not model.weights.startswith("package:")
    ):
        yield Problem(
            "model.weights",
            f"{model.weights} would be downloaded; expected a file, package:NAME or none, since"
            " backend.network_isolation=true lets nothing in",
        )


def _space(tuner: Tuner) -> Iterator[tuple[str, Choices | Range]]:
    for path, description in leaves(tuner.space):
        try:
            yield path, read_dimension(path, description)
        except SpaceError:
            continue  # reported where the space itself is read


def _ranges_fit(space: Space) -> Iterator[Problem]:
    if len(space) > 30:
        yield Problem("tuner.space", f"has {len(space)} paths; SageMaker searches at most 30")
    for path, dimension in space.items():
        if isinstance(dimension, Range) and _has_steps(dimension):
            yield Problem(
                f"tuner.space.{path}.step",
                "SageMaker's ranges have no steps; expected a list of the values",
            )
        if isinstance(dimension, Choices) and len(dimension.values) > MOST_CHOICES:
            yield Problem(
                f"tuner.space.{path}",
                f"has {len(dimension.values)} choices; SageMaker takes {MOST_CHOICES}",
            )


def _has_steps(dimension: Range) -> bool:
    """Return whether a range leaves out numbers of its kind."""
    return dimension.step is not None and not (dimension.integer and dimension.step == 1)


def _too_many(path: str, words: str, trials: int, most: int) -> Iterator[Problem]:
    if trials > most:
        yield Problem(
            path,
            f"{words} {trials} trials; expected at most {most}, the account's limit"
            " (backend.limits.trials, if yours was raised)",
        )


RULES = (
    data_is_where_it_runs,
    launch_has_a_place,
    search_suits_backend,
    machines_fit,
    pipeline_has_what_it_needs,
    isolation_needs_nothing,
)
