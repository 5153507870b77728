"""Confusions of few classes and of thousands: read as they were written, drawn in part, counted
without a square."""

from __future__ import annotations

import json
import random
import resource

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from breedlab.evaluation.class_metrics import MacroF1
from breedlab.reporting.confusions import (
    among,
    drawn_classes,
    read_cells,
    readable_json,
    worst_mistaken,
)
from breedlab.reporting.tensorboard import confusion_picture
from breedlab.training.evaluation import evaluate


def test_confusions_of_older_runs_and_of_new_ones_are_read_alike() -> None:
    matrix = [[3, 0, 1], [0, 0, 0], [2, 0, 5]]
    cells = {(0, 0): 3, (0, 2): 1, (2, 0): 2, (2, 2): 5}
    assert read_cells({"confusion": matrix}) == cells
    assert read_cells({"confusion": {"cells": [[*pair, n] for pair, n in cells.items()]}}) == cells
    assert read_cells({}) == {}
    assert worst_mistaken(cells) == {0: (2, 1), 2: (0, 2)}


def test_of_many_classes_the_most_mistaken_are_drawn() -> None:
    cells = {(index, index): 5 for index in range(1000)} | {(7, 900): 3, (901, 7): 1}
    labels = drawn_classes(cells, 1000, most=10)
    assert len(labels) == 10 and {7, 900, 901} <= set(labels) and labels == sorted(labels)
    assert among(cells, [7, 900]) == {(0, 0): 5, (1, 1): 5, (0, 1): 3}
    assert drawn_classes(cells, 10, most=10) == list(range(10))


def test_a_thousand_classes_take_no_gigabytes_and_no_line_a_zero() -> None:
    """The picture of 1,500 classes took 6 GB, and metrics.json a line for each of its two million
    zeros."""
    classes = tuple(f"class {index}" for index in range(1500))
    labels = torch.arange(1500)
    scores = torch.nn.functional.one_hot(labels.roll(1), 1500).float()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = evaluate(
        lambda batch: batch, [(scores, labels)], classes, total=1500, progress=lambda *_: None
    )
    picture = confusion_picture(found.confusion, classes)
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000
    assert max(picture.size) < 2000 and grown_mb < 700
    text = readable_json(found.as_dict())
    assert len(text.splitlines()) < 15_000
    assert json.loads(text) == json.loads(json.dumps(found.as_dict()))


def test_macro_f1_is_that_of_scikit_learn() -> None:
    random.seed(0)
    labels = np.array([random.choice([0, 1, 2, 4]) for _ in range(200)])
    taken = np.where(np.random.default_rng(0).random(200) < 0.6, labels, 1)
    metric = MacroF1(6)
    for part in (slice(0, 50), slice(50, 200)):
        metric.update(torch.eye(6)[taken[part]], torch.from_numpy(labels[part]))
    assert float(metric.compute()) == pytest.approx(f1_score(labels, taken, average="macro"))


def test_a_picture_of_a_matrix_is_that_of_its_cells() -> None:
    matrix = np.array([[3, 1], [0, 4]])
    pictures = [
        confusion_picture(given, ("cat", "dog"))
        for given in (matrix, read_cells({"confusion": matrix.tolist()}))
    ]
    assert pictures[0].tobytes() == pictures[1].tobytes()
