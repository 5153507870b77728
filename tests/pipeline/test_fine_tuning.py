"""All layers trained after the head, and kept only where validation is better."""

from __future__ import annotations

import re
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from codes import raises_code
from safetensors.torch import load

from breedlab.config import Config
from breedlab.evaluation.statistics import wilson
from breedlab.files import read_json
from breedlab.models.classifier import Classifier
from breedlab.pipeline import final_test, fine_tuning, fine_tuning_plan
from breedlab.pipeline.checked_images import checked_images
from breedlab.pipeline.final_training import Trained, has_time_to_refit
from breedlab.pipeline.fine_tuning import fine_tune
from breedlab.pipeline.fine_tuning_settings import settings
from breedlab.pipeline.run import run
from breedlab.pipeline.step_timing import EpochTime
from breedlab.training.fit import Fitted
from breedlab.training.learner import Learner
from breedlab.training.preparation import prepare

Configure = Callable[..., Config]


@pytest.fixture(scope="module")
def configure(configure: Configure) -> Configure:
    """On resnet18, whose layers these tests name."""
    return lambda *more: configure("model.name=resnet18", *more)


# A head that learned nothing: whatever trains all layers does better.
POOR = ("trainer.max_epochs=1", "optim.lr=0.000001", "model.head_type=linear", "model.dropout=0")

EAGER = ("fine_tune.epochs=6", "fine_tune.lr=0.01", "fine_tune.ema=0", "fine_tune.layer_decay=1")

BY_LOSS = ("monitor.metric=valid/loss", "monitor.mode=min")


def head_to(run: Path, classifier: Classifier) -> None:
    """Write the checkpoint that a head's training leaves."""
    head = classifier.head.state_dict()
    weights = {f"classifier.head.{name}": tensor for name, tensor in head.items()}
    (run / "checkpoints").mkdir()
    torch.save({"state_dict": weights}, run / "checkpoints" / "best.ckpt")


