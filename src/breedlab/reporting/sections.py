"""What each section of one run's report shows, as plain data for the page."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from breedlab.data.fixes import COPY_OF, OUTLIER
from breedlab.data.folders import SPLITS
from breedlab.evaluation.figures import (
    RIGHTNESS,
    agreement,
    chance,
    duration,
    figure,
    interval,
    metric,
    rightness,
    shown_metrics,
    speedup,
    validated,
)
from breedlab.reporting import example_images
from breedlab.reporting.charts import search as search_charts
from breedlab.reporting.charts import test as test_charts
from breedlab.reporting.charts import training as training_charts
from breedlab.reporting.record import RunRecord
from breedlab.reporting.search_facts import (
    baseline_interval,
    confirmations,
    fine_tuning_in_words,
    ranked,
    trial_interval,
)

Section = dict[str, Any]


def summary(run: RunRecord) -> Section:
    """Return the headline, the lineage, and the config."""
    lineage, training, test = run.lineage, run.metrics.get("training") or {}, run.test
    git = lineage.get("git") or {}
    commit = git.get("commit", "")[:12] + (
        " with changes that are not committed" if git.get("changed") else ""
    )
    machine = lineage.get("machine") or {}
    pedigree = {
        "started": lineage.get("started", ""),
        "commit": commit or "no git checkout",
        "seed": figure(lineage.get("seed")),
        "images": (lineage.get("data") or {}).get("root", ""),
        "fingerprint of the images": (lineage.get("data") or {}).get("fingerprint", ""),
        "starts from": lineage.get("parent") or _model(run).get("weights", ""),
        "machine": f"{machine.get('platform', '')}, {machine.get('cpus', '?')} CPUs",
        "python": lineage.get("python", ""),
        "packages": ", ".join(
            f"{name} {version}" for name, version in (lineage.get("packages") or {}).items()
        ),
    }
    tiles = [
        (title, metric(name, test["metrics"][name]), interval(name, test))
        for name, title in shown_metrics(test).items()
    ]
    state = (
        f"{training['ended']}; epoch {training['best_epoch']} was kept"
        if training
        else "did not end"
    )
    guess = chance(test)
    return {
        "tiles": tiles,
        "chance": "" if guess is None else f"{guess:.1%}",
        "what": what(run),
        "ended": state,
        "seconds": duration(run.metrics["seconds"]) if "seconds" in run.metrics else None,
        "pedigree": {name: text for name, text in pedigree.items() if text},
        "command": as_typed(lineage.get("command") or []),
        "config": flat(run.config),
    }


def as_typed(argv: Sequence[str]) -> str:
    """Return a run's recorded `sys.argv` as a command to copy: of the package, or of a script."""
    program, *args = argv or [""]
    if program == "breedlab" or program.startswith("breedlab "):
        return " ".join([program, *map(shlex.quote, args)])
    return " ".join(["python", *map(shlex.quote, argv)])


def what(run: RunRecord) -> str:
    """Summarize the run in a sentence."""
    model, tuner, test = _model(run), run.config.get("tuner") or {}, run.test
    parts = [
        f"{model.get('name', '?')} with weights {model.get('weights', '?')}, frozen:"
        f" {model.get('freeze', '?')}"
    ]
    if run.trials:
        parts.append(f"a search of {len(run.trials)} trials ({tuner.get('strategy', '')})")
    if run.classes:
        parts.append(f"{len(run.classes)} classes")
    if test:
        parts.append(f"tested on {test['photos']:,} images")
    fine_tuning = (run.metrics.get("training") or {}).get("fine_tune") or {}
    if fine_tuning.get("kept"):
        watched = run.metrics["monitor"]["metric"]
        frozen = fine_tuning.get("freeze", "none")
        what = "all layers" if frozen == "none" else f"the layers after {frozen}"
        gained = fine_tuning_in_words(watched, fine_tuning, run.metrics["monitor"]["best"])
        parts.append(f"{what} fine-tuned ({gained})")
        if (soup := fine_tuning.get("soup")) and len(soup["seeds"]) > 1:
            reached = validated(watched, soup["best"], run.validated)
            parts.append(
                f"a soup of {len(soup['seeds'])} of {soup['of']} fine-tunings ({watched} {reached})"
            )
        averaged = fine_tuning.get("wise_ft") or {"alpha": 1.0}
        if (alpha := averaged["alpha"]) < 1:
            parts.append(
                f"weights averaged, {alpha:g} of the fine-tuned and {1 - alpha:g} of the frozen"
                f" network ({watched}"
                f" {validated(watched, fine_tuning['best'], run.validated)} without averaging)"
            )
    elif fine_tuning.get("compared"):
        watched = run.metrics["monitor"]["metric"]
        gained = fine_tuning_in_words(watched, fine_tuning, fine_tuning["best"])
        parts.append(f"fine-tuned, which was no better ({gained})")
    if again := (run.metrics.get("training") or {}).get("refit"):
        parts.append(
            f"refit on the {again['photos']:,} images of train and validation before the test and"
            " the export"
        )
    return "; ".join(parts)


