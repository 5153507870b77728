"""Mixed batches: the targets are the shares of what an image shows."""

from __future__ import annotations

import unittest.mock
from collections.abc import Callable

import pytest
import torch

from breedlab.config import Config
from breedlab.pipeline.checked_images import checked_images
from breedlab.pipeline.fine_tuning_settings import settings
from breedlab.training.cross_entropy import BinaryCrossEntropyLoss
from breedlab.training.mixing import mixing
from breedlab.training.preparation import prepare

Configure = Callable[..., Config]
SIDE, CLASSES = 16, 4


def _plain(labels: torch.Tensor) -> torch.Tensor:
    """Return images each pixel of which is the number of its image."""
    return torch.arange(len(labels)).float()[:, None, None, None].expand(-1, 3, SIDE, SIDE)


def _shown(images: torch.Tensor) -> torch.Tensor:
    """Return which share of each image shows which of the originals, (n, n)."""
    originals = torch.arange(len(images)).float()
    return (images[:, 0].flatten(1)[:, None] == originals[None, :, None]).float().mean(2)


def test_cutmix_targets_are_the_shares_of_pixels(configure: Configure) -> None:
    mix = mixing(configure("data.cutmix=1.0", "model.freeze=none").data, CLASSES)
    assert mix is not None
    labels = torch.tensor([0, 1, 2, 3, 3])
    several = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    hot = torch.nn.functional.one_hot(labels, CLASSES).float()
    mixed = 0
    for seed in range(8):
        for own, one_by_one in ((labels, hot), (several, several)):
            torch.manual_seed(seed)
            images, targets = mix(_plain(own), own)
            shown = _shown(images)
            assert torch.allclose(shown.sum(1), torch.ones(5))  # pixels are cut, not blended
            assert torch.allclose(targets, shown @ one_by_one, atol=1e-5)
            mixed += int(bool((shown.max(1).values < 1).all()))
    assert mixed > 8


def test_mixup_blends_several_labels(configure: Configure) -> None:
    mix = mixing(configure("data.mixup=1.0", "model.freeze=none").data, CLASSES)
    assert mix is not None
    own = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 1, 0]])
    torch.manual_seed(0)
    images, targets = mix(_plain(own), own)
    share = float(images[1, 0, 0, 0])  # of image 1 itself; the rest is of image 0, which is all 0
    assert 0 < share < 1
    assert torch.allclose(targets[1], (1 - share) * own[0])


def test_with_both_each_batch_gets_one(configure: Configure) -> None:
    mix = mixing(configure("data.mixup=1.0", "data.cutmix=1.0", "model.freeze=none").data, CLASSES)
    assert mix is not None
    labels, cut = torch.tensor([0, 1, 2, 3]), []
    for seed in range(40):
        torch.manual_seed(seed)
        images, targets = mix(_plain(labels), labels)
        assert torch.allclose(targets.sum(1), torch.ones(4))
        cut.append(bool(torch.allclose(_shown(images).sum(1), torch.ones(4))))
    assert 10 < sum(cut) < 30


def test_nothing_is_mixed_unless_asked(configure: Configure) -> None:
    assert mixing(configure("model.freeze=none").data, CLASSES) is None


def test_mixed_labels_are_weighed_and_smoothed_each_by_itself() -> None:
    """The loss of a mixed target is the mix of the losses of both, as the loss of a label is
    linear in it."""
    weights = torch.tensor([1.0, 5.0, 0.5])
    loss = BinaryCrossEntropyLoss(weights, label_smoothing=0.1)
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    one = (torch.rand(6, 3, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    mixed = loss(logits, 0.7 * one + 0.3 * one.roll(1, 0))
    assert float(mixed) == pytest.approx(
        float(0.7 * loss(logits, one) + 0.3 * loss(logits, one.roll(1, 0))), rel=1e-5
    )


def test_fine_tuning_mixes_as_it_is_told(configure: Configure) -> None:
    config = configure("fine_tune.epochs=1", "fine_tune.cutmix=1.0")
    context = prepare(config, checked_images(config))
    for freeze in ("none", "stage2"):
        tuned = settings(context, config, freeze)
        classifier = context.classifier(tuned)
        learner, feed = context.learner(classifier, tuned, 1)
        images, labels = next(iter(feed.train(0)))
        with unittest.mock.patch.object(
            learner.criterion, "forward", wraps=learner.criterion.forward
        ) as criterion:
            loss, _ = learner.loss_and_hits((images, labels))
        (_, targets), _ = criterion.call_args
        assert loss.isfinite() and targets.shape == (len(labels), len(context.classes))
        assert not torch.equal(targets.max(1).values, torch.ones(len(labels)))
