"""The servers that are measured, each started as its documentation advises, around the same model and decoding."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from _harness import CACHE, ROOT, say

CLASSES = 133


@dataclass(frozen=True)
class Served:
    """A server that runs: where, and in which form it takes a photo."""

    port: int
    path: str
    kind: str
    files: list[Path]


def exported(network: str = "resnet34", classes: int = CLASSES) -> Path:
    """An archive's content with random weights, made once."""
    folder = CACHE / f"exported-{network}-{classes}"
    if not (folder / "model.json").exists():
        import torch

        from breedlab.data.transforms import EvalTransform
        from breedlab.models import backbone
        from breedlab.models.classifier import Architecture, Classifier
        from breedlab.serving.archive import write_folder

        torch.manual_seed(0)
        shape = Architecture(name=network, classes=classes, head=(512, 256), dropout=0.2, **_statistics())
        transform = EvalTransform(256, 224, "bilinear", shape.mean, shape.std)
        classifier = Classifier(shape, backbone.build(network), side=224).eval()
        folder.mkdir(parents=True, exist_ok=True)
        write_folder(folder, classifier, transform, tuple(f"breed {n}" for n in range(classes)), {"run": "benchmark"})
    return folder
