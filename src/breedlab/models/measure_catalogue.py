"""Write catalogue.json from the installed torchvision: `python -m
breedlab.models.measure_catalogue`."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict

import torch
from torchvision import models

from breedlab.catalogue import FILE, Entry
from breedlab.models.backbone import cut_last_layer


def measure() -> dict[str, Entry]:
    """Return the catalogue of the installed torchvision, building its networks without allocating
    memory."""
    entries = {}
    for name in models.list_models(module=models):
        try:
            with torch.device("meta"):
                network = models.get_model(name, weights=None)
        except NotImplementedError:  # RegNets compute their widths with tensors
            network = models.get_model(name, weights=None)
        parameters = sum(p.numel() for p in network.parameters())
        weights = tuple(sorted(models.get_model_weights(name).__members__))
        entries[name] = Entry(parameters, cut_last_layer(network), weights)
    return entries


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    lines = (
        f"  {json.dumps(name)}: {json.dumps(asdict(entry))}"
        for name, entry in sorted(measure().items())
    )
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
