"""Training to the end: nothing frozen moves, a resumed run equals an unbroken one, it never ends
unseen."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import lightning
import pytest
import torch
from codes import raises_code
from final_training import train

from breedlab.config import Config
from breedlab.pipeline.checked_images import checked_images
from breedlab.pipeline.final_test import load_checkpoint
from breedlab.training.preparation import prepare
from breedlab.training.probe import probe
from breedlab.training.progress import Done, done

Configure = Callable[..., Config]

CASES = {
    "cached head": ["data.class_weights=balanced", "optim.label_smoothing=0.1"],
    "live, augmented, EMA, cosine": [
        "model.freeze=none",
        "data.augment=trivial",
        "data.mixup=0.2",
        "data.cutmix=1.0",
        "trainer.ema=0.9",
        "optim.schedule=cosine",
        "optim.warmup_epochs=0.5",
        "optim.layer_decay=0.8",
        "trainer.gradient_clip=1.0",
    ],
    "frozen through a stage, one-cycle": [
        "model.freeze=stage2",
        "optim.schedule=one_cycle",
        "optim.name=sgd",
    ],
}


class Cut(lightning.Callback):
    """Breaks training off in the middle of an epoch, as a killed process would."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        if trainer.current_epoch == self.epoch and trainer.global_step % 7 == 2:
            raise RuntimeError("cut")


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_ends_at_the_very_weights_of_an_unbroken_one(
    tmp_path: Path, configure: Configure, case: str
) -> None:
    config = configure("trainer.max_epochs=4", *CASES[case])
    context = prepare(config, checked_images(config))
    train(context, config, tmp_path / "unbroken")

    with pytest.raises(RuntimeError, match="cut"):
        train(context, config, tmp_path / "broken", Cut(2))
    assert done(tmp_path / "broken") == Done(has_checkpoint=True, epochs=2)
    train(context, config, tmp_path / "broken")

    for name in ("last", "best"):
        states = [
            torch.load(tmp_path / run / "checkpoints" / f"{name}.ckpt", weights_only=True)[
                "state_dict"
            ]
            for run in ("unbroken", "broken")
        ]
        assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("freeze", ["backbone", "stage2"])
@pytest.mark.parametrize("mode", ["auto", "off"])
def test_not_one_frozen_number_moves_in_training(
    tmp_path: Path, configure: Configure, freeze: str, mode: str
) -> None:
    config = configure(
        f"model.freeze={freeze}",
        f"cache.mode={mode}",
        "optim.lr=0.1",
        "optim.weight_decay=0.1",
        "trainer.ema=0.7",
    )
    context = prepare(config, checked_images(config))
    before = {name: t.clone() for name, t in context.classifier(config).frozen_tensors().items()}
    classifier, _ = train(context, config, tmp_path / "run")
    after = classifier.frozen_tensors()
    assert len(before) > 10
    assert all(torch.equal(after[name], before[name]) for name in before)
    load_checkpoint(classifier, tmp_path / "run" / "checkpoints" / "best.ckpt")
    stored = classifier.frozen_tensors()
    assert all(torch.equal(stored[name], before[name]) for name in before)
    for epoch in context.epochs(classifier, config, 1):  # the lean loop, likewise
        assert epoch.train_loss > 0
    assert all(torch.equal(classifier.frozen_tensors()[name], before[name]) for name in before)


@pytest.mark.parametrize(
    "network",
    [
        ["model.freeze=backbone"],
        # stochastic depth lies in functions, not modules: the cut network has to know that it
        # trains
        ["model.name=efficientnet_b0", "model.freeze=features.5", "optim.lr=0.0001"],
    ],
)
def test_the_best_is_trained_as_its_trial_was(
    tmp_path: Path, configure: Configure, network: list[str]
) -> None:
    """Lightning's Trainer and the lean loop take the same steps: what was chosen is what is
    trained."""
    config = configure(
        "trainer.max_epochs=3", "model.dropout=0.3", "trainer.precision=fp32", *network
    )
    context = prepare(config, checked_images(config))
    lean = context.classifier(config)
    for _ in context.epochs(lean, config, 3):
        pass
    train(context, config, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)[
        "state_dict"
    ]
    for name, tensor in lean.head.state_dict().items():
        torch.testing.assert_close(state[f"classifier.head.{name}"], tensor, rtol=1e-3, atol=1e-4)


def test_early_stopping_says_why_training_ended(tmp_path: Path, configure: Configure) -> None:
    config = configure("trainer.max_epochs=30", "trainer.patience=2", "optim.lr=0.00000001")
    context = prepare(config, checked_images(config))
    _, fitted = train(context, config, tmp_path / "run")
    assert fitted.epochs < 30
    assert (
        fitted.reason == f"stopped after epoch {fitted.epochs}: no better valid/top1 for 2 epochs"
    )


def test_a_loss_that_is_no_number_ends_training_with_the_reason(
    tmp_path: Path, configure: Configure
) -> None:
    config = configure("optim.lr=1e30", "optim.name=sgd")
    context = prepare(config, checked_images(config))
    with raises_code("BL304", names="optim.lr"):
        train(context, config, tmp_path / "run")