def test_a_better_network_is_kept_tested_and_exported(
    configure: Configure,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # past a better average
    overshoots = ("fine_tune.epochs=1", "fine_tune.lr=0.01", "fine_tune.layer_decay=0.5")
    config = configure(*POOR, *EAGER, *overshoots, *BY_LOSS, "trainer.refit=true")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(final_test, "_temperature", killed)
        run(config, [])
    stopped = Path("runs/latest").resolve()
    checkpoints = [
        stopped / "fine_tune" / "checkpoints" / name for name in ("best.ckpt", "refit.ckpt")
    ]
    written = [path.stat().st_mtime_ns for path in checkpoints]
    found = run(config, [], resume=stopped).metrics
    assert [path.stat().st_mtime_ns for path in checkpoints] == written
    tuned = found["training"]["fine_tune"]
    assert tuned["kept"] and tuned["best"] < tuned["before"]
    assert found["monitor"]["best"] == tuned["wise_ft"]["best"] <= tuned["best"]
    assert found["training"]["refit"]["epochs"] == tuned["best_epoch"]
    refit = read_json(stopped / "fine_tune" / "checkpoints" / "refit.json")
    assert 0 < refit["alpha"] == tuned["wise_ft"]["alpha"] < 1
    gained = tuned["compared"]
    assert gained["name"] == "loss" and gained["low"] < gained["value"] < gained["high"]
    assert gained["value"] == pytest.approx(found["monitor"]["best"] - tuned["before"], abs=2e-3)
    for name, value in (("before", tuned["before"]), ("best", found["monitor"]["best"])):
        low, high = tuned[f"{name}_interval"]
        assert low < value < high
    assert [*found["monitor"]["interval"]] == [*tuned["best_interval"]]
    said = " ".join(capsys.readouterr().out.split())
    assert "fine-tuning: valid/loss" in said and "before" in said
    assert "these images also chose what is kept" in said
    report = (stopped / "report.html").read_text()
    assert "all layers fine-tuned" in report and "(paired bootstrap)" in report

    trained = torch.load(checkpoints[1], weights_only=True)["state_dict"]
    with tarfile.open(stopped / "model.tar.gz") as archive:
        served = load(archive.extractfile("model.safetensors").read())  # type: ignore[union-attr]
    for name, tensor in served.items():
        torch.testing.assert_close(trained[f"classifier.{name}"], tensor)
    pretrained = prepare(config, checked_images(config)).backbone.network.state_dict()
    assert not torch.equal(pretrained["conv1.weight"], served["backbone.conv1.weight"])
    # BatchNorm goes on with the statistics under which the head was found
    assert torch.equal(pretrained["bn1.running_mean"], served["backbone.bn1.running_mean"])


def test_a_worse_network_changes_nothing(
    configure: Configure, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("model.head_type=logistic",)
    frozen = run(configure(*words), []).metrics
    config = configure(*words, "fine_tune.epochs=1", "fine_tune.lr=1000.0")
    result = run(config, [])
    found = result.metrics
    tuned = found["training"]["fine_tune"]
    assert not tuned["kept"] and "diverged" in tuned["failed"]
    assert "the frozen backbone stays" in " ".join(capsys.readouterr().out.split())
    for part in ("monitor", "test"):
        assert found[part] == frozen[part]


def test_what_is_not_kept_is_compared_with_the_frozen_network_too(
    configure: Configure, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrecks = ("fine_tune.epochs=1", "fine_tune.lr=0.05", "fine_tune.layer_decay=1")
    result = run(configure("model.head_type=logistic", *wrecks, "fine_tune.wise_ft=false"), [])
    tuned = result.metrics["training"]["fine_tune"]
    assert not tuned["kept"] and tuned["best"] < tuned["before"]
    compared = tuned["compared"]
    assert compared["images"] == 24
    assert compared["more"] == round(24 * (tuned["best"] - tuned["before"]))
    for name in ("before", "best"):
        low, high = tuned[f"{name}_interval"]
        assert (low, high) == pytest.approx(wilson(round(24 * tuned[name]), 24), abs=1e-6)
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"right on \d+ fewer of 24 validation images, .*McNemar", said)
    assert "fine-tuned, which was no better" in (result.run / "report.html").read_text()


def test_what_a_search_left_of_its_minutes_decides_the_epochs(
    configure: Configure, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = configure("fine_tune.epochs=3")
    context = prepare(config, checked_images(config))
    tuned = fine_tune(context, config, here, Fitted(1, "its one epoch", 1, 0.5), 0.001)
    assert tuned.config is None and tuned.metrics == {"epochs": 0, "kept": False}
    assert "tuner.minutes=" in " ".join(capsys.readouterr().out.split())


def test_a_single_epoch_of_several_is_not_worth_its_time(
    configure: Configure,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = configure(*EAGER, "fine_tune.epochs=3", "model.head_type=linear")
    context = prepare(config, checked_images(config))
    monkeypatch.setattr(fine_tuning_plan, "epoch_time", lambda *_: EpochTime(40.0, 0.0))
    tuned = fine_tune(context, config, here, Fitted(1, "its one epoch", 1, 0.0), 79.0)
    assert tuned.metrics == {"epochs": 0, "kept": False}
    # two epochs and a tenth for the test, in the two fifths that a search leaves
    text = " ".join(capsys.readouterr().out.split())
    assert "2 epochs, take about 89 s" in text and "tuner.minutes=4 leaves that" in text


@pytest.mark.parametrize(("validation", "epochs"), [(0.1, 2), (3.0, 0)])
def test_timing_a_step_counts_and_a_tenth_is_left_for_the_test(
    configure: Configure,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    validation: float,
    epochs: int,
) -> None:
    fixed = ("fine_tune.epochs=6", "fine_tune.freeze=none", "trainer.precision=fp32")
    config = configure(*EAGER, *fixed, "model.head_type=linear")
    context = prepare(config, checked_images(config))
    clock = [0.0]

    def ten_seconds(*_: Any) -> EpochTime:
        clock[0] += 20.0
        return EpochTime(10.0, validation)

    for module in (fine_tuning, fine_tuning_plan):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(fine_tuning_plan, "epoch_time", ten_seconds)
    head_to(here, context.classifier(config))
    tuned = fine_tune(context, config, here, Fitted(1, "its one epoch", 1, 0.0), 52.0)
    # of 52 s, 32 are left, and 28.8 for training and three passes over validation
    assert tuned.metrics["epochs"] == epochs


@pytest.mark.parametrize(("epoch_seconds", "in_time"), [(None, True), (10.0, True), (20.0, False)])
def test_a_refit_that_would_end_late_is_left_out_and_told(
    configure: Configure,
    epoch_seconds: float | None,
    in_time: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = configure("tuner=auto", "tuner.minutes=10", "model.head_type=linear")
    fitted = Fitted(6, "all 6 epochs", 5, 0.9)
    trained = SimpleNamespace(config=config, fitted=fitted, epoch_seconds=epoch_seconds, members=())
    deadline = time.monotonic() + 60  # 5% of ten minutes are 30 s more
    assert has_time_to_refit(cast("Trained", trained), deadline) == in_time
    assert has_time_to_refit(cast("Trained", trained), None)
    assert ("no refit" in capsys.readouterr().out) != in_time


def test_the_last_layers_train_where_there_is_no_time_for_all(
    configure: Configure, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(*EAGER, "fine_tune.epochs=2", "model.head_type=linear")
    context = prepare(config, checked_images(config))

    def seconds(_context: Any, tuned: Config, _precision: str) -> EpochTime:
        return EpochTime(10.0 if tuned.model.freeze == "none" else 1.0, 0.1)

    monkeypatch.setattr(fine_tuning_plan, "epoch_time", seconds)
    head_to(here, context.classifier(config))
    tuned = fine_tune(context, config, here, Fitted(1, "its one epoch", 1, 0.0), 11.0)
    assert tuned.metrics["freeze"] == "layer2" and tuned.metrics["epochs"] == 2
    trained = torch.load(here / "fine_tune" / "checkpoints" / "last.ckpt", weights_only=True)
    for name, pretrained in context.backbone.network.named_parameters():
        moved = not torch.equal(pretrained, trained["state_dict"][f"classifier.backbone.{name}"])
        assert moved == name.startswith(("layer3", "layer4")), name


@pytest.mark.parametrize(
    ("name", "side", "expected"),
    [("resnet18", 144, 128), ("resnet18", 96, None), ("timm/vit_tiny_patch16_224", 224, None)],
)
def test_training_crops_are_smaller_where_the_network_takes_any_size(
    configure: Configure, name: str, side: int, expected: int | None
) -> None:
    size = (f"data.image_size={side}", f"data.resize={side}", "data.batch_size=8")
    config = configure(f"model.name={name}", *size, "fine_tune.epochs=1")
    context = prepare(config, checked_images(config))
    tuned = settings(context, config, "none")
    assert tuned.data.train_size == expected
    data = context.data(tuned)
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape[2:] == (expected or side, expected or side)
    images, _ = next(iter(data.val_dataloader()))
    assert images.shape[2:] == (side, side)


def test_without_augmentation_no_crops_are_cut(configure: Configure) -> None:
    """Also by `train_size=auto`, the default: a search and a head's training are done by then."""
    words = ("fine_tune.epochs=2", "fine_tune.augment=none", "fine_tune.start_size=auto")
    config = configure(*words, "data.image_size=160", "data.resize=160")
    context = prepare(config, checked_images(config))
    tuned = settings(context, config, "none")
    assert tuned.data.train_size is None and tuned.data.start_size is None
    assert tuned.data.augment == "none"


@pytest.mark.parametrize(("start", "first"), [("auto", 96), ("64", 64), ("500", None)])
def test_crops_start_small_where_that_is_asked_for(
    configure: Configure, start: str, first: int | None
) -> None:
    size = ("data.image_size=192", "data.resize=192", "data.batch_size=8")
    config = configure(*size, "fine_tune.epochs=3", f"fine_tune.start_size={start}")
    context = prepare(config, checked_images(config))
    sizes = context.data(settings(context, config, "none")).crop_sizes
    assert sizes is not None and (sizes.first, sizes.last) == (first or 160, 160)


def test_the_refit_grows_its_crops_as_the_fine_tuning_did(
    configure: Configure, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = Learner.training_step

    def watched(self: Learner, batch: Any, index: int) -> Any:
        if batch[0].ndim == 4:  # images, not the features that the head was trained on
            seen.append(batch[0].shape[2])
        return real(self, batch, index)

    monkeypatch.setattr(Learner, "training_step", watched)
    words = ("fine_tune.start_size=32", "data.image_size=96", "data.resize=96")
    result = run(configure(*POOR, *EAGER, *words, *BY_LOSS, "trainer.refit=true"), [])
    tuned = result.metrics["training"]["fine_tune"]
    assert tuned["kept"]
    grown = [side for side in (32, 32, 64, 64, 96, 96) for _ in range(4)]  # steps of an epoch
    assert seen[:24] == grown
    assert seen[24:] == grown[: 4 * tuned["best_epoch"]]


def test_training_begins_where_the_head_left_the_network(configure: Configure) -> None:
    """A frozen BatchNorm gives in training what it gives in evaluation."""
    config = configure("fine_tune.epochs=1", "model.head_type=linear", "model.dropout=0")
    context = prepare(config, checked_images(config))
    tuned = settings(context, config, "none")
    learner, _ = context.learner(context.classifier(tuned), tuned, 1)
    images = torch.randint(0, 255, (4, 3, 32, 32), dtype=torch.uint8)
    learner.eval()
    before = learner(images)
    learner.train()
    torch.testing.assert_close(learner(images), before)
    assert all(parameter.requires_grad for parameter in learner.classifier.parameters())


def test_batch_norm_stays_frozen_behind_a_frozen_stage(configure: Configure) -> None:
    words = ("model.freeze=layer3", "model.batch_norm=frozen", "model.dropout=0")
    config = configure(*words, "model.head_type=linear")
    context = prepare(config, checked_images(config))
    learner, feed = context.learner(context.classifier(config), config, 1)
    activations, _ = next(iter(feed.train(0)))
    learner.eval()
    before = learner(activations)
    torch.testing.assert_close(learner.train()(activations), before)


def test_what_trains_whole_already_is_not_fine_tuned(configure: Configure) -> None:
    with raises_code("BL104", names="fine_tune.epochs"):
        configure("model.freeze=none", "fine_tune.epochs=2")


def test_all_layers_train_of_a_backbone_that_another_input_size_has_frozen(
    configure: Configure, here: Path
) -> None:
    """A search over image sizes shares one backbone among them, and frozen heads train first."""
    config = configure(*EAGER, "fine_tune.epochs=1")
    context = prepare(config, checked_images(config))
    larger = configure(*EAGER, "fine_tune.epochs=1", "data.image_size=40", "data.resize=44")
    suited = context.suited(larger)
    head_to(here, suited.classifier(larger))
    fine_tune(suited, larger, here, Fitted(1, "its one epoch", 1, 0.0), None)
    trained = torch.load(here / "fine_tune" / "checkpoints" / "last.ckpt", weights_only=True)
    for name, pretrained in context.backbone.network.named_parameters():
        assert not torch.equal(pretrained, trained["state_dict"][f"classifier.backbone.{name}"])
