"""Every forward pass of a run computes in the precision that the run tells: a convolution's output
shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from breedlab.config import Config
from breedlab.pipeline.checked_images import checked_images
from breedlab.pipeline.final_test import measure
from breedlab.pipeline.run import run
from breedlab.training import auto_values
from breedlab.training.fit import fit
from breedlab.training.preparation import prepare
from breedlab.training.probe import probe
from breedlab.tuning.trial import run_trial

Configure = Callable[..., Config]
Seen = set[tuple[bool, torch.dtype]]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@contextmanager
def outputs_of(kind: type[nn.Module]) -> Iterator[Seen]:
    """Collect whether modules of a kind train and the dtype of what they return, for each batch of
    images."""
    seen: Seen = set()

    def look(module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        # one black image is only asked for a shape
        if isinstance(module, kind) and len(output) > 1:
            seen.add((module.training, output.dtype))

    handle = register_module_forward_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize("precision", DTYPES)
def test_trials_the_final_training_and_the_test_share_one_precision(
    tmp_path: Path, configure: Configure, precision: str
) -> None:
    words = [
        f"trainer.precision={precision}",
        "model.freeze=none",
        "trainer.max_epochs=1",
        "tuner.max_epochs=1",
    ]
    config = configure(*words)
    context = prepare(config, checked_images(config))
    expected = DTYPES[precision]
    with outputs_of(nn.Conv2d) as seen:
        assert run_trial(context, {}, lambda *_: False).state == "complete"
    assert seen == {(True, expected), (False, expected)}

    classifier = context.classifier(config)
    learner, _ = context.learner(classifier, config, 1)
    with outputs_of(nn.Conv2d) as seen:
        fit(
            learner,
            context.data(config),
            config,
            tmp_path,
            accelerator="cpu",
            precision=context.precision,
        )
    assert seen == {(True, expected), (False, expected)}

    with outputs_of(nn.Conv2d) as seen:
        evaluation = measure(context, classifier, context.data(config))
    assert seen == {(False, expected)}
    assert evaluation.images == 24


@pytest.mark.parametrize("precision", DTYPES)
def test_a_frozen_part_computes_in_it_too(
    tmp_path: Path, configure: Configure, precision: str
) -> None:
    """Once for the cache, or live in every epoch; and so do heads on cached activations."""
    words = [f"trainer.precision={precision}", f"cache.dir={tmp_path}"]
    config = configure(*words, "model.freeze=backbone")
    context = prepare(config, checked_images(config))
    expected = DTYPES[precision]
    with outputs_of(nn.Conv2d) as seen:
        activations = context.activations(context.classifier(config), config)
    assert seen == {(False, expected)}
    assert activations is not None and activations.train[0].dtype == expected

    with outputs_of(nn.Conv2d) as convolutions, outputs_of(nn.Linear) as seen:
        list(context.epochs(context.classifier(config), config, 1))
    assert not convolutions and seen == {(True, expected), (False, expected)}

    live = configure(*words, "model.freeze=stage2", "cache.mode=off")
    with outputs_of(nn.Conv2d) as seen:
        list(context.epochs(context.classifier(live), live, 1))
    assert seen == {(True, expected), (False, expected)}


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("mode", ["auto", "off"])
def test_a_probe_computes_in_it_too(configure: Configure, precision: str, mode: str) -> None:
    config = configure(
        f"trainer.precision={precision}",
        "model.freeze=none",
        "trainer.probe_epochs=1",
        f"cache.mode={mode}",
    )
    context = prepare(config, checked_images(config))
    with outputs_of(nn.Linear) as seen:
        probe(context, context.classifier(config), config)
    assert seen == {(True, DTYPES[precision]), (False, DTYPES[precision])}


def test_left_to_itself_a_head_alone_trains_in_fp32_on_a_cpu(
    tmp_path: Path, configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trials and final training alike; the frozen part before it is still computed in bf16."""
    monkeypatch.setattr(auto_values, "has_native_bf16", lambda _: True)
    config = configure(
        "trainer.precision=auto", f"cache.dir={tmp_path / 'cache'}", "trainer.max_epochs=1"
    )
    context = prepare(config, checked_images(config))
    with outputs_of(nn.Linear) as seen:
        assert run_trial(context, {}, lambda *_: False).state == "complete"
    assert seen == {(True, torch.float32), (False, torch.float32)}
    activations = context.activations(context.classifier(config), config)
    assert activations is not None and activations.train[0].dtype == torch.bfloat16

    with outputs_of(nn.Linear) as seen:
        result = run(config, [], directory=tmp_path / "run")
    assert (True, torch.float32) in seen and (True, torch.bfloat16) not in seen
    assert result.metrics["training"]["precision"] == "fp32"

    asked = configure("trainer.precision=bf16", f"cache.dir={tmp_path / 'cache'}")
    with outputs_of(nn.Linear) as seen:
        list(prepare(asked, checked_images(asked)).epochs(context.classifier(asked), asked, 1))
    assert seen == {(True, torch.bfloat16), (False, torch.bfloat16)}
