"""What is measured of each engine that an archive could answer with, and which was taken."""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from typing import Any

import torch

from breedlab.models.ranking import Timing
from breedlab.serving.engine_kinds import Choice, Engine


@dataclass
class Candidate:
    """What was found out about one engine.

    Attributes:
        choice: Which it is.
        engine: Ready to compute; None if it is not available.
        milliseconds: By the images in a batch: one image's share of its time.
        timing: Every round of it.
        agreement: Share of the compared images with the module's class, or with all of its labels
            and no other; None if it was not asked.
        labels: Its answers to the compared images as `Answers.decided`, likewise.
        right: Share of the validation images with the true class, or labels; None also where test
            images were compared.
        multi_label: Whether they may have several.
        objection: What speaks against it, else empty.
        remark: What is unusual about it, else empty.
        is_winner: Whether it is the one.
        speedup: Over the module: the median of the rounds, and their quartiles.
    """

    choice: Choice
    engine: Engine | None = None
    milliseconds: dict[int, float] = field(default_factory=dict)
    timing: Timing = field(default_factory=Timing)
    agreement: float | None = None
    labels: torch.Tensor | None = None
    right: float | None = None
    multi_label: bool = False
    objection: str = ""
    remark: str = ""
    is_winner: bool = False
    speedup: tuple[float, float, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        remarks = ["taken" if self.is_winner else "", self.remark, self.objection]
        return {
            "engine": self.choice.engine,
            "precision": self.choice.precision,
            "milliseconds": {str(size): round(ms, 3) for size, ms in self.milliseconds.items()},
            "speedup": self.speedup and [round(factor, 2) for factor in self.speedup],
            "agreement": self.agreement,
            "exact" if self.multi_label else "top1": self.right,
            "verdict": ", ".join(filter(None, remarks)),
        }


@dataclass(frozen=True)
class Selection:
    """The engine that was taken, and what was measured.

    Attributes:
        choice: The engine.
        candidates: All that were looked at, the module first; none if there was nothing to choose.
        images: How many images they were compared on.
        compared_on: The split of these: `valid`, or `test` after a refit.
        calibration: Training images that int8 was made with.
        test_right: What the engine taken answers right, of images that decided nothing.
        multi_label: Whether the images may have several labels.
    """

    choice: Choice
    candidates: tuple[Candidate, ...] = ()
    images: int = 0
    compared_on: str = "valid"
    calibration: int = 0
    test_right: float | None = None
    multi_label: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain data for metrics.json and model.json."""
        return {
            "engine": self.choice.engine,
            "precision": self.choice.precision,
            "candidates": [candidate.as_dict() for candidate in self.candidates],
            "photos": {
                "test" if self.compared_on == "test" else "validation": self.images,
                "calibration": self.calibration,
            },
            "test_exact" if self.multi_label else "test_top1": self.test_right,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        }
