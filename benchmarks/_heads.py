"""Heads in plain PyTorch, and the features they train on, by timm's own transform and an eager fp32
network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from _splits import SPLITS, files

THREE_LAYERS = (512, 256)
"""The widths of all but the last."""

_known: dict[str, Any] = {}


def features_of(root: Path) -> tuple[dict[str, Any], int]:
    """Return features and labels by split, by timm's transform and PIL, and the number of classes;
    once a split."""
    import timm
    import torch
    from torchvision.datasets.folder import default_loader

    from breedlab.models.packages import load_packaged

    key = str([os.path.realpath(path) for split in SPLITS for path in files(root, split)])
    if _known.get("key") == key:
        return _known["features"], _known["classes"]
    name = "tf_efficientnet_lite0"
    network = timm.create_model(name)
    load_packaged(network, name, "efficientnet_lite0")
    network.reset_classifier(0)
    transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=network))
    classes = sorted({path.parent.name for path in files(root, "train")})
    found = {}
    with torch.no_grad():
        network.eval()
        for split in SPLITS:
            paths, rows = files(root, split), []
            for start in range(0, len(paths), 32):
                images = [
                    transform(default_loader(str(path))) for path in paths[start : start + 32]
                ]
                rows.append(network(torch.stack(images)))
            labels = torch.tensor([classes.index(path.parent.name) for path in paths])
            found[split] = (torch.cat(rows), labels)
    _known.update(key=key, features=found, classes=len(classes))
    return found, len(classes)


def plain_head(width: int, widths: tuple[int, ...], classes: int) -> Any:
    """Return linear layers of these widths and one for the classes, with ReLU and dropout between.

    Args:
        width: Of the features.
        widths: Of all layers but the last.
        classes: The width of the last.
    """
    from torch import nn

    layers: list[nn.Module] = []
    for outputs in widths:
        layers += [nn.Linear(width, outputs), nn.ReLU(), nn.Dropout(0.2)]
        width = outputs
    return nn.Sequential(*layers, nn.Linear(width, classes))


def train_epoch(head: Any, optimizer: Any, rows: Any, labels: Any, batch_size: int) -> None:
    """Train for one epoch over features (n, width) and labels (n,), in a random order."""
    import torch
    from torch import nn

    head.train()
    for index in torch.randperm(len(labels)).split(batch_size):
        loss = nn.functional.cross_entropy(head(rows[index]), labels[index])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def top1(head: Any, rows: Any, labels: Any) -> float:
    """Return the share of features (n, width) that are given their labels (n,)."""
    import torch

    head.eval()
    with torch.no_grad():
        return float((head(rows).argmax(1) == labels).float().mean())
