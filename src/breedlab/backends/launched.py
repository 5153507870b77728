"""The experiments that were submitted from this machine, by any backend: found by the records that
they left."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from breedlab.backends.base import FILE, Backend, Handle
from breedlab.commands import command
from breedlab.config.environment import resolved
from breedlab.config.migrations import KEY, upgrade
from breedlab.config.plugins import load_plugins
from breedlab.config.problems import error_from
from breedlab.console import warn
from breedlab.errors import BackendError, BreedlabError, NotFound
from breedlab.files import damaged
from breedlab.registry import BACKENDS

T = TypeVar("T")


class Launched:
    """The records below a folder of runs.

    Args:
        runs: Where the runs are.
    """

    def __init__(self, runs: Path) -> None:
        self._runs = runs
        self._backends: dict[str, Backend] = {}

    def all(self) -> list[Handle]:
        """Return every experiment that was submitted from here, the newest first."""
        handles = []
        for path in self._runs.glob(f"*/*/{FILE}"):
            try:
                handles.append(self._open(path.parent))
            except BreedlabError as error:  # one launch's record is no reason to show none
                warn(str(error))
        return sorted(handles, key=lambda handle: handle.started, reverse=True)

    def find(self, name: str) -> Handle | None:
        """Return an experiment by its job's name or by its run directory; None if it was submitted
        elsewhere."""
        if (Path(name) / FILE).is_file():
            return self._open(Path(name))
        return next((handle for handle in self.all() if name in handle.names), None)

    def _open(self, run: Path) -> Handle:
        record = read_record(run)
        # of another shell, perhaps, whose variables are not set here
        config, _ = resolved(record["config"], lenient=True)
        if problems := load_plugins(config.get("plugins")):
            raise error_from(problems, f"{run / FILE}")
        name = str(config["backend"]["name"])
        settings = config["backend"].get(name) or {}
        key = f"{name} {json.dumps(settings, sort_keys=True)}"
        if key not in self._backends:
            try:
                kind = BACKENDS.get(name).model_validate(settings)
            except ValidationError as error:
                reason = f"backend.{name}: {error.errors()[0]['msg']}"
                raise damaged(f"{run}/{FILE}", reason, _hint()) from error
            self._backends[key] = kind.build()
        return self._backends[key].reopen(record, run)


def elsewhere(name: str, where: str | None) -> Handle:
    """Return a job that another machine launched, from the first backend that knows it.

    Raises:
        BackendError: If none does.
    """
    return _ask(name, lambda backend: backend.find(name, where))


def stop_elsewhere(name: str, where: str | None) -> list[str]:
    """Stop a job that another machine launched, and return a line about the outcome.

    Raises:
        BackendError: If no backend knows it.
    """
    return _ask(name, lambda backend: backend.stop(name, where))


def ready() -> Iterator[Backend]:
    """Yield the backends that can be asked without a config: those whose settings have defaults."""
    for _, kind in BACKENDS.items():
        if not any(field.is_required() for field in kind.model_fields.values()):
            yield kind().build()


def _ask(name: str, question: Callable[[Backend], T | None]) -> T:
    refusals = []
    for backend in ready():
        try:
            if (answer := question(backend)) is not None:
                return answer
        except BackendError as error:
            refusals.append(error)
    message = f"{name}: no job of this name was found"
    raise all_of(refusals, message) if refusals else NotFound(message)


def all_of(refusals: Sequence[BackendError], message: str) -> BackendError:
    """Return the one error of all backends that were asked, or one with the reasons of each."""
    if len(refusals) == 1:
        return refusals[0]
    reasons = [" ".join(str(each).split()) for each in refusals]
    return NotFound("\n  ".join([message, *reasons]))


def _hint() -> str:
    return f"`{command('jobs', 'fetch NAME')}` asks the job's backend for its record"


def read_record(run: Path) -> Mapping[str, Any]:
    """Return what a run's job.json holds, in the current version's terms.

    Raises:
        BreedlabError: If it is damaged, or a newer version wrote it.
    """
    text = (run / FILE).read_text("utf-8")
    try:
        tree = json.loads(text)
        str(tree["config"]["backend"]["name"])
    except (ValueError, KeyError, TypeError) as error:
        why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise damaged(f"{run}/{FILE}", why if text.strip() else "it is empty", _hint()) from error
    source = f"{run}: {FILE}"
    config = upgrade({KEY: tree.get(KEY, 1), **tree["config"]}, "run", source)
    return {**upgrade(tree, "job", source), "config": config}
