"""The final model trained anew on train and validation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from breedlab.config import Config
from breedlab.pipeline import final_test
from breedlab.pipeline.checked_images import checked_images
from breedlab.pipeline.refit import on_all
from breedlab.pipeline.run import run
from breedlab.serving import engine_selection
from breedlab.training import loop
from breedlab.training.feeds import CachedFeed
from breedlab.training.learner import Learner
from breedlab.training.preparation import prepare

Configure = Callable[..., Config]


def weights(file: Path) -> dict[str, torch.Tensor]:
    state = torch.load(file, weights_only=True)["state_dict"]
    return {name: tensor for name, tensor in state.items() if name.startswith("classifier.head.")}


def test_the_final_is_trained_on_both_splits_for_the_epochs_that_validation_found(
    configure: Configure, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lean loop on all features, for as many epochs of the same schedule, ends with the same
    weights."""
    words = ("trainer.max_epochs=4", "optim.schedule=cosine", "optim.lr=0.01", "model.dropout=0")
    before = run(configure(*words), []).metrics
    config = configure(*words, "trainer.refit=true")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(final_test, "_temperature", killed)
        run(config, [])
    stopped = Path("runs/latest").resolve()
    written = (stopped / "checkpoints" / "refit.ckpt").stat().st_mtime_ns
    after = run(config, [], resume=stopped)
    assert (stopped / "checkpoints" / "refit.ckpt").stat().st_mtime_ns == written
    epochs = after.metrics["training"]["best_epoch"]
    assert after.metrics["training"]["refit"] == {"epochs": epochs, "photos": 4 * (25 + 6)}
    assert after.metrics["monitor"] == before["monitor"]
    assert after.metrics["test"]["metrics"]["loss"] != before["test"]["metrics"]["loss"]
    assert (
        "refit on the 124 images of train and validation" in (stopped / "report.html").read_text()
    )

    context = prepare(config, checked_images(config))
    classifier = context.classifier(config)
    cached = context.activations(classifier, config)
    assert cached is not None
    both = on_all(cached)
    assert len(both.labels) == len(both.train[0]) == 124
    learner = Learner(classifier, config, steps_per_epoch=8, tail=classifier.tail())
    for _ in loop.epochs(
        learner, CachedFeed(both, config), config, count=epochs, accelerator="cpu", precision="fp32"
    ):
        pass
    found = weights(stopped / "checkpoints" / "refit.ckpt")
    for name, tensor in classifier.head.state_dict().items():
        torch.testing.assert_close(found[f"classifier.head.{name}"], tensor, rtol=1e-4, atol=1e-5)


def test_logistic_regression_is_refit_as_scikit_learn_does(
    configure: Configure, here: Path
) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    from sklearn.preprocessing import StandardScaler

    config = configure("model.head_type=logistic", "model.logistic.c=0.01", "trainer.refit=true")
    result = run(config, [])
    context = prepare(config, checked_images(config))
    cached = context.activations(context.classifier(config), config)
    assert cached is not None
    features = torch.cat([cached.train[0], cached.valid]).double().numpy()
    labels = torch.cat([cached.labels, cached.valid_labels]).numpy()
    scaler = StandardScaler().fit(features)
    judge = linear_model.LogisticRegression(C=0.01, tol=1e-8, max_iter=20_000).fit(
        scaler.transform(features), labels
    )
    state = weights(result.run / "checkpoints" / "refit.ckpt")
    weight, bias = state["classifier.head.1.weight"], state["classifier.head.1.bias"]
    ours = torch.log_softmax(torch.tensor(features) @ weight.double().T + bias.double(), 1).numpy()
    np.testing.assert_allclose(ours, judge.predict_log_proba(scaler.transform(features)), atol=1e-3)


def test_engines_are_compared_on_images_that_a_refit_has_not_seen(
    configure: Configure, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine of a network that has learned validation by heart agrees with it there: on 1,495
    clothes int8 agreed on all validation images, and on 98.4% of the test images."""
    passes: list[str] = []
    real = engine_selection._predictions

    def counted(candidates: Any, batches: Any, title: str, *more: Any) -> Any:
        passes.append(title)
        return real(candidates, batches, title, *more)

    monkeypatch.setattr(engine_selection, "_predictions", counted)
    words = ("trainer.max_epochs=1", "serving.engine=eager", "serving.precision=bf16")
    before = run(configure(*words), []).metrics["export"]
    assert before["photos"] == {"validation": 4 * 6, "calibration": 0}
    assert before["candidates"][0]["top1"] is not None
    assert [title.split()[0] for title in passes] == ["comparing", "testing"]
    done = run(configure(*words, "trainer.refit=true"), [])
    after = done.metrics["export"]
    assert after["photos"] == {"test": done.metrics["test"]["photos"], "calibration": 0}
    assert len(passes) == 3, "what was compared on the test is not computed again for its figure"
    assert after["test_top1"] == pytest.approx(done.metrics["test"]["metrics"]["top1"], abs=0.05)
    module, bf16 = after["candidates"]
    assert bf16["precision"] == "bf16" and bf16["agreement"] is not None
    # the labels of the test decide nothing, and a refit's own images say nothing
    assert module["top1"] is None and bf16["top1"] is None
    assert "valid top-1" not in Path("runs/latest/report.html").read_text()
