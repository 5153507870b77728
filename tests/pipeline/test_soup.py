"""Several fine-tunings, averaged greedily by validation (`fine_tune.soup`)."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load
from test_weight_averaging import Weights, of

from breedlab.config import Config
from breedlab.pipeline import fine_tuning, fine_tuning_plan, soup, validation_passes
from breedlab.pipeline.checked_images import checked_images
from breedlab.pipeline.fine_tuning import fine_tune
from breedlab.pipeline.refit import refitted
from breedlab.pipeline.run import run
from breedlab.pipeline.soup import Ingredient, Member, blended
from breedlab.pipeline.step_timing import EpochTime
from breedlab.pipeline.weight_averaging import weights
from breedlab.training.fit import Fitted
from breedlab.training.preparation import prepare

Configure = Callable[..., Config]

BY_LOSS = ("monitor.metric=valid/loss", "monitor.mode=min")
# After a head that learned nothing, whatever trains all layers does better.
TUNED = (
    "model.name=resnet18",
    "trainer.max_epochs=1",
    "optim.lr=0.000001",
    "model.head_type=linear",
    "model.dropout=0",
    "fine_tune.epochs=2",
    "fine_tune.lr=0.01",
    "fine_tune.ema=0",
    "fine_tune.layer_decay=1",
)


def mean(states: Sequence[Weights]) -> Weights:
    """Return the mean of networks, by the definition."""
    return {
        name: torch.stack([state[name] for state in states]).mean(0)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in states[0].items()
    }


@pytest.mark.parametrize(
    ("alone", "averages", "members"),
    [
        ([0.8, 0.9, 0.85], [(0.92, 0.3), (0.93, 0.3)], [8, 9, 7]),
        ([0.8, 0.9, 0.85], [(0.89, 0.3), (0.91, 0.3)], [8, 7]),
        ([0.8, 0.9, 0.85], [(0.90, 0.9), (0.90, 0.4)], [8, 7]),  # the loss decides
        ([0.8, 0.9, 0.85], [(0.80, 0.1), (0.80, 0.1)], [8]),
        ([0.9, 0.8, 0.85], [(0.80, 0.1), (float("nan"), 0.1)], [7]),
    ],
    ids=["all", "one is left out", "by loss", "another alone", "the first alone"],
)
def test_the_best_begins_and_others_join_if_that_is_no_worse(
    configure: Configure,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    alone: list[float],
    averages: list[tuple[float, float]],
    members: list[int],
) -> None:
    config = configure("model.head_type=linear", "seed=7")
    context = prepare(config, checked_images(config))
    start = context.classifier(config).state_dict()
    ingredients, states = [], {}
    for number, (seed, top1) in enumerate(zip((7, 8, 9), alone, strict=True)):
        states[seed] = {
            name: tensor + number if tensor.is_floating_point() else tensor
            for name, tensor in start.items()
        }
        folder = here / str(seed)
        folder.mkdir()
        named = {f"classifier.{name}": tensor for name, tensor in states[seed].items()}
        torch.save({"state_dict": named}, folder / "best.ckpt")
        ingredients.append(Ingredient(seed, folder, Fitted(3, "all", number + 1, top1, loss=0.5)))
    answers = iter(averages)

    def measure(*_: Any) -> dict[str, float]:
        top1, loss = next(answers)
        return {"valid/top1": top1, "valid/loss": loss}

    monkeypatch.setattr(validation_passes, "validated", measure)
    found = blended(context, config, ingredients, "fp32")
    assert [member.seed for member in found.members] == members and found.tried == 3
    assert [member.epochs for member in found.members] == [seed - 6 for seed in members]
    joined = [each for each in averages if each[0] == found.best]
    assert found.best == (joined[-1][0] if joined else max(alone))
    file = weights(here / "7")
    assert (file.name == "soup.ckpt") == (members != [7])
    for name, tensor in mean([states[seed] for seed in members]).items():
        torch.testing.assert_close(of(file)[name], tensor)
    # nothing is trained or measured again
    assert soup.recorded(config, ingredients[0]) == found
    assert soup.recorded(config, ingredients[1]) is None  # of another fine-tuning
    if members != [7]:  # whose weights were deleted
        file.unlink()
        assert soup.recorded(config, ingredients[0]) is None


def test_a_stopped_run_ends_with_the_same_soup_tested_and_exported(
    configure: Configure,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = (*TUNED, *BY_LOSS, "fine_tune.soup=3", "fine_tune.wise_ft=false")
    config = configure(*words)
    fit, seeds = fine_tuning.fit, []

    def killed_in_the_second(
        learner: Any, data: Any, config: Config, *more: Any, **how: Any
    ) -> Any:
        seeds.append(config.seed)
        if len(seeds) == 2:
            raise KeyboardInterrupt
        return fit(learner, data, config, *more, **how)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fine_tuning, "fit", killed_in_the_second)
        run(config, [])
    stopped = Path("runs/latest").resolve()
    found = run(config, [], resume=stopped).metrics
    unbroken = run(config, [])
    tuned = found["training"]["fine_tune"]
    assert tuned == unbroken.metrics["training"]["fine_tune"]
    blend = tuned["soup"]
    assert tuned["kept"] and blend["of"] == 3 and 1 <= len(blend["seeds"]) <= 3
    assert blend["best"] <= tuned["best"]  # a loss
    assert found["monitor"]["best"] == blend["best"]
    assert "3 fine-tunings" in " ".join(capsys.readouterr().out.split())

    first, folder = config.seed, stopped / "fine_tune"
    places = {seed: folder / "more" / str(seed) for seed in (first + 1, first + 2)}
    places[first] = folder
    expected = mean([of(places[seed] / "checkpoints" / "best.ckpt") for seed in blend["seeds"]])
    with tarfile.open(stopped / "model.tar.gz") as archive:
        served = load(archive.extractfile("model.safetensors").read())  # type: ignore[union-attr]
    for name, tensor in served.items():
        torch.testing.assert_close(tensor, expected[name])
    if len(blend["seeds"]) > 1:
        assert f"a soup of {len(blend['seeds'])} of 3" in (stopped / "report.html").read_text()


def test_the_refit_does_each_again_and_averages(configure: Configure, here: Path) -> None:
    config = configure(
        "model.name=resnet18",
        "model.head_type=linear",
        "model.freeze=layer3",
        "cache.mode=off",
        "optim.lr=0.01",
        "trainer.max_epochs=2",
    )
    context = prepare(config, checked_images(config))
    head = {name: tensor + 1 for name, tensor in context.classifier(config).head.named_parameters()}
    alone = []
    for seed, epochs in ((7, 1), (9, 2)):
        (here / str(seed) / "checkpoints").mkdir(parents=True)
        members = [Member(seed, epochs)]
        refitted(context, config, here / str(seed), 1, None, "fp32", head, 1.0, members)
        alone.append(of(here / str(seed) / "checkpoints" / "refit.ckpt"))
    (here / "both" / "checkpoints").mkdir(parents=True)
    members = [Member(7, 1), Member(9, 2)]
    record = refitted(context, config, here / "both", 1, None, "fp32", head, 1.0, members)
    assert record["soup"] == [[7, 1], [9, 2]]
    both = of(here / "both" / "checkpoints" / "refit.ckpt")
    assert not torch.equal(alone[0]["head.1.weight"], alone[1]["head.1.weight"])
    for name, tensor in mean(alone).items():
        torch.testing.assert_close(both[name], tensor, rtol=1e-5, atol=1e-6)
    assert not [*(here / "both" / "checkpoints").glob("refit/*")]


@pytest.mark.parametrize(
    ("minutes", "seconds_each", "trained"), [(100, 1, 3), (30, 1, 1), (100, 40, 2), (None, 40, 3)]
)
def test_as_many_are_trained_as_there_is_time_for(
    configure: Configure,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    minutes: float | None,
    seconds_each: float,
    trained: int,
) -> None:
    """Two epochs were timed as 10 s each; a training may take longer than planned."""
    config = configure(*TUNED, "fine_tune.soup=3", "trainer.precision=fp32")
    context = prepare(config, checked_images(config))
    clock = [0.0]
    times = SimpleNamespace(monotonic=lambda: clock[0])
    monkeypatch.setattr(fine_tuning, "time", times)
    monkeypatch.setattr(fine_tuning_plan, "time", times)
    monkeypatch.setattr(fine_tuning_plan, "epoch_time", lambda *_: EpochTime(10.0, 0.1))
    fit = fine_tuning.fit

    def slow(*given: Any, **how: Any) -> Any:
        clock[0] += seconds_each
        return fit(*given, **how)

    monkeypatch.setattr(fine_tuning, "fit", slow)
    head = context.classifier(config).head.state_dict()
    (here / "checkpoints").mkdir()
    named = {f"classifier.head.{name}": tensor for name, tensor in head.items()}
    torch.save({"state_dict": named}, here / "checkpoints" / "best.ckpt")
    tuned = fine_tune(context, config, here, Fitted(1, "its one epoch", 1, 0.0), minutes)
    assert tuned.metrics["epochs"] == 2
    assert tuned.metrics.get("soup", {"of": 1})["of"] == trained
