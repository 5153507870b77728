"""Sets that hold the true class as often as they say: by simulation, and as MAPIE makes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from breedlab.evaluation.conformal import least_probability, sets_measured


def drawn(images: int, seed: int, sure: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of a model that is `sure` times as sure as it may be, and labels."""
    draw = torch.Generator().manual_seed(seed)
    honest = 1.5 * torch.randn(images, 10, generator=draw)
    return (sure * honest).softmax(1), torch.multinomial(honest.softmax(1), 1, generator=draw)[:, 0]


@pytest.mark.parametrize("sure", [0.3, 1.0, 4.0])
def test_they_hold_the_true_class_in_nine_cases_of_ten_however_wrong_the_model_is(
    sure: float,
) -> None:
    covered = []
    for seed in range(40):
        least = least_probability(*drawn(250, seed, sure))
        covered.append(sets_measured(*drawn(2000, 1000 + seed, sure), least)["coverage"])
    assert 0.89 < np.mean(covered) < 0.915


def test_of_few_images_a_set_holds_all_classes_rather_than_too_few() -> None:
    probabilities, labels = drawn(8, seed=0)
    assert least_probability(probabilities, labels) == 0.0


def test_the_sets_are_mapies() -> None:
    mapie = pytest.importorskip("mapie.classification")
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Fixed(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
        """Its input is its answer."""

        def fit(self, x: object, y: object) -> Fixed:
            self.classes_ = np.arange(10)
            self.fitted_ = True
            return self

        def predict_proba(self, x: np.ndarray) -> np.ndarray:
            return x

        def predict(self, x: np.ndarray) -> np.ndarray:
            return x.argmax(1)

    probabilities, labels = drawn(300, seed=1)
    asked, truth = drawn(400, seed=2)
    fixed = Fixed().fit(None, None)
    conformal = mapie.SplitConformalClassifier(
        fixed, confidence_level=0.9, conformity_score="lac", prefit=True
    )
    conformal.conformalize(probabilities.double().numpy(), labels.numpy())
    _, sets = conformal.predict_set(asked.double().numpy())
    least = least_probability(probabilities, labels)
    ours = asked.numpy() >= least - 1e-7  # a class may lie on the threshold itself
    assert (ours == sets[:, :, 0]).mean() > 0.999
    measured = sets_measured(asked, truth, least)
    assert measured["size"] == pytest.approx(np.maximum(sets[:, :, 0].sum(1), 1).mean(), abs=0.01)
