"""Rare classes: balanced sampling and logit adjustment, beside class weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from breedlab.config import Config
from breedlab.data.batches import epoch_order, sampling_chances
from breedlab.pipeline.checked_images import checked_images
from breedlab.training.feeds import CachedFeed, LiveFeed
from breedlab.training.losses import LogitAdjusted
from breedlab.training.preparation import prepare

Configure = Callable[..., Config]


def test_balanced_sampling_draws_each_class_as_often_as_the_others() -> None:
    labels = torch.tensor([0] * 950 + [1] * 50)
    chances = sampling_chances("balanced", labels)
    drawn = torch.cat([labels[epoch_order(1000, 3, epoch, chances)] for epoch in range(10)])
    # 10,000 fair draws: four standard deviations are 200
    assert abs(int(drawn.sum()) - 5_000) < 200
    first = epoch_order(1000, 3, 0, chances)
    assert torch.equal(first, epoch_order(1000, 3, 0, chances))
    assert not torch.equal(first, epoch_order(1000, 3, 1, chances))
    assert sampling_chances("shuffled", labels) is None


def test_cached_features_are_drawn_as_their_images_would_be(configure: Configure) -> None:
    config = configure("data.sampling=balanced", "cache.mode=auto")
    context = prepare(config, checked_images(config))
    cached = context.activations(context.classifier(config), config)
    assert cached is not None
    feeds = CachedFeed(cached, config), LiveFeed(context.data(config))
    labels = [[batch[1].tolist() for batch in feed.train(2)] for feed in feeds]
    assert labels[0] == labels[1]
    shuffled = CachedFeed(cached, configure("cache.mode=auto"))
    assert labels[0] != [batch[1].tolist() for batch in shuffled.train(2)]


def test_a_solved_head_weighs_what_balanced_sampling_would_draw(configure: Configure) -> None:
    weights = []
    for words in ("data.sampling=balanced", "data.class_weights=balanced"):
        config = configure(words, "model.head_type=logistic", "model.logistic.c=0.1")
        context = prepare(config, checked_images(config))
        classifier = context.classifier(config)
        context.solve(classifier, config)
        weights.append(classifier.head.state_dict())
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name])


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.5])
def test_logit_adjustment_is_that_of_its_paper(tau: float) -> None:
    """Menon et al. 2021, equation 10: log(1 + sum over y' of (p_y' / p_y)^tau exp(f_y' - f_y))."""
    counts = [900, 90, 10]
    loss = LogitAdjusted(tau=tau).build_for(counts, None, 0.0)
    torch.manual_seed(0)
    logits, labels = torch.randn(32, 3), torch.randint(3, (32,))
    priors = torch.tensor(counts) / sum(counts)
    expected = []
    for row, label in zip(logits, labels, strict=True):
        others = [other for other in range(3) if other != label]
        ratio = sum(
            (priors[other] / priors[label]) ** tau * (row[other] - row[label]).exp()
            for other in others
        )
        expected.append(torch.log1p(torch.as_tensor(ratio)))
    torch.testing.assert_close(loss(logits, labels), torch.stack(expected).mean())


def test_logit_adjustment_finds_the_rare_class() -> None:
    """On overlapping classes of 20:1, plain cross-entropy calls nearly all common."""
    torch.manual_seed(0)
    count = torch.tensor([2000, 100])
    inputs = torch.cat([torch.randn(2000, 1) - 0.7, torch.randn(100, 1) + 0.7])
    labels = torch.arange(2).repeat_interleave(count)
    found = []
    for tau in (0.0, 1.0):
        layer, loss = torch.nn.Linear(1, 2), LogitAdjusted(tau=tau).build_for([2000, 100], None, 0)
        optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=100)

        def closure(layer=layer, loss=loss, optimizer=optimizer):  # type: ignore[no-untyped-def]
            optimizer.zero_grad()
            value = loss(layer(inputs), labels)
            value.backward()
            return value

        optimizer.step(closure)
        right = layer(inputs).argmax(1) == labels
        found.append([float(right[labels == label].float().mean()) for label in (0, 1)])
    plain, adjusted = found
    assert plain[1] < 0.3 < 0.7 < adjusted[1]
    assert sum(adjusted) > sum(plain) + 0.3  # by the mean recall, which is what it maximizes