def test_checkpoints_are_plain_data_and_the_best_is_kept(
    tmp_path: Path, configure: Configure
) -> None:
    config = configure(
        "trainer.max_epochs=3", "monitor.metric=valid/loss", "monitor.mode=min", "optim.lr=0.05"
    )
    context = prepare(config, checked_images(config))
    _, fitted = train(context, config, tmp_path / "run")
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert (best["epoch"], last["epoch"]) == (fitted.best_epoch - 1, 2)


def test_a_probe_sees_whole_images_where_crops_are_to_grow(configure: Configure) -> None:
    config = configure(
        "model.freeze=none",
        "trainer.probe_epochs=1",
        "data.augment=basic",
        "data.train_size=24",
        "data.start_size=16",
    )
    context = prepare(config, checked_images(config))
    classifier = context.classifier(config)
    head = classifier.head[1].weight.clone()
    probe(context, classifier, config)
    assert not torch.equal(classifier.head[1].weight, head)


@pytest.mark.slow
def test_a_probe_then_fine_tuning_moves_every_layer(tmp_path: Path, configure: Configure) -> None:
    config = configure(
        "model.freeze=none",
        "trainer.probe_epochs=3",
        "trainer.probe_lr=0.01",
        "optim.lr=0.0001",
        "data.augment=basic",
    )
    context = prepare(config, checked_images(config))
    classifier = context.classifier(config)
    head = classifier.head[1].weight.clone()
    probe(context, classifier, config)
    assert not torch.equal(classifier.head[1].weight, head), "the probe trained the head"
    before = {name: p.clone() for name, p in classifier.named_parameters()}
    for _ in context.epochs(classifier, config, 1):
        pass
    assert all(not torch.equal(p, before[name]) for name, p in classifier.named_parameters())


@pytest.mark.slow
def test_a_compiled_network_trains_to_a_checkpoint_that_loads(
    tmp_path: Path, configure: Configure
) -> None:
    config = configure(
        "model.name=squeezenet1_1", "trainer.compile=true", "cache.mode=off", "trainer.max_epochs=1"
    )
    context = prepare(config, checked_images(config))
    classifier, _ = train(context, config, tmp_path / "run")
    load_checkpoint(classifier, tmp_path / "run" / "checkpoints" / "best.ckpt")


def test_of_epochs_that_tie_the_one_with_the_lowest_loss_is_kept(
    tmp_path: Path, configure: Configure
) -> None:
    """Two classes are soon told apart, and the loss falls on: the first perfect epoch is the worst
    of them."""
    config = configure("trainer.max_epochs=8", "optim.lr=0.003", "model.dropout=0.0")
    root = tmp_path / "photos"
    for split in ("train", "valid", "test"):
        for name in sorted(folder.name for folder in Path(config.data.root, split).iterdir())[:2]:
            shutil.copytree(Path(config.data.root, split, name), root / split / name)
    config = configure(
        "trainer.max_epochs=8", "optim.lr=0.003", "model.dropout=0.0", f"data.root={root}"
    )
    context = prepare(config, checked_images(config))
    epochs = [epoch.valid for epoch in context.epochs(context.classifier(config), config, 8)]
    top = max(epoch["valid/top1"] for epoch in epochs)
    tied = [index for index, epoch in enumerate(epochs) if epoch["valid/top1"] == top]
    assert len(tied) > 1, "the test needs a tie"
    lowest = min(tied, key=lambda index: epochs[index]["valid/loss"])
    assert lowest != tied[0]

    with pytest.raises(RuntimeError, match="cut"):
        train(context, config, tmp_path / "run", Cut(5))
    # what was tied before the cut is known after it
    _, fitted = train(context, config, tmp_path / "run")
    assert (fitted.best_epoch, fitted.tied) == (lowest + 1, len(tied) - 1)
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == lowest


def test_a_run_that_was_moved_keeps_its_best_epoch(tmp_path: Path, configure: Configure) -> None:
    """As if its first epoch had been better than all to come, which must not replace it."""
    config = configure("trainer.max_epochs=3")
    context = prepare(config, checked_images(config))
    with pytest.raises(RuntimeError, match="cut"):
        train(context, config, tmp_path / "run", Cut(1))
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    for state in last["callbacks"].values():
        if state.get("monitor") == "valid/top1" and "best_model_score" in state:
            state["best_model_score"] = torch.tensor(2.0)  # better than whatever is still to come
            state["current_score"] = torch.tensor(2.0)
    torch.save(last, tmp_path / "run" / "checkpoints" / "last.ckpt")
    (tmp_path / "run").rename(tmp_path / "moved")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        _, fitted = train(context, config, tmp_path / "moved")
    assert (fitted.best_epoch, fitted.best, fitted.epochs) == (1, 2.0, 3)
    best = torch.load(tmp_path / "moved" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["epoch"] == 0
    assert sorted(path.name for path in (tmp_path / "moved" / "checkpoints").iterdir()) == [
        "best.ckpt",
        "last.ckpt",
    ]
