"""Class weights weigh images: with smoothed and mixed targets, too, and divided among processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from breedlab.config import Config
from breedlab.pipeline.checked_images import checked_images
from breedlab.pipeline.final_test import measure
from breedlab.training.cross_entropy import CrossEntropyLoss
from breedlab.training.fit import ActivationData, fit
from breedlab.training.preparation import prepare

Configure = Callable[..., Config]
WEIGHTS = [0.5, 10.0, 2.0]


def by_hand(
    logits: np.ndarray, targets: np.ndarray, weights: list[float], smoothing: float
) -> float:
    """The definition in float64: targets are probabilities, an image weighs by the classes that it
    shows."""
    total = summed = 0.0
    for scores, target in zip(logits.astype(np.float64), targets.astype(np.float64), strict=True):
        log_probabilities = scores - np.log(np.exp(scores).sum())
        smoothed = target * (1 - smoothing) + smoothing / len(target)
        weight = float(sum(share * w for share, w in zip(target, weights, strict=True)))
        total -= weight * float(smoothed @ log_probabilities)
        summed += weight
    return total / summed


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_the_loss_is_that_of_its_definition(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(16, 3, generator=generator)
    labels = torch.randint(0, 3, (16,), generator=generator)
    criterion = CrossEntropyLoss(torch.tensor(WEIGHTS), label_smoothing=smoothing)
    hard = np.eye(3)[labels.numpy()]
    assert float(criterion(logits, labels)) == pytest.approx(
        by_hand(logits.numpy(), hard, WEIGHTS, smoothing), 1e-5
    )
    mixed = 0.3 * hard + 0.7 * np.roll(hard, 1, axis=0)
    found = float(criterion(logits, torch.tensor(mixed, dtype=torch.float32)))
    assert found == pytest.approx(by_hand(logits.numpy(), mixed, WEIGHTS, smoothing), 1e-5)


def test_without_smoothing_and_without_weights_it_is_pytorchs() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(16, 3, generator=generator)
    labels = torch.randint(0, 3, (16,), generator=generator)
    for weight, smoothing in ((torch.tensor(WEIGHTS), 0.0), (None, 0.1)):
        expected = torch.nn.functional.cross_entropy(
            logits, labels, weight, label_smoothing=smoothing
        )
        torch.testing.assert_close(
            CrossEntropyLoss(weight, label_smoothing=smoothing)(logits, labels), expected
        )


def test_the_best_answer_to_an_image_does_not_depend_on_the_weights() -> None:
    """What smoothing asks of an image of the common class: 0.95 and 0.05, not 20 times as much for
    the rare one."""
    scores = torch.zeros(1, 2, requires_grad=True)
    criterion = CrossEntropyLoss(torch.tensor([0.5, 10.0]), label_smoothing=0.1)
    optimizer = torch.optim.LBFGS([scores], max_iter=100)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = criterion(scores, torch.tensor([0]))
        loss.backward()
        return loss

    optimizer.step(closure)
    assert scores.softmax(1)[0].tolist() == pytest.approx([0.95, 0.05], abs=1e-3)


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_parts_of_a_batch_add_up_to_the_whole(configure: Configure, mixup: float) -> None:
    """What DDP does: the mean of the processes' gradients, each of a loss times its share of the
    batch."""
    words = [
        "data.class_weights=balanced",
        "optim.label_smoothing=0.2",
        "model.freeze=none",
        f"data.mixup={mixup}",
    ]
    config = configure(*words)
    context = prepare(config, checked_images(config))
    learner, _ = context.learner(context.classifier(config), config, 1)
    learner.criterion.weight = torch.tensor([0.5, 10.0, 2.0, 1.0])
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 0, 0, 0, 0, 0, 1, 2, 3])
    targets: torch.Tensor = labels
    parts = [slice(0, 5), slice(5, 9)]
    if mixup:  # each process mixes its own images
        hot = torch.nn.functional.one_hot(labels, 4).float()
        targets = torch.cat([0.6 * hot[part] + 0.4 * hot[part].roll(1, 0) for part in parts])
    weights = [float(learner.criterion.image_weights(labels[part]).sum()) for part in parts]
    losses = [float(learner.criterion(logits[part], targets[part])) for part in parts]
    together = sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)
    assert together == pytest.approx(float(learner.criterion(logits, targets)), rel=1e-5)


@pytest.fixture(scope="module")
def rare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """140 images of a common class and 6 of a rare one, to tell apart by their color; 20 of each to
    test on."""
    root = tmp_path_factory.mktemp("rare")
    generator = np.random.default_rng(0)
    for split, common, few in (("train", 140, 6), ("valid", 20, 20), ("test", 20, 20)):
        for name, color, count in (("ok", (90, 140, 90), common), ("defect", (170, 90, 90), few)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(color + generator.normal(0, 25, (48, 48, 3)), 0, 255).astype(
                    np.uint8
                )
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return root


def test_a_rare_class_does_not_swallow_the_common_one(
    tmp_path: Path, configure: Configure, rare: Path
) -> None:
    words = [
        "model.name=resnet18",  # whose random features tell the two apart
        "data.class_weights=balanced",
        "optim.label_smoothing=0.1",
        "data.batch_size=32",
        "model.head=[]",
    ]
    words += ["trainer.max_epochs=12", "optim.lr=0.01", "trainer.precision=fp32"]
    config = configure(*words, f"data.root={rare}", f"cache.dir={tmp_path}")
    context = prepare(config, checked_images(config))
    # a trial's loop
    epochs = list(context.epochs(context.classifier(config), config, config.trainer.max_epochs))
    assert max(epoch.valid["valid/top1"] for epoch in epochs) > 0.9
    classifier = context.classifier(config)
    activations = context.activations(classifier, config)
    learner, _ = context.learner(classifier, config, config.trainer.max_epochs)
    images = context.data(config)
    data = images if activations is None else ActivationData(activations, images)
    fit(learner, data, config, tmp_path, accelerator="cpu", precision="fp32")
    assert measure(context, classifier, images).per_class["ok"]["top1"] > 0.9
