"""The search: Optuna proposes, we run and tell. Every trial is stored the moment it ends."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial, TrialState

from breedlab.config import Config, search_space, trial_count
from breedlab.config.migrations import KEY, SCHEMA_VERSION, refuse_newer
from breedlab.config.space import Choices, Dimension, Range, Space, grid_points
from breedlab.errors import TrainingError
from breedlab.files import atomic_write_json
from breedlab.training.prepare import Prepared
from breedlab.training.stopping import Stopped
from breedlab.tuning import workers
from breedlab.tuning.board import Board
from breedlab.tuning.events import write_events
from breedlab.tuning.row import Row
from breedlab.tuning.storage import storage_url as storage_url
from breedlab.tuning.trial import Outcome, quickly_collected, run_trial

_STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
_HEARING_SECONDS = 0.5
"""How long what another process tells of its trial may wait to be shown."""

Start = Callable[[Trial, Mapping[str, Any]], Future[Outcome]]
Hear = Callable[[], None]


@dataclass(frozen=True)
class Best:
    """The trial that won: its number, its values by config path, and its objective."""

    number: int
    values: dict[str, Any]
    objective: float


def search(config: Config, prepared: Prepared, run: Path) -> Best:
    """Runs the trials that are still to run and returns the best of all.

    Args:
        config: With a search space.
        prepared: Shared by all trials.
        run: The run directory: its `study.db` is continued if there is one.

    Raises:
        TrainingError: If every trial failed; it tells the reasons.
    """
    space = search_space(config)
    study = _open(config, run, space)
    board = Board(config, list(space))
    left = _to_run(study, config)
    for trial in study.get_trials(deepcopy=False):
        if trial.state.is_finished():
            board.finished(_row(trial, space))
    with board.live(), _runner(config, prepared, run, study, board) as (start, hear):
        _run_trials(study, config, run, space, board, left, start, hear)
    return _best(study, space)


def encode(value: Any) -> Any:
    """A choice as Optuna stores it: a scalar as it is, a list as JSON."""
    return json.dumps(list(value)) if isinstance(value, list | tuple) else value


def _run_trials(
    study: optuna.Study, config: Config, run: Path, space: Space, board: Board, left: int, start: Start, hear: Hear
) -> None:
    distributions = {path: distribution(dimension) for path, dimension in space.items()}
    running: dict[Future[Outcome], Trial] = {}
    while left or running:
        while left and len(running) < config.tuner.parallel:
            trial = study.ask(distributions)
            values = _values(trial.params, space)
            board.started(trial.number, values)
            running[start(trial, values)] = trial
            left -= 1
        done: set[Future[Outcome]] = set()
        while not done:
            done = wait(running, _HEARING_SECONDS, FIRST_COMPLETED).done
            hear()
        for future in done:
            trial = running.pop(future)
            outcome = future.result()
            values = _values(trial.params, space)
            _record(study, trial, values, outcome, run)
            board.finished(Row(trial.number, values, outcome.state, outcome.objective, outcome.seconds, outcome.reason))


def _record(study: optuna.Study, trial: Trial, values: Mapping[str, Any], outcome: Outcome, run: Path) -> None:
    folder = run / "trials" / str(trial.number)
    folder.mkdir(parents=True, exist_ok=True)
    record = {"number": trial.number, "values": dict(values), **asdict(outcome)}
    atomic_write_json(folder / "trial.json", record, indent=2)
    write_events(run / "tensorboard" / f"trial_{trial.number:03}", values, outcome)
    trial.set_user_attr("seconds", outcome.seconds)
    trial.set_user_attr("reason", outcome.reason)
    told = outcome.objective if outcome.state == "complete" else None
    study.tell(trial, told, state=_STATES[outcome.state])


def _runner(
    config: Config, prepared: Prepared, run: Path, study: optuna.Study, board: Board
) -> AbstractContextManager[tuple[Start, Hear]]:
    """A context whose values start one trial and give its future; and show what running trials have told since."""
    prunes = workers.pruner(config.tuner) is not None

    @contextmanager
    def here() -> Iterator[tuple[Start, Hear]]:
        def start(trial: Trial, values: Mapping[str, Any]) -> Future[Outcome]:
            def stop_early(epoch: int, value: float) -> bool:
                board.progressed(trial.number, epoch + 1, value)
                return prunes and workers.report(trial, epoch, value)

            future: Future[Outcome] = Future()
            future.set_result(run_trial(prepared, values, stop_early))
            return future

        with quickly_collected():
            yield start, lambda: None

    @contextmanager
    def beside() -> Iterator[tuple[Start, Hear]]:
        # The activations are computed before the workers start, who then find them in the cache.
        prepared.activations(prepared.classifier(config), config)
        spawn = get_context("spawn")
        told: SimpleQueue[workers.Progress] = spawn.SimpleQueue()
        pool = ProcessPoolExecutor(
            config.tuner.parallel,
            mp_context=spawn,
            initializer=workers.begin,
            initargs=(config.model_dump(), prepared.report, storage_url(run), study.study_name, told),
        )

        def start(trial: Trial, values: Mapping[str, Any]) -> Future[Outcome]:
            return pool.submit(workers.work, trial._trial_id, trial.number, dict(values), prunes)

        def hear() -> None:
            while not told.empty():
                board.progressed(*told.get())

        try:
            yield start, hear
        except (Stopped, KeyboardInterrupt):  # now, not when their trials are through: those run again
            for process in list(pool._processes.values()):
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    return beside() if config.tuner.parallel > 1 else here()


def _open(config: Config, run: Path, space: Space) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=storage_url(run),
        study_name=config.name,
        direction="maximize" if config.monitor.mode == "max" else "minimize",
        load_if_exists=True,
    )
    refuse_newer(study.user_attrs.get(KEY, 1), f"{run / 'study.db'}")
    if KEY not in study.user_attrs and not study.trials:
        study.set_user_attr(KEY, SCHEMA_VERSION)
    # Moved on by what is stored, so that a resumed sampler does not propose the same again.
    seed = config.seed + len(study.trials)
    if config.tuner.strategy in ("random", "grid"):
        study.sampler = optuna.samplers.RandomSampler(seed=seed)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.sampler = optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=max(4, (config.tuner.trials or 0) // 4),
                constant_liar=config.tuner.parallel > 1,
            )
    if pruner := workers.pruner(config.tuner):
        study.pruner = pruner
    if config.tuner.strategy == "grid":
        _enqueue_grid(study, space)
    return study


def _enqueue_grid(study: optuna.Study, space: Space) -> None:
    """Every combination once: Optuna's own GridSampler does not work under ask and tell."""
    stored = sum("rerun_of" not in trial.user_attrs for trial in study.trials)
    for point in grid_points(space)[stored:]:
        study.enqueue_trial({path: encode(value) for path, value in point.items()})


