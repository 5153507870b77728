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
from breedlab.pipeline import extension, resuming, rundir
from breedlab.pipeline.checked_images import checked_photos
from breedlab.pipeline.current_run import CurrentRun
from breedlab.pipeline.suitability import cap_batch_sizes, early_stopping_concern

if TYPE_CHECKING:
    import lightning

    from breedlab.data.module import PhotoData
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
class _Begun:
    """What every stage of one run shares.

    Attributes:
        current: The run directory that is being worked on.
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
    """Does everything that a config asks for, or what a resumed run still lacks of it.

    Args:
        config: The experiment.
        overrides: What the person typed, for the record.
        resume: The run directory to continue.
        directory: The run directory to begin, in place of a fresh one in `runs_dir`; or to go on
            with, if it was begun.
        fit_only: Stop after training: no test, no export, no report; `metrics` has the training's
            alone.
        callbacks: What else watches the final training.

    Raises:
        Terminated: By SIGTERM; the run can be resumed.
        BreedlabError: With one message for the person.
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
            begun = _Begun(current, watch, callbacks, fit_only)
            return _run(config, overrides, resume, directory, begun)
    finally:
        # what Lightning tied into cycles: in a grid the next run needs the memory, a GPU's above
        # all
        gc.collect()


def _run(
    config: Config,
    overrides: list[str],
    resume: Path | None,
    new: Path | None,
    begun: _Begun,
) -> TrainResult:
    started = time.monotonic()
    current, watch = begun.current, begun.watch
    # Rank 0 keeps the run, and so knows whether there is one: another host's disk need not have it.
    resume, new = distributed.broadcast((resume, new))
    _enter(watch, "Data")
    with distributed.rank_zero_first():
        report = checked_photos(config)
    distributed.refuse_different(report.fingerprint, report.photos.root)
    if new is not None and distributed.rank_zero_only(lambda: rundir.is_begun(new)):
        resume = new
    if text := early_stopping_concern(config):
        warn(text)
    capped, said = cap_batch_sizes(config, len(report.photos.splits["train"]))
    if resume is None:
        config = capped
        if said:
            note(said)
        # before there is a run: what cannot start leaves nothing behind
        prepared = _prepared(config, report, watch)

        def create() -> Path:
            made = rundir.create(config, overrides, report, new, prepared.lineage())
            current.enter(config, made)
            return made

        directory = distributed.rank_zero_only(create)
        current.path = directory
        note(f"run directory: {directory}")
        (
            prepared.engines.begin(directory)
            if distributed.is_main()
            else prepared.engines.resume(directory)
        )
        return _train(prepared, directory, started, begun)
    directory = distributed.rank_zero_only(
        lambda: resuming.reenter(config, resume, report, current)
    )
    if said and distributed.rank_zero_only(
        lambda: rundir.recorded_config(directory).tuner.space == capped.tuner.space
    ):
        config = capped  # a job that starts again is given the config as it was typed
    current.path = directory
    note(f"run directory: {directory}")
    complete = distributed.rank_zero_only(lambda: resuming.complete_metrics(directory))
    if complete is not None:
        note("this run is complete; nothing is left to do")
        return TrainResult(directory, complete)
    transform = distributed.rank_zero_only(lambda: rundir.recorded_transform(directory))
    config = resuming.as_begun(config, transform)
    prepared = _prepared(config, report, watch)
    prepared.engines.resume(directory)
    return _train(prepared, directory, started, begun)


def _enter(watch: Session, name: str) -> None:
    stage(name)
    watch.stage(name)


def _prepared(config: Config, report: Report, watch: Session) -> TrainingContext:
    _enter(watch, "Network")
    # here, after the images are known to be good: it and its company take seconds
    with progress("loading PyTorch"):
        from breedlab.training import starting_weights
        from breedlab.training.context import prepare
        from breedlab.training.start_checks import concerns

    with distributed.rank_zero_first():  # weights are downloaded once
        prepared = prepare(config, report)
    note(
        config.conceal(
            f"{config.model.name}, weights {config.model.weights}, freeze {config.model.freeze}"
        )
    )
    note(f"{prepared.accelerator}, {prepared.precision}, {prepared.evaluation.crop} px")
    for text in starting_weights.describe(prepared):
        note(config.conceal(text))
    if text := prepared.data(config).describe_loading():
        note(text)
    for text in concerns(prepared):
        warn(text)
    return prepared


