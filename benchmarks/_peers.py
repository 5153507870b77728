"""What we are measured against: the code that most people write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


def make_head(classes: int) -> Any:
    """The head of `conf/model/resnet34.yaml`, on ResNet34's 512 features."""
    from torch import nn

    return nn.Sequential(
        nn.Dropout(0.2),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(512, 256),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(256, classes),
    )


def usual_view() -> list[Any]:
    """An image as every tutorial prepares it, LitServe's and TorchServe's among them, up to what
    makes it a tensor."""
    from torchvision import transforms

    return [transforms.Resize(256), transforms.CenterCrop(224)]


def usual_image() -> Callable[[bytes], Any]:
    """From an encoded image to uint8 (3, 224, 224), for a network that normalizes by itself, as
    ours does."""
    import io

    from PIL import Image
    from torchvision import transforms

    view = transforms.Compose([*usual_view(), transforms.PILToTensor()])

    def prepare(content: bytes) -> Any:
        return view(Image.open(io.BytesIO(content)).convert("RGB"))

    return prepare


def usual_epoch(root: Path, batch_size: int, classes: int) -> None:
    """One epoch of training and validation with a frozen ResNet34, as tutorials have it.

    Its parameters are frozen by `requires_grad`, so `model.train()` still moves its BatchNorm; fp32
    throughout.
    """
    import os

    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from torchvision import datasets, models, transforms

    from breedlab.console import progress

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    normalize = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    view = transforms.Compose([*usual_view(), transforms.ToTensor(), normalize])
    loaders = {
        split: DataLoader(
            datasets.ImageFolder(str(root / split), view),
            batch_size=batch_size,
            shuffle=split == "train",
            num_workers=min(os.cpu_count() or 1, 8),  # as ours
            pin_memory=torch.cuda.is_available(),
        )
        for split in ("train", "valid")
    }
    model = models.resnet34(weights=None)
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.fc = make_head(classes)
    model.to(device)
    optimizer = torch.optim.AdamW(model.fc.parameters(), lr=0.001)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    with progress("the usual way") as report:
        model.train()
        done, total = 0, sum(len(loader.dataset) for loader in loaders.values())
        for images, labels in loaders["train"]:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            criterion(model(images), labels).backward()
            optimizer.step()
            done += len(labels)
            report(done, total)
        model.eval()
        hits = 0
        with torch.no_grad():
            for images, labels in loaders["valid"]:
                hits += int((model(images.to(device)).argmax(1) == labels.to(device)).sum())
                done += len(labels)
                report(done, total)


def bare_trial(
    activations: Any, classes: int, batch_size: int, epochs: int, device: Any
) -> Callable[[], None]:
    """A head trained on tensors by nothing but PyTorch: fused AdamW, fp32, accuracy each epoch."""
    import torch
    from torch import nn

    train, labels = activations.train[0].float().to(device), activations.labels.to(device)
    valid, valid_labels = activations.valid.float().to(device), activations.valid_labels.to(device)

    def trial() -> None:
        head = make_head(classes).to(device)
        optimizer = torch.optim.AdamW(head.parameters(), lr=0.001, fused=True)
        criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
        for _ in range(epochs):
            head.train()
            for index in torch.randperm(len(labels), device=device).split(batch_size):
                loss = criterion(head(train[index]), labels[index])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            head.eval()
            with torch.no_grad():
                float((head(valid).argmax(1) == valid_labels).float().mean())

    return trial