def _to_run(study: optuna.Study, config: Config) -> int:
    """Marks what was cut off, puts it in the queue again, and counts what is left to run."""
    reruns = {trial.user_attrs.get("rerun_of") for trial in study.trials}
    for trial in study.trials:
        if trial.state == TrialState.RUNNING:
            study._storage.set_trial_user_attr(trial._trial_id, "cut_off", True)
            study.tell(trial.number, state=TrialState.FAIL)
    for trial in study.trials:
        if _was_cut_off(trial) and trial.number not in reruns:
            study.enqueue_trial(trial.params, user_attrs={"rerun_of": trial.number})
    done = sum(trial.state.is_finished() and not _was_cut_off(trial) for trial in study.trials)
    return max(0, trial_count(config) - done)


def _was_cut_off(trial: FrozenTrial) -> bool:
    return bool(trial.user_attrs.get("cut_off"))


def distribution(dimension: Dimension) -> BaseDistribution:
    """A dimension as Optuna has it."""
    if isinstance(dimension, Choices):
        return CategoricalDistribution([encode(value) for value in dimension.values])
    assert isinstance(dimension, Range)
    if dimension.integer:
        return IntDistribution(int(dimension.low), int(dimension.high), dimension.log, int(dimension.step or 1))
    return FloatDistribution(float(dimension.low), float(dimension.high), dimension.log, dimension.step)


def _values(params: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """What Optuna stored, as the config takes it."""
    values = {}
    for path, stored in params.items():
        dimension = space[path]
        known = {repr(encode(v)): v for v in dimension.values} if isinstance(dimension, Choices) else {}
        value = known.get(repr(stored), stored)
        values[path] = list(value) if isinstance(value, tuple) else value
    return values


def _row(trial: FrozenTrial, space: Space) -> Row:
    ended = next(name for name, state in _STATES.items() if state == trial.state)
    state = "cut off" if _was_cut_off(trial) else ended  # and so in the log, which told that it had started
    objective = trial.value if trial.state == TrialState.COMPLETE else None
    attrs = trial.user_attrs
    return Row(
        trial.number,
        _values(trial.params, space),
        state,
        objective,
        attrs.get("seconds", 0.0),
        attrs.get("reason", ""),
    )


def _best(study: optuna.Study, space: Space) -> Best:
    try:
        trial = study.best_trial
    except ValueError as error:
        reasons = {t.user_attrs.get("reason", "") for t in study.trials if not _was_cut_off(t)} - {""}
        raise TrainingError(
            "no trial of the search was completed:\n" + "\n".join(f"  {reason}" for reason in sorted(reasons))
        ) from error
    assert trial.value is not None
    return Best(trial.number, _values(trial.params, space), trial.value)
