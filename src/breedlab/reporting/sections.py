"""What each section of one run's report shows, as plain data for the page."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from breedlab.data.fixes import OUTLIER
from breedlab.data.folders import SPLITS
from breedlab.evaluation.figures import (
    chance,
    duration,
    figure,
    interval,
    metric,
    rate_interval,
    shown_metrics,
    speedup,
)
from breedlab.reporting import photos
from breedlab.reporting.charts import debug as debug_charts
from breedlab.reporting.charts import profile as profile_charts
from breedlab.reporting.charts import search as search_charts
from breedlab.reporting.charts import test as test_charts
from breedlab.reporting.charts import training as training_charts
from breedlab.reporting.confusions import among, drawn_classes, read_cells, worst_mistaken
from breedlab.reporting.record import RunRecord
from breedlab.reporting.search_facts import confirmations, fold_span

Section = dict[str, Any]


def summary(run: RunRecord) -> Section:
    """Headline, pedigree, config."""
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
        "photos": (lineage.get("data") or {}).get("root", ""),
        "fingerprint of the photos": (lineage.get("data") or {}).get("fingerprint", ""),
        "starts from": lineage.get("parent") or (run.config.get("model") or {}).get("weights", ""),
        "machine": f"{machine.get('platform', '')}, {machine.get('cpus', '?')} CPUs",
        "python": lineage.get("python", ""),
        "packages": ", ".join(
            f"{name} {version}" for name, version in (lineage.get("packages") or {}).items()
        ),
    }
    tiles = [
        (shown, metric(name, test["metrics"][name]), interval(name, test))
        for name, shown in shown_metrics(test).items()
    ]
    ended = (
        f"{training['ended']}; epoch {training['best_epoch']} was kept"
        if training
        else "did not end"
    )
    guess = chance(test)
    return {
        "tiles": tiles,
        "chance": "" if guess is None else f"{guess:.1%}",
        "what": what(run),
        "ended": ended,
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
    """The run in a sentence."""
    model, tuner, test = run.config.get("model") or {}, run.config.get("tuner") or {}, run.test
    best = (run.metrics.get("search") or {}).get("values") or {}
    model = model | {
        name: best[f"model.{name}"] for name in ("name", "weights") if f"model.{name}" in best
    }
    parts = [
        f"{model.get('name', '?')} with weights {model.get('weights', '?')}, frozen:"
        f" {model.get('freeze', '?')}"
    ]
    if run.trials:
        parts.append(f"a {tuner.get('strategy', '')} search of {len(run.trials)} trials")
    if run.classes:
        parts.append(f"{len(run.classes)} classes")
    if test:
        parts.append(f"tested on {test['photos']:,} photos")
    if again := (run.metrics.get("training") or {}).get("refit"):
        parts.append(
            f"refit on the {again['photos']:,} photos of train and validation before the test and"
            " the export"
        )
    return "; ".join(parts)


def data(run: RunRecord) -> Section:
    """Counts, gallery, what the check found."""
    split_photos = run.splits.get("photos", {})
    counts = class_counts(run)
    train = counts.get("train") or [0]
    fewest, most = int(np.argmin(train)), int(np.argmax(train))
    return {
        "totals": {
            split: len(split_photos.get(split, [])) for split in SPLITS if split in split_photos
        },
        "cut": run.splits.get("cut_from_train", []),
        "fewest": (run.classes[fewest], train[fewest]) if counts else None,
        "most": (run.classes[most], train[most]) if counts else None,
        "chart": test_charts.class_counts(counts, run.classes),
        "gallery": photos.gallery(run),
        "has_photos": run.photo_root is not None,
        "left_out": run.splits.get("left_out", []),
        "warnings": run.splits.get("warnings", []),
        "suspects": photos.suspects(run),
        "outliers": photos.suspects(run, OUTLIER),
    }


def class_counts(run: RunRecord) -> dict[str, list[int]]:
    """By split, the number of photos of each class; empty for a run that did not record the photos'
    classes."""
    count = len(run.classes)
    labels = run.splits.get("labels", {})
    return {
        split: np.bincount(labels[split], minlength=count).tolist()
        for split in SPLITS
        if labels.get(split)
    }


def curves(run: RunRecord) -> Section:
    """Loss and accuracy."""
    optim, data_config = run.config.get("optim") or {}, run.config.get("data") or {}
    unlike = [f"label smoothing {optim['label_smoothing']}"] if optim.get("label_smoothing") else []
    unlike += ["class weights"] if data_config.get("class_weights", "none") != "none" else []
    unlike += [f"mixup {data_config['mixup']}"] if data_config.get("mixup") else []
    return {
        "loss": training_charts.loss(run),
        "accuracy": training_charts.accuracy(run),
        "unlike": unlike,
        "augmented": data_config.get("augment", "none") != "none",
        "each_step": bool(run.tensors.losses.get("TRAIN")),
    }


def search(run: RunRecord) -> Section:
    """Every trial, and what the best has that the worst has not."""
    ranked = search_charts.ranked(run)
    paths = search_charts.shown_values(run.trials)
    complete = [trial for trial in ranked if trial["state"] == "complete"]
    rows = [
        {
            "number": trial["number"],
            "state": trial["state"],
            "values": [trial.get("values", {}).get(path, "") for path in paths],
            "shown": [figure(trial.get("values", {}).get(path, "")) for path in paths],
            "objective": trial.get("objective"),
            "interval": fold_span(trial.get("folds")),
            "epochs": len(trial.get("epochs", [])),
            "seconds": trial.get("seconds", 0.0),
            "reason": trial.get("reason", ""),
        }
        for trial in [*ranked, *(trial for trial in run.trials if trial not in ranked)]
    ]
    pair = (complete[0], complete[-1]) if len(complete) > 1 else None
    return {
        "rows": rows,
        "paths": paths,
        "strategy": asked(run, "tuner", "strategy"),
        # Only what comes after the search tells that it has ended: the epochs of training the best,
        # or the figures.
        "unfinished": bool(rows) and not run.metrics and not run.curves,
        "trials": asked(run, "tuner", "trials"),
        "metric": (run.config.get("monitor") or {}).get("metric", "objective"),
        "baseline": (run.metrics.get("search") or {}).get("baseline"),
        "folds": max((len(trial.get("folds") or []) for trial in run.trials), default=0),
        "confirmed": confirmations(run.confirmed, (run.metrics.get("search") or {}).get("trial")),
        "history": search_charts.history(run),
        "parallel": search_charts.parallel(run),
        "importance": search_charts.importance(importances(run)),
        "best_and_worst": search_charts.best_and_worst(run),
        "pair": (
            pair
            and [
                (path, *(figure(trial["values"].get(path, "")) for trial in pair)) for path in paths
            ]
        ),
        "ends": pair and [(trial["number"], trial["objective"]) for trial in pair],
    }


def importances(run: RunRecord) -> dict[str, float]:
    """How much each path decides; the run's own figures where it kept them, since Optuna takes
    seconds to open."""
    if len(search_charts.ranked(run)) < 4:
        return {}
    known: dict[str, float] | None = (run.metrics.get("search") or {}).get("importance")
    if known is None:
        from breedlab.tuning.importance import importances as computed

        known = computed(run.path)
    return known


def confusion(run: RunRecord) -> Section:
    """The matrix, the worst pairs, the surest mistakes."""
    cells, classes = read_cells(run.test), run.classes
    labels = drawn_classes(cells, len(classes)) if cells else []
    rows: list[dict[str, Any]] = [
        {"name": classes[label], "index": index} for index, label in enumerate(labels)
    ]
    totals: Counter[int] = Counter()
    for (truth, _), count in cells.items():
        totals[truth] += count
    for row, label in zip(rows, labels, strict=True):
        row.update(of=totals[label], cells=[])
    for (truth, taken), count in sorted(among(cells, labels).items()):
        row = rows[truth]
        row["cells"].append(
            {"column": taken, "count": count, "share": round(count / max(1, row["of"]), 3)}
        )
    left_out = len(classes) - len(labels) if cells else 0
    pairs, mistakes = photos.confusions(run), photos.mistakes(run)
    return {"rows": rows, "left_out": left_out, "pairs": pairs, "mistakes": mistakes}


def calibration(run: RunRecord) -> Section:
    """The reliability diagram."""
    found = run.predictions
    right = [
        a == b for a, b in zip(found.get("labels", []), found.get("predicted", []), strict=True)
    ]
    grouped = test_charts.bins(found.get("probabilities", []), right)
    mean, accuracy = (
        (float(np.mean(found["probabilities"])), float(np.mean(right))) if right else (0.0, 0.0)
    )
    error = (run.test.get("metrics") or {}).get("ece")
    if error is None:
        error = sum(b.photos * abs(b.confidence - b.accuracy) for b in grouped) / max(1, len(right))
    return {
        "chart": test_charts.calibration(grouped),
        "counts": test_charts.confidences(grouped),
        "confidence": mean,
        "accuracy": accuracy,
        "ece": error,
        "before": run.test.get("calibration") or None,
        "trust": trust(run),
        "says": calibration_says(grouped, mean - accuracy, error),
    }


def trust(run: RunRecord) -> list[str]:
    """Return what the model says beside its scores, and what the test makes of it, in sentences."""
    measured = (run.metrics.get("export") or {}).get("answers") or {}
    said = []
    if sets := measured.get("sets"):
        span = rate_interval(sets["coverage"], int(sets["images"]))
        said.append(
            "Its answers name a set of classes that is to hold the true one in 90% of cases: on"
            f" the test it does in {sets['coverage']:.1%} ({span}), with {sets['size']:.1f} classes"
            " on average."
        )
    if unknown := measured.get("unknown"):
        span = rate_interval(unknown["false_alarms"], int(unknown["images"]))
        said.append(
            "It calls photos unknown that are further from the training photos than 95% of"
            f" validation ({unknown['method']} in its features): {unknown['false_alarms']:.1%} of"
            f" the test ({span}), all of whose photos are of its classes."
        )
    return said


def calibration_says(grouped: Sequence[test_charts.Bin], gap: float, error: float) -> str:
    """What a reliability diagram comes to, in a sentence.

    Both figures are held against about twice what chance alone brings about where confidence is
    true: for the mean its standard deviation, for the error the mean distance of each bin, its
    binomial taken as normal.

    Args:
        grouped: Its bins.
        gap: The mean confidence over the accuracy.
        error: The calibration error.
    """
    photos = max(1, sum(b.photos for b in grouped))
    variances = [b.photos * b.confidence * (1 - b.confidence) for b in grouped]
    of_the_mean = 2 * math.sqrt(sum(variances)) / photos
    of_the_error = sum(math.sqrt(2 / math.pi * variance) for variance in variances) / photos
    if abs(gap) > max(0.03, of_the_mean):
        return (
            "It is overconfident: bars below the diagonal."
            if gap > 0
            else "It is underconfident: bars above the diagonal."
        )
    if error > max(0.05, 2 * of_the_error):
        return (
            "The averages hide it: it is overconfident about some answers and"
            " underconfident about others."
        )
    if of_the_error > 0.05:
        return (
            f"{photos} images are too few to tell: by chance alone, a well calibrated model has an"
            f" error of about {of_the_error:.2f}."
        )
    return "It is well calibrated."


def classes(run: RunRecord) -> Section:
    """A row a class."""
    counts, worst = class_counts(run), worst_mistaken(read_cells(run.test))
    predicted: Counter[int] = Counter()
    for (_, taken_for), images in read_cells(run.test).items():
        predicted[taken_for] += images
    rows = []
    for index, name in enumerate(run.classes if run.test.get("per_class") else []):
        own = run.test["per_class"][name]
        recall, precision = float(own["top1"]), float(own["precision"])
        taken, often = worst.get(index, (0, 0))
        rows.append(
            {
                "name": name,
                "train": counts["train"][index] if "train" in counts else None,
                "valid": counts["valid"][index] if "valid" in counts else None,
                "test": int(own["photos"]),
                "recall": recall,
                "interval": rate_interval(recall, int(own["photos"])) if own["photos"] else "",
                "precision": precision,
                "precision_interval": (
                    rate_interval(precision, predicted[index]) if predicted[index] else ""
                ),
                "f1": 2 * recall * precision / (recall + precision) if recall + precision else 0.0,
                "taken_for": f"{run.classes[taken]} ({often})" if often else "",
            }
        )
    return {"rows": sorted(rows, key=lambda row: (row["recall"], row["name"]))}


def rules(run: RunRecord) -> Section:
    """The verdicts, what fired first."""
    order = {"triggered": 0, "passed": 1, "not_enough_data": 2}
    found = sorted(run.verdicts, key=lambda verdict: order.get(verdict.get("verdict", ""), 3))
    shown = [
        {
            **verdict,
            "link": str(verdict.get("link", "")).removeprefix("report.html"),
            "shown": figures(verdict.get("figures", {})),
            "steps": ", ".join(map(figure, verdict.get("steps", [])[:12])),
            "more_steps": max(0, len(verdict.get("steps", [])) - 12),
            "tensors": verdict.get("tensors", [])[:6],
            "more_tensors": max(0, len(verdict.get("tensors", [])) - 6),
        }
        for verdict in found
    ]
    groups = {
        kind: [verdict for verdict in shown if verdict.get("verdict") == kind] for kind in order
    }
    wanted = [part for part in ("debugger", "profiler") if asked(run, part) != "none"]
    return {"groups": groups, "count": len(found), "wanted": wanted}


def figures(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A verdict's figures, in the units that their names end in: mappings and lists in them in one
    line."""
    shown = []
    for name, value in found.items():
        bare, unit = _unit(name)
        if isinstance(value, Mapping):
            text = ", ".join(f"{key} {_with(unit, item)}" for key, item in value.items())
        elif isinstance(value, list | tuple):
            text = ", ".join(_with(unit, item) for item in value) or "none"
        else:
            text = _with(unit, value)
        shown.append((bare.replace("_", " "), text))
    return shown


