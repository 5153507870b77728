"""An exported model, loaded from an archive's content. The endpoint, `predict`, `evaluate` and the
public API use the same."""

from __future__ import annotations

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from breedlab.data.decode import decode
from breedlab.data.transforms import EvalTransform
from breedlab.errors import BreedlabError, MissingExtra, ServingError
from breedlab.models import backbone as backbones
from breedlab.models.classifier import MLP, Architecture, Classifier
from breedlab.models.novelty import WithFeatures, read_novelty
from breedlab.serving.answers import read_answers
from breedlab.serving.description import read_description
from breedlab.serving.engine_kinds import Engine
from breedlab.serving.engine_loading import load_engine
from breedlab.serving.engine_output import WrappedEngine, calibrated, mirrored
from breedlab.serving.fetch import Fetcher, allowed_from

_LAST_LAYER = 100_000_000
"""The most parameters of the layers that are cut off: ImageNet-22k's classes, with the widest
features."""
_WEIGHTS = "BL508"
_PUBLIC = ("experiment", "run", "started", "git", "test", "test_intervals")
"""The public part of the lineage. A run is named by its time, not by its path."""


def _architecture(shape: dict[str, Any]) -> Architecture:
    try:
        return Architecture(**shape)
    except TypeError as error:
        # A field that changes what the network answers must not be ignored
        names = {one.name for one in fields(Architecture)}
        more = ", ".join(sorted(set(shape) - names)) or str(error)
        raise ServingError(
            f"model.json: architecture has what this breedlab does not know ({more}); upgrade",
            code="BL507",
        ) from error


def _weights(file: Path, architecture: Architecture) -> dict[str, torch.Tensor]:
    """Return the tensors of a file after checking that they belong to the described head, with
    whose widths the network is built."""
    try:
        weights = load_file(str(file))
    except FileNotFoundError as error:
        raise ServingError(
            f"{file.name}: is missing; export the model again", code=_WEIGHTS
        ) from error
    # For a damaged file safetensors raises its own errors, and OSError, ValueError, KeyError.
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise ServingError(
            f"{file.name}: is damaged or no safetensors file ({reason}); export it again",
            code=_WEIGHTS,
        ) from error
    heads = [
        value.shape[0]
        for name, value in weights.items()
        if name.startswith("head.") and value.ndim == 2
    ]
    if architecture.head_type == MLP and sorted(heads) != sorted(
        (*architecture.head, architecture.classes)
    ):
        widths = [*architecture.head, architecture.classes]
        raise ServingError(
            f"{file.name}: its head has layers of {heads[:9]}; model.json says {widths[:9]}",
            code=_WEIGHTS,
        )
    return weights


def _refuse_a_giant(architecture: Architecture, weights: dict[str, torch.Tensor]) -> None:
    """Raise if a few numbers come with the name of a network of billions, before memory is taken
    for those."""
    here = sum(value.numel() for value in weights.values())
    expected = backbones.parameters_of(architecture.name, architecture.tag)
    # which the archive's network lacks
    if expected is not None and expected > 2 * here + _LAST_LAYER:
        raise ServingError(
            f"model.safetensors: holds {here:,} numbers; {architecture.name} has some {expected:,};"
            " export it again",
            code=_WEIGHTS,
        )


