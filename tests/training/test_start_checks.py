"""What cannot train is refused before anything is computed for long, by the setting that is at
fault."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from codes import raises_code

from breedlab import config as configs
from breedlab.config import Config
from breedlab.pipeline.checked_images import checked_images
from breedlab.training.context import TrainingContext
from breedlab.training.preparation import prepare
from breedlab.training.start_checks import concerns

Configure = Callable[..., Config]


def ready(config: Config) -> TrainingContext:
    return prepare(config, checked_images(config))


def test_a_batch_of_one_is_refused_where_batchnorm_trains(configure: Configure) -> None:
    one = ("data.batch_size=1", "model.freeze=none")
    with raises_code("BL121", names=("data.batch_size", "shufflenet_v2_x0_5")):
        ready(configure(*one))
    ready(configure("data.batch_size=1", "model.freeze=backbone"))  # a head can
    # no BatchNorm
    ready(configure(*one, "model.name=squeezenet1_1", "data.image_size=64", "data.resize=64"))


def test_a_metric_that_is_the_same_for_every_model_is_refused(configure: Configure) -> None:
    with raises_code("BL121", names=("monitor.metric", "'valid/top5'", "4 classes")):
        ready(configure("monitor.metric=valid/top5"))


def test_a_missing_compiler_is_told_as_what_it_is(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found in ('g++',)")

    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self: setattr(self, "_compiled_call_impl", refuse)
    )
    with raises_code("BL121", names=("trainer.compile", "g++")):
        ready(configure("trainer.compile=true", "model.freeze=none"))


def test_a_size_that_the_network_does_not_take_is_still_told_as_that(configure: Configure) -> None:
    with raises_code("BL121", names="data.image_size"):
        ready(configure("model.name=vit_b_16", "data.image_size=64", "data.resize=64"))


def test_a_frozen_network_of_random_numbers_is_told(configure: Configure) -> None:
    config = configure()
    report = checked_images(config)
    (told,) = concerns(prepare(config, report))
    assert "model.weights=none with model.freeze=backbone" in told and "model.freeze=none" in told
    assert concerns(prepare(configs.replace(config, {"model.freeze": "none"}), report)) == []
