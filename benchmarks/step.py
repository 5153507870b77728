"""A full training step of ResNet34, batch 32 at 224 px: ours against eager fp32 as it is usually
written.

Both loops of ours, of which trials run in the lean one and the final training in Lightning's: bytes
in, `trainer.precision=auto` (bf16 where the machine multiplies it natively), channels last, fused
optimizer. Theirs gets images that are normalized already. Steps alternate.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from _harness import NO_BF16, Ratio, machine, parse, report, say, seconds, wait
from _images import drawn_images
from _peers import make_head

CLASSES, _TARGET = 133, 2.8
LEAN, LIGHTNING = "the lean loop", "Lightning's loop"


def main() -> None:
    args = parse(__doc__, rounds=5, small_rounds=3)
    here = machine()
    size = 8 if args.small else 32
    excuse = (
        "targets are for the full size" if args.small else "" if here["native_bf16"] else NO_BF16
    )
    ratios, figures = [], {"batch size": size}
    with tempfile.TemporaryDirectory() as folder:
        context = prepare_resnet34(Path(folder), size)
        figures["our precision"] = context.precision
        for name, train in {LEAN: train_lean, LIGHTNING: train_by_lightning}.items():
            batch = batch_of(size)
            usual = usual_step(*batch, context.device)
            alternating = Alternating(name, batch, usual, args.rounds)
            train(context, alternating, Path(folder))
            pairs = alternating.pairs
            ratios.append(
                Ratio(
                    f"usual step / step of {name}, time",
                    [usual / ours for usual, ours in pairs],
                    _TARGET,
                    excuse=excuse,
                )
            )
            figures[f"usual beside {name}, ms/image"] = 1000 * median(u for u, _ in pairs) / size
            figures[f"{name}, ms/image"] = 1000 * median(ours for _, ours in pairs) / size
    report(args, "step", here, ratios, figures)


class Alternating:
    """Feeds a loop the same batch again and again, and makes the usual step between two of its.

    The time from giving a batch to being asked for the next one is the loop's whole step. Lightning
    asks for one batch ahead, and the first step allocates and makes the optimizer's state: neither
    counts.
    """

    _UNCOUNTED = 2

    def __init__(self, name: str, batch: Any, usual: Callable[[], object], rounds: int) -> None:
        self.name, self.batch, self.usual, self.rounds = name, batch, usual, rounds
        self.pairs: list[tuple[float, float]] = []

    def train(self, epoch: int = 0) -> Iterator[Any]:
        from time import perf_counter

        for number in range(1 - self._UNCOUNTED, self.rounds + 2):
            usual = seconds(self.usual)
            started = perf_counter()
            yield self.batch
            wait()
            ours = perf_counter() - started
            if 0 < number <= self.rounds:
                self.pairs.append((usual, ours))
                say(f"{self.name}: step {number} of {self.rounds}: {usual:.3f} s, {ours:.3f} s")
            elif number == 0:
                say(f"{self.name}: first steps done, not counted")

    def valid(self) -> Any:
        images, labels = self.batch
        return [(images[:2], labels[:2])]

    def __iter__(self) -> Iterator[Any]:
        return self.train()

    def __len__(self) -> int:
        return self.rounds + self._UNCOUNTED + 1  # Lightning does not ask after the last


def batch_of(size: int, classes: int = CLASSES) -> tuple[Any, Any]:
    import torch

    images = torch.randint(0, 256, (size, 3, 224, 224), dtype=torch.uint8)
    return images, torch.randint(0, classes, (size,))


def prepare_resnet34(folder: Path, size: int, root: Path | None = None) -> Any:
    """Return the context of a training of all layers, on a folder's images; without one, every step
    gets the same random batch, and images only say how many classes there are."""
    from breedlab.config import validate
    from breedlab.config.compose import load
    from breedlab.pipeline.checked_images import checked_images
    from breedlab.training.preparation import prepare

    words = [
        "experiment=resnet34",
        "model.weights=none",
        "model.freeze=none",
        "data=image_folder",
        f"data.root={root or drawn_images(CLASSES, CLASSES, CLASSES)}",
        f"data.batch_size={size}",
        f"cache.dir={folder / 'cache'}",
        "trainer.max_epochs=1",
        "debugger=none",
        "profiler=none",
    ]
    config = validate(load(words))
    return prepare(config, checked_images(config))


def train_lean(context: Any, alternating: Alternating, folder: Path) -> None:
    from breedlab.training import loop

    config = context.config
    learner, _ = context.learner(context.classifier(config), config, epochs=1)
    ours = {"accelerator": context.accelerator, "precision": context.precision}
    for _ in loop.epochs(learner, alternating, config, count=1, **ours):
        pass


def train_by_lightning(context: Any, alternating: Alternating, folder: Path) -> None:
    import lightning
    from torch.utils.data import DataLoader

    from breedlab.training.fit import fit

    class Data(lightning.LightningDataModule):
        def train_dataloader(self) -> Any:
            return alternating

        def val_dataloader(self) -> Any:
            return DataLoader(alternating.valid(), batch_size=None)

    config, run = context.config, folder / "run"
    run.mkdir(parents=True)
    learner, _ = context.learner(context.classifier(config), config, epochs=1)
    ours = {"accelerator": context.accelerator, "precision": context.precision}
    fit(learner, Data(), config, run, **ours)


def usual_step(images: Any, labels: Any, device: Any) -> Callable[[], None]:
    """A step as tutorials have it, in fp32, on images that are normalized already."""
    import torch

    model = usual_network(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    batch = (images / 255 - 0.45) / 0.225

    def step() -> None:
        loss = criterion(model(batch.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def usual_network(device: Any) -> Any:
    """Return torchvision's ResNet34 with a head as ours."""
    from torchvision import models

    model = models.resnet34(weights=None)
    model.fc = make_head(CLASSES)
    return model.to(device)


if __name__ == "__main__":
    main()
