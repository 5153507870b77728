"""The search: Optuna proposes, we run and tell. Every trial is stored the moment it ends."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from breedlab import config as configs
from breedlab.config import Config, search_space, trial_count
from breedlab.config.space import Space
from breedlab.console import note
from breedlab.names import counted
from breedlab.training.architecture import is_solved
from breedlab.training.context import TrainingContext, at_leisure
from breedlab.training.objective import rank
from breedlab.tuning import auto, baseline, store, workers
from breedlab.tuning import confirm as confirmation
from breedlab.tuning.best import Best, best_of, complete_trials
from breedlab.tuning.budget import Budget
from breedlab.tuning.events import write_events
from breedlab.tuning.proposals import (
    decode,
    distribution,
    distributions,
    encoded,
    propose,
    pruner,
    tried,
    visible,
)
from breedlab.tuning.reopen import open_study
from breedlab.tuning.storage import storage_url
from breedlab.tuning.store import was_cut_off
from breedlab.tuning.trial import Outcome, quickly_collected, run_trial
from breedlab.tuning.trial_log import TrialLog
from breedlab.tuning.trial_table import TrialTable

SHARE_OF_FINE_TUNING = 0.4
"""The share of the minutes that a search leaves if all layers are to be trained after it."""

__all__ = ["Best", "distribution", "search", "storage_url"]


class Runner(Protocol):
    """What runs trials: this process or several next to it."""

    def start(self, number: int, values: Mapping[str, Any]) -> None: ...

    def ended(self) -> dict[int, Outcome]: ...


def search(config: Config, context: TrainingContext, run: Path) -> Best:
    """Run the trials that are still to run and return the best of all.

    Args:
        config: With a search space.
        context: Shared by all trials.
        run: The run directory: its `study.db` is continued if there is one.

    Raises:
        TrainingError: If every trial failed, with the reasons; or if a worker was killed.
    """
    space = search_space(config)
    study = open_study(config, run)
    board = TrialTable(config, list(space))
    finished = [trial for trial in study.trials if trial.state.is_finished()]
    for trial in finished:
        board.finished(_row(trial, space, config, run))
    remaining = trial_count(config) - sum(not was_cut_off(trial) for trial in finished)
    budget = Budget(config.tuner.minutes, _spent(study, run))
    context.heed = budget.heed
    try:
        if remaining > 0 and config.tuner.minutes is not None:
            minutes = budget.left() / 60
            note(
                f"up to {counted(remaining, 'trial')} in {minutes:.1f} minutes: every backbone and"
                " image size once, then heads"
            )
        if remaining > 0:
            baseline.measured(config, context, run)
            with board.live():
                _Trials(study, config, context, run, space, board, budget).run(remaining)
        budget.binding = True
        if config.tuner.confirm:
            _confirm(study, config, context, run, space, budget)
        if config.tuner.minutes is not None and remaining > 0:
            note(
                f"search: {counted(board.ended(), 'trial')} in {budget.spent() / 60:.1f} of"
                f" {config.tuner.minutes:g} minutes"
            )
    finally:
        context.heed = at_leisure
    best = best_of(study, config, run, space)
    return best if config.tuner.minutes is None else replace(best, seconds_left=budget.left())


def _spent(study: optuna.Study, run: Path) -> float:
    """Return the seconds that a search had before it was resumed."""
    before = sum(trial.user_attrs.get("seconds", 0.0) for trial in study.trials)
    reference = baseline.recorded(run) or {}
    return float(before + reference.get("seconds", 0.0) + reference.get("pass_seconds", 0.0))


def _confirm(
    study: optuna.Study,
    config: Config,
    context: TrainingContext,
    run: Path,
    space: Space,
    budget: Budget,
) -> None:
    """Run the best trials again with other seeds."""
    ranked = []
    for number, trial in complete_trials(study).items():
        recorded_loss = store.valid_loss(config, run, number)
        loss = math.inf if recorded_loss is None else recorded_loss
        objective = confirmation.Objective(
            float(trial.value or 0),
            loss,
            store.objective_interval(run, number, config.monitor.metric),
        )
        ranked.append((number, decode(trial.params, space), objective))
    ranked.sort(key=lambda one: (rank(one[2].value, one[2].loss, config.monitor.mode), one[0]))

    def train(values: Mapping[str, Any]) -> Outcome:
        def stop_early(_epoch: int, _value: float) -> bool:
            budget.heed()
            return False

        return run_trial(context, values, stop_early)

    def solved(values: Mapping[str, Any]) -> bool:
        return is_solved(configs.replace(config, values))

    with quickly_collected():
        results = confirmation.confirm(config, run, ranked, solved, train)
    confirmation.show(results, config.monitor.metric)


class _Trials:
    """The trials of a search that are still to run."""

    def __init__(
        self,
        study: optuna.Study,
        config: Config,
        context: TrainingContext,
        run: Path,
        space: Space,
        board: TrialTable,
        budget: Budget,
    ) -> None:
        self._study, self._config, self._context = study, config, context
        self._directory, self._space, self._board, self._budget = run, space, board, budget
        self._distributions = distributions(space, study.trials)
        self._prunes = pruner(config.tuner) is not None
        self._running: dict[int, Trial] = {}

    def run(self, remaining: int) -> None:
        parallel = self._config.tuner.parallel
        with self._beside() if parallel > 1 else self._here() as runner:
            while remaining or self._running:
                while remaining and len(self._running) < parallel and (trial := self._next()):
                    values = decode(trial.params, self._space)
                    self._running[trial.number] = trial
                    self._board.started(trial.number, values)
                    runner.start(trial.number, values)
                    remaining -= 1
                # an auto search has no time left, or nothing left to try
                if not self._running:
                    break
                for number, outcome in sorted(runner.ended().items()):
                    self._record(self._running.pop(number), outcome)

    def _next(self) -> Trial | None:
        """Return the next trial to run; None where it has to wait for others to end."""
        before = [trial for trial in self._study.trials if not was_cut_off(trial)]
        if any(trial.state == TrialState.WAITING for trial in before):
            return store.ask(self._study, None, self._distributions)
        if self._config.tuner.strategy == "auto":
            self._budget.binding = any(trial.state == TrialState.COMPLETE for trial in before)
            reserved = confirmation.SEEDS * self._config.tuner.confirm
            first_pass = (baseline.recorded(self._directory) or {}).get("pass_seconds", 0.0)
            sofar = tried(self._config, self._space, before)
            seconds = self._budget.left() - _kept_for_fine_tuning(self._config)
            candidate = auto.candidate(self._space, sofar, seconds, reserved, first_pass)
            return (
                None
                if candidate is None
                else store.ask(self._study, encoded(candidate), self._distributions)
            )
        visible_trials = visible(self._config, len(before))
        if visible_trials < len(before) and not all(
            trial.state.is_finished() for trial in before[:visible_trials]
        ):
            return None
        params = propose(self._config, self._space, before, visible_trials)
        return store.ask(self._study, params, self._distributions)

    def _record(self, trial: Trial, outcome: Outcome) -> None:
        values = decode(trial.params, self._space)
        # a library may quote a path or token
        outcome = replace(outcome, reason=self._config.conceal(outcome.reason))
        store.record(self._directory, trial.number, values, outcome)
        write_events(
            self._directory / "tensorboard" / f"trial_{trial.number:03}",
            values,
            outcome,
            self._config.monitor.metric,
        )
        loss = store.loss_of(outcome, self._config)
        store.tell(self._study, trial, outcome, loss)
        self._board.finished(
            TrialLog(
                trial.number,
                values,
                outcome.state,
                outcome.objective,
                outcome.seconds,
                outcome.reason,
                loss,
                tuple(outcome.folds),
                outcome.interval,
            )
        )

    def _stop_early(self, number: int, epoch: int, value: float) -> bool:
        self._board.progressed(number, epoch + 1, value)
        self._budget.heed()
        if not self._prunes:
            return False
        trial = self._running[number]
        trial.report(value, epoch + 1)
        return trial.should_prune()

    @contextmanager
    def _here(self) -> Iterator[Runner]:
        with quickly_collected():
            yield _Here(self._context, self._stop_early)

    @contextmanager
    def _beside(self) -> Iterator[Runner]:
        # The activations are computed before the workers start, which then find them in the cache.
        self._context.activations(self._context.classifier(self._config), self._config)
        beside = workers.Workers(
            self._config, self._context.report, self._directory, self._stop_early
        )
        try:
            yield beside
        finally:
            beside.close()


class _Here:
    """A runner in this process, which runs a trial when asked for the ended ones."""

    def __init__(self, context: TrainingContext, stop_early: workers.StopEarly) -> None:
        self._context, self._stop_early = context, stop_early
        self._sent: tuple[int, Mapping[str, Any]] | None = None

    def start(self, number: int, values: Mapping[str, Any]) -> None:
        self._sent = number, values

    def ended(self) -> dict[int, Outcome]:
        assert self._sent is not None
        number, values = self._sent
        return {
            number: run_trial(
                self._context, values, lambda epoch, best: self._stop_early(number, epoch, best)
            )
        }


def _kept_for_fine_tuning(config: Config) -> float:
    """Return the seconds in which a search with a time limit begins nothing more."""
    if not config.fine_tune.epochs or config.tuner.minutes is None:
        return 0.0
    return SHARE_OF_FINE_TUNING * 60 * config.tuner.minutes


def _row(trial: FrozenTrial, space: Space, config: Config, run: Path) -> TrialLog:
    state_name = next(name for name, state in store.STATES.items() if state == trial.state)
    # as in the log, which said that it had started
    state = "cut off" if was_cut_off(trial) else state_name
    objective = trial.value if trial.state == TrialState.COMPLETE else None
    attrs = trial.user_attrs
    values = decode(trial.params, space)
    return TrialLog(
        trial.number,
        values,
        state,
        objective,
        attrs.get("seconds", 0.0),
        attrs.get("reason", ""),
        store.valid_loss(config, run, trial.number),
        store.folds(run, trial.number),
        store.interval(run, trial.number),
    )
