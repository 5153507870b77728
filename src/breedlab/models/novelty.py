"""How unlike the training images an image is, by the features that the network sees in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from breedlab.errors import ServingError
from breedlab.models.classifier import Classifier

FILE = "unknown.safetensors"
NEAREST, MAHALANOBIS = "nearest", "mahalanobis"
METHODS = (NEAREST, MAHALANOBIS)
NEIGHBORS = 5
_ARRAYS = {NEAREST: {"features"}, MAHALANOBIS: {"means", "whitening"}}


class WithFeatures(nn.Module):
    """A classifier that gives its features, too: from images to (n, classes + width), the logits
    first."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.classifier.backbone(self.classifier.normalized(images))
        return torch.cat([self.classifier.head(features), features], 1)


@dataclass(frozen=True)
class Novelty:
    """The distance of features from those of the training images.

    Attributes:
        method: `nearest`, the mean cosine distance to the nearest training images (Sun et al.
            2022), or `mahalanobis`, the distance to the nearest class mean under the classes'
            common covariance (Lee et al. 2018).
        arrays: Of `nearest` the training images' normalized `features` (n, width); of `mahalanobis`
            the `means` (classes, width) and the `whitening` (width, width), by which both sides are
            multiplied.
    """

    method: str
    arrays: Mapping[str, torch.Tensor]

    @property
    def width(self) -> int:
        """Number of features of an image."""
        return int(next(iter(self.arrays.values())).shape[1])

    def distance(self, features: torch.Tensor) -> torch.Tensor:
        """Return how unlike the training images each image is (n,), of its features (n, width)."""
        features = features.float()
        if self.method == NEAREST:
            training = self.arrays["features"].float()
            likeness = nn.functional.normalize(features, dim=1) @ training.T
            return 1 - likeness.topk(min(NEIGHBORS, len(training)), dim=1).values.mean(1)
        whitening = self.arrays["whitening"]
        distances = torch.cdist(
            features @ whitening, self.arrays["means"], compute_mode="donot_use_mm_for_euclid_dist"
        )
        return distances.min(1).values

    def write(self, folder: Path) -> None:
        """Write its arrays into an archive's content."""
        save_file(
            {name: array.contiguous() for name, array in self.arrays.items()}, str(folder / FILE)
        )


def read_novelty(folder: Path, method: str, width: int) -> Novelty:
    """Return what an archive's content holds.

    Args:
        folder: The content.
        method: From its model.json.
        width: Of the network's features.

    Raises:
        ServingError: If the file is missing, or not of this network.
    """
    try:
        arrays = load_file(str(folder / FILE))
    # For a damaged file safetensors raises its own errors, and OSError, ValueError, KeyError.
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise ServingError(
            f"{FILE}: is missing or damaged ({reason}); export the model again"
        ) from error
    fits = arrays.keys() == _ARRAYS[method] and all(
        array.ndim == 2
        and array.shape[1] == width
        and len(array) > 0
        and bool(array.isfinite().all())
        for array in arrays.values()
    )
    if not fits or (method == MAHALANOBIS and len(arrays["whitening"]) != width):
        raise ServingError(
            f"{FILE}: does not hold what model.json says ({method}, {width} features); export it"
            " again"
        )
    if method == NEAREST:
        arrays = {"features": arrays["features"].float()}
    return Novelty(method, arrays)
