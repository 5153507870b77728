"""The final model once more, on the validation images as well (`trainer.refit`).

How long to train was found on validation. The results on validation stay what they were before: the
refit has seen those images, and would have memorized them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from breedlab import config as configs
from breedlab import distributed
from breedlab.config import Config
from breedlab.console import note
from breedlab.data.batches import TrainingBatches
from breedlab.data.image_set import ImageSet
from breedlab.files import atomic_write_json, read_json_if_whole
from breedlab.models.classifier import Classifier
from breedlab.names import counted
from breedlab.pipeline import soup, weight_averaging
from breedlab.pipeline.soup import Member
from breedlab.training.activations import Activations
from breedlab.training.checkpoints import of_classifier, read_checkpoint, write_weights
from breedlab.training.context import TrainingContext
from breedlab.training.fit import ActivationData, refit
from breedlab.training.learner import Learner
from breedlab.training.probe import probe
from breedlab.training.solving import Solution

FILE = "refit.ckpt"


def refitted(
    context: TrainingContext,
    config: Config,
    run: Path,
    epochs: int,
    solution: Solution | None,
    precision: str,
    head: Mapping[str, torch.Tensor] | None = None,
    alpha: float = 1.0,
    members: Sequence[Member] = (),
) -> dict[str, Any]:
    """Train anew on train and validation, or resume where that stopped; `checkpoints/refit.ckpt`
    has the weights.

    Args:
        context: The run's.
        config: The final training's.
        run: The run directory.
        epochs: How many validation found to be best.
        solution: Of a head that is solved: its penalty stays.
        precision: Of the final training.
        head: What a fine-tuning started from, to start from it again.
        alpha: The share of the refit's weights in an average with those that it started from, as
            validation chose it for the fine-tuned ones.
        members: The fine-tunings of a soup, each of which is done again; their weights are
            averaged.

    Returns:
        What metrics.json says of it.
    """
    images = whole(context.report.images)
    record: dict[str, Any] = {"epochs": epochs, "photos": len(images.splits["train"])}
    folder = run / "checkpoints" / "refit"
    members = [*members] or [Member(config.seed, epochs)]
    if len(members) > 1:
        record["soup"] = [[member.seed, member.epochs] for member in members]
    *former, last = [member.epochs for member in members]
    lengths = " and ".join([*map(str, former), counted(last, "epoch")])
    how = f"for {lengths}" if solution is None else f"with C={solution.c:g}"
    note(
        f"{how}, on {record['photos']:,} images; validation metrics are from before the refit, the"
        " test from after it"
    )
    marker: dict[str, Any] = {**record, "of": config.trainer.max_epochs}
    if alpha < 1:
        marker["alpha"] = alpha
    if distributed.rank_zero_only(lambda: _is_there(run, folder, marker)):
        return record
    if solution is not None:
        classifier = context.classifier(config)
        with distributed.rank_zero_first():
            cached = _on_all(context, classifier, config)
        assert cached is not None
        solved = distributed.rank_zero_only(
            lambda: context.solve(classifier, config, cached, solution.c)
        )
        solved.put_into(classifier.head)
        if distributed.is_main():
            state = {f"classifier.{name}": each for name, each in classifier.state_dict().items()}
            write_weights(run / "checkpoints" / FILE, state, context.card(config))
        return record
    for number, member in enumerate(members):
        again = configs.replace(config, {"seed": member.seed})
        place = folder / str(number) if number else folder
        _trained(context, again, images, place, member.epochs, precision, head)
    if distributed.is_main():
        state = read_checkpoint(folder / "last.ckpt")["state_dict"]
        for number in range(1, len(members)):
            other = read_checkpoint(folder / str(number) / "last.ckpt")["state_dict"]
            state |= soup.mean_with(state, other, number)
        if head is not None and alpha < 1:
            start = weight_averaging.start(context, config, head)
            averaged = weight_averaging.average(start, of_classifier(state), alpha)
            state |= {f"classifier.{name}": tensor for name, tensor in averaged.items()}
        write_weights(run / "checkpoints" / FILE, state, context.card(config))
        shutil.rmtree(folder)
    return record


def _trained(
    context: TrainingContext,
    config: Config,
    images: ImageSet,
    folder: Path,
    epochs: int,
    precision: str,
    head: Mapping[str, torch.Tensor] | None,
) -> None:
    """Train on train and validation, or resume where that stopped.

    Args:
        context: The run's.
        config: The final training's, with the seed of this one.
        images: With all images in train.
        folder: In which `last.ckpt` has the weights in the end.
        epochs: How many.
        precision: Of the final training.
        head: As for `refitted`.
    """
    classifier = context.classifier(config, synced=distributed.world() > 1)
    if head is not None:
        classifier.head.load_state_dict(head)
    with distributed.rank_zero_first():
        cached = _on_all(context, classifier, config)
    fresh = not (folder / "last.ckpt").exists()
    if config.trainer.probe_epochs and fresh and distributed.is_main():
        probe(context, classifier, config)
    image_data = context.data(config, images=images)
    count = len(images.splits["train"])
    learner = Learner(
        classifier,
        config,
        steps_per_epoch=len(TrainingBatches(count, config.data.batch_size, 0, image_data.views)),
        class_counts=images.counts("train"),
        class_weights=image_data.class_weights(),
        tail=None if cached is None else classifier.tail(),
    )
    learner.card = context.card(config)
    data = image_data if cached is None else ActivationData(cached, image_data)
    refit(
        learner, data, config, folder, epochs, accelerator=context.accelerator, precision=precision
    )


def whole(images: ImageSet) -> ImageSet:
    """Return images whose training split ends with those of validation."""
    splits = images.splits
    return replace(images, splits={**splits, "train": (*splits["train"], *splits["valid"])})


def _on_all(context: TrainingContext, classifier: Classifier, config: Config) -> Activations | None:
    """Return the cached activations of all images to train on; None where they are computed
    live."""
    cached = context.activations(classifier, config)
    return None if cached is None else on_all(cached)


def on_all(cached: Activations) -> Activations:
    """Return activations to train on that include validation's: in every view as validation sees
    them."""
    return replace(
        cached,
        train=tuple(torch.cat([view, cached.valid]) for view in cached.train),
        labels=torch.cat([cached.labels, cached.valid_labels]),
    )


def _is_there(run: Path, folder: Path, record: dict[str, Any]) -> bool:
    """Return whether the refit of this record exists; if the record is another, remove what an
    earlier training left and write the new record."""
    marker = run / "checkpoints" / "refit.json"
    if read_json_if_whole(marker) == record:
        return (run / "checkpoints" / FILE).exists()
    (run / "checkpoints" / FILE).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    atomic_write_json(marker, record)
    return False
