"""The main job: data, search, training, test, export. Wherever it runs, this is what runs."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from breedlab import config as configs
from breedlab import distributed, hardware, signals
from breedlab.config import Config
from breedlab.console import note, progress, stage, warn
from breedlab.data.check import Report
from breedlab.files import atomic_write_text
from breedlab.pipeline import final_training, resuming, rundir
from breedlab.pipeline.checked_images import checked_images
from breedlab.pipeline.current_run import CurrentRun
from breedlab.pipeline.suitability import cap_batch_sizes, early_stopping_concern

if TYPE_CHECKING:
    import lightning

    from breedlab.profiling.session import Session
    from breedlab.training.context import TrainingContext


@dataclass(frozen=True)
class TrainResult:
    """The outcome of a run.

    Attributes:
        run: Its directory.
        metrics: The content of metrics.json.
    """

    run: Path
    metrics: dict[str, Any]


@dataclass(frozen=True)
class _Environment:
    """What all stages of one run share.

    Attributes:
        current: The state of the run directory.
        watch: The profiler.
        callbacks, fit_only: As for `run`.
    """

    current: CurrentRun
    watch: Session
    callbacks: Sequence[lightning.Callback]
    fit_only: bool


def run(
    config: Config,
    overrides: list[str],
    resume: Path | None = None,
    directory: Path | None = None,
    *,
    fit_only: bool = False,
    callbacks: Sequence[lightning.Callback] = (),
) -> TrainResult:
    """Run everything that a config asks for, or the rest of a resumed run.

    Args:
        config: The experiment.
        overrides: The overrides as typed, for the record.
        resume: The run directory to continue.
        directory: The run directory to create instead of a fresh one in `runs_dir`, or to
            continue if a run was begun in it.
        fit_only: Stop after training: no test, no export, no report; `metrics` has only those of
            the training.
        callbacks: Additional callbacks of the final training.

    Raises:
        Terminated: By SIGTERM; the run can be resumed.
        BreedlabError: With one message for the user.
    """
    from breedlab.profiling.session import watched

    hardware.heed()
    watching = (
        config if distributed.is_main() else configs.replace(config, {"profiler.level": "none"})
    )
    try:
        with (
            CurrentRun() as current,
            distributed.joined(),
            signals.listening(current.how_to_resume),
            watched(watching) as watch,
        ):
            environment = _Environment(current, watch, callbacks, fit_only)
            return _run(config, overrides, resume, directory, environment)
    finally:
        # Free Lightning's reference cycles: in a grid, the next run needs the memory, above all a
        # GPU's.
        gc.collect()


def _run(
    config: Config,
    overrides: list[str],
    resume: Path | None,
    new: Path | None,
    environment: _Environment,
) -> TrainResult:
    started = time.monotonic()
    current, watch = environment.current, environment.watch
    # Rank 0 writes the run, so it knows whether there is one; another host's disk may lack it.
    resume, new = distributed.broadcast((resume, new))
    _enter(watch, "Data")
    with distributed.rank_zero_first():
        report = checked_images(config)
    distributed.refuse_different(report.fingerprint, report.images.root)
    if new is not None and distributed.rank_zero_only(lambda: rundir.is_begun(new)):
        resume = new
    if text := early_stopping_concern(config):
        warn(text)
    capped, notice = cap_batch_sizes(config, len(report.images.splits["train"]))
    if resume is None:
        config = capped
        if notice:
            note(notice)
        # before the run directory exists: a run that cannot start leaves nothing behind
        context = _make_context(config, report, watch)

        def create() -> Path:
            created = rundir.create(config, overrides, report, new, context.lineage())
            current.enter(config, created)
            return created

        directory = distributed.rank_zero_only(create)
        current.path = directory
        note(f"run directory: {directory}")
        (
            context.engines.begin(directory)
            if distributed.is_main()
            else context.engines.resume(directory)
        )
        return _train(context, directory, started, environment)
    directory = distributed.rank_zero_only(
        lambda: resuming.reenter(config, resume, report, current)
    )
    if notice and distributed.rank_zero_only(
        lambda: rundir.recorded_config(directory).tuner.space == capped.tuner.space
    ):
        config = capped  # a restarted job gets the config as typed
    current.path = directory
    note(f"run directory: {directory}")
    complete = distributed.rank_zero_only(lambda: resuming.complete_metrics(directory))
    if complete is not None:
        note("this run is complete; nothing is left to do")
        return TrainResult(directory, complete)
    transform = distributed.rank_zero_only(lambda: rundir.recorded_transform(directory))
    config = resuming.as_begun(config, transform)
    context = _make_context(config, report, watch)
    context.engines.resume(directory)
    return _train(context, directory, started, environment)


def _enter(watch: Session, name: str) -> None:
    stage(name)
    watch.stage(name)


def _make_context(config: Config, report: Report, watch: Session) -> TrainingContext:
    _enter(watch, "Network")
    # Imported only once the images are known to be good, since it takes seconds.
    with progress("loading PyTorch"):
        from breedlab.training import starting_weights
        from breedlab.training.preparation import prepare
        from breedlab.training.start_checks import concerns

    with distributed.rank_zero_first():  # weights are downloaded once
        context = prepare(config, report)
    note(
        config.conceal(
            f"{config.model.name}, weights {config.model.weights}, freeze {config.model.freeze}"
        )
    )
    note(f"{context.accelerator}, {context.precision}, {context.evaluation.crop} px")
    for text in starting_weights.describe(context):
        note(config.conceal(text))
    if text := context.data(config).describe_loading():
        note(text)
    for text in concerns(context):
        warn(text)
    return context


def _train(
    context: TrainingContext, directory: Path, started: float, environment: _Environment
) -> TrainResult:
    """Search, train, fine-tune, and refit as the config asks for; then test and export."""
    from breedlab.training import loggers

    config, watch = context.config, environment.watch
    watch.write_to(directory)
    distributed.rank_zero_only(lambda: loggers.begin(config, directory))
    search: dict[str, Any] | None = None
    deadline: float | None = None
    if config.tuner.strategy != "none":
        from breedlab.pipeline.searching import search_for_best

        _enter(watch, "Search")
        best = search_for_best(context, directory)
        context, config = best.context, best.config
        search = best.metrics
        if best.seconds_left is not None:
            deadline = time.monotonic() + best.seconds_left

    if not environment.fit_only:
        from breedlab.pipeline.suspects import list_suspects

        # before the final training: a user who sees wrong labels may want to fix them first
        distributed.rank_zero_only(lambda: list_suspects(directory, context, config))
    _enter(watch, "Training" if search is None else "Training the best")
    trained = final_training.train(
        context, config, directory, watch.started_at, environment.callbacks
    )
    metrics = final_training.training_metrics(trained, search)
    if environment.fit_only:
        watch.finish()
        return TrainResult(directory, metrics)
    if trained.config.fine_tune.epochs:
        _enter(watch, "Fine-tuning")
        final_training.fine_tune(trained, context, directory, deadline, metrics)
    if trained.config.trainer.refit and distributed.rank_zero_only(
        lambda: final_training.has_time_to_refit(trained, deadline)
    ):
        from breedlab.pipeline import refit

        _enter(watch, "Refit on train and validation")
        metrics["training"]["refit"] = refit.refitted(
            context,
            trained.config,
            trained.folder,
            trained.fitted.best_epoch,
            trained.solution,
            trained.precision,
            trained.head,
            trained.alpha,
            trained.members,
        )
    if not distributed.is_main():
        return TrainResult(directory, distributed.broadcast(None))
    _test_and_export(trained, context, directory, started, watch, metrics)
    return TrainResult(directory, distributed.broadcast(metrics))


def _test_and_export(
    trained: final_training.Trained,
    context: TrainingContext,
    directory: Path,
    started: float,
    watch: Session,
    metrics: dict[str, Any],
) -> None:
    """Test and export on the main process, and write the run's last files."""
    from breedlab.debugging.recorder import records
    from breedlab.pipeline import fine_tuning_gain
    from breedlab.pipeline.exporting import export
    from breedlab.pipeline.final_test import final_test
    from breedlab.training import loggers

    _enter(watch, "Test")
    config, data, classifier = trained.config, trained.data, trained.classifier
    if distributed.world() > 1 or trained.head is not None:
        classifier = context.classifier(config)
    tested = final_test(context, classifier, config, data, trained.folder / "checkpoints")
    evaluation = tested.evaluation
    tuning = metrics["training"].get("fine_tune") or {}
    if tuning.get("epochs"):
        tuning |= fine_tuning_gain.report(context, trained, directory, tested.validation, tuning)
    metrics["monitor"] |= tested.monitored(config.monitor, trained.fitted.best)
    metrics |= {"test": evaluation.as_dict(), "seconds": round(time.monotonic() - started, 1)}
    if tested.flip_tta is not None:
        metrics["flip_tta"] = tested.flip_tta
    from breedlab.reporting.at_end import write_at_end
    from breedlab.reporting.confusions import readable_json
    from breedlab.reporting.tensorboard import write_review

    values = metrics["search"]["values"] if metrics["search"] is not None else {}
    write_review(directory, config, data, evaluation, values, metrics["monitor"])
    loggers.finish(config, directory, metrics["test"])

    _enter(watch, "Export")
    metrics["export"] = export(directory, classifier, context, config, data, metrics, tested)
    note(f"{directory / 'model.tar.gz'}")
    if records(config):
        from breedlab.debugging.rule_runner import conclude

        conclude(directory, config.debugger.rules)
    watch.finish()
    metrics["seconds"] = round(time.monotonic() - started, 1)  # the export, too
    rundir.write_predictions(directory, data.images, evaluation.columns())
    write_at_end(directory, metrics)
    # Last of all: with it the run is complete, and a resumed one has nothing left to do.
    atomic_write_text(directory / "metrics.json", readable_json(metrics))
