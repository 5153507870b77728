"""Whether averaging the heads of a search's trials pays (a greedy soup, Wortsman et al. 2022).

For each seed the splits are drawn anew, and trials with a learning rate and batch size from
`resnet34_hpo`'s ranges train a head on the same features, all from the same start, as a search's
do: a linear one, and the three layers. The best trial on validation is compared on the test with
the greedy soup: trials in the order of their validation, each kept in the average if that does not
become worse on validation. The figure is the mean difference in test top-1 (points), with a 95%
interval over the seeds.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _harness import machine, mean_and_interval, parse, report, say
from _heads import THREE_LAYERS, features_of, plain_head, top1, train_epoch
from _splits import SPLITS, sample

TRIALS, EPOCHS = 20, 20
HEADS = {"linear": (), "three layers": THREE_LAYERS}
Weights = dict[str, Any]


def main() -> None:
    args = parse(
        __doc__, 10, 2, ("--data", "a folder of train, valid and test; by default the demo's")
    )
    here = machine()
    source = Path(args.data) if args.data else sample()
    say("features ...")
    features, classes = features_of(source)
    trials = 4 if args.small else TRIALS
    figures: dict[str, Any] = {"images": str(source), "trials": trials}
    for name, widths in HEADS.items():
        rows = []
        for seed in range(args.rounds):
            rows.append(_searched(_redrawn(features, classes, seed), classes, widths, seed, trials))
            best, soup, averaged = rows[-1]
            say(f"{name}, seed {seed}: best {best:.1%}, soup of {averaged} {soup:.1%}")
        figures[f"{name}, best trial, test top-1"] = mean_and_interval([row[0] for row in rows])
        gained = mean_and_interval([100 * (soup - best) for best, soup, _ in rows], "+.2f")
        figures[f"{name}, soup minus best, points"] = gained
    report(args, "soup", here, [], figures)


def _redrawn(features: dict[str, Any], classes: int, seed: int) -> dict[str, Any]:
    """Return features and labels by split, drawn anew in the same sizes of each class."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    rows, labels = (torch.cat([features[split][part] for split in SPLITS]) for part in (0, 1))
    chosen: dict[str, list[Any]] = {split: [] for split in SPLITS}
    for label in range(classes):
        own = (labels == label).nonzero().flatten()
        own = own[torch.randperm(len(own), generator=draw)]
        sizes = [int((features[split][1] == label).sum()) for split in SPLITS]
        for split, part in zip(SPLITS, own.split(sizes), strict=True):
            chosen[split].append(part)
    order = {split: torch.cat(parts) for split, parts in chosen.items()}
    return {split: (rows[index], labels[index]) for split, index in order.items()}


def _searched(
    features: dict[str, Any], classes: int, widths: tuple[int, ...], seed: int, trials: int
) -> tuple[float, float, int]:
    """Return the test top-1 of the best trial, that of the soup, and how many it averages."""
    import torch

    torch.manual_seed(seed)
    head = plain_head(features["train"][0].shape[1], widths, classes)
    tried = sorted(_trained(head, features, seed, trials), key=lambda each: each[0], reverse=True)

    def measured(ingredients: list[Weights], split: str) -> float:
        head.load_state_dict(_mean(ingredients))
        return top1(head, *features[split])

    reached, best = tried[0]
    ingredients = [best]
    for _, weights in tried[1:]:
        value = measured([*ingredients, weights], "valid")
        if value >= reached:
            reached, ingredients = value, [*ingredients, weights]
    return measured([best], "test"), measured(ingredients, "test"), len(ingredients)


def _trained(
    start: Any, features: dict[str, Any], seed: int, trials: int
) -> Iterator[tuple[float, Weights]]:
    """Yield the validation top-1 of each trial's best epoch, and its weights."""
    import torch

    draw = random.Random(seed)
    for _ in range(trials):
        head = copy.deepcopy(start)
        rate, size = 10 ** draw.uniform(-4, -2), draw.choice((32, 64, 128, 256))
        optimizer = torch.optim.AdamW(head.parameters(), lr=rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
        best: tuple[float, Weights] = (-1.0, {})
        for _ in range(EPOCHS):
            train_epoch(head, optimizer, *features["train"], batch_size=size)
            schedule.step()
            value = top1(head, *features["valid"])
            if value > best[0]:
                best = (value, copy.deepcopy(head.state_dict()))
        yield best


def _mean(ingredients: list[Weights]) -> Weights:
    return {
        name: sum(each[name] for each in ingredients) / len(ingredients) for name in ingredients[0]
    }


if __name__ == "__main__":
    main()
