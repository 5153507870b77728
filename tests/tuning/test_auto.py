"""The search over backbones, image sizes and heads within some minutes."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from codes import raises_code

from breedlab.config import Config, trial_count
from breedlab.config.candidates import count, passes
from breedlab.config.space import Choices, Space
from breedlab.pipeline.run import run
from breedlab.training import context as contexts
from breedlab.tuning import study as studies
from breedlab.tuning.auto import Tried, candidate
from breedlab.tuning.budget import Budget

Configure = Callable[..., Config]
NAMES, SIZES = ("small", "middle", "large"), (224, 288)
SPACE: Space = {
    "model.name": Choices(NAMES),
    "model.weights": Choices(("a", "b", "c")),
    "data.image_size": Choices(SIZES),
    "data.resize": Choices((256, 288)),
    "model.head_type": Choices(("logistic", "linear", "mlp")),
    "optim.lr": Choices((0.001, 0.01)),
}


VIEWS: Space = {
    **SPACE,
    "data.augment": Choices(("none", "basic", "strong")),
    "cache.views": Choices((1, 4, 3)),
}


def simulated(
    minutes: float, pass_seconds: float, broken: str = "", confirm: int = 0, space: Space = SPACE
) -> tuple[list[Tried], float]:
    """A search on a clock of its own: the trials, and how long it took."""
    now, known, trials = 0.0, set(), []
    budget = Budget(minutes, clock=lambda: now)
    while (values := candidate(space, trials, budget.left(), 2 * confirm)) is not None:
        name, size = values["model.name"], values["data.image_size"]
        seconds, state = 1.0 if values["model.head_type"] == "logistic" else 4.0, "complete"
        if name == broken:
            state = "failed"
        elif (name, size) not in known:
            seconds += pass_seconds * (1 + NAMES.index(name)) * (size / 224) ** 2
            known.add((name, size))
        views, augment = values.get("cache.views", 1), values.get("data.augment")
        if state == "complete" and views > 1 and (name, size, augment) not in known:
            seconds += (views - 1) * pass_seconds * (1 + NAMES.index(name)) * (size / 224) ** 2
            known.add((name, size, augment))
        if trials and now + seconds > 60 * minutes:  # the pass, or the epoch, heeds the budget
            seconds, state = 60 * minutes - now + 1, "pruned"
        now += seconds
        quality = NAMES.index(name) + size / 1000 + 0.0001 * (augment == "basic")
        trials.append(
            Tried(values, state, (-quality, 0.0) if state == "complete" else None, seconds)
        )
        if state == "pruned":
            break
    return trials, now


def test_cheap_passes_come_first_and_heads_on_the_best_of_them() -> None:
    trials, _ = simulated(minutes=60, pass_seconds=10)
    first = [
        (t.values["model.name"], t.values["data.image_size"], t.values["data.resize"])
        for t in trials[:6]
    ]
    assert first == [
        ("small", 224, 256),
        ("small", 288, 288),
        ("middle", 224, 256),
        ("middle", 288, 288),
        ("large", 224, 256),
        ("large", 288, 288),
    ]
    assert [t.values["model.weights"] for t in trials[:6]] == ["a", "a", "b", "b", "c", "c"]
    assert {t.values["model.head_type"] for t in trials[:6]} == {"logistic"}
    others = [(t.values["model.name"], t.values["data.image_size"]) for t in trials[6:]]
    assert others == [("large", 288)] * 4 + [("large", 224)] * 4
    assert [t.values["model.head_type"] for t in trials[6:10]] == ["linear", "mlp", "linear", "mlp"]
    assert len(trials) == count(SPACE) == 14 and len([*passes(SPACE)]) == 6


@pytest.mark.parametrize("pass_seconds", [5, 20, 45, 90, 200, 500])
def test_the_minutes_are_kept_to_within_a_tenth(pass_seconds: float) -> None:
    trials, seconds = simulated(minutes=10, pass_seconds=pass_seconds, confirm=3)
    assert seconds + 3 * 2 * 4 <= 660 and trials[0].state == "complete"
    if pass_seconds <= 90:  # there is time for another pass and for heads
        assert len({(t.values["model.name"], t.values["data.image_size"]) for t in trials}) > 1
        assert {t.values["model.head_type"] for t in trials} == {"logistic", "linear", "mlp"}


def test_the_best_pass_gets_other_views() -> None:
    trials, _ = simulated(minutes=60, pass_seconds=10, space=VIEWS)
    assert len(trials) == count(VIEWS) == 16
    plain, augmented, others = trials[:6], trials[6:8], trials[8:]
    assert {(t.values["data.augment"], t.values["cache.views"]) for t in plain} == {("none", 1)}
    for trial, views in zip(augmented, [("basic", 4), ("strong", 3)], strict=True):
        best = trial.values["model.name"], trial.values["data.image_size"]
        assert best == ("large", 288) and trial.values["model.head_type"] == "logistic"
        assert (trial.values["data.augment"], trial.values["cache.views"]) == views
    with_heads = [(t.values["data.image_size"], t.values["data.augment"]) for t in others]
    assert with_heads == [(288, "basic")] * 4 + [(288, "none")] * 4


@pytest.mark.parametrize("pass_seconds", [5, 20, 45, 90, 200, 500])
def test_views_are_left_out_where_they_take_too_long(pass_seconds: float) -> None:
    trials, seconds = simulated(minutes=10, pass_seconds=pass_seconds, confirm=3, space=VIEWS)
    assert seconds + 3 * 2 * 4 <= 660
    tried = {t.values["cache.views"] for t in trials}
    assert tried == ({1, 3, 4} if pass_seconds == 5 else {1})
    if pass_seconds <= 90:
        assert {t.values["model.head_type"] for t in trials} == {"logistic", "linear", "mlp"}


def test_a_backbone_that_cannot_be_had_is_asked_for_once() -> None:
    trials, _ = simulated(minutes=60, pass_seconds=10, broken="middle")
    assert [t.state for t in trials if t.values["model.name"] == "middle"] == ["failed"]
    assert sum(t.state == "complete" for t in trials) == 12


def test_a_resumed_search_has_the_minutes_that_are_left() -> None:
    now = 100.0
    budget = Budget(1, spent=50, clock=lambda: now)
    assert budget.left() == 10
    now = 111.0
    budget.heed()  # nothing is there to go on with yet
    budget.binding = True
    with raises_code("BL302"):
        budget.heed()


WORDS = (
    "tuner=auto",
    "tuner.minutes=30",
    "tuner.confirm=2",
    "tuner.max_epochs=2",
    "model.name=resnet18",
    "tuner.space.model.name=[resnet18,squeezenet1_1]",
    "tuner.space.model.weights=[none,none]",
    "tuner.space.model.head_type=[logistic,linear]",
    "tuner.space.data.image_size=[32,48]",
    "tuner.space.data.resize=[36,48]",
    "tuner.space.optim.lr=[0.001]",
    "tuner.space.optim.weight_decay=[0.0]",
)


def test_a_whole_run_shares_its_passes_and_serves_the_winner(
    configure: Configure,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = configure(*WORDS, "trainer.refit=true")
    assert trial_count(config) == 6
    computed: list[Any] = []
    real, trial = contexts.cached_activations, studies.run_trial

    def counted(classifier: Any, data: Any, *more: Any, **how: Any) -> Any:
        computed.append(
            (classifier.architecture.name, data.evaluation.crop, data.evaluation.resize)
        )
        return real(classifier, data, *more, **how)

    def killed(context: Any, values: Any, stop_early: Any) -> Any:
        if (
            len(
                [
                    *Path("runs").glob("auto*/*/trials/*/trial.json"),
                    *Path("runs").glob("*/*/trials/*/trial.json"),
                ]
            )
            == 3
        ):
            raise KeyboardInterrupt
        return trial(context, values, stop_early)

    monkeypatch.setattr(contexts, "cached_activations", counted)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(studies, "run_trial", killed)
        run(config, [])
    stopped = Path("runs/latest").resolve()
    result = run(config, [], resume=stopped)
    assert {
        ("resnet18", 32, 36),
        ("resnet18", 48, 48),
        ("squeezenet1_1", 32, 36),
        ("squeezenet1_1", 48, 48),
    } == {*computed}
    trials = [json.loads(file.read_text()) for file in stopped.glob("trials/*/trial.json")]
    assert len(trials) == 6 and all(t["state"] == "complete" for t in trials)
    search = result.metrics["search"]
    confirmed = json.loads((stopped / "confirmed.json").read_text())
    assert str(search["trial"]) in confirmed and len(confirmed) == 2
    for number, seeds in confirmed.items():
        solved = (
            next(t for t in trials if t["number"] == int(number))["values"]["model.head_type"]
            == "logistic"
        )
        assert [*seeds] == (["7"] if solved else ["7", "8", "9"])
    assert "The best again with other seeds" in capsys.readouterr().out
    with tarfile.open(result.run / "model.tar.gz") as archive:
        model = json.load(archive.extractfile("model.json"))  # type: ignore[arg-type]
    assert model["architecture"]["name"] == search["values"]["model.name"]
    assert model["transform"]["crop"] == search["values"]["data.image_size"]
    assert search["values"]["model.name"] in (stopped / "report.html").read_text()


def test_names_and_what_goes_with_them_are_checked_together(configure: Configure) -> None:
    with raises_code("BL105", names="resnet43"):
        configure(*WORDS, "tuner.space.model.name=[resnet18,resnet43]")
    with raises_code("BL100", names=("tuner.space.model.name", "tuner=auto")):
        configure(*WORDS, "tuner.strategy=random", "tuner.trials=3")


@pytest.mark.parametrize("folds", [1, 3])
def test_augmented_views_are_searched_and_the_final_training_has_them(
    configure: Configure, here: Path, monkeypatch: pytest.MonkeyPatch, folds: int
) -> None:
    config = configure(
        *WORDS,
        "tuner.confirm=0",
        f"tuner.folds={folds}",
        "tuner.space.model=null",
        "tuner.space.data=null",
        "tuner.space.data.augment=[none,basic,basic]",
        "tuner.space.cache.views=[1,2,3]",
        "trainer.refit=true",
    )
    assert trial_count(config) == 3
    seen: list[int] = []
    real = contexts.cached_activations

    def counted(*given: Any, **how: Any) -> Any:
        activations = real(*given, **how)
        seen.append(len(activations.train))
        return activations

    def worth(context: Any, values: Any, stop_early: Any) -> Any:
        outcome = trial(context, values, stop_early)
        return replace(outcome, objective=values["cache.views"] / 10)

    trial = studies.run_trial
    monkeypatch.setattr(contexts, "cached_activations", counted)
    monkeypatch.setattr(studies, "run_trial", worth)
    result = run(config, [])
    assert seen == [1, 2, 3]
    assert result.metrics["search"]["values"]["cache.views"] == 3
    recorded = json.loads((result.run / "metrics.json").read_text())["search"]["values"]
    assert recorded["data.augment"] == "basic"


def test_only_auto_takes_lists_of_augmentation_that_go_together(configure: Configure) -> None:
    words = ("tuner.space.data.augment=[none,basic]", "tuner.space.cache.views=[1,2]")
    assert trial_count(configure(*WORDS, *words)) > 6
    others = ("tuner=grid", "model.name=resnet18", "tuner.space=null")
    with raises_code("BL105", names=("tuner.space.data.augment", "cache.views=1")):
        configure(*others, *words)
    views = ("data.augment=basic", "cache.views=2", "tuner.space.cache.views=[2,3]")
    assert trial_count(configure("tuner=grid", "model.name=resnet18", *views)) >= 2
    with raises_code("BL104", names=("tuner.space.cache.views", "once")):
        configure("tuner=grid", *views[:2], "tuner.space.cache.views=[2,2]")
