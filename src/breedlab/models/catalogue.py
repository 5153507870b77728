"""torchvision's classifiers as data, so that a typo is found and a plan is made without importing torch.

`python -m breedlab.models.catalogue` writes catalogue.json anew from the torchvision that is installed.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

_FILE = Path(__file__).with_name("catalogue.json")


@dataclass(frozen=True)
class Entry:
    """One classifier.

    Attributes:
        parameters: How many it has, with ImageNet's last layer.
        features: Width of what its last layer reads.
        weights: Names of its weights.
    """

    parameters: int
    features: int
    weights: tuple[str, ...]


@cache
def catalogue() -> dict[str, Entry]:
    """Every torchvision classifier by name."""
    read = json.loads(_FILE.read_text())
    return {name: Entry(e["parameters"], e["features"], tuple(e["weights"])) for name, e in read.items()}


def lookup(name: str) -> Entry | None:
    """A classifier's entry, None for timm's."""
    return catalogue().get(name)


def measure() -> dict[str, Entry]:
    """The catalogue of the torchvision that is installed; the networks are built without memory."""
    import torch
    from torchvision import models

    from breedlab.models.backbone import cut_last_layer

    found = {}
    for name in models.list_models(module=models):
        try:
            with torch.device("meta"):
                network = models.get_model(name, weights=None)
        except NotImplementedError:  # RegNets compute their widths with tensors
            network = models.get_model(name, weights=None)
        parameters = sum(p.numel() for p in network.parameters())
        weights = tuple(sorted(models.get_model_weights(name).__members__))
        found[name] = Entry(parameters, cut_last_layer(network), weights)
    return found


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    lines = (f"  {json.dumps(name)}: {json.dumps(asdict(entry))}" for name, entry in sorted(measure().items()))
    _FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
