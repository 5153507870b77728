"""Weights from files, whatever wraps them and whatever their names' prefix is; a network takes all
of them or none.

Everything is read as plain data; nothing in a file is run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from breedlab.errors import BackboneError, BreedlabError, ConfigError

CARD = "breedlab"
"""The key in a checkpoint of ours for what `model.json` says in an archive."""

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "network", "net")
"""Keys under which training scripts save the state dict, next to optimizer and epoch; the first one
found is used."""
_COUNTER = "num_batches_tracked"  # older files lack it, and no result depends on it


@dataclass(frozen=True)
class StoredWeights:
    """What was read from a file.

    Attributes:
        path: The file.
        tensors: By name, as they are in it.
        card: What a checkpoint or an archive of ours says of its model: `architecture`, `classes`,
            `transform`, `lineage`; empty for a file from elsewhere.
    """

    path: Path
    tensors: dict[str, Tensor]
    card: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Loaded:
    """What a network took from a file, and what was left.

    Attributes:
        path: The file.
        card: As in `StoredWeights`.
        prefix: What the names in the file began with.
        left_out: Names in the file that the network has no use for: its last layers.
        head: Our own head's tensors by their name in it; empty if the file is not one of ours.
    """

    path: Path
    card: dict[str, Any]
    prefix: str
    left_out: tuple[str, ...]
    head: dict[str, Tensor]


def read(path: Path) -> StoredWeights:
    """Read a safetensors file, a state dict, a checkpoint, or an archive that breedlab exported.

    Raises:
        ConfigError: If the file is missing, is none of these, or holds more than plain data.
    """
    if not path.is_file():
        raise BackboneError(f"model.weights: {path} does not exist")
    if path.name.endswith((".tar.gz", ".tgz")):
        return _read_archive(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise BackboneError(
            f"model.weights: {path} holds Python objects, not plain tensors alone, and is not"
            " loaded; save the weights by themselves: torch.save(model.state_dict(),"
            " 'weights.pth')"
        ) from error
    except Exception as error:  # torch raises no specific error for a damaged file
        raise BackboneError(
            f"model.weights: {path} cannot be read ({_one_line(error)}); expected a state dict that"
            " torch.save wrote, a .safetensors file, or a model.tar.gz"
        ) from error
    tensors = _state_dict(content)
    if not tensors:
        raise BackboneError(
            f"model.weights: {path} holds no tensors by name; expected a state dict"
        )
    card = content.get(CARD) if isinstance(content, Mapping) else None
    return StoredWeights(path, tensors, _checked_card(path, card) if card else {})


def load(network: nn.Module, stored: StoredWeights, name: str, last: Iterable[str]) -> Loaded:
    """Put stored weights into a network without its last layer, all of it or none.

    Args:
        network: Takes the weights; every tensor of it has to be in the file, in the same shape.
        stored: From `read`.
        name: The network's, for messages.
        last: How names of the whole network begin that the file may hold in addition: its
            classifier and side heads.

    Raises:
        ConfigError: If the file holds another network's weights, with what matched and what did
            not; or NaN or infinite values.
    """
    recorded = stored.card.get("architecture", {}).get("name", name)
    if recorded != name:
        raise BackboneError(
            f"model.weights: {stored.path} holds {recorded}, not {name}; set model.name={recorded}"
        )
    own = network.state_dict()
    prefix = _prefix(stored, own)
    theirs = {
        n.removeprefix(prefix): tensor
        for n, tensor in stored.tensors.items()
        if n.startswith(prefix)
    }
    missing = [n for n in own if n not in theirs and not n.endswith(_COUNTER)]
    reshaped = [n for n in own if n in theirs and theirs[n].shape != own[n].shape]
    tops = {n.partition(".")[0] for n in own}
    extra = [n for n in theirs if n not in own]
    foreign = [n for n in extra if n.partition(".")[0] in tops and not n.startswith(tuple(last))]
    if missing or reshaped or foreign:
        raise BackboneError(_misfit(stored, name, prefix, own, theirs, missing, reshaped, foreign))
    merged = {n: theirs.get(n, tensor) for n, tensor in own.items()}
    non_finite = [
        n for n, t in merged.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())
    ]
    if non_finite:
        raise BackboneError(
            f"model.weights: {stored.path} has NaN or infinite values in {len(non_finite)} of"
            f" {len(own)} tensors, such as {prefix}{non_finite[0]}; expected the weights of a"
            " training that did not diverge"
        )
    network.load_state_dict(merged)
    start = prefix.removesuffix("backbone.") + "head."
    head = {
        n.removeprefix(start): t.clone()
        for n, t in stored.tensors.items()
        if stored.card and n.startswith(start)
    }
    return Loaded(stored.path, stored.card, prefix, tuple(extra), head)


def _read_safetensors(path: Path) -> StoredWeights:
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except Exception as error:  # safetensors raises a single error, and OSError occurs, too
        raise BackboneError(
            f"model.weights: {path} is not a whole safetensors file ({_one_line(error)})"
        ) from error
    beside = path.with_name("model.json")
    return StoredWeights(
        path, tensors, _card_in(beside) if path.name == "model.safetensors" else {}
    )


def _read_archive(path: Path) -> StoredWeights:
    from breedlab.archives import opened

    try:
        with opened(path) as folder:
            file = folder / "model.safetensors"
            if not file.is_file():
                raise BackboneError(
                    f"model.weights: {path} holds no model.safetensors; expected breedlab's"
                    " model.tar.gz"
                )
            inner = _read_safetensors(file)
    except ConfigError as error:
        raise error.reworded(str(error).replace(str(file.parent), str(path))) from error
    except BreedlabError as error:
        raise BackboneError(f"model.weights: {error}") from error
    return StoredWeights(
        path, {name: tensor.clone() for name, tensor in inner.tensors.items()}, inner.card
    )


def _card_in(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        card = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(f"model.weights: {file} cannot be read ({_one_line(error)})") from error
    return _checked_card(file, card)


def _checked_card(path: Path, card: Any) -> dict[str, Any]:
    """Return a card's architecture, classes, transform, and lineage; raise ConfigError if one of
    the first three is missing or of a wrong type, since the file may come from anywhere."""

    def numbers(value: Any) -> bool:
        return (
            isinstance(value, list | tuple)
            and len(value) == 3
            and all(isinstance(v, int | float) for v in value)
        )

    rules: dict[str, Callable[[Any], bool]] = {
        "resize": lambda v: type(v) is int and 0 < v <= 4096,
        "crop": lambda v: type(v) is int and 0 < v <= 4096,
        "interpolation": lambda v: v in ("bilinear", "bicubic"),
        "mean": numbers,
        "std": lambda v: numbers(v) and min(v) > 0,
    }
    try:
        architecture, classes, transform = (
            card[key] for key in ("architecture", "classes", "transform")
        )
        whole = isinstance(architecture["name"], str) and all(isinstance(c, str) for c in classes)
        whole = whole and all(rule(transform[key]) for key, rule in rules.items())
    except (KeyError, TypeError):
        whole = False
    if not whole:
        raise BackboneError(
            f"model.weights: {path} describes no model of breedlab's: architecture, classes,"
            " transform"
        )
    lineage = card.get("lineage")
    return {
        "architecture": architecture,
        "classes": tuple(classes),
        "transform": {key: transform[key] for key in rules},
        "lineage": lineage if isinstance(lineage, dict) else {},
    }


def _state_dict(content: Any) -> dict[str, Tensor]:
    """Return the tensors by name in what torch.save wrote, one wrapper deep."""

    def tensors(value: Any) -> dict[str, Tensor]:
        if not isinstance(value, Mapping):
            return {}
        return {n: t for n, t in value.items() if isinstance(n, str) and isinstance(t, Tensor)}

    wrapped = (
        {key: tensors(value) for key, value in content.items()}
        if isinstance(content, Mapping)
        else {}
    )
    for key in _WRAPPERS:
        if wrapped.get(key):
            return wrapped[key]
    return tensors(content) or max(wrapped.values(), key=len, default={})


def _prefix(stored: StoredWeights, own: Mapping[str, Tensor]) -> str:
    """Return the most common prefix of the matching names, such as `module.` or `model.backbone.`;
    the first of ties."""
    votes: Counter[str] = Counter()
    for name in stored.tensors:
        parts = name.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in own:
                votes[".".join(parts[:start]) + ("." if start else "")] += 1
                break  # the longest name that fits
    return votes.most_common(1)[0][0] if votes else ""


def _misfit(
    stored: StoredWeights,
    name: str,
    prefix: str,
    own: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    missing: list[str],
    reshaped: list[str],
    foreign: list[str],
) -> str:
    fit = sum(n in theirs and theirs[n].shape == own[n].shape for n in own)
    reasons = []
    if missing:
        reasons.append(f"{len(missing)} are not in the file, such as {missing[0]}")
    if reshaped:
        first = reshaped[0]
        shapes = (
            f"{tuple(theirs[first].shape)} in the file, {tuple(own[first].shape)} in the network"
        )
        reasons.append(f"{len(reshaped)} have another shape, such as {first}: {shapes}")
    if foreign:
        reasons.append(f"{len(foreign)} of the file's fit nowhere, such as {prefix}{foreign[0]}")
    return (
        f"model.weights: {stored.path} does not hold this network's weights: {fit} of the"
        f" {len(own)} tensors of {name} match; {'; '.join(reasons)}. Expected the weights of"
        f" {name}: set model.name to the network of the file"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
