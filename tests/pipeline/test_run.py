"""A whole run, in a process that goes on to another."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from breedlab.config import Config
from breedlab.models.classifier import Classifier
from breedlab.pipeline.run import run
from breedlab.tuning import study as studies


def _networks() -> set[int]:
    return {id(thing) for thing in gc.get_objects() if type(thing) is Classifier}


def test_a_run_leaves_no_network_in_memory(configure: Callable[..., Config], here: Path) -> None:
    gc.collect()
    before = _networks()
    gc.disable()  # it might come at the right moment
    try:
        run(configure("model.freeze=none", "trainer.max_epochs=1"), [])
        assert _networks() <= before
    finally:
        gc.enable()


class Killed(BaseException):
    """A process that is killed runs no handler."""


def test_a_run_that_was_killed_in_its_search_ends_with_the_very_weights(
    configure: Callable[..., Config], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = "tuner.space={optim: {lr: {low: 0.0001, high: 0.1, log: true}}}"
    config = configure(
        "tuner=bayesian",
        space,
        "tuner.trials=3",
        "tuner.max_epochs=2",
        "debugger=none",
        "profiler=none",
    )
    unbroken = run(config, [])
    begun, real = [], studies.run_trial

    def killed(*arguments: Any, **keywords: Any) -> Any:
        begun.append(arguments)
        if len(begun) == 2:
            raise Killed
        return real(*arguments, **keywords)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(studies, "run_trial", killed)
        run(config, [])
    resumed = run(config, [], resume=Path("runs/latest").resolve())
    assert resumed.run != unbroken.run
    assert resumed.metrics["search"] == unbroken.metrics["search"]
    assert resumed.metrics["test"]["metrics"] == unbroken.metrics["test"]["metrics"]
    ours, theirs = (
        torch.load(result.run / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
        for result in (unbroken, resumed)
    )
    assert ours.keys() == theirs.keys() and all(
        torch.equal(ours[name], theirs[name]) for name in ours
    )
