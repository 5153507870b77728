"""Load the engine that an archive's answers come from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from breedlab.errors import ServingError
from breedlab.registry import ENGINES
from breedlab.serving.engine_kinds import EAGER, MODULE, OPENVINO, Choice, Engine, Unusable
from breedlab.serving.engines.eager import EagerEngine

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
        return EagerEngine(network, device, choice.precision if choice.engine == EAGER else "fp32")
    try:
        engine = open_engine(choice, folder / recorded["file"], recorded.get("settings", {}))
        _refuse_other_scores(
            engine, torch.tensor(recorded["probe"]["scores"]), recorded["probe"]["side"], width
        )
    except Unusable as reason:
        maker = ", ".join(_makers(choice, recorded))
        message = f"{recorded['file']} cannot be used here: {reason}; it was made by {maker}"
        if name == OPENVINO:
            raise ServingError(message, code=reason.code) from reason
        _log.warning("%s. PyTorch answers instead, slower.", message)
        return EagerEngine(network, device, "fp32")
    return engine


def open_engine(choice: Choice, file: Path, settings: Mapping[str, object]) -> Engine:
    """Return the engine of a file that was exported for it.

    Args:
        choice: Which it is, and in what it computes.
        file: What its `export` wrote.
        settings: The engine's own, if it has any.

    Raises:
        Unusable: If it is not registered here, or does not take the file.
    """
    if choice.engine not in ENGINES.names():
        raise Unusable(
            f"{choice.engine} is the engine of a plugin that is not imported here; name it:"
            " plugins=[my_package]"
        )
    try:
        engine: Engine = ENGINES.get(choice.engine)(**settings).engine(choice, file)
        return engine
    except Unusable:
        raise
    except Exception as error:  # whatever the engine's library raises
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise Unusable(f"{choice.engine} does not take it ({reason})") from error


def probe(side: int) -> torch.Tensor:
    """Return a reproducible image (1, 3, side, side): waves in three directions, in integers. By
    its scores another machine knows that its engine computes the same."""
    place = 1024 * torch.arange(side) // side
    rows, columns = place[:, None], place[None, :]
    waves = torch.stack([2 * rows + columns, rows + 3 * columns, 5 * rows - 2 * columns]) % 510
    return (waves - 255).abs().to(torch.uint8)[None]


def _makers(choice: Choice, recorded: Mapping[str, Any]) -> list[str]:
    """Return the packages that made an engine's file, or the engine's name."""
    if "openvino" in recorded:  # by breedlab 0.1 before it wrote `requirements`
        return [f"openvino=={recorded['openvino']}"]
    return recorded.get("requirements") or [choice.engine]


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
