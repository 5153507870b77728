"""Rules on searches (`tuner`); see `config.rules`."""

from __future__ import annotations

from collections.abc import Iterator

from breedlab.config import cloud
from breedlab.config.backend import Backend
from breedlab.config.problems import Problem, Rule
from breedlab.config.sections import Cache, Model, Optim, Tuner
from breedlab.config.space import PAIRED, Choices, SpaceError, leaves, read_dimension


def warmup_fits_trials(optim: Optim, tuner: Tuner) -> Iterator[Problem]:
    """Refuse a warm-up that takes a whole trial or longer: on SageMaker a trial is a training of
    its own, and would be refused there."""
    if (
        tuner.strategy != "none"
        and optim.schedule != "one_cycle"
        and optim.warmup_epochs >= tuner.max_epochs
    ):
        yield Problem(
            "optim.warmup_epochs",
            f"got {optim.warmup_epochs:g}; expected less than tuner.max_epochs"
            f" ({tuner.max_epochs}), a trial's",
        )


def trials_are_counted(tuner: Tuner) -> Iterator[Problem]:
    if tuner.strategy == "none":
        return
    if tuner.strategy == "grid" and tuner.trials is not None:
        yield Problem(
            "tuner.trials",
            f"got {tuner.trials}; expected null, since a grid runs every combination",
        )
    if tuner.strategy not in ("grid", "auto") and tuner.trials is None:
        yield Problem(
            "tuner.trials",
            f"has no value; strategy {tuner.strategy!r} needs a number of trials",
            "BL102",
        )
    if tuner.strategy == "hyperband" and tuner.max_epochs < 2:
        yield Problem(
            "tuner.max_epochs",
            "got 1; expected at least 2, since hyperband stops trials between epochs",
        )
    if not list(leaves(tuner.space)):
        yield Problem(
            "tuner.space", "is empty; expected config paths with what each may be, or tuner=none"
        )


def folds_have_features(
    tuner: Tuner, model: Model, cache: Cache, backend: Backend
) -> Iterator[Problem]:
    if tuner.folds == 1 or tuner.strategy == "none":
        return
    if model.freeze != "backbone" or cache.mode == "off":
        yield Problem(
            "tuner.folds",
            f"got {tuner.folds}, which cross-validates on cached features; expected 1, or"
            " model.freeze=backbone and cache.mode=auto",
        )
    if cloud.kind_of(backend).aws and cloud.trials_are_jobs(
        backend.trials, tuner.strategy, model.freeze, tuner.warm_start
    ):
        yield Problem(
            "tuner.folds",
            f"got {tuner.folds}; expected 1 where each trial is a job (backend.trials=one_job runs"
            " all trials in one)",
        )


def auto_has_what_it_needs(
    tuner: Tuner, model: Model, cache: Cache, backend: Backend
) -> Iterator[Problem]:
    if tuner.strategy != "auto":
        if tuner.minutes is not None and tuner.strategy != "none":
            yield Problem(
                "tuner.minutes",
                f"got {tuner.minutes:g}; expected null, since only tuner=auto has a time limit",
            )
        return
    if tuner.minutes is None:
        yield Problem(
            "tuner.minutes", "has no value; strategy 'auto' needs a number of minutes", "BL102"
        )
    if tuner.parallel > 1:
        yield Problem(
            "tuner.parallel",
            f"got {tuner.parallel}; expected 1 with auto, since its trials share their passes",
        )
    if model.freeze != "backbone" or cache.mode == "off":
        expected = "expected model.freeze=backbone and cache.mode=auto"
        yield Problem(
            "tuner.strategy", f"got 'auto', which searches on cached features; {expected}"
        )
    if cloud.kind_of(backend).aws and backend.trials == "job_each":
        yield Problem(
            "backend.trials", "got 'job_each'; expected auto, since an auto search is one job"
        )
    space = dict(leaves(tuner.space))
    for one, other in PAIRED:
        lists = [path for path in (one, other) if path in space]
        sizes = [len(space[path]) if isinstance(space[path], list) else 0 for path in lists]
        if (one == "model.name" and len(lists) == 1) or len(set(sizes)) > 1:
            expected = f"expected lists of as many values for {one} and {other}, which go together"
            yield Problem(
                f"tuner.space.{lists[0]}", f"does not go with tuner.space.{other}; {expected}"
            )


def values_are_given_once(tuner: Tuner) -> Iterator[Problem]:
    """Refuse a value that is given twice in lists that go together only with `auto`."""
    if tuner.strategy in ("auto", "none"):
        return
    for path, values in leaves(tuner.space):
        in_pair = any(path in pair for pair in PAIRED) and isinstance(values, list)
        if in_pair and len({repr(value) for value in values}) < len(values):
            yield Problem(f"tuner.space.{path}", f"got {values!r}; expected each value once")


def grid_is_finite(tuner: Tuner) -> Iterator[Problem]:
    if tuner.strategy not in ("grid", "auto"):
        return
    for path, description in leaves(tuner.space):
        try:
            finite = isinstance(read_dimension(path, description), Choices)
        except SpaceError:
            continue  # reported where the space itself is read
        if not finite:
            name = "a grid" if tuner.strategy == "grid" else "auto"
            yield Problem(
                f"tuner.space.{path}",
                f"is a continuous range; {name} takes a list, such as [0.001,0.01]",
            )


RULES: tuple[Rule, ...] = (
    warmup_fits_trials,
    trials_are_counted,
    folds_have_features,
    auto_has_what_it_needs,
    values_are_given_once,
    grid_is_finite,
)