def _load(network: Classifier, weights: dict[str, torch.Tensor]) -> None:
    """Load weights that are the network's in name, shape and type, and all of them numbers."""
    own = network.state_dict()
    wrong = [f"lacks {name}" for name in own if name not in weights]
    wrong += [f"has {name}, which the network lacks" for name in weights if name not in own]
    for name, value in weights.items():
        if name in own and (value.shape, value.dtype) != (own[name].shape, own[name].dtype):
            actual, expected = (
                (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for t in (value, own[name])
            )
            wrong.append(f"{name} is {actual}; expected {expected}")
        elif value.is_floating_point() and not value.isfinite().all():
            wrong.append(f"{name} holds NaN or infinity")
    if wrong:
        more = f" and {len(wrong) - 2} more" if len(wrong) > 2 else ""
        raise ServingError(
            f"model.safetensors: {'; '.join(wrong[:2])}{more}; export the model again",
            code=_WEIGHTS,
        )
    network.load_state_dict(weights)


class Model:
    """An exported model, ready to look at images.

    Args:
        folder: An archive's content, unpacked.
        device: Where to compute; a GPU if there is one, else the CPU.
        engine: `eager` or `openvino`, instead of the one that the archive was exported with.

    Attributes:
        classes: Names in the order of the scores.
        lineage: Where the model comes from.
        network: The PyTorch module, whatever engine answers.
        served: What engines compute: the network, with its features if the archive detects unknown
            images.
        answers: What is made of its scores.
        engine: What computes them, calibrated: see `engine_output.calibrated`.
        fetch: Gets images by their address, under the rules of the archive's `allow_urls`.

    Raises:
        ServingError: If the archive is another version's, or `engine` names one that cannot run.
    """

    def __init__(
        self, folder: Path, device: torch.device | None = None, engine: str | None = None
    ) -> None:
        description = read_description(folder)
        shape, transform = description["architecture"], description["transform"]
        self.classes: tuple[str, ...] = tuple(description["classes"])
        self.lineage: dict[str, Any] = description["lineage"]
        self.fetch = Fetcher(allowed_from(description.get("allow_urls", "none")))
        self.transform = EvalTransform(
            **{**transform, "mean": tuple(transform["mean"]), "std": tuple(transform["std"])}
        )
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        architecture = _architecture(
            {k: tuple(v) if isinstance(v, list) else v for k, v in shape.items()}
        )
        weights = _weights(folder / "model.safetensors", architecture)
        _refuse_a_giant(architecture, weights)
        try:
            network = Classifier(
                architecture,
                backbones.build(architecture.name, tag=architecture.tag),
                side=self.transform.crop,
            )
        except MissingExtra:  # which says all there is to do
            raise
        except BreedlabError as error:
            plugin = (
                "; if a plugin brings it, name it, plugins=[my_package], or open the model by its"
                " run directory, which does"
            )
            hint = plugin if error.code == "BL103" else ""
            raise ServingError(
                f"model.json: its network cannot be built here ({error}){hint}", code="BL507"
            ) from error
        _load(network, weights)
        self.network = network.to(self.device).to(memory_format=torch.channels_last).eval()
        recorded, count = description.get("answers", {}), len(self.classes)
        self.served: torch.nn.Module = self.network
        novelty, width = None, None
        if unknown := recorded.get("unknown"):
            novelty = read_novelty(folder, unknown["method"], unknown["width"])
            self.served, width = WithFeatures(self.network).eval(), count + novelty.width
        self.answers = read_answers(recorded, count, novelty)
        self._uncalibrated: Engine = load_engine(
            folder, description.get("engine"), self.served, self.device, engine, width
        )
        if self.answers.flip_tta:
            self._uncalibrated = WrappedEngine(self._uncalibrated, mirrored)
        self.engine = WrappedEngine(self._uncalibrated, partial(calibrated, answers=self.answers))

    def public_lineage(self) -> dict[str, Any]:
        """Return the public part of the lineage: no path, no command line, no machine."""
        public = {name: self.lineage[name] for name in _PUBLIC if name in self.lineage}
        packages, data = self.lineage.get("packages"), self.lineage.get("data")
        if isinstance(packages, dict) and "breedlab" in packages:
            public["breedlab"] = packages["breedlab"]
        if isinstance(data, dict) and "photos" in data:
            public["data"] = {"photos": data["photos"]}
        return {**public, "architecture": self.network.architecture.name}

    def prepare(self, image: bytes) -> torch.Tensor:
        """Decode and transform an image for the network: uint8 (3, side, side).

        Raises:
            ImageError: If they are not a usable image.
        """
        return self.transform(decode(image))

    def scores(self, images: torch.Tensor) -> torch.Tensor:
        """Return the calibrated logits, or a multi-label model's probabilities, (n, classes) on
        the CPU, of uint8 images (n, 3, side, side)."""
        return self.engine.scores(images)[:, : len(self.classes)]

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return the calibrated logits (n, classes) on the CPU, also of a multi-label model."""
        return self._uncalibrated.scores(images)[:, : len(self.classes)] / self.answers.temperature

    def describe(self, images: torch.Tensor) -> list[dict[str, Any]]:
        """Return each image's answer besides its scores: `probabilities`, and `labels`, `set`, and
        `unknown` as in `Answers.fields`."""
        descriptions = []
        for row in self.engine.scores(images):
            scores = row[: len(self.classes)]
            probabilities = (scores if self.answers.multi_label else scores.softmax(0)).tolist()
            distance = float(row[-1]) if self.answers.unknown is not None else None
            descriptions.append(
                {"probabilities": probabilities, **self.answers.fields(probabilities, distance)}
            )
        return descriptions
