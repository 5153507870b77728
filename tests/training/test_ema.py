"""The moving average: ramped up as timm's, of what trains alone, the same in trials and in the
final training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from breedlab.config import Config
from breedlab.pipeline.checked_images import checked_images
from breedlab.training.ema import MovingAverage, decay_at
from breedlab.training.fit import ActivationData, fit
from breedlab.training.preparation import prepare
from breedlab.tuning.trial import run_trial

Configure = Callable[..., Config]


def test_it_is_the_average_that_timm_computes(configure: Configure) -> None:
    timm_ema = pytest.importorskip("timm.utils.model_ema")
    config = configure("model.freeze=none")
    context = prepare(config, checked_images(config))
    for decay in (0.5, 0.99, 0.9999):
        classifier = context.classifier(config)
        judge = timm_ema.ModelEmaV3(classifier, decay=decay, use_warmup=True)
        average = MovingAverage(classifier, decay)
        for step in range(1, 40):
            with torch.no_grad():
                for tensor in classifier.state_dict().values():
                    (
                        tensor.add_(1)
                        if not tensor.is_floating_point()
                        else tensor.add_(torch.randn_like(tensor))
                    )
            judge.update(classifier, step=step)
            average.update()
            assert decay_at(step, decay) == judge.get_decay(step)
        expected = judge.module.state_dict()
        assert average.averaged().keys() == expected.keys()
        for name, tensor in average.averaged().items():
            torch.testing.assert_close(tensor, expected[name])


@pytest.mark.parametrize("freeze", ["backbone", "stage3"])
def test_nothing_frozen_is_averaged(configure: Configure, freeze: str) -> None:
    config = configure(f"model.freeze={freeze}")
    context = prepare(config, checked_images(config))
    classifier = context.classifier(config)
    names = MovingAverage(classifier, 0.99).averaged().keys()
    assert not names & classifier.frozen_tensors().keys()
    assert names | classifier.frozen_tensors().keys() == classifier.state_dict().keys()


def test_the_average_stays_on_the_device_of_the_weights(configure: Configure) -> None:
    """A device that computes nothing stands for a GPU: what leaves it is an error."""
    config = configure("model.freeze=stage3")
    classifier = prepare(config, checked_images(config)).classifier(config).to("meta")
    average = MovingAverage(classifier, 0.99)
    for _ in range(3):
        average.update()
    with average.applied():
        pass
    assert {tensor.device.type for tensor in average.averaged().values()} == {"meta"}


def test_a_short_training_is_not_held_at_its_start(configure: Configure) -> None:
    """60 steps at 0.999, which without a ramp would be the first random weights still."""
    results = {}
    for ema in (0.0, 0.999):
        config = configure(f"trainer.ema={ema}", "optim.lr=0.003", "trainer.precision=fp32")
        context = prepare(config, checked_images(config))
        epochs = list(context.epochs(context.classifier(config), config, 9))
        results[ema] = min(epoch.valid["valid/loss"] for epoch in epochs)
        first = epochs[0].valid["valid/loss"]
    assert results[0.999] < first - 0.5 * (first - results[0.0])


@pytest.mark.parametrize(
    "network", [["model.freeze=backbone"], ["model.freeze=none", "optim.lr=0.0001"]]
)
def test_a_tuned_average_is_that_of_the_final_training(
    tmp_path: Path, configure: Configure, network: list[str]
) -> None:
    words = [*network, "monitor.metric=valid/loss", "monitor.mode=min", "trainer.precision=fp32"]
    words += ["trainer.max_epochs=2", "tuner.max_epochs=2", "model.dropout=0.0"]
    base = configure(*words)
    report = checked_images(base)
    plain = run_trial(prepare(base, report), {}, lambda *_: False)
    tuned = run_trial(prepare(base, report), {"trainer.ema": 0.9}, lambda *_: False)
    assert plain.objective != tuned.objective, "the trial honors trainer.ema"

    config = configure(*words, "trainer.ema=0.9")
    context = prepare(config, report)
    classifier = context.classifier(config)
    activations = context.activations(classifier, config)
    learner, _ = context.learner(classifier, config, 2)
    images = context.data(config)
    data = images if activations is None else ActivationData(activations, images)
    fitted = fit(learner, data, config, tmp_path, accelerator="cpu", precision="fp32")
    assert fitted.best == pytest.approx(tuned.objective, rel=1e-3)