def _train(
    prepared: TrainingContext, directory: Path, started: float, begun: _Begun
) -> TrainResult:
    from breedlab.debugging.recorder import records
    from breedlab.pipeline.exporting import export
    from breedlab.pipeline.final_test import final_test
    from breedlab.pipeline.observers import observers
    from breedlab.training import loggers
    from breedlab.training.architecture import is_solved
    from breedlab.training.auto_values import training_precision
    from breedlab.training.fit import ActivationData, fit
    from breedlab.training.probe import probe
    from breedlab.training.solving import SOLVED

    config, watch = prepared.config, begun.watch
    watch.write_to(directory)
    distributed.rank_zero_only(lambda: loggers.begin(config, directory))
    search: dict[str, Any] | None = None
    seconds_left: float | None = None
    if config.tuner.strategy != "none":
        from breedlab.pipeline.searching import search_for_best

        _enter(watch, "Search")
        best = search_for_best(prepared, directory)
        prepared, config = best.prepared, best.config
        search, seconds_left = best.found, best.seconds_left

    _enter(watch, "Training" if search is None else "Training the best")
    classifier = prepared.classifier(config, synced=distributed.world() > 1)
    fresh = not (directory / "checkpoints" / "last.ckpt").exists()
    # DDP hands the probed head on
    if config.trainer.probe_epochs and fresh and distributed.is_main():
        probe(prepared, classifier, config)
    with distributed.rank_zero_first():
        activations = prepared.activations(classifier, config)
        photos: PhotoData = (
            prepared.live_data(config) if activations is None else prepared.data(config)
        )
    solution = (
        distributed.rank_zero_only(lambda: prepared.solve(classifier, config))
        if is_solved(config)
        else None
    )
    if solution is not None:
        solution.put_into(classifier.head)
        note(solution.describe(config.monitor.metric))
        config = configs.replace(config, SOLVED)
    learner, _ = prepared.learner(classifier, config, config.trainer.max_epochs)
    data = photos if activations is None else ActivationData(activations, photos)
    precision = training_precision(
        config, prepared.accelerator, prepared.precision, cached=activations is not None
    )
    if precision != prepared.precision and solution is None:
        note(
            f"only the head trains, in {precision}: for that, a CPU is faster than in"
            f" {prepared.precision}"
        )
    fitted = fit(
        learner,
        data,
        config,
        directory,
        accelerator=prepared.accelerator,
        precision=precision,
        extended_after=distributed.rank_zero_only(lambda: extension.extended_after(directory)),
        callbacks=[*observers(config, directory, watch.started_at), *begun.callbacks],
    )
    ties = f", the lowest valid/loss of {fitted.tied + 1} epochs that tie" if fitted.tied else ""
    note(
        f"{fitted.reason}; kept epoch {fitted.best_epoch}, {config.monitor.metric}"
        f" {fitted.best:.4f}{ties}"
    )

    metrics: dict[str, Any] = {
        "monitor": {"metric": config.monitor.metric, "best": fitted.best},
        "training": {
            "epochs": fitted.epochs,
            "ended": fitted.reason,
            "best_epoch": fitted.best_epoch,
            "precision": precision,
            **({} if solution is None else {"logistic": solution.as_dict()}),
        },
        "search": search,
    }
    if begun.fit_only:
        watch.finish()
        return TrainResult(directory, metrics)
    home, head = directory, None
    of_the_head = classifier, config
    if config.fine_tune.epochs:
        from breedlab.pipeline import fine_tuning

        _enter(watch, "Fine-tuning")
        tuned = fine_tuning.fine_tune(prepared, config, directory, fitted, seconds_left)
        metrics["training"]["fine_tune"] = tuned.told
        if tuned.config is not None and tuned.fitted is not None:
            head = tuned.head
            home, config, fitted = directory / fine_tuning.FOLDER, tuned.config, tuned.fitted
            solution, precision = None, tuned.precision
            photos = prepared.live_data(config)
            metrics["monitor"]["best"] = fitted.best
    if config.trainer.refit:
        from breedlab.pipeline import refit

        _enter(watch, "Refit on train and validation")
        metrics["training"]["refit"] = refit.refitted(
            prepared, config, home, fitted.best_epoch, solution, precision, head
        )
    if not distributed.is_main():
        return TrainResult(directory, distributed.broadcast(None))
    _enter(watch, "Test")
    if distributed.world() > 1 or head is not None:
        classifier = prepared.classifier(config)
    tested = final_test(prepared, classifier, config, photos, home / "checkpoints")
    evaluation = tested.evaluation
    metrics |= {"test": evaluation.as_dict(), "seconds": round(time.monotonic() - started, 1)}
    from breedlab.pipeline.suspects import list_suspects
    from breedlab.reporting.at_end import write_at_end
    from breedlab.reporting.confusions import readable_json
    from breedlab.reporting.tensorboard import write_review

    searched = {} if search is None else search["values"]
    write_review(directory, config, photos, evaluation, searched, fitted.best)
    loggers.finish(config, directory, metrics["test"])

    # by frozen features: a network trained on an image agrees with its label
    list_suspects(directory, of_the_head[0], prepared, of_the_head[1], photos)
    _enter(watch, "Export")
    metrics["export"] = export(directory, classifier, prepared, config, photos, metrics, tested)
    note(f"{directory / 'model.tar.gz'}")
    if records(config):
        from breedlab.debugging.rule_runner import conclude

        conclude(directory, config.debugger.rules)
    watch.finish()
    metrics["seconds"] = round(time.monotonic() - started, 1)  # the export, too
    rundir.write_predictions(directory, photos.photos, evaluation.columns())
    write_at_end(directory, metrics)
    # Last of all: with it the run is complete, and a resumed one has nothing left to do.
    atomic_write_text(directory / "metrics.json", readable_json(metrics))
    return TrainResult(directory, distributed.broadcast(metrics))
