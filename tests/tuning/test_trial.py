"""A trial leaves its outcome, and nothing else."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from breedlab.config import Config
from breedlab.models.classifier import Classifier
from breedlab.pipeline.checked_images import checked_images
from breedlab.training import loop, optimization
from breedlab.training.context import TrainingContext
from breedlab.training.preparation import prepare
from breedlab.tuning.trial import quickly_collected, run_trial


@pytest.fixture
def no_chance() -> Iterator[None]:
    """Python's own collection might come at the right moment."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_chance")
@pytest.mark.parametrize("state", ["complete", "pruned", "failed"])
def test_nothing_of_its_network_stays_in_memory(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    config = configure("model.freeze=none", "tuner=random", "tuner.max_epochs=2")
    context = prepare(config, checked_images(config))
    made: list[weakref.ref[Classifier]] = []
    make = TrainingContext.classifier

    def watched(self: TrainingContext, config: Config) -> Classifier:
        classifier = make(self, config)
        made.append(weakref.ref(classifier))
        return classifier

    def stop_early(_epoch: int, _value: float) -> bool:
        if state == "failed":
            raise ValueError("no good")
        return state == "pruned"

    monkeypatch.setattr(TrainingContext, "classifier", watched)
    with quickly_collected():
        outcome: Any = run_trial(context, {"optim.lr": 0.01}, stop_early)
    assert outcome.state == state
    assert made and not any(network() for network in made)


def test_a_failed_probe_leaves_the_next_trial_as_it_was(
    configure: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that runs out of memory: the backbone that all share must not stay frozen for those
    that fine-tune it."""
    config = configure(
        "model.freeze=none", "trainer.probe_epochs=1", "tuner=random", "tuner.max_epochs=2"
    )
    context = prepare(config, checked_images(config))
    trained: list[int] = []

    def count(classifier: Classifier, optim: Any) -> Any:
        trained.append(sum(p.requires_grad for p in classifier.backbone.parameters()))
        return groups(classifier, optim)

    groups = optimization.parameter_groups
    monkeypatch.setattr(optimization, "parameter_groups", count)
    before = run_trial(context, {"optim.lr": 0.001}, lambda *_: False)
    usual = list(trained)
    assert usual[0] == 0 < usual[1], "the probe trains the head, the trial the backbone with it"

    def fail(*_: object, **__: object) -> Any:
        raise RuntimeError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "epochs", fail)
        assert run_trial(context, {"optim.lr": 0.001}, lambda *_: False).state == "failed"
    trained.clear()
    after = run_trial(context, {"optim.lr": 0.001}, lambda *_: False)
    assert trained == usual
    assert after.epochs == before.epochs
