"""Runs that never ran: directories with everything a report reads, of any number of classes, in no
time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from breedlab.config import validate
from breedlab.config.compose import load

HOSTILE = '</script><img src=x onerror="alert(1)"><b>'


def write_run(
    folder: Path,
    *,
    classes: list[str],
    images: Path | None = None,
    trials: int = 12,
    steps: int = 400,
    seed: int = 0,
) -> Path:
    """A run directory with plausible figures.

    Args:
        folder: Where to write it.
        classes: Their names.
        images: Where to draw the images; none are drawn by default.
        trials: Of the search.
        steps: Of the training, 10 epochs.
        seed: Of the figures.
    """
    from torch.utils.tensorboard import SummaryWriter

    chance, count = np.random.default_rng(seed), len(classes)
    folder.mkdir(parents=True)
    space = (
        "tuner.space={optim: {lr: {low: 0.001, high: 0.1, log: true}}, data: {batch_size: [32, 64,"
        " 128]}}"
    )
    config = validate(load(["experiment=quickstart", space, "name=made"])).model_dump()
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "overrides.yaml").write_text(yaml.safe_dump(["experiment=quickstart"]))

    each = {
        "train": chance.integers(26, 78, count),
        "valid": np.full(count, 6),
        "test": np.full(count, 6),
    }
    labels = {
        split: np.repeat(np.arange(count), numbers).tolist() for split, numbers in each.items()
    }
    files = {
        s: [f"{s}/{label:03}/{i}.jpg" for i, label in enumerate(mine)] for s, mine in labels.items()
    }
    root = images or folder / "gone"
    left_out = [{"file": f"train/{HOSTILE}.jpg", "reason": "is empty"}]
    splits = {
        "root": str(root),
        "classes": classes,
        "cut_from_train": ["valid"],
        "photos": files,
        "labels": labels,
    }
    (folder / "splits.json").write_text(
        json.dumps({**splits, "left_out": left_out, "warnings": ["few images"]})
    )
    lineage = {
        "experiment": "made",
        "started": "2026-01-01T10:00:00+00:00",
        "seed": 0,
        "command": ["launch.py"],
    }
    lineage |= {
        "git": {"commit": "0" * 40, "changed": True},
        "packages": {"torch": "2.14.1"},
        "parent": None,
    }
    lineage |= {
        "data": {"root": str(root), "fingerprint": "f" * 32},
        "machine": {"platform": "Linux", "cpus": 2},
    }
    (folder / "lineage.json").write_text(json.dumps(lineage))

    truth = np.array(labels["test"])
    near = np.clip(truth + chance.choice([-1, 1, 2, 7], len(truth)), 0, count - 1)
    predicted = np.where(chance.random(len(truth)) < 0.75, truth, near)
    sure = np.where(
        predicted == truth, chance.beta(8, 2, len(truth)), chance.beta(4, 3, len(truth))
    ).round(4)
    columns = {"photos": files["test"], "labels": truth.tolist(), "predicted": predicted.tolist()}
    (folder / "predictions.json").write_text(
        json.dumps({**columns, "probabilities": sure.tolist()})
    )
    (folder / "metrics.json").write_text(json.dumps(_metrics(classes, truth, predicted)))

    for number in range(trials):
        rate = float(10 ** chance.uniform(-3, -1))
        objective = float(max(0.05, 0.9 - 0.3 * abs(np.log10(rate) + 2.4)))
        record: dict[str, Any] = {
            "number": number,
            "state": "complete",
            "objective": objective,
            "reason": "",
        }
        record["values"] = {"optim.lr": rate, "data.batch_size": int(chance.choice([32, 64, 128]))}
        record["epochs"] = [
            {"train/loss": 1.0, "valid/loss": 1.0, "valid/top1": objective * i / 5}
            for i in range(1, 6)
        ]
        (folder / "trials" / str(number)).mkdir(parents=True)
        (folder / "trials" / str(number) / "trial.json").write_text(
            json.dumps({**record, "seconds": 3.2})
        )
    with SummaryWriter(str(folder / "tensorboard" / "final")) as writer:
        for epoch in range(10):
            step = (epoch + 1) * steps // 10 - 1
            for name, value in (("loss", 4 * 0.7**epoch), ("top1", 1 - 0.9 * 0.7**epoch)):
                writer.add_scalar(f"train/{name}", value, step)
                writer.add_scalar(
                    f"valid/{name}", value * 1.05 if name == "loss" else value * 0.95, step
                )
    _profile(folder / "profile", chance, steps)
    (folder / "model.tar.gz").write_bytes(bytes(1000))
    if images is not None:
        first = dict(zip(labels["train"][::-1], files["train"][::-1], strict=True))
        for file in (*first.values(), *files["test"]):
            (images / file).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (160, 120), tuple(chance.integers(0, 255, 3).tolist())).save(
                images / file
            )
    return folder


def _metrics(classes: list[str], truth: Any, predicted: Any) -> dict[str, Any]:
    count = len(classes)
    matrix = np.zeros((count, count), dtype=int)
    np.add.at(matrix, (truth, predicted), 1)
    hits, rows, columns = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    pairs = sorted(((matrix[i, j], i, j) for i, j in np.argwhere(matrix) if i != j), reverse=True)[
        :10
    ]
    test = {
        "photos": len(truth),
        "metrics": {
            "loss": 0.9,
            "top1": float(hits.sum() / len(truth)),
            "top5": 1.0,
            "f1": 0.74,
            "ece": 0.03,
        },
        "per_class": {
            name: {
                "photos": int(rows[i]),
                "top1": float(hits[i] / rows[i]),
                "precision": float(hits[i] / max(1, columns[i])),
            }
            for i, name in enumerate(classes)
        },
        "confusion": matrix.tolist(),
        "worst": [
            {"truth": classes[i], "taken_for": classes[j], "count": int(n), "of": int(rows[i])}
            for n, i, j in pairs
        ],
    }
    training = {"epochs": 10, "ended": "all 10 epochs", "best_epoch": 9}
    return {
        "monitor": {"metric": "valid/top1", "best": 0.9},
        "training": training,
        "search": {
            "trial": 1,
            "values": {"optim.lr": 0.01, "data.batch_size": 64},
            "objective": 0.9,
        },
        "test": test,
        "seconds": 1234.5,
    }


def _profile(folder: Path, chance: Any, steps: int) -> None:
    folder.mkdir()
    stages = (
        ["Data"] * 20
        + ["Network"] * 10
        + ["Search"] * 400
        + ["Training the best"] * 600
        + ["Test"] * 40
    )
    lines = [
        json.dumps(
            {
                "wall_start": "2026",
                "offset": 0.0,
                "interval_ms": 500,
                "cores": 8,
                "memory_gb": 64.0,
                "gpu_memory_gb": [16.0],
            }
        )
    ]
    for number, stage in enumerate(stages):
        sample = {
            "t": number / 2,
            "stage": stage,
            "cpu": chance.uniform(20, 100, 8).round(1).tolist(),
            "io_wait": 0.0,
        }
        sample |= {
            "memory_gb": 12.0,
            "process_memory_gb": 3.0,
            "gpu": [{"util": 80.0, "memory_gb": 9.0}],
        }
        sample |= {
            f"{name}_mb_s": float(chance.exponential(5))
            for name in ("disk_read", "disk_write", "net_in", "net_out")
        }
        lines.append(json.dumps(sample))
    (folder / "system.jsonl").write_text("\n".join(lines))
    parts = ["data", "forward", "backward", "optimizer", "callbacks", "checkpoint", "other"]
    rows = [json.dumps({"columns": ["step", "epoch", "t", *(f"{part}_ms" for part in parts)]})]
    rows += [
        json.dumps([s + 1, s // 40, s / 4, *chance.uniform(1, 40, 7).round(2).tolist()])
        for s in range(steps)
    ]
    (folder / "steps.jsonl").write_text("\n".join(rows))
    sums = dict.fromkeys(parts, 2.0)
    (folder / "framework.json").write_text(
        json.dumps({"seconds": 28, "steps": steps, "inside": sums, "outside": sums})
    )
    operators = [
        {"name": f"aten::op{i}", "calls": 3, "cpu_ms": 9.0 - i, "gpu_ms": 0.0, "memory_mb": 1.0}
        for i in range(9)
    ]
    (folder / "operators.json").write_text(json.dumps(operators))
    verdict = {
        "rule": "Dataloader",
        "verdict": "triggered",
        "figures": {"share_of_step_time": 0.31},
        "meaning": "Training waits.",
    }
    verdict |= {
        "advice": "Raise data.num_workers.",
        "mode": "TRAIN",
        "steps": [3, 9],
        "tensors": [],
        "link": "report.html#profile",
    }
    calm = {**verdict, "rule": "IOBottleneck", "verdict": "passed", "advice": "", "steps": []}
    (folder / "verdicts.json").write_text(json.dumps([verdict, calm]))
