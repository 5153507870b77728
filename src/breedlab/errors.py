"""What users see when something cannot go on: one message, no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


class BreedlabError(Exception):
    """A problem that the user can fix. Its text is the whole message."""

    exit_code = 2
    told = False
    """Whether another process of the same run has said it already."""


class ConfigError(BreedlabError):
    """The config cannot mean anything sensible; nothing was started."""


class DataError(BreedlabError):
    """The images are missing, broken or inconsistent."""


class TrainingError(BreedlabError):
    """Training or the search could not produce a model."""

    exit_code = 1


class OutOfTime(TrainingError):
    """The minutes of a search are over: what is running ends, and what was found counts."""


class DiskFull(TrainingError):
    """A disk is full. Whatever else is tried on it fails alike, so that a search ends here, to be
    resumed."""


class BackendError(BreedlabError):
    """The place where the experiment should run refused or failed."""

    exit_code = 1


class MissingExtra(BackendError):
    """The place needs packages that are not installed; nothing was started."""

    exit_code = 2


class ServingError(BreedlabError):
    """A model archive or a photo cannot be used."""


class Terminated(BreedlabError):
    """SIGTERM ended a run, as it does when a spot instance is taken back; the message says how to
    go on."""

    exit_code = 143


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def remember_run(error: BaseException, run: Path) -> None:
    """Have an error carry the directory of the run that it ended."""
    error.breedlab_run = run  # type: ignore[attr-defined]


def ended_run(error: BaseException) -> Path | None:
    """Return the directory of the run that an error ended; None if it ended none."""
    found = (getattr(each, "breedlab_run", None) for each in causes(error))
    return next((run for run in found if run is not None), None)
