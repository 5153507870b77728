"""The search for a frozen ResNet34's head, 20 trials x 5 epochs, 6,680 + 835 images, against the
usual way.

The usual way decodes and forwards every image in every epoch of every trial. One such epoch is
really run, then multiplied. Ours is the product's own preparation and search with an empty
activation cache. Beside them stands one bare pass of all images through the frozen backbone, which
is the floor, and a trial on the cached activations against a bare PyTorch loop over the same
tensors. Weights are random: they cost what trained ones cost.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from _harness import CACHE, NO_BF16, Ratio, interleave, machine, parse, report, say, step
from _images import drawn_images
from _peers import bare_trial, usual_epoch


class _Size(NamedTuple):
    classes: int
    train: int
    valid: int
    trials: int


_FULL, _SMALL = _Size(133, 6680, 835, 20), _Size(10, 200, 50, 5)
_EPOCHS = 5
_BATCH_SIZES = (32, 64, 128, 256)
_HEAD_ROUNDS = 5
_MOST_OVER_PASS, _MOST_OVER_BARE, _LEAST_SPEEDUP = 1.35, 1.4, 100


def main() -> None:
    args = parse(__doc__, 1, 1)
    here = machine()
    size = _SMALL if args.small else _FULL
    root = drawn_images(size.classes, size.train, size.valid)
    epochs, passes, searches, checks = [], [], [], []
    CACHE.mkdir(parents=True, exist_ok=True)
    for number in range(args.rounds):
        title = f"round {number + 1} of {args.rounds}: "
        folder = Path(tempfile.mkdtemp(prefix="search-", dir=CACHE))
        try:
            config = _config(root, folder, size)
            check, image_report = _check(config)
            with step(f"{title}one epoch the usual way") as usual:
                usual_epoch(root, config.data.batch_size, size.classes)
            with step(f"{title}one feature pass") as one_pass:
                _feature_pass(config, image_report)
            with step(f"{title}our whole search, {size.trials} trials x {_EPOCHS} epochs") as ours:
                context = _search(config, image_report, folder, size.trials)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        for times, taken in (
            (epochs, usual),
            (passes, one_pass),
            (searches, ours),
            (checks, [check]),
        ):
            times.append(taken[0])
    heads = _heads(context)
    small = "targets are for the full size" if args.small else ""
    scale = size.trials * _EPOCHS
    both = list(zip(epochs, searches, strict=True))
    ratios = [
        Ratio(
            "usual way / our search, time",
            [scale * epoch / ours for epoch, ours in both],
            _LEAST_SPEEDUP,
            excuse=small or ("" if here["native_bf16"] else NO_BF16),
        ),
        Ratio(
            "the same, our check of every file counted in",
            [
                scale * epoch / (ours + check)
                for (epoch, ours), check in zip(both, checks, strict=True)
            ],
        ),
        Ratio(
            "our search / one feature pass, time",
            [ours / one for ours, one in zip(searches, passes, strict=True)],
            _MOST_OVER_PASS,
            "at most",
            small,
        ),
        *_head_ratios(heads, small),
    ]
    figures = {
        "images": f"{size.train:,} + {size.valid:,}",
        "trials x epochs": f"{size.trials} x {_EPOCHS}",
        "our precision": context.precision,
        "one epoch the usual way, s": median(epochs),
        f"the usual way, {scale} such epochs, s": scale * median(epochs),
        "one feature pass, s": median(passes),
        "our search, s": median(searches),
        "our check of every file, once, s": median(checks),
    }
    for batch_size, pairs in heads.items():
        figures[f"trial of batch size {batch_size}: ours, s"] = median(mine for mine, _ in pairs)
        figures[f"trial of batch size {batch_size}: bare loop, s"] = median(
            bare for _, bare in pairs
        )
    report(args, "search", here, ratios, figures)


def _config(root: Path, folder: Path, size: _Size) -> Any:
    from breedlab.config import validate
    from breedlab.config.compose import load

    words = [
        "experiment=resnet34_hpo",
        "model.weights=none",
        "data=image_folder",
        f"data.root={root}",
        f"cache.dir={folder / 'cache'}",
        f"tuner.trials={size.trials}",
        f"tuner.max_epochs={_EPOCHS}",
    ]
    return validate(load(words))


def _check(config: Any) -> tuple[float, Any]:
    """The product reads and decodes every file before anything else; it leaves all of them in the
    page cache."""
    from breedlab.pipeline.checked_images import checked_images

    with step("our check of every file") as taken:
        found = checked_images(config)
    return taken[0], found


def _feature_pass(config: Any, image_report: Any) -> None:
    """Every image decoded and through the backbone once, nothing kept: what no search can do
    without."""
    import torch

    from breedlab.console import progress
    from breedlab.training.preparation import prepare

    context = prepare(config, image_report)
    classifier = context.classifier(config).to(context.device).eval()
    data = context.data(config)
    bf16 = context.precision == "bf16"
    autocast = torch.autocast(context.device.type, torch.bfloat16, enabled=bf16)
    done, total = 0, sum(len(data.labels(split)) for split in ("train", "valid"))
    with torch.no_grad(), autocast, progress("feature pass") as tell:
        for split in ("train", "valid"):
            for batch, _labels in data.view_dataloader(split, 0, batch_size=32):
                classifier.to_boundary(batch.to(context.device))
                done += len(batch)
                tell(done, total)


def _search(config: Any, image_report: Any, folder: Path, trials: int) -> Any:
    import json

    from breedlab.training.preparation import prepare
    from breedlab.tuning.study import search

    context = prepare(config, image_report)
    search(config, context, folder)
    records = [json.loads(path.read_text()) for path in folder.glob("trials/*/trial.json")]
    done = [record for record in records if len(record["epochs"]) == _EPOCHS]
    # A trial that diverges ends early and would make our time look better than it is.
    if len(done) != trials:
        say(
            f"only {len(done)} of {trials} trials ran all their epochs: the search's time is too"
            " short by theirs"
        )
    return context


def our_trial(context: Any, batch_size: int) -> Callable[[], None]:
    """A trial as the search runs it, on activations that are cached."""
    from breedlab.tuning.trial import run_trial

    def trial() -> None:
        values = {"optim.lr": 0.001, "data.batch_size": batch_size}
        outcome = run_trial(context, values, lambda *_: False)
        assert outcome.state == "complete", outcome.reason

    return trial


def _heads(context: Any) -> dict[int, list[tuple[float, float]]]:
    config = context.config
    activations = context.activations(context.classifier(config), config)
    return {
        batch_size: interleave(
            f"trial of batch size {batch_size}, ours and a bare loop",
            our_trial(context, batch_size),
            bare_trial(activations, len(context.classes), batch_size, _EPOCHS, context.device),
            _HEAD_ROUNDS,
        )
        for batch_size in _BATCH_SIZES
    }


def _head_ratios(heads: dict[int, list[tuple[float, float]]], small: str) -> list[Ratio]:
    by_size = {
        batch_size: [mine / bare for mine, bare in pairs] for batch_size, pairs in heads.items()
    }
    every = [ratio for ratios in by_size.values() for ratio in ratios]
    return [
        Ratio(
            "cached trial / bare loop, time, all batch sizes",
            every,
            _MOST_OVER_BARE,
            "at most",
            small,
        ),
        *(Ratio(f"  batch size {batch_size}", ratios) for batch_size, ratios in by_size.items()),
    ]


if __name__ == "__main__":
    main()
