"""Runs whose head is solved, and searches that are told what to beat."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from breedlab.config import Config
from breedlab.pipeline import searching
from breedlab.pipeline.checked_images import checked_images
from breedlab.pipeline.run import run
from breedlab.training.preparation import prepare

Configure = Callable[..., Config]


def test_a_run_with_logistic_regression_serves_the_solved_head(
    configure: Configure, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The debugger and ten epochs are asked for, and neither has anything to do."""
    config = configure(
        "model.head_type=logistic",
        "model.logistic.c=0.1",
        "trainer.max_epochs=10",
        "optim.warmup_epochs=2",
    )
    result = run(config, [])
    assert (
        result.metrics["training"]["epochs"] == 1
        and result.metrics["training"]["logistic"]["c"] == 0.1
    )
    assert "logistic regression: valid/top1" in capsys.readouterr().out
    context = prepare(config, checked_images(config))
    classifier = context.classifier(config)
    context.solve(classifier, config)
    saved = torch.load(result.run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    layer = classifier.head[-1]
    assert isinstance(layer, nn.Linear)
    torch.testing.assert_close(saved["classifier.head.1.weight"], layer.weight.detach())
    assert run(config, [], resume=result.run).metrics == json.loads(
        (result.run / "metrics.json").read_text()
    )


def test_a_search_tells_first_what_it_has_to_beat(
    configure: Configure, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = (
        "tuner.space={optim: {lr: [0.001]}, model: {head_type: [mlp, linear, cosine, logistic]}}"
    )
    result = run(configure("tuner=grid", "tuner.max_epochs=1", "trainer.max_epochs=1", space), [])
    said = capsys.readouterr().out
    assert 0 < said.index("the search has to beat it") < said.index("trial 0 running")
    baseline = result.metrics["search"]["baseline"]
    trials = [json.loads(file.read_text()) for file in result.run.glob("trials/*/trial.json")]
    assert {trial["state"] for trial in trials} == {"complete"} and len(trials) == 4
    solved = next(trial for trial in trials if trial["values"]["model.head_type"] == "logistic")
    assert solved["objective"] == baseline["value"] and len(solved["epochs"]) == 1
    assert "the baseline to beat" in (result.run / "report.html").read_text()


@pytest.mark.parametrize(
    ("head", "metric", "objective", "unbeaten"),
    [
        ("mlp", "valid/top1", 0.91, True),
        ("mlp", "valid/top1", 0.93, True),
        ("mlp", "valid/top1", 0.94, False),
        ("mlp", "valid/loss", 0.94, True),
        ("mlp", "valid/loss", 0.91, False),
        ("logistic", "valid/top1", 0.93, False),
    ],
)
def test_a_search_that_beats_no_logistic_regression_says_so(
    configure: Configure, head: str, metric: str, objective: float, unbeaten: bool
) -> None:
    mode = "min" if metric == "valid/loss" else "max"
    config = configure(f"model.head_type={head}", f"monitor={{metric: {metric}, mode: {mode}}}")
    baseline = {"metric": metric, "value": 0.93}
    said = searching._unbeaten(config, objective, baseline)
    assert ("model.head_type=logistic" in said) is unbeaten
