"""int8 again where plain int8 answered too differently: the layers that lose most stay in fp32.

NNCF ranks the layers by what their rounding changes, and sets one at a time back until few
enough validation images are answered differently. The gate (`engine_gate`) then judges it as it
judged the plain one.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from breedlab.console import note, progress, warn
from breedlab.serving import openvino_export
from breedlab.serving.answers import Answers
from breedlab.serving.engine_candidates import Candidate
from breedlab.serving.engine_gate import most_differing
from breedlab.serving.engine_output import calibrated
from breedlab.serving.engines.openvino import OpenVinoEngine

MOST_IMAGES = 300
"""Validation images that are used for control: each is answered once for every layer."""
_RANKED_BY = 100
"""Images that layers are ranked by."""
_MOST_LAYERS = 20
"""The most layers to set back; a network that needs more has little left to gain."""
PATIENCE_S = 300.0
"""How long the search for them may take: minutes for ResNet34 on two cores. NNCF has no limit
of its own, and the export waits for it."""


def restore_accuracy(
    candidate: Candidate,
    graph: Any,
    file: Path,
    calibration: torch.Tensor,
    validation: torch.Tensor,
    decided: torch.Tensor,
    answers: Answers,
) -> bool:
    """Make an int8 engine anew, with the layers that lose most in fp32.

    Args:
        candidate: OpenVINO in int8, which the gate refused; gets the engine.
        graph: Of the network, in fp32.
        file: The graph's .xml, which is overwritten.
        calibration: Training images, uint8 (n, 3, side, side).
        validation: Images that decide, likewise.
        decided: What the module answers to these, as `Answers.decided`.
        answers: Of the model.

    Returns:
        Whether there is a new engine.
    """
    note(f"{candidate.choice} {candidate.objection}: again, what loses most in fp32")
    try:
        with progress("finding the layers that lose most in int8"):
            controlled = _controlled(graph, calibration, validation, decided, answers)
            openvino_export.write_graph(controlled, file, halves=False)
            candidate.engine = OpenVinoEngine(file, "int8")
    except Exception as error:  # of any kind: the plain engine was refused already
        reason = " ".join(str(error).split())[:120]
        warn(f"{candidate.choice} is unchanged: its layers cannot be reverted ({reason})")
        return False
    candidate.remark = "the layers that lose most in fp32"
    return True


def _controlled(
    graph: Any,
    calibration: torch.Tensor,
    validation: torch.Tensor,
    decided: torch.Tensor,
    answers: Answers,
) -> Any:
    """Return the graph in int8, as far as its answers allow."""

    def image(pair: tuple[torch.Tensor, torch.Tensor]) -> Any:
        return openvino_export.as_input(pair[0])

    began = time.monotonic()

    def agreement(compiled: Any, pairs: Iterable[Any]) -> tuple[float, None]:
        """Return the share of equal answers, of all pairs or of those that layers are ranked by.

        Raises:
            TimeoutError: If the search takes too long; NNCF asks this for every layer.
        """
        if time.monotonic() - began > PATIENCE_S:
            raise TimeoutError(f"the search took more than {PATIENCE_S / 60:g} minutes")
        images = list(pairs)
        compute = calibrated(
            lambda one: torch.from_numpy(compiled(openvino_export.as_input(one))[0]), answers
        )
        scores = torch.cat([compute(one) for one, _ in images])
        same = answers.decided(scores) == torch.stack([one for _, one in images])
        return float((same if same.ndim == 1 else same.all(1)).double().mean()), None

    with openvino_export.quantizing() as nncf:
        return nncf.quantize_with_accuracy_control(
            graph,
            calibration_dataset=nncf.Dataset([*calibration], openvino_export.as_input),
            validation_dataset=nncf.Dataset([*zip(validation, decided, strict=True)], image),
            validation_fn=agreement,
            max_drop=most_differing(len(validation)),
            drop_type=nncf.DropType.ABSOLUTE,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(calibration),
            advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
                max_num_iterations=_MOST_LAYERS,
                ranking_subset_size=min(_RANKED_BY, len(validation)),
            ),
        )
