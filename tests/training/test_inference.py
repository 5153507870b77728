"""At a run's end each validation image is decoded and passed through the network once, however many
figures come of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from breedlab.config import Config
from breedlab.data import dataset
from breedlab.pipeline.checked_images import checked_images
from breedlab.pipeline.exporting import _COMPARED
from breedlab.pipeline.run import run
from breedlab.training.inference import features, validation_pass
from breedlab.training.preparation import prepare

Configure = Callable[..., Config]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each image was decoded."""
    counts: Counter[Path] = Counter()
    real = dataset.read_pixels

    def counted(path: Path) -> object:
        counts[path] += 1
        return real(path)

    monkeypatch.setattr(dataset, "read_pixels", counted)
    return counts


@pytest.mark.parametrize(
    ("freeze", "mode", "times"),
    [("none", "auto", 1), ("backbone", "off", 1), ("stage3", "auto", 0)],
)
def test_one_pass_gives_logits_and_features(
    configure: Configure,
    tmp_path: Path,
    decoded: Counter[Path],
    freeze: str,
    mode: str,
    times: int,
) -> None:
    config = configure(
        f"model.freeze={freeze}", f"cache.mode={mode}", f"cache.dir={tmp_path / 'cache'}"
    )
    context = prepare(config, checked_images(config))
    classifier = context.classifier(config)
    context.activations(classifier, config)
    valid = context.report.images.splits["valid"]
    loader = context.data(config).view_dataloader("valid", 0)
    with torch.no_grad():
        expected = torch.cat([classifier.eval()(images) for images, _ in loader])

    decoded.clear()
    found = validation_pass(context, classifier, config)
    assert [decoded[image.path] for image in valid] == [times] * len(valid)
    torch.testing.assert_close(found.logits, expected, rtol=1e-3, atol=1e-4)
    assert found.labels.tolist() == [image.label for image in valid]
    assert found.features is not None
    torch.testing.assert_close(
        classifier.head(found.features).detach(), expected, rtol=1e-3, atol=1e-4
    )
    again = features(context, classifier, config, "valid", torch.arange(len(valid)))
    torch.testing.assert_close(again, found.features, rtol=1e-3, atol=1e-4)


def test_a_cached_boundary_gives_training_features_without_an_image(
    configure: Configure, tmp_path: Path, decoded: Counter[Path]
) -> None:
    config = configure("model.freeze=stage3", f"cache.dir={tmp_path / 'cache'}")
    context = prepare(config, checked_images(config))
    classifier = context.classifier(config)
    context.activations(classifier, config)
    decoded.clear()
    rows = features(context, classifier, config, "train", torch.tensor([3, 0]))
    assert not decoded
    images = torch.stack([context.data(config).dataset("train")[0, index][0] for index in (3, 0)])
    with torch.no_grad():
        expected = classifier.eval().backbone(classifier.normalized(images))
    torch.testing.assert_close(rows, expected, rtol=1e-3, atol=1e-4)


def test_a_run_decodes_validation_once_for_itself_and_once_for_its_archive(
    configure: Configure, tmp_path: Path, decoded: Counter[Path]
) -> None:
    config = configure(
        "model.freeze=none", "trainer.max_epochs=1", f"runs_dir={tmp_path}", "serving.unknown=row"
    )
    report = checked_images(config)
    run(config, [])
    counts = [decoded[image.path] for image in report.images.splits["valid"]]
    # the epoch's validation, the pass that calibrates and tells the unknown, the archive's answers
    assert counts == [4] * _COMPARED + [3] * (len(counts) - _COMPARED)
