"""Accuracy on a folder of images: ours beside plain peers with the same weights and the same split.

EfficientNet-Lite0 with the weights of the `pretrained` extra for all. Ours: `experiment=resnet34`
as it is (`frozen`: three layers, and a refit on train and validation), that without its refit, with
`model.head_type=logistic`, its search, and `experiment=auto`, which may take other backbones, too.
Peers: the same three layers in plain PyTorch, and scikit-learn's LogisticRegression with C chosen
on validation, both on features of timm's own transform and an eager fp32 network; and fastai's
`fine_tune`, which trains all layers.

Each seed draws train, validation and test anew from all images, in the sizes of the folder
(`--split fixed` keeps the folder's own, for official splits). The figure is the mean of top-1 on
the test, with a 95% interval over the seeds.

Each result is written down as it comes: started again, the benchmark goes on with what is missing
(`--fresh yes` forgets what there is).
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from _harness import CACHE, Ratio, machine, mean_and_interval, parse, report, say
from _heads import THREE_LAYERS, features_of, plain_head, top1, train_epoch
from _splits import SPLITS, Failed, counts, files, last_line, linked, sample, settings

OURS = ("frozen", "frozen without refit", "logistic", "search", "auto")
PEERS = ("plain three layers", "scikit-learn", "fastai fine_tune")
Contestant = Callable[[Path, int], float]


def main() -> None:
    args = parse(
        __doc__,
        5,
        1,
        ("--data", "a folder of train, valid and test; by default the demo's"),
        ("--minutes", "of the auto search; default 10, with --small 1"),
        ("--split", "redrawn (default) or fixed"),
        ("--only", "names of what to measure, separated by commas"),
        ("--seeds", "how many; the same as --rounds"),
        ("--budget", "minutes after which nothing more is begun; what is there is shown"),
        ("--fresh", "yes forgets the results that there are"),
        ("--fastai", f"the folder that fastai is installed in; default {CACHE / 'fastai'}"),
        ("--fastai-epochs", "of fine_tune, after its frozen one; default 5, with --small 1"),
    )
    here, started = machine(), time.monotonic()
    source = Path(args.data) if args.data else sample()
    minutes = float(args.minutes or (1 if args.small else 10))
    seeds = int(args.seeds or args.rounds)
    folder = CACHE / "accuracy"
    fastai = Path(args.fastai) if args.fastai else CACHE / "fastai"
    epochs = int(args.fastai_epochs or (1 if args.small else 5))
    contestants = _contestants(folder, minutes, fastai, epochs)
    hows = _hows(minutes, epochs)
    wanted = args.only.split(",") if args.only else _able(contestants, fastai)
    if unknown := [name for name in wanted if name not in contestants]:
        raise SystemExit(f"--only: got {unknown[0]!r}; expected of {', '.join(contestants)}")
    sizes = counts(source)
    known = Results(folder, source, args.split or "redrawn", forget=args.fresh == "yes")
    for seed in range(seeds):
        root = linked(source, folder / f"split-{known.key}-{seed}", seed, args.split == "fixed")
        for name in wanted:
            how = hows.get(name, "")
            before = known.of(name, how, seed)
            late = args.budget and time.monotonic() - started > 60 * float(args.budget)
            if before is None and not late:
                began = time.monotonic()
                try:
                    top1 = contestants[name](root, seed)
                except Failed as error:
                    say(f"seed {seed}: {name}: {error}")
                    continue
                known.add(name, how, seed, top1, time.monotonic() - began)
                before = known.of(name, how, seed)
                say(f"seed {seed}: {name}: {top1:.1%} in {time.monotonic() - began:.0f} s")
            elif before is not None:
                say(f"seed {seed}: {name}: {before['top1']:.1%}, from before")
    found = {name: values for name in wanted if (values := known.by_seed(name, seeds))}
    figures: dict[str, Any] = {
        "images": f"{source}: {', '.join(f'{n} {s}' for s, n in sizes.items())}"
    }
    figures |= {
        f"{name}, test top-1": f"{mean_and_interval([*values.values()])}; {known.seconds(name)}"
        for name, values in found.items()
    }
    ratios = [
        Ratio(f"{ours} / {peer}, top-1", [found[ours][s] / found[peer][s] for s in both])
        for ours in OURS
        for peer in PEERS
        if (both := found.get(ours, {}).keys() & found.get(peer, {}).keys())
    ]
    report(args, "accuracy", here, ratios, figures)
    if lacking := [name for name in wanted if len(found.get(name, {})) < seeds]:
        say(f"incomplete: {', '.join(lacking)}; start it again to go on")


class Results:
    """What was measured so far on a folder, one file for each.

    Args:
        folder: Where the file is.
        source: The images.
        split: `redrawn` or `fixed`.
        forget: Whether to begin anew.
    """

    def __init__(self, folder: Path, source: Path, split: str, forget: bool) -> None:
        images = [f"{path.relative_to(source)}" for part in SPLITS for path in files(source, part)]
        self.key = hashlib.sha256("\n".join([split, *images]).encode()).hexdigest()[:12]
        self._file = folder / f"results-{self.key}.json"
        self._rows: list[dict[str, Any]] = []
        if self._file.exists() and not forget:
            self._rows = json.loads(self._file.read_text())

    def of(self, name: str, how: str, seed: int) -> dict[str, Any] | None:
        """Return a result, None if it is not there."""
        rows = (
            row for row in self._rows if (row["name"], row["how"], row["seed"]) == (name, how, seed)
        )
        return next(rows, None)

    def add(self, name: str, how: str, seed: int, top1: float, seconds: float) -> None:
        """Write a result down."""
        row = {"name": name, "how": how, "seed": seed, "top1": top1, "seconds": round(seconds, 1)}
        self._rows.append(row)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        scratch = self._file.with_suffix(".part")
        scratch.write_text(json.dumps(self._rows, indent=1))
        scratch.replace(self._file)

    def by_seed(self, name: str, seeds: int) -> dict[int, float]:
        """Return the top-1 of each seed; of several settings, the last's."""
        return {row["seed"]: row["top1"] for row in self._last(name) if row["seed"] < seeds}

    def seconds(self, name: str) -> str:
        """Return how long one takes: the median, since a neighbor can make a few take twice as
        long."""
        return f"{median(row['seconds'] for row in self._last(name)):.0f} s each"

    def _last(self, name: str) -> list[dict[str, Any]]:
        rows = [row for row in self._rows if row["name"] == name]
        return [row for row in rows if row["how"] == rows[-1]["how"]]


