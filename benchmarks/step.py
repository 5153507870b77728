"""A full training step of ResNet34, batch 32 at 224 px: ours against eager fp32 as it is usually
written.

Ours is the product's own training loop: bytes in, `trainer.precision=auto` (bf16 where the machine
multiplies it natively), channels last, fused optimizer. Theirs gets photos that are normalised
already. Steps alternate.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

from _harness import NO_BF16, Ratio, machine, parse, report, say, seconds
from _photos import photos

_CLASSES, _TARGET = 133, 2.0


def main() -> None:
    args = parse(__doc__, rounds=5, small_rounds=3)
    here = machine()
    size = 8 if args.small else 32
    pairs, precision = _steps(size, args.rounds)
    excuse = (
        "targets are for the full size" if args.small else "" if here["native_bf16"] else NO_BF16
    )
    figures = {
        "batch size": size,
        "our precision": precision,
        "usual, ms/image": 1000 * median(usual for usual, _ in pairs) / size,
        "ours, ms/image": 1000 * median(mine for _, mine in pairs) / size,
    }
    speedups = [usual / mine for usual, mine in pairs]
    report(
        args,
        "step",
        here,
        [Ratio("usual step / our step, time", speedups, _TARGET, excuse=excuse)],
        figures,
    )


class _Alternating:
    """Feeds our loop the same batch again and again, and makes the usual step between two of ours.

    The time from giving a batch to being asked for the next one is our loop's whole step.
    """

    def __init__(self, batch: Any, usual: Callable[[], object], rounds: int) -> None:
        self.batch, self.usual, self.rounds = batch, usual, rounds
        self.pairs: list[tuple[float, float]] = []

    def train(self, epoch: int) -> Iterator[Any]:
        from time import perf_counter

        from _harness import wait

        for number in range(self.rounds + 1):
            usual = seconds(self.usual)
            started = perf_counter()
            yield self.batch
            wait()
            mine = perf_counter() - started
            if number:  # the first step allocates, and makes the optimizer's state
                self.pairs.append((usual, mine))
                say(f"step {number} of {self.rounds}: usual {usual:.3f} s, ours {mine:.3f} s")
            else:
                say("first steps done, not counted")

    def valid(self) -> Any:
        photos, labels = self.batch
        return [(photos[:2], labels[:2])]


def _steps(size: int, rounds: int) -> tuple[list[tuple[float, float]], str]:
    import torch

    from breedlab.config import validate
    from breedlab.config.compose import load
    from breedlab.pipeline.run import checked_photos
    from breedlab.training import loop
    from breedlab.training.context import prepare

    # The photos only say how many classes there are: every step gets the same random batch.
    root = photos(_CLASSES, _CLASSES, _CLASSES)
    with tempfile.TemporaryDirectory() as cache:
        words = [
            "experiment=resnet34",
            "model.weights=none",
            "model.freeze=none",
            "data=image_folder",
            f"data.root={root}",
            f"data.batch_size={size}",
            f"cache.dir={cache}",
        ]
        config = validate(load(words))
        prepared = prepare(config, checked_photos(config))
    images = torch.randint(0, 256, (size, 3, 224, 224), dtype=torch.uint8)
    labels = torch.randint(0, _CLASSES, (size,))
    feed = _Alternating((images, labels), _usual_step(images, labels, prepared.device), rounds)
    learner, _ = prepared.learner(prepared.classifier(config), config, epochs=1)
    for _ in loop.epochs(
        learner,
        feed,
        config,
        count=1,
        accelerator=prepared.accelerator,
        precision=prepared.precision,
    ):
        pass
    return feed.pairs, prepared.precision


def _usual_step(images: Any, labels: Any, device: Any) -> Callable[[], None]:
    import torch
    from torch import nn
    from torchvision import models

    model = models.resnet34(weights=None)
    model.fc = nn.Sequential(  # the same head as ours
        nn.Dropout(0.2),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(512, 256),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(256, _CLASSES),
    )
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    batch = (images / 255 - 0.45) / 0.225

    def step() -> None:
        loss = criterion(model(batch.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    main()