def _model(run: RunRecord) -> Mapping[str, Any]:
    """Return a run's config of the model, with the backbone and weights that its search found."""
    best = (run.metrics.get("search") or {}).get("values") or {}
    return (run.config.get("model") or {}) | {
        name: best[f"model.{name}"] for name in ("name", "weights") if f"model.{name}" in best
    }


def data(run: RunRecord) -> Section:
    """Return the counts, the gallery, and the findings of the check."""
    split_images = run.splits.get("photos", {})
    counts = class_counts(run)
    train = counts.get("train") or [0]
    fewest, most = int(np.argmin(train)), int(np.argmax(train))
    return {
        "totals": {
            split: len(split_images.get(split, [])) for split in SPLITS if split in split_images
        },
        "cut": run.splits.get("cut_from_train", []),
        "fewest": (run.classes[fewest], train[fewest]) if counts else None,
        "most": (run.classes[most], train[most]) if counts else None,
        "chart": test_charts.class_counts(counts, run.classes),
        "gallery": example_images.gallery(run),
        "has_images": run.image_root is not None,
        "left_out": run.splits.get("left_out", []),
        "warnings": run.splits.get("warnings", []),
        "suspects": example_images.suspects(run),
        "outliers": example_images.suspects(run, OUTLIER),
        "copies": example_images.suspects(run, COPY_OF),
    }


def class_counts(run: RunRecord) -> dict[str, list[int]]:
    """Return by split the number of images of each class; empty for a run that did not record the
    images' classes."""
    count = len(run.classes)
    labels = run.splits.get("labels", {})
    counts = {}
    for split in SPLITS:
        if labels.get(split):
            flat = [label for own in labels[split] for label in example_images.labels_of(own)]
            counts[split] = np.bincount(flat, minlength=count).tolist()
    return counts


def curves(run: RunRecord) -> Section:
    """Return the charts of loss and accuracy."""
    optim, data_config = run.config.get("optim") or {}, run.config.get("data") or {}
    unlike = [f"label smoothing {optim['label_smoothing']}"] if optim.get("label_smoothing") else []
    unlike += ["class weights"] if data_config.get("class_weights", "none") != "none" else []
    mixes = (("mixup", "mixup"), ("cutmix", "CutMix"))
    unlike += [f"{title} {data_config[name]}" for name, title in mixes if data_config.get(name)]
    return {
        "loss": training_charts.loss(run),
        "accuracy": training_charts.accuracy(run),
        "accuracy_title": "All labels right" if run.multi_label else "Top-1",
        "map": training_charts.mean_precision(run),
        "unlike": unlike,
        "augmented": data_config.get("augment", "none") != "none",
        "banded": run.validated > 0,
        "each_step": bool(run.tensors.losses.get("TRAIN")),
    }