def _able(contestants: dict[str, Contestant], fastai: Path) -> list[str]:
    """Return what can be measured here, and say what cannot."""
    if (fastai / "fastai").is_dir():
        return [*contestants]
    say(f"no {fastai / 'fastai'}: {PEERS[2]} is left out; benchmarks/README.md says how to get it")
    return [name for name in contestants if name != PEERS[2]]


def _contestants(folder: Path, minutes: float, fastai: Path, epochs: int) -> dict[str, Contestant]:
    common = settings(folder / "runs")
    frozen = ["experiment=resnet34", *common]

    def ours(words: list[str]) -> Contestant:
        # no seed may have the features of the one before: that time is part of auto's minutes
        return lambda root, seed: _ours(
            [*words, f"data.root={root}", f"seed={seed}", f"cache.dir={folder}/cache/{seed}"]
        )

    auto = ["experiment=auto", *common, f"tuner.minutes={minutes:g}"]
    head_epochs = _experiment("resnet34").trainer.max_epochs
    return {
        "frozen": ours(frozen),
        "frozen without refit": ours([*frozen, "trainer.refit=false"]),
        "logistic": ours([*frozen, "model.head_type=logistic", "optim.label_smoothing=0"]),
        "search": ours(["experiment=resnet34_hpo", *common]),
        PEERS[0]: lambda root, seed: _plain_layers(*features_of(root), seed, head_epochs),
        PEERS[1]: lambda root, seed: _scikit_learn(*features_of(root)),
        "auto": ours(auto),
        PEERS[2]: lambda root, seed: _fastai(fastai, root, seed, epochs),
    }


def _hows(minutes: float, epochs: int) -> dict[str, str]:
    """Return what is written down beside the results of what has settings: with others they are
    measured anew."""
    frozen, search = _experiment("resnet34").trainer.max_epochs, _experiment("resnet34_hpo")
    return {
        "frozen": f"{frozen} epochs, refit",
        "frozen without refit": f"{frozen} epochs",
        "logistic": "refit",
        "search": f"{search.tuner.max_epochs} and {search.trainer.max_epochs} epochs, refit",
        "auto": f"{minutes:g} minutes",
        PEERS[0]: f"{frozen} epochs",
        PEERS[2]: f"{epochs} epochs",
    }


def _experiment(name: str) -> Any:
    """Return the config of an experiment as it is."""
    from breedlab.config import validate
    from breedlab.config.compose import load

    return validate(load([f"experiment={name}"]))


def _ours(words: list[str]) -> float:
    """Return the test top-1 of a run, which has a process of its own, as a person's has."""
    code = "import sys, breedlab; print('top1', breedlab.run(*sys.argv[1:]).metrics['top1'])"
    return float(last_line("top1", ["-c", code, *words]))


def _fastai(installed: Path, root: Path, seed: int, epochs: int) -> float:
    """Return the test top-1 of fastai's `fine_tune`, in a process that finds fastai."""
    import timm
    import torch

    from breedlab.models.packages import load_packaged

    weights = CACHE / "accuracy" / "lite0.pth"
    if not weights.exists():
        network = timm.create_model("tf_efficientnet_lite0")
        load_packaged(network, "tf_efficientnet_lite0", "efficientnet_lite0")
        torch.save(network.state_dict(), weights)
    script = Path(__file__).with_name("_fastai.py")
    words = [str(script), str(root), str(seed), str(epochs), str(weights)]
    return float(last_line("top1", words, {**os.environ, "PYTHONPATH": str(installed)}))


def _plain_layers(features: dict[str, Any], classes: int, seed: int, epochs: int) -> float:
    """Return the test top-1 of three layers trained as tutorials do, for as many epochs as ours:
    Adam, the best epoch on validation kept."""
    import torch

    torch.manual_seed(seed)
    head = plain_head(features["train"][0].shape[1], THREE_LAYERS, classes)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    best, tested = -1.0, 0.0
    for _ in range(epochs):
        train_epoch(head, optimizer, *features["train"], batch_size=64)
        valid, test = (top1(head, *features[split]) for split in ("valid", "test"))
        if valid > best:
            best, tested = valid, test
    return tested


def _scikit_learn(features: dict[str, Any], _classes: int) -> float:
    """Return the test top-1 of the C that is best on validation."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = {split: (rows.numpy(), labels.numpy()) for split, (rows, labels) in features.items()}
    models = [
        make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000)).fit(*data["train"])
        for c in (0.0003, 0.001, 0.003, 0.01, 0.1, 1.0)
    ]
    best = max(models, key=lambda model: model.score(*data["valid"]))
    return float(best.score(*data["test"]))


if __name__ == "__main__":
    main()
