"""Our image loader, live and from the pixel cache, against the one that most people write.

That is ImageFolder with PIL and torchvision's v1 transforms.

Whole loaders are timed, epoch by epoch in turn: two workers each, the same images, batch size and
crop sizes, files in the page cache. Theirs ends with normalized floats; ours with bytes, which the
network normalizes: a second pair of ratios counts that work in.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from _harness import Ratio, interleave, machine, parse, report
from _images import drawn_images

_BATCH, _WORKERS = 64, 2
_TARGETS = {"train crop": 2.2, "train crop from the pixel cache": 8.0, "evaluation": 2.2}


def main() -> None:
    args = parse(
        __doc__, 7, 3, ("--data", "a folder with train/<class>/*.jpg; by default images are made")
    )
    here = machine()
    root = (
        Path(args.data)
        if args.data
        else drawn_images(16, 256, 64)
        if args.small
        else drawn_images(16, 1024, 256)
    )
    with tempfile.TemporaryDirectory() as cache:
        _compare(args, here, root, Path(cache))


def _compare(args: argparse.Namespace, here: dict[str, Any], root: Path, cache: Path) -> None:
    ours, theirs, normalized = _our_loaders(root, cache), _their_loaders(root), _normalizer()
    excuse = "targets are for the full size" if args.small else ""
    ratios, figures = [], {}
    for view in _TARGETS:
        count = len(ours[view].dataset)
        for ending in ("", ", normalized"):
            after = normalized if ending else None
            pairs = interleave(
                f"{view}{ending}, usual and ours",
                lambda view=view: _drain(theirs[view]),  # type: ignore[misc]
                lambda view=view, after=after: _drain(ours[view], after),  # type: ignore[misc]
                args.rounds,
            )
            figures[f"{view}{ending}: usual, images/s"] = count / median(
                usual for usual, _ in pairs
            )
            figures[f"{view}{ending}: ours, images/s"] = count / median(mine for _, mine in pairs)
            target = None if ending else _TARGETS[view]
            speedups = [usual / mine for usual, mine in pairs]
            ratios.append(
                Ratio(f"{view}{ending}: ours / usual, images/s", speedups, target, excuse=excuse)
            )
    report(
        args,
        "loader",
        here,
        ratios,
        {"images": count, "workers": _WORKERS, "batch size": _BATCH, **figures},
    )


def _drain(loader: Any, after: Callable[[Any], Any] | None = None) -> None:
    for batch, _labels in loader:
        if after is not None:
            after(batch)


def _our_loaders(root: Path, cache: Path) -> dict[str, Any]:
    from breedlab.config import validate
    from breedlab.config.compose import load
    from breedlab.pipeline.checked_images import checked_images
    from breedlab.training.preparation import prepare

    words = [
        "experiment=resnet34_finetune",
        "model.weights=none",
        "data=image_folder",
        f"data.root={root}",
        "data.augment=basic",
        f"data.batch_size={_BATCH}",
        f"data.num_workers={_WORKERS}",
        f"cache.dir={cache}",
        "cache.pixels=true",
    ]
    config = validate(load(words))
    context = prepare(config, checked_images(config))
    data = context.data(config)
    return {
        "train crop": data.train_dataloader(),
        "train crop from the pixel cache": context.live_data(config).train_dataloader(),
        "evaluation": data.view_dataloader("train", 0, _BATCH),
    }


def _their_loaders(root: Path) -> dict[str, Any]:
    import torch
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    finish = [
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
    # Our crop's range of areas: torchvision's own default cuts smaller pieces, which is other work.
    crop = [transforms.RandomResizedCrop(224, scale=(0.35, 1.0)), transforms.RandomHorizontalFlip()]
    views = {
        "train crop": crop,
        "train crop from the pixel cache": crop,
        "evaluation": [transforms.Resize(256), transforms.CenterCrop(224)],
    }
    return {
        view: DataLoader(
            datasets.ImageFolder(str(root / "train"), transforms.Compose([*steps, *finish])),
            batch_size=_BATCH,
            shuffle=view.startswith("train crop"),
            num_workers=_WORKERS,
            persistent_workers=True,
            pin_memory=torch.cuda.is_available(),
        )
        for view, steps in views.items()
    }


def _normalizer() -> Callable[[Any], Any]:
    """What the network does first with a batch of bytes."""
    from breedlab.models.backbone import build
    from breedlab.models.classifier import Architecture, Classifier

    backbone = build("resnet18")
    look = backbone.pretraining
    return Classifier(
        Architecture("resnet18", 2, (), 0.0, look.mean, look.std), backbone, "backbone", 224
    ).normalized


if __name__ == "__main__":
    main()