_UNITS = {"_percent": "%", "_mb_s": " MB/s", "_gb": " GB", "_ms": " ms", "_s": " s"}


def _unit(name: str) -> tuple[str, str]:
    """A figure's name without its unit, and the unit as people write it; shares are told in
    percent."""
    if "share" in name:
        return name, "share"
    if "_percent_" in name:  # what follows says of which samples
        return name.replace("_percent_", "_"), "%"
    found = next((end for end in _UNITS if name.endswith(end)), "")
    return name.removesuffix(found), _UNITS.get(found, "")


def _with(unit: str, value: Any) -> str:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return figure(value)
    return f"{value:.1%}" if unit == "share" else f"{figure(value)}{unit}"


def profile(run: RunRecord) -> Section:
    """Time lines and steps."""
    found = run.profile
    return {
        "time_lines": profile_charts.time_lines(found.system),
        "stages": [(name, start, end) for name, start, end in profile_charts.stages(found.system)],
        "seconds": float(found.system.t[-1]) if len(found.system.t) else 0.0,
        "steps": profile_charts.step_parts(found),
        "ceiling": profile_charts.ceiling(found),
        "slowest": float(found.steps.total_ms.max()) if len(found.steps.step) else 0.0,
        "shares": profile_charts.shares(found),
        "operators": found.operators[:25],
        "on_gpu": any(row["gpu_ms"] for row in found.operators),
        "traces": [path.name for path in found.traces],
        "wanted": asked(run, "profiler") != "none",
    }


