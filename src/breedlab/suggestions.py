"""The nearest name to a typo, and to what other tools call a setting."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches
from itertools import takewhile

SYNONYMS = {
    "learning_rate": "optim.lr",
    "base_lr": "optim.lr",
    "optimizer": "optim.name",
    "scheduler": "optim.schedule",
    "lr_scheduler": "optim.schedule",
    "wd": "optim.weight_decay",
    "l2": "optim.weight_decay",
    "epochs": "trainer.max_epochs",
    "num_epochs": "trainer.max_epochs",
    "n_epochs": "trainer.max_epochs",
    "device": "trainer.accelerator",
    "devices": "trainer.accelerator",
    "gpus": "trainer.accelerator",
    "amp": "trainer.precision",
    "early_stopping": "trainer.patience",
    "grad_clip": "trainer.gradient_clip",
    "clip_grad_norm": "trainer.gradient_clip",
    "bs": "data.batch_size",
    "batch_size": "data.batch_size",
    "augment": "data.augment",
    "lr": "optim.lr",
    "layer_decay": "optim.layer_decay",
    "ema": "trainer.ema",
    "batch": "data.batch_size",
    "workers": "data.num_workers",
    "n_workers": "data.num_workers",
    "img_size": "data.image_size",
    "imgsz": "data.image_size",
    "data_dir": "data.root",
    "dataset": "data.root",
    "arch": "model.name",
    "architecture": "model.name",
    "backbone": "model.name",
    "pretrained": "model.weights",
    "drop_rate": "model.dropout",
    "n_trials": "tuner.trials",
    "num_trials": "tuner.trials",
    "n_jobs": "tuner.parallel",
    "output_dir": "runs_dir",
    "random_seed": "seed",
    "random_state": "seed",
    "acc": "valid/top1",
    "acc1": "valid/top1",
    "accuracy": "valid/top1",
    "val_acc": "valid/top1",
    "val_accuracy": "valid/top1",
    "acc5": "valid/top5",
    "val_loss": "valid/loss",
    "f1_score": "valid/f1",
    "cuda": "gpu",
}
"""Names in other tools, and our names; their spellings are too different for a suggestion."""

_SAME_SECTION, _SAME_LEAF = 0.75, 0.6


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `; did you mean ...?` where some valid name is close, else nothing.

    Of a config path, only settings of the same section and the direct ones of others are close:
    `debugger.rules.overtraining.action` is not what `trainer.action` meant.
    """
    valid = [other for other in names if _is_near(name, other)]
    leaf = _leaf(name)
    alike = [other for other in valid if _leaf(other) == leaf]
    if leaf in SYNONYMS:
        alike += [other for other in valid if _leaf(other) == _leaf(SYNONYMS[leaf])]
        # `tuner.epochs` is not the trainer's, but a user who wrote only `epochs` means that.
        alike.sort(
            key=lambda other: (
                other.rpartition(".")[0] != name.rpartition(".")[0],
                other != SYNONYMS[leaf],
            )
        )
    elif "." in name:
        alike.sort(key=lambda other: _likeness(name, other), reverse=True)
    # A section in common says nothing of two settings: `data.limit` is not like `data.mixup`.
    close = alike or [other for other in _close(name, valid, 0.7) if _leaves_are_alike(name, other)]
    if not close:
        leaves = _close(leaf, [_leaf(other) for other in valid], 0.75)
        close = [other for other in valid if _leaf(other) in leaves[:1]]
    return f"; did you mean {close[0]}?" if close else ""


def _is_near(name: str, other: str) -> bool:
    """Return whether a setting is in the section of a config path, or both are direct ones of their
    sections; True for what is not a config path."""
    if "=" in other or max(name.count("."), other.count(".")) < 2:
        return True
    section = name.partition(".")[0]
    return SequenceMatcher(None, section, other.partition(".")[0]).ratio() > _SAME_SECTION


def _leaves_are_alike(name: str, other: str) -> bool:
    return SequenceMatcher(None, _leaf(name), _leaf(other)).ratio() > _SAME_LEAF


def _leaf(name: str) -> str:
    return re.split(r"[./=]", name)[-1]


def _close(name: str, valid: list[str], cutoff: float) -> list[str]:
    """Return the names sorted by closeness, ties by a common beginning: resnet35 is nearer to
    resnet34 than to resnet50."""
    matches = get_close_matches(name, valid, n=len(valid) or 1, cutoff=cutoff)
    return sorted(matches, key=lambda other: _likeness(name, other), reverse=True)


def _likeness(name: str, other: str) -> tuple[float, int]:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(name, other, strict=False))
    return SequenceMatcher(None, other, name).ratio(), len(list(same))
