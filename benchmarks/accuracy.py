"""Accuracy on a folder of images: ours beside plain peers with the same weights and the same split.

EfficientNet-Lite0 with the weights of the `pretrained` extra, frozen, for all. Ours: the
three-layer head as it is (`frozen`), `model.head_type=logistic`, and `experiment=auto`, which may
take other backbones, too. Peers: the same three layers in plain PyTorch, and scikit-learn's
LogisticRegression with C chosen on validation, both on features of timm's own transform and an
eager fp32 network.

Each seed draws train, validation and test anew from all images, in the sizes of the folder
(`--split fixed` keeps the folder's own, for official splits). The figure is the mean of top-1 on
the test, with a 95% interval over the seeds.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from _harness import CACHE, Ratio, machine, parse, report, say

SPLITS = ("train", "valid", "test")
_OTHER_NAMES = {"valid": ("validation", "val")}


def main() -> None:
    args = parse(
        __doc__,
        5,
        1,
        ("--data", "a folder of train, valid and test; by default the demo's"),
        ("--minutes", "of the auto search; default 10, with --small 1"),
        ("--split", "redrawn (default) or fixed"),
        ("--only", "names of what to measure, separated by commas"),
    )
    here = machine()
    source = Path(args.data) if args.data else _sample()
    minutes = float(args.minutes or (1 if args.small else 10))
    folder = CACHE / "accuracy"
    contestants = _contestants(folder, minutes)
    wanted = args.only.split(",") if args.only else [*contestants]
    found: dict[str, list[float]] = {name: [] for name in wanted}
    for seed in range(args.rounds):
        root = source if args.split == "fixed" else _redrawn(source, folder / "split", seed)
        for name in wanted:
            found[name].append(contestants[name](root, seed))
            say(f"seed {seed}: {name}: {found[name][-1]:.1%}")
    figures: dict[str, Any] = {
        "images": f"{source}: {', '.join(f'{n} {s}' for s, n in _counts(source).items())}"
    }
    figures |= {f"{name}, test top-1": _shown(values) for name, values in found.items()}
    ratios = [
        Ratio(
            f"{ours} / {peer}, top-1",
            [a / b for a, b in zip(found[ours], found[peer], strict=True)],
        )
        for ours in ("frozen", "logistic", "auto")
        for peer in ("plain three layers", "scikit-learn")
        if ours in found and peer in found
    ]
    report(args, "accuracy", here, ratios, figures)


def _contestants(folder: Path, minutes: float) -> dict[str, Callable[[Path, int], float]]:
    common = ["data=image_folder", "model=efficientnet_lite0", "debugger=none", "profiler=none"]
    common += ["serving.engine=eager", "serving.precision=fp32", f"runs_dir={folder / 'runs'}"]
    frozen = ["experiment=resnet34", *common]

    def ours(words: list[str]) -> Callable[[Path, int], float]:
        return lambda root, seed: _ours([*words, f"data.root={root}", f"seed={seed}"])

    auto = ["experiment=auto", *common, f"tuner.minutes={minutes:g}"]
    return {
        "frozen": ours(frozen),
        "logistic": ours([*frozen, "model.head_type=logistic", "optim.label_smoothing=0"]),
        "logistic, refit": ours(
            [*frozen, "model.head_type=logistic", "optim.label_smoothing=0", "trainer.refit=true"]
        ),
        "auto": ours(auto),
        "plain three layers": lambda root, seed: _plain_layers(*_features(root), seed),
        "scikit-learn": lambda root, seed: _scikit_learn(*_features(root)),
    }


def _sample() -> Path:
    """Return the images of the demo, drawn once."""
    from breedlab.data.sample import write_sample

    root = CACHE / "accuracy" / "sample"
    if not root.exists():
        write_sample(root, classes=8, train=40, valid=12, test=15, size=192, seed=0)
    return root


def _ours(words: list[str]) -> float:
    import breedlab

    return float(breedlab.run(*words).metrics["top1"])


def _counts(root: Path) -> dict[str, int]:
    return {split: len(_files(root, split)) for split in SPLITS}


def _files(root: Path, split: str) -> list[Path]:
    names = (split, *_OTHER_NAMES.get(split, ()))
    return sorted(path for name in names for path in (root / name).glob("*/*") if path.is_file())


def _redrawn(source: Path, target: Path, seed: int) -> Path:
    """Return a folder of links with as many images of each class in each split as the source
    has."""
    shutil.rmtree(target, ignore_errors=True)
    sizes = {(split, path.parent.name): 0 for split in SPLITS for path in _files(source, split)}
    by_class: dict[str, list[Path]] = {}
    for split in SPLITS:
        for path in _files(source, split):
            sizes[split, path.parent.name] += 1
            by_class.setdefault(path.parent.name, []).append(path)
    draw = random.Random(seed)
    for name, paths in sorted(by_class.items()):
        draw.shuffle(paths)
        rest = iter(paths)
        for split in SPLITS:
            for number in range(sizes.get((split, name), 0)):
                path = next(rest)
                link = target / split / name / f"{number:04}{path.suffix}"
                link.parent.mkdir(parents=True, exist_ok=True)
                os.symlink(path.resolve(), link)
    return target


_known: dict[str, Any] = {}


def _features(root: Path) -> tuple[dict[str, Any], int]:
    """Return features and labels by split, by timm's transform and PIL, and the number of classes;
    once a split."""
    import timm
    import torch
    from torchvision.datasets.folder import default_loader

    from breedlab.models.packages import load_packaged

    key = str([os.path.realpath(path) for split in SPLITS for path in _files(root, split)])
    if _known.get("key") == key:
        return _known["features"], _known["classes"]
    name = "tf_efficientnet_lite0"
    network = timm.create_model(name)
    load_packaged(network, name, "efficientnet_lite0")
    network.reset_classifier(0)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=network))
    classes = sorted({path.parent.name for path in _files(root, "train")})
    found = {}
    with torch.no_grad():
        network.eval()
        for split in SPLITS:
            files, rows = _files(root, split), []
            for start in range(0, len(files), 32):
                images = [
                    transform(default_loader(str(path))) for path in files[start : start + 32]
                ]
                rows.append(network(torch.stack(images)))
            labels = torch.tensor([classes.index(path.parent.name) for path in files])
            found[split] = (torch.cat(rows), labels)
    _known.update(key=key, features=found, classes=len(classes))
    return found, len(classes)


def _plain_layers(features: dict[str, Any], classes: int, seed: int) -> float:
    """Return the test top-1 of three layers trained as tutorials do: Adam, 15 epochs, the best on
    validation kept."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    x, y = features["train"]
    drop = 0.2
    head = nn.Sequential(
        nn.Linear(x.shape[1], 512),
        nn.ReLU(),
        nn.Dropout(drop),
        nn.Linear(512, 256),
        nn.ReLU(),
        nn.Dropout(drop),
        nn.Linear(256, classes),
    )
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    best, tested = -1.0, 0.0
    for _ in range(15):
        head.train()
        for index in torch.randperm(len(y)).split(64):
            loss = nn.functional.cross_entropy(head(x[index]), y[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        head.eval()
        with torch.no_grad():
            valid, test = (
                float((head(rows).argmax(1) == labels).float().mean())
                for rows, labels in (features["valid"], features["test"])
            )
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


def _shown(values: list[float]) -> str:
    """Return the mean and its 95% interval over the seeds, by Student's t."""
    if len(values) < 2:
        return f"{values[0]:.1%} (one seed)"
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
    return (
        f"{mean(values):.1%} ({mean(values) - half:.1%} to {mean(values) + half:.1%}; {len(values)}"
        " seeds)"
    )


if __name__ == "__main__":
    main()
