"""Trials judged by cross-validation (`tuner.folds`): scikit-learn and scipy are the judges."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import numpy as np
import pytest
import torch
from codes import raises_code
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, StratifiedGroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from breedlab.config import Config
from breedlab.evaluation.statistics import fold_interval, fold_span, span_text
from breedlab.pipeline.checked_images import checked_images
from breedlab.reporting.search_facts import confirmations
from breedlab.training.activations import Activations
from breedlab.training.context import TrainingContext
from breedlab.training.folds import divided, fold_numbers, solve
from breedlab.training.preparation import prepare
from breedlab.tuning import confirm
from breedlab.tuning.study import search
from breedlab.tuning.trial_log import TrialLog, read_trial, trial_line

Configure = Callable[..., Config]


def test_folds_are_stratified_and_keep_groups_whole() -> None:
    draw = np.random.default_rng(0)
    labels = torch.tensor(draw.choice(4, 203, p=[0.4, 0.3, 0.2, 0.1]))
    fold = fold_numbers(labels, [""] * 203, 5, seed=3)
    for label in range(4):
        sizes = torch.bincount(fold[labels == label], minlength=5)
        assert sizes.max() - sizes.min() <= 1
    assert not torch.equal(fold, fold_numbers(labels, [""] * 203, 5, seed=4))
    groups = draw.integers(0, 40, 203)
    fold = fold_numbers(labels, [f"dog{group}" for group in groups], 5, seed=3)
    assert all(len(torch.unique(fold[torch.tensor(groups == group)])) == 1 for group in range(40))
    spread = StratifiedGroupKFold(5, shuffle=True, random_state=0).split(groups, labels, groups)
    theirs = max(
        abs(np.bincount(labels[test], minlength=4) / np.bincount(labels) - 0.2).max()
        for _, test in spread
    )
    ours = max(
        abs(np.bincount(labels[fold == number], minlength=4) / np.bincount(labels) - 0.2).max()
        for number in range(5)
    )
    assert ours <= theirs + 0.03


def test_folds_of_several_labels_have_each_label_evenly() -> None:
    draw = np.random.default_rng(2)
    rates = np.array([0.5, 0.3, 0.1, 0.05])
    targets = torch.tensor(draw.random((240, 4)) < rates).float()
    rows = [*targets.T.bool(), targets.sum(1) == 0]  # images of no label are spread, too
    fold = fold_numbers(targets, [""] * 240, 4, seed=0)
    for own in rows:
        sizes = torch.bincount(fold[own], minlength=4)
        assert sizes.max() - sizes.min() <= 2
    names = [f"dog{group}" for group in draw.integers(0, 60, 240)]
    fold = fold_numbers(targets, names, 4, seed=0)
    for name in {*names}:
        same = torch.tensor([each == name for each in names])
        assert len(torch.unique(fold[same])) == 1
    for own in rows:
        assert (torch.bincount(fold[own], minlength=4) > 0).all()


class _Part:
    """What `solve` needs of a run."""

    classes = ("a", "b", "c")
    device = torch.device("cpu")

    def __init__(self, c: float | None) -> None:
        self.c = c

    def data(self, _config: Config) -> _Part:
        return self

    def solving_weights(self) -> None:
        return None

    def penalty(self, _config: Config) -> float | None:
        return self.c

    def heed(self) -> None:
        return None


def test_a_solved_head_has_scikit_learns_cross_validated_accuracy(configure: Configure) -> None:
    draw = np.random.default_rng(1)
    labels = draw.integers(0, 3, 180)
    features = draw.normal(size=(3, 12))[labels] + 1.6 * draw.normal(size=(180, 12))
    rows, truth = torch.tensor(features, dtype=torch.float32), torch.tensor(labels)
    whole = Activations((rows[:140],), rows[140:], truth[:140], truth[140:])
    fold = fold_numbers(truth, [""] * 180, 5, seed=0)
    parts = [*divided(whole, fold)]
    config = configure("model.head_type=logistic")
    judge = {
        c: cross_val_score(
            make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000)),
            features,
            labels,
            cv=PredefinedSplit(fold.numpy()),
        )
        for c in (0.001, 0.1)
    }
    for c, theirs in judge.items():
        _, epoch = solve(_Part(c), config, parts)  # type: ignore[arg-type]
        assert epoch.folds == pytest.approx(theirs, abs=0.029)  # one image of a fold of 36
        assert epoch.valid["valid/top1"] == pytest.approx(theirs.mean(), abs=0.012)
    chosen, best = solve(_Part(None), config, parts)  # type: ignore[arg-type]
    assert best.valid["valid/top1"] >= max(t.mean() for t in judge.values()) - 0.012
    assert chosen > 0


def test_the_interval_is_nadeau_and_bengios() -> None:
    values = [0.81, 0.86, 0.79, 0.9, 0.84]
    low, high = fold_interval(values)
    scale = np.std(values, ddof=1) * (1 / 5 + 1 / 4) ** 0.5
    assert (low, high) == pytest.approx(stats.t.interval(0.95, 4, np.mean(values), scale), abs=1e-4)
    for count in range(2, 21):
        values = [0.0, 1.0, *[0.5] * (count - 2)]
        scale = np.std(values, ddof=1) * (1 / count + 1 / (count - 1)) ** 0.5
        expected = stats.t.interval(0.95, count - 1, 0.5, scale)
        assert fold_interval(values) == pytest.approx(expected, abs=1e-4)


def test_an_interval_stays_within_what_its_metric_can_be() -> None:
    """Two folds of 0.8 and 1.0 were `-1.3008 to 3.1008` of accuracy."""
    assert fold_span([0.8, 1.0], "valid/top1") == "0.0000 to 1.0000"
    assert fold_span([0.8, 1.0], "valid/loss") == "0.0000 to 3.1008"
    low, high = fold_interval([0.8, 0.82, 0.81])
    assert fold_span([0.8, 0.82, 0.81], "valid/top1") == f"{low:.4f} to {high:.4f}"
    assert fold_span([0.8], "valid/top1") == ""


def ready(config: Config) -> TrainingContext:
    return prepare(config, checked_images(config))


def test_trials_are_judged_by_the_mean_over_folds(
    tmp_path: Path, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure(
        "tuner=grid",
        "tuner.folds=3",
        "tuner.max_epochs=2",
        "tuner.space={model: {head_type: [logistic, mlp]}}",
    )
    context = ready(config)
    best = search(config, context, tmp_path)
    trials = [json.loads(file.read_text()) for file in tmp_path.glob("trials/*/trial.json")]
    assert len(trials) == 2 and all(trial["state"] == "complete" for trial in trials)
    for trial in trials:
        assert len(trial["folds"]) == 3
        assert trial["objective"] == pytest.approx(mean(trial["folds"]))
    winner = max(trials, key=lambda trial: trial["objective"])
    assert best.objective == winner["objective"] and len(best.folds) == 3
    # 100 training and 24 validation images: every one of them is judged
    assert all(0 <= value <= 1 for value in best.folds)
    lines = [line for line in capsys.readouterr().out.splitlines() if "complete" in line]
    span = fold_span(winner["folds"], config.monitor.metric)
    assert any(f"95% {span}" in line for line in lines)
    assert json.loads((tmp_path / "baseline.json").read_text())["folds"]
    again = search(config, context, tmp_path)
    assert again == best


def test_the_mean_over_seeds_has_an_interval_around_it(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    linear = "tuner.space={model: {head_type: [linear]}}"
    words = ("tuner=grid", "tuner.max_epochs=2", "tuner.folds=3", "tuner.confirm=1", linear)
    config = configure(*words)
    best = search(config, ready(config), tmp_path)
    (seeds,) = confirm.recorded(tmp_path).values()
    assert best.objective == pytest.approx(np.mean([seed[0] for seed in seeds.values()]))
    assert best.seeds == len(seeds) == 3 and best.span is not None
    assert best.span == pytest.approx(np.mean([seed[2] for seed in seeds.values()], axis=0))
    row = confirmations(confirm.recorded(tmp_path), best=best.number)[0]
    assert row["interval"] == span_text(best.span)
    assert row["interval"] in capsys.readouterr().out


def test_a_row_with_folds_reads_back_from_its_line() -> None:
    row = TrialLog(3, {"optim.lr": 0.001}, "complete", 0.8, 2.0, folds=(0.7, 0.8, 0.9))
    read = read_trial(trial_line(row, "valid/top1"))
    assert read is not None and read.objective == 0.8 and read.seconds == 2.0
    assert "95% " in trial_line(row, "valid/top1")


def test_folds_need_features_that_are_cached(configure: Configure) -> None:
    with raises_code("BL104", names=("tuner.folds", "model.freeze=backbone")):
        configure("tuner=random", "tuner.folds=5", "model.freeze=none")


def test_the_report_has_the_best_with_other_seeds() -> None:
    found = {"4": {"0": [0.8, 0.5], "1": [0.7, 0.6]}, "2": {"0": [0.76, 0.6]}}
    first, second = confirmations(found, best=2)
    assert first["mean"] == pytest.approx(0.75) and first["span"] == "0.7000 to 0.8000"
    assert not first["is_best"] and second["is_best"]
    assert second["span"] == "the same with any seed"
