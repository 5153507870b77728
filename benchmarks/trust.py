"""Whether answers can be believed: calibration, sets, unknown images, and wrong labels.

Each seed draws train, validation and test anew, as accuracy.py does, and trains the frozen default
twice: on the labels as they are, and with 5% of the training labels replaced by another class.

- The calibration error (ECE) with the temperature, divided by that without: of all seeds' test
  images together, and of each seed's. A few hundred images have an ECE of some hundredths even if
  the model is perfectly calibrated, so that is measured, too: labels are drawn by the model's own
  probabilities. A seed whose temperature stays 1, because validation shows no need of one, counts
  as 1.
- How many of the test's 90% sets contain the true class.
- How many images of `--strangers`, a folder of images of other kinds, are called unknown, and how
  many of the test.
- How many of the wrong labels are in the first tenth of the training images by suspicion, as
  fixes.csv lists them.
"""

from __future__ import annotations

import csv
import json
import math
import random
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from _harness import CACHE, Ratio, machine, mean_and_interval, parse, report, say
from _splits import files, last_line, linked, sample, settings

from breedlab.evaluation.statistics import calibration_error

Array = np.ndarray[Any, Any]

_FLIPPED = 0.05
_FIRST = 0.1
_IMAGES = (".jpg", ".jpeg", ".png", ".webp")
_RUN = "import sys, breedlab; print('run', breedlab.run(*sys.argv[1:]).path)"
_ASK = """
import json, sys, breedlab
model = breedlab.load(sys.argv[1])
answers = model.predict(sys.argv[2:])
told = [[one.unknown, [one.probabilities[name] for name in model.classes]] for one in answers]
print("answers", json.dumps(told))
"""


def main() -> None:
    args = parse(
        __doc__,
        5,
        1,
        ("--data", "a folder of train, valid and test; by default the demo's"),
        ("--strangers", "a folder of images of other kinds; without it, none are asked for"),
        ("--experiment", "default resnet34, with model=efficientnet_lite0"),
    )
    here = machine()
    source = Path(args.data) if args.data else sample()
    strangers = _strangers(Path(args.strangers)) if args.strangers else []
    rows, pool = [], Pool()
    for seed in range(args.rounds):
        rows.append(_measured(source, seed, args.experiment or "resnet34", strangers, pool))
        say(f"seed {seed}: {', '.join(f'{name} {value:.3f}' for name, value in rows[-1].items())}")
    figures = {name: mean_and_interval([row[name] for row in rows], ".3f") for name in rows[0]}
    together, without, perfect = pool.errors()
    figures |= {
        "ECE of all seeds' test images": f"{together:.3f}; without the temperature {without:.3f};"
        f" of a perfectly calibrated model {perfect:.3f}"
    }

    def column(name: str) -> list[float]:
        return [row[name] for row in rows]

    ratios = [
        Ratio("ECE with the temperature / without", [together / without], 0.5, "at most"),
        Ratio("likewise, of each seed", column("ECE ratio"), None),
        Ratio("90% sets with the true class", column("coverage"), 0.88),
        Ratio("likewise", column("coverage"), 0.92, "at most"),
        Ratio("wrong labels in the first tenth", column("wrong labels found"), 0.8),
    ]
    if strangers:
        ratios += [
            Ratio("strangers called unknown", column("strangers refused"), 0.9),
            Ratio("test images called unknown", column("false alarms"), 0.05, "at most"),
        ]
    report(args, "trust", here, ratios, {"images": str(source), **figures})


