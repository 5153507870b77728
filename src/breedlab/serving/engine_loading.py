"""Load the engine that an archive's answers come from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from breedlab.errors import ServingError
from breedlab.serving.engines import (
    EAGER,
    MODULE,
    OPENVINO,
    Choice,
    Eager,
    Engine,
    OpenVino,
    Unusable,
    probe,
)

_OTHER = "BL510"
_FAR = 0.2
"""Relative distance from the exported scores of the probe that no processor's arithmetic
explains."""
_log = logging.getLogger(__name__)


def load_engine(
    folder: Path,
    recorded: Mapping[str, Any] | None,
    network: nn.Module,
    device: torch.device,
    name: str | None,
    width: int | None = None,
) -> Engine:
    """Return the engine that an archive was exported with, or PyTorch, with a warning, where that
    cannot run.

    Args:
        folder: The archive's content.
        recorded: `engine` of its model.json; None means the module as it is.
        network: The module, on the device.
        device: On a GPU, PyTorch answers unless `name` is `openvino`.
        name: `eager` or `openvino` to get that one and no other.
        width: How many numbers it returns per image; by default as many as the exported scores of
            the probe.

    Raises:
        ServingError: If the engine wanted is not in the archive, or cannot run.
    """
    choice = MODULE if recorded is None else Choice(recorded["name"], recorded["precision"])
    if name == OPENVINO and choice.engine != OPENVINO:
        raise ServingError(
            "this model was exported without an OpenVINO engine; export it with"
            " serving.engine=openvino, or ask for eager"
        )
    if (
        recorded is None
        or choice.engine == EAGER
        or name == EAGER
        or (device.type != "cpu" and name is None)
    ):
        return Eager(network, device, choice.precision if choice.engine == EAGER else "fp32")
    try:
        engine = _made(choice, folder, recorded)
        _refuse_other_scores(
            engine, torch.tensor(recorded["probe"]["scores"]), recorded["probe"]["side"], width
        )
    except Unusable as reason:
        maker = f"openvino=={recorded['openvino']}" if choice.engine == OPENVINO else choice.engine
        message = f"{recorded['file']} cannot be used here: {reason}; it was made by {maker}"
        if name == OPENVINO:
            raise ServingError(message, code=reason.code) from reason
        _log.warning("%s. PyTorch answers instead, slower.", message)
        return Eager(network, device, "fp32")
    return engine


def _made(choice: Choice, folder: Path, recorded: Mapping[str, Any]) -> Engine:
    if choice.engine == OPENVINO:
        return OpenVino(folder / recorded["file"], choice.precision)
    try:  # not at the top: only an archive with such an engine needs pydantic where it is served
        from breedlab.serving.engine_kinds import AddedEngine
    except ImportError as error:
        raise Unusable(
            f"{choice.engine} is the engine of a plugin, which is not here ({error})"
        ) from error
    return AddedEngine(choice, folder / recorded["file"], recorded.get("settings", {}))


def _refuse_other_scores(
    engine: Engine, exported: torch.Tensor, side: int, width: int | None
) -> None:
    """Refuse a file that was replaced or damaged, or arithmetic that goes wrong on this machine."""
    scores = engine.scores(probe(side))[0]
    expected = len(exported) if width is None else width
    if scores.shape != (expected,):
        what = (
            f"classes and {expected - len(exported)} features"
            if expected > len(exported)
            else "classes"
        )
        raise Unusable(
            f"it gives {len(scores)} scores; this model has {len(exported)} {what}", code=_OTHER
        )
    if not (scores[: len(exported)] - exported).norm() <= _FAR * exported.norm():
        raise Unusable("its scores are not those that it was exported with", code=_OTHER)