def debug(run: RunRecord) -> Section:
    """What the debugger's hook saved."""
    found = run.tensors
    return {
        "losses": {mode: len(series) for mode, series in found.losses.items()},
        "saved": found.saved,
        "charts": debug_charts.reductions(found),
        "problem": found.problem,
        "wanted": asked(run, "debugger") != "none",
    }


def model(run: RunRecord) -> Section:
    """The archive, and the commands for it."""
    archive = run.path / "model.tar.gz"
    export = run.metrics.get("export") or {}
    measured = export.get("candidates") or []
    images = int((export.get("photos") or {}).get("validation") or 0)
    sizes = list(measured[0]["milliseconds"]) if measured else []
    engines = [
        {
            "name": f"{found['engine']} {found['precision']}",
            "times": [
                f"{found['milliseconds'][size]:.1f}" if found["milliseconds"] else ""
                for size in sizes
            ],
            "speedup": speedup(found, measured[0]["milliseconds"]),
            "agreement": _share(found["agreement"], images),
            "top1": _share(found["top1"], images),
            "verdict": found["verdict"],
        }
        for found in measured
    ]
    return {
        "megabytes": archive.stat().st_size / 1e6 if archive.is_file() else None,
        "classes": len(run.classes),
        "engine": f"{export['engine']} {export['precision']}" if export else "",
        "engines": engines,
        "sizes": sizes,
    }


def _share(share: float | None, images: int) -> str:
    """A share of so many images with its interval; nothing if it is not known."""
    if share is None:
        return ""
    return f"{share:.1%} ({rate_interval(share, images)})" if images else f"{share:.1%}"


def asked(run: RunRecord, part: str, name: str = "level") -> Any:
    """What a run's config asks of a part that can be absent: nothing there to show need not mean
    `none`."""
    return (run.config.get(part) or {}).get(name, "none")


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A config as path and value."""
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            found.update(flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = figure(value) if not isinstance(value, float) else repr(value)
    return found
