"""What a run starts from: another run, another network's attributes, weights that do not suit; and
what it ends in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from codes import raises_code

from breedlab import config as configs
from breedlab.config import Config
from breedlab.models.classifier import Classifier
from breedlab.pipeline import final_test
from breedlab.pipeline.checked_images import checked_images
from breedlab.pipeline.resuming import as_begun
from breedlab.pipeline.run import run
from breedlab.training.cache_key import network_digest
from breedlab.training.preparation import prepare
from breedlab.training.starting_weights import describe

Configure = Callable[..., Config]


def small(configure: Configure, folder: Path, *more: str) -> Any:
    return configure(
        f"runs_dir={folder}", "model.head=[]", "trainer.max_epochs=1", "debugger=none", *more
    )


def test_a_run_goes_on_from_another_with_its_head_and_its_transform(
    configure: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(
        small(configure, tmp_path, "data.mean=[0.1,0.2,0.3]", "data.std=[0.4,0.5,0.6]"), []
    ).run
    for weights in (first, first / "model.tar.gz", first / "checkpoints" / "best.ckpt"):
        again = small(configure, tmp_path, f"model.weights={weights}", "model.freeze=none")
        context = prepare(again, checked_images(again))
        assert (context.evaluation.mean, context.evaluation.std) == (
            (0.1, 0.2, 0.3),
            (0.4, 0.5, 0.6),
        )
        trained = torch.load(first / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        for name, tensor in context.classifier(again).state_dict().items():
            assert torch.equal(tensor, trained[f"classifier.{name}"]), name
    assert "its head too, which tells the same classes apart" in " ".join(describe(context))
    second = run(again, []).run
    assert json.loads((second / "lineage.json").read_text())["parent"] == str(first.resolve())
    assert "mean 0.1,0.2,0.3, std 0.4,0.5,0.6: those that" in capsys.readouterr().out


def test_another_runs_head_is_left_out_where_the_classes_are_others(
    configure: Configure, tmp_path: Path
) -> None:
    config = small(configure, tmp_path)
    first = run(config, []).run
    file = first / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(file, weights_only=True)
    checkpoint["breedlab"]["classes"] = ["cat", "dog", "fox", "owl"]
    torch.save(checkpoint, tmp_path / "moved.ckpt")
    again = configs.replace(config, {"model.weights": str(tmp_path / "moved.ckpt")})
    context = prepare(again, checked_images(again))
    head = context.classifier(again).head.state_dict()
    assert not torch.equal(head["1.weight"], checkpoint["state_dict"]["classifier.head.1.weight"])
    assert (
        "its head of 4 classes is left out, since these are other classes" in describe(context)[1]
    )
    name = "shufflenet_v2_x0_5"
    other = configs.replace(again, {"model.name": "resnet34"})
    with raises_code("BL120", names=("moved.ckpt", f"model.name={name}")):
        prepare(other, context.report)


def test_a_run_that_has_no_weights_yet_is_no_start(configure: Configure, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    with raises_code("BL120", names=("model.weights", "checkpoints")):
        small(configure, tmp_path, f"model.weights={tmp_path}")


def test_a_network_that_the_archive_does_not_make_again_is_not_exported(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torchvision's `transform_input` was: an attribute that changes what is computed, and that
    no file holds."""
    made = final_test.load_checkpoint

    def with_an_attribute(classifier: Classifier, path: Path) -> None:
        made(classifier, path)
        classifier.backbone.conv5[1].eps = 3.0

    monkeypatch.setattr(final_test, "load_checkpoint", with_an_attribute)
    with raises_code("BL300", names="export"):
        run(small(configure, tmp_path, "model.freeze=none"), [])
    (directory,) = tmp_path.glob("*/2*")
    assert (
        not (directory / "model.tar.gz").exists()
        and (directory / "checkpoints" / "best.ckpt").exists()
    )


def test_activations_are_of_what_a_network_does_not_of_its_numbers_alone(
    configure: Configure, tmp_path: Path
) -> None:
    config = small(configure, tmp_path)
    context = prepare(config, checked_images(config))
    classifier = context.classifier(config)
    before = network_digest(classifier)
    assert network_digest(context.classifier(config)) == before
    for module, name, value in (
        (classifier.backbone, "transform_input", True),
        (classifier.backbone.stage2[0].branch1[1], "eps", 0.5),
        (classifier.backbone.conv1[0], "padding", (0, 0)),
    ):
        old = getattr(module, name, None)
        setattr(module, name, value)
        assert network_digest(classifier) != before, name
        setattr(module, name, old) if old is not None else delattr(module, name)
    assert network_digest(classifier) == before


def test_a_run_goes_on_with_the_transform_that_it_was_begun_with(
    configure: Configure, tmp_path: Path
) -> None:
    """What `auto` means may change between versions; a run must not change in its middle."""
    begun = run(small(configure, tmp_path, "data.mean=[0.1,0.2,0.3]"), []).run
    config = small(configure, tmp_path)
    assert config.data.mean == "auto"
    lineage = json.loads((begun / "lineage.json").read_text())
    assert as_begun(config, lineage["transform"]).data.mean == [0.1, 0.2, 0.3]
    packaged = configs.replace(
        config,
        {"model.name": "timm/tf_efficientnet_lite0", "model.weights": "package:efficientnet_lite0"},
    )
    assert as_begun(packaged, None).data.mean == [0.485, 0.456, 0.406]


def test_only_what_differs_from_the_weights_own_input_is_told(configure: Configure) -> None:
    """A resumed run has numbers where `auto` was, and seemed to change the mean."""
    config = configure("data.mean=[0.485,0.456,0.406]", "data.std=[0.5,0.5,0.5]")
    (line,) = describe(prepare(config, checked_images(config)))
    assert line.endswith("but for data.image_size, data.resize, data.std")
