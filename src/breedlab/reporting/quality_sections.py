"""What the report shows of how good the model is: mistakes, calibration, classes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from breedlab.evaluation.figures import (
    calibration_before,
    f1_span,
    interval,
    rate_interval,
    set_size,
)
from breedlab.reporting import example_images
from breedlab.reporting.charts import test as test_charts
from breedlab.reporting.confusions import among, drawn_classes, read_cells, worst_mistaken
from breedlab.reporting.record import RunRecord
from breedlab.reporting.sections import Section, class_counts


def confusion(run: RunRecord) -> Section:
    """Return the matrix, the worst pairs, and the most confident mistakes."""
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
    for (truth, predicted), count in sorted(among(cells, labels).items()):
        row = rows[truth]
        row["cells"].append(
            {"column": predicted, "count": count, "share": round(count / max(1, row["of"]), 3)}
        )
    left_out = len(classes) - len(labels) if cells else 0
    pairs, mistakes = example_images.confusions(run), example_images.mistakes(run)
    return {"rows": rows, "left_out": left_out, "pairs": pairs, "mistakes": mistakes}


def calibration(run: RunRecord) -> Section:
    """Return the section on calibration: the reliability diagram and what it shows."""
    predictions = run.predictions
    right = [
        a == b
        for a, b in zip(
            predictions.get("labels", []), predictions.get("predicted", []), strict=True
        )
    ]
    grouped = test_charts.bins(predictions.get("probabilities", []), right)
    mean, accuracy = (
        (float(np.mean(predictions["probabilities"])), float(np.mean(right)))
        if right
        else (0.0, 0.0)
    )
    error = (run.test.get("metrics") or {}).get("ece")
    if error is None:
        error = sum(b.images * abs(b.confidence - b.accuracy) for b in grouped) / max(1, len(right))
    return {
        "chart": test_charts.calibration(grouped),
        "counts": test_charts.confidences(grouped),
        "confidence": mean,
        "accuracy": accuracy,
        "ece": error,
        "accuracy_interval": rate_interval(accuracy, len(right)) if right else "",
        "ece_interval": interval("ece", run.test),
        "before": _before(run),
        "trust": trust(run),
        "says": calibration_says(grouped, mean - accuracy, error),
    }


def _before(run: RunRecord) -> dict[str, Any] | None:
    """Return the temperature of a run's answers, and the calibration error without it; None where
    they are taken as they are."""
    if not run.test.get("calibration"):
        return None
    error, span = calibration_before(run.test)
    return {"temperature": run.test["calibration"]["temperature"], "ece": error, "interval": span}


def trust(run: RunRecord) -> list[str]:
    """Return what the model says besides its scores, and what the test makes of it, in
    sentences."""
    measured = (run.metrics.get("export") or {}).get("answers") or {}
    sentences = []
    if sets := measured.get("sets"):
        span = rate_interval(sets["coverage"], int(sets["images"]))
        sentences.append(
            "Its answers name a set of classes that is to hold the true one in 90% of cases: on"
            f" the test it does in {sets['coverage']:.1%} ({span}), with {set_size(sets)} classes"
            " on average."
        )
    if unknown := measured.get("unknown"):
        span = rate_interval(unknown["false_alarms"], int(unknown["images"]))
        sentences.append(
            "It calls images unknown that are further from the training images than 95% of"
            f" validation ({unknown['method']} in its features): {unknown['false_alarms']:.1%} of"
            f" the test ({span}), all of whose images are of its classes."
        )
    return sentences


def calibration_says(grouped: Sequence[test_charts.Bin], gap: float, error: float) -> str:
    """Summarize a reliability diagram in a sentence.

    Both values are compared with about twice what chance alone causes for a perfectly calibrated
    model: for the gap its standard deviation, for the error the mean distance of each bin, with
    the binomial approximated by a normal distribution.

    Args:
        grouped: Its bins.
        gap: The mean confidence minus the accuracy.
        error: The calibration error.
    """
    images = max(1, sum(b.images for b in grouped))
    variances = [b.images * b.confidence * (1 - b.confidence) for b in grouped]
    of_the_mean = 2 * math.sqrt(sum(variances)) / images
    of_the_error = sum(math.sqrt(2 / math.pi * variance) for variance in variances) / images
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
            f"{images} images are too few to tell: by chance alone, a well calibrated model has an"
            f" error of about {of_the_error:.2f}."
        )
    return "It is well calibrated."


def classes(run: RunRecord) -> Section:
    """Return one row per class, lowest recall first."""
    counts, worst = class_counts(run), worst_mistaken(read_cells(run.test))
    predicted: Counter[int] = Counter()
    for (_, taken_for), images in read_cells(run.test).items():
        predicted[taken_for] += images
    rows = []
    for index, name in enumerate(run.classes if run.test.get("per_class") else []):
        own = run.test["per_class"][name]
        recall, precision = float(own["top1"]), float(own["precision"])
        other, often = worst.get(index, (0, 0))
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
                "f1_interval": f1_span(
                    recall * int(own["photos"]), predicted[index], int(own["photos"])
                ),
                "f1": 2 * recall * precision / (recall + precision) if recall + precision else 0.0,
                "taken_for": f"{run.classes[other]} ({often})" if often else "",
            }
        )
    return {"rows": sorted(rows, key=lambda row: (row["recall"], row["name"]))}