class Pool:
    """Confidences of the test images of all seeds, with and without the temperature, and which of
    the answers are right."""

    def __init__(self) -> None:
        self._with: list[Array] = []
        self._without: list[Array] = []
        self._labels: list[Array] = []

    def add(self, probabilities: Array, labels: Array, temperature: float) -> None:
        """Add the images of one seed: probabilities (n, classes), labels (n,)."""
        plain = np.log(np.clip(probabilities, 1e-12, 1)) * temperature
        plain = np.exp(plain - plain.max(1, keepdims=True))
        self._with.append(probabilities / probabilities.sum(1, keepdims=True))
        self._without.append(plain / plain.sum(1, keepdims=True))
        self._labels.append(labels)

    def errors(self) -> tuple[float, float, float]:
        """Return the ECE with the temperature, without, and of a model whose labels are drawn by
        its probabilities."""
        draw = np.random.default_rng(0)
        drawn = [
            (rows.cumsum(1) < draw.random((len(rows), 1))).sum(1).clip(max=rows.shape[1] - 1)
            for rows in self._with
        ]
        return (
            self._error(self._with, self._labels),
            self._error(self._without, self._labels),
            self._error(self._with, drawn),
        )

    def _error(self, probabilities: list[Array], labels: list[Array]) -> float:
        confidences = np.concatenate([rows.max(1) for rows in probabilities])
        pairs = zip(probabilities, labels, strict=True)
        right = np.concatenate([rows.argmax(1) == truth for rows, truth in pairs])
        return float(calibration_error(confidences, right, np.ones(len(right))))


def _measured(
    source: Path, seed: int, experiment: str, strangers: list[str], pool: Pool
) -> dict[str, float]:
    """Return the figures of one seed, and add its test images to those of all."""
    folder = CACHE / "trust"
    root = linked(source, folder / f"split-{seed}", seed, fixed=False)
    run = _run(experiment, root, seed, folder)
    metrics = json.loads((run / "metrics.json").read_text())
    test, answers = metrics["test"], metrics["export"]["answers"]
    ece, calibration = test["metrics"]["ece"], test["calibration"]
    before = calibration.get("ece_before", ece)
    row = {
        "ECE": ece,
        "ECE without the temperature": before,
        "ECE ratio": ece / before,
        "coverage": answers["sets"]["coverage"],
    }
    images = files(root, "test")
    told = json.loads(last_line("answers", ["-c", _ASK, str(run), *map(str, images), *strangers]))
    folders = sorted({path.parent.name for path in files(root, "train")})
    labels = np.array([folders.index(path.parent.name) for path in images])
    probabilities = np.array([row for _, row in told[: len(images)]])
    pool.add(probabilities, labels, calibration.get("temperature", 1.0))
    if strangers:
        row["strangers refused"] = mean(unknown for unknown, _ in told[len(images) :])
        row["false alarms"] = answers["unknown"]["false_alarms"]
    wrong = linked(source, folder / f"wrong-{seed}", seed, fixed=False)
    flipped = _flip(wrong, seed)
    run = _run(experiment, wrong, seed, folder)
    with (run / "fixes.csv").open(newline="") as file:
        listed = [row["file"] for row in csv.DictReader(file) if row["split"] == "train"]
    first = listed[: math.ceil(_FIRST * len(files(wrong, "train")))]
    row["wrong labels found"] = len(flipped.intersection(first)) / len(flipped)
    return row


def _flip(root: Path, seed: int) -> set[str]:
    """Move a twentieth of the training images to another class, and return their new paths below
    the root."""
    draw = random.Random(1000 + seed)
    classes = sorted(folder.name for folder in (root / "train").iterdir())
    images = files(root, "train")
    moved = set()
    for image in draw.sample(images, round(_FLIPPED * len(images))):
        other = draw.choice([name for name in classes if name != image.parent.name])
        target = root / "train" / other / f"flipped-{image.parent.name}-{image.name}"
        image.rename(target)
        moved.add(target.relative_to(root).as_posix())
    return moved


def _strangers(folder: Path) -> list[str]:
    found = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in _IMAGES)
    if not found:
        raise SystemExit(f"--strangers: no images ({', '.join(_IMAGES)}) in {folder}")
    return found


def _run(experiment: str, root: Path, seed: int, folder: Path) -> Path:
    """Return the directory of a run, which has a process of its own."""
    words = [f"experiment={experiment}", *settings(folder / "runs")]
    words += [f"data.root={root}", f"seed={seed}"]
    return Path(last_line("run", ["-c", _RUN, *words]))


if __name__ == "__main__":
    main()