def search(run: RunRecord) -> Section:
    """Return every trial, and how the best differs from the worst."""
    in_order = ranked(run)
    paths = search_charts.shown_values(run.trials)
    complete = [trial for trial in in_order if trial["state"] == "complete"]
    metric = (run.config.get("monitor") or {}).get("metric", "objective")
    baseline = (run.metrics.get("search") or {}).get("baseline")
    rows = []
    for trial in [*in_order, *(trial for trial in run.trials if trial not in in_order)]:
        values = [trial.get("values", {}).get(path, "") for path in paths]
        rows.append(
            {
                "number": trial["number"],
                "state": trial["state"],
                "values": values,
                "shown": [figure(value) for value in values],
                "objective": trial.get("objective"),
                "interval": trial_interval(run, trial),
                "epochs": len(trial.get("epochs", [])),
                "seconds": trial.get("seconds", 0.0),
                "reason": trial.get("reason", ""),
            }
        )
    spans = {row["number"]: row["interval"] for row in rows}
    pair = (complete[0], complete[-1]) if len(complete) > 1 else None
    return {
        "rows": rows,
        "paths": paths,
        "strategy": asked(run, "tuner", "strategy"),
        # Only what follows the search shows that it has ended: the epochs of training the best, or
        # the metrics.
        "unfinished": bool(rows) and not run.metrics and not run.curves,
        "trials": asked(run, "tuner", "trials"),
        "metric": metric,
        "baseline": baseline,
        "baseline_interval": baseline_interval(run),
        "folds": run.folds,
        "intervals": any(row["interval"] for row in rows),
        "confirmed": confirmations(run.confirmed, (run.metrics.get("search") or {}).get("trial")),
        "history": search_charts.history(run),
        "parallel": search_charts.parallel(run),
        "importance": search_charts.importance(importances(run)),
        "best_and_worst": search_charts.best_and_worst(run),
        "pair": pair and _side_by_side(pair, paths),
        "ends": pair
        and [
            (trial["number"], trial["objective"], spans.get(trial["number"], "")) for trial in pair
        ],
    }


def _side_by_side(
    trials: Sequence[Mapping[str, Any]], paths: Sequence[str]
) -> list[tuple[str, ...]]:
    """Return a row for each path: its name, and each trial's value."""
    rows = []
    for path in paths:
        values = [figure(trial["values"].get(path, "")) for trial in trials]
        rows.append((path, *values))
    return rows


def importances(run: RunRecord) -> dict[str, float]:
    """Return the importance of each path, empty with fewer than four trials; the recorded values if
    there are any, since Optuna takes seconds to load."""
    if len(ranked(run)) < 4:
        return {}
    importance: dict[str, float] | None = (run.metrics.get("search") or {}).get("importance")
    if importance is None:
        from breedlab.tuning.importance import importances as computed

        importance = computed(run.path)
    return importance


def model(run: RunRecord) -> Section:
    """Return the section on the archive and its commands."""
    archive = run.path / "model.tar.gz"
    export = run.metrics.get("export") or {}
    measured = export.get("candidates") or []
    judged_by = rightness(measured)
    sizes = list(measured[0]["milliseconds"]) if measured else []
    engines = []
    for candidate in measured:
        times = candidate["milliseconds"]
        engines.append(
            {
                "name": f"{candidate['engine']} {candidate['precision']}",
                "times": [f"{times[size]:.1f}" if times else "" for size in sizes],
                "speedup": speedup(candidate, measured[0]["milliseconds"]),
                "agreement": agreement(candidate, export, "agreement"),
                "top1": agreement(candidate, export, judged_by),
                "verdict": candidate["verdict"],
            }
        )
    return {
        "megabytes": archive.stat().st_size / 1e6 if archive.is_file() else None,
        "classes": len(run.classes),
        "engine": f"{export['engine']} {export['precision']}" if export else "",
        "engines": engines,
        "rightness": RIGHTNESS.get(judged_by, ""),
        "sizes": sizes,
    }


def asked(run: RunRecord, part: str, name: str = "level") -> Any:
    """Return a run's setting for an optional part: that there is nothing to show need not mean that
    it was `none`."""
    return (run.config.get(part) or {}).get(name, "none")


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a config's values as text, by path."""
    leaves: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves.update(flat(value, f"{prefix}{key}."))
        else:
            leaves[f"{prefix}{key}"] = (
                figure(value) if not isinstance(value, float) else repr(value)
            )
    return leaves
