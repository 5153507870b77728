"""What becomes of an engine's numbers before anybody reads them: `answers` of model.json.

An archive of an older version has no such field, and answers with what its engine computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from breedlab.serving.engines import Compute, Engine


class CalibratedEngine:
    """An engine whose scores are divided by a temperature, so that their softmax is as sure as it is right.

    The order of a photo's scores stays as it is.

    Args:
        engine: What computes the scores.
        temperature: Greater than 0.
    """

    def __init__(self, engine: Engine, temperature: float) -> None:
        self.choice = engine.choice
        self._engine, self._temperature = engine, temperature

    def scores(self, photos: torch.Tensor) -> torch.Tensor:
        return self._calibrated(self._engine.scores)(photos)

    def split(self) -> list[Compute]:
        return [self._calibrated(compute) for compute in self._engine.split()]

    def _calibrated(self, compute: Callable[[torch.Tensor], torch.Tensor]) -> Compute:
        return lambda photos: compute(photos) / self._temperature


def with_answers(engine: Engine, recorded: Mapping[str, Any]) -> Engine:
    """Return an engine that answers as an archive's `answers` say.

    Args:
        engine: What computes the scores.
        recorded: From model.json; empty in an archive of an older version.
    """
    temperature = float(recorded.get("temperature", 1.0))
    return engine if temperature == 1.0 else CalibratedEngine(engine, temperature)
