"""Which engine computes the frozen part of a network: PyTorch, or what is faster here and agrees
with it.

Frozen parts are inference, which OpenVINO and compiled PyTorch do several times faster than PyTorch
as it is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from breedlab import distributed
from breedlab.console import note, progress, warn
from breedlab.files import atomic_write_json, read_json_if_whole
from breedlab.models import openvino_core
from breedlab.models.classifier import Classifier
from breedlab.models.ranking import Timing, is_clearly_faster, speedup
from breedlab.training.feature_engines import Compiled, Eager, Engine, OpenVino

EAGER, OPENVINO, COMPILED = "eager", "openvino", "compiled"
FEWEST_IMAGES = 400
"""Images below which no engine is tried: PyTorch is done before another one is ready."""
LEAST_ALIKE = {"fp32": (0.999, 0.98), "bf16": (0.97, 0.85)}
"""The least cosine similarity with PyTorch's features and share of linear readouts alike. Two ways
of rounding to bf16 come to 0.99 and 0.93 on EfficientNet-Lite0; what a wrong engine does (swapped
channels, say) is far below."""
_WORTH_S = {OPENVINO: 15.0, COMPILED: 180.0}
"""How long PyTorch must need for the rest to make building another engine worthwhile."""
_READOUTS = 50
_BUDGET_S = 1.0
_SLOW_S = 0.3
"""A first batch that takes longer is timed on a part of it."""
_ROUNDS = (3, 10)
_RECORD = "feature_engines.json"


@dataclass(frozen=True)
class Choice:
    """An engine that was chosen, and why.

    Attributes:
        engine: `eager`, `openvino` or `compiled`.
        speedup: Over eager, on the first images.
        cosine: The least cosine similarity of an image's features with eager's.
        readout: The share of linear readouts with the same argmax as of eager's.
    """

    engine: str = EAGER
    speedup: float = 1.0
    cosine: float = 1.0
    readout: float = 1.0

    @property
    def versioned(self) -> str:
        """The engine as part of a cache's key; PyTorch's version is in there anyway."""
        return (
            f"{OPENVINO} {version('openvino')}"
            if self.engine == OPENVINO and _has_openvino()
            else self.engine
        )


class FeatureEngines:
    """The engines of a run: chosen once for each boundary, recorded, and the same when the run is
    resumed.

    Args:
        cache: The cache's folder, which remembers what was chosen here, for other runs.
        device: Where PyTorch computes.
        precision: `fp32` or `bf16`, for all engines alike.
        scope: Which of a run's networks these are for; empty for its own.

    Attributes:
        run: The run that records what was chosen, once there is one.
    """

    def __init__(self, cache: Path, device: torch.device, precision: str, scope: str = "") -> None:
        self._cache, self._device, self._precision, self._scope = cache, device, precision, scope
        self.run: Path | None = None
        self._ready: dict[tuple[str, str], Engine] = {}

    def begin(self, run: Path) -> None:
        """Record the choices of a run that begins."""
        self.run = run
        atomic_write_json(run / _RECORD, {})

    def resume(self, run: Path) -> None:
        """Use the choices of a run; one without a record was begun by a version that only had
        PyTorch."""
        self.run = run

    def recorded(self, boundary: str) -> Choice | None:
        """Return what the run computes a boundary with, once that is chosen."""
        if self.run is None:
            return None
        record = read_json_if_whole(self.run / _RECORD)
        return Choice() if record is None else _choice(record.get(self._scope + boundary))

    def choose(
        self,
        classifier: Classifier,
        key: Mapping[str, Any],
        count: int,
        sample: Callable[[], torch.Tensor],
    ) -> Choice:
        """Return the engine for a pass.

        Args:
            classifier: With a frozen part.
            key: All that the features depend on besides engine and split.
            count: Images of the pass.
            sample: Returns the first of them.
        """
        if distributed.world() > distributed.local_world():
            return Choice()  # several hosts need not have the same engines
        if recorded := self.recorded(classifier.freeze):
            return recorded
        candidate = None if count < FEWEST_IMAGES else self._candidate(classifier)
        if (
            self._scope
            and (own := self._own_choice(classifier.freeze)) is not None
            and own.engine != candidate
        ):
            # an engine that was no faster for the run's own network is not measured again for the
            # others
            return Choice()
        if candidate is None:
            return Choice()
        here = {**key, "candidate": candidate, "cpu": torch.backends.cpu.get_cpu_capability()}
        name = hashlib.sha256(json.dumps(here, sort_keys=True).encode()).hexdigest()[:24]
        memory = self._cache / _RECORD
        choice = _choice((read_json_if_whole(memory) or {}).get(name))
        if choice is None:
            with progress("choosing an engine for the frozen part"):
                choice = self._measured(classifier, candidate, count, sample())
            self._cache.mkdir(parents=True, exist_ok=True)
            atomic_write_json(
                memory, {**(read_json_if_whole(memory) or {}), name: asdict(choice)}, indent=1
            )
        if self.run is not None:
            record = read_json_if_whole(self.run / _RECORD) or {}
            atomic_write_json(
                self.run / _RECORD,
                {**record, self._scope + classifier.freeze: asdict(choice)},
                indent=1,
            )
        if choice.engine != EAGER:
            note(
                f"the frozen part is computed by {choice.versioned} in {self._precision}: speedup"
                f" {choice.speedup:.1f} on the first images; its features agree with those of eager"
                f" PyTorch (cosine similarity at least {choice.cosine:.4f}, {choice.readout:.0%} of"
                " a linear readout's answers)"
            )
        return choice

    def _own_choice(self, boundary: str) -> Choice | None:
        """Return what the run's own network is computed with."""
        record = None if self.run is None else read_json_if_whole(self.run / _RECORD)
        return _choice((record or {}).get(boundary))

    def engine(self, classifier: Classifier, name: str) -> Engine:
        """Return an engine, ready to compute.

        Raises:
            Exception: If it is not available here.
        """
        key = (classifier.freeze, name)
        if key not in self._ready:
            if name == OPENVINO:
                self._ready[key] = OpenVino(classifier, self._precision)
            else:
                kind = Compiled if name == COMPILED else Eager
                return kind(classifier, self._device, self._precision)
        return self._ready[key]

    def engine_or_eager(self, classifier: Classifier, choice: Choice) -> tuple[Choice, Engine]:
        """Return the engine of a choice, or PyTorch, with a warning, if that is not available."""
        try:
            return choice, self.engine(classifier, choice.engine)
        except Exception as error:
            # Whatever a missing library, or another processor, causes
            warn(
                f"{choice.engine} cannot be used here ({_reason(error)}), though this run began"
                " with it; PyTorch computes the frozen part, and its features are the same up to"
                " rounding"
            )
            return Choice(), self.engine(classifier, EAGER)

    def _candidate(self, classifier: Classifier) -> str | None:
        if self._device.type == "cpu" and _has_openvino() and _computes(self._precision):
            return OPENVINO
        compilers = (
            ("c++", "g++", "clang++") if self._device.type == "cpu" else ("cc", "gcc", "clang")
        )
        has_compiler = any(shutil.which(os.environ.get("CXX", name)) for name in compilers)
        return COMPILED if has_compiler and classifier.freeze == "backbone" else None

    def _measured(
        self, classifier: Classifier, candidate: str, count: int, images: torch.Tensor
    ) -> Choice:
        eager = self.engine(classifier, EAGER)
        started = time.perf_counter()
        reference = eager(images).float().cpu()
        part = (
            images[: max(1, len(images) // 4)]
            if time.perf_counter() - started > _SLOW_S
            else images
        )
        once = self._seconds(eager, part)
        if once / len(part) * count < _WORTH_S[candidate]:
            return Choice()
        try:
            engine = self.engine(classifier, candidate)
            cosine, readout = agreement(reference, engine(images).float().cpu())
        except Exception as error:  # compilers raise their own errors for unknown operations
            note(f"{candidate} cannot compute the frozen part ({_reason(error)}); PyTorch does")
            return Choice()
        least_cosine, least_readout = LEAST_ALIKE[self._precision]
        own = self._own_choice(classifier.freeze) if self._scope else None
        if own is not None and cosine >= least_cosine and readout >= least_readout:
            # timed on the run's own network, its sibling
            return Choice(candidate, own.speedup, cosine, readout)
        timings = {name: Timing({2 * len(part): []}) for name in (EAGER, candidate)}
        began = time.perf_counter()
        for number in range(_ROUNDS[1]):
            if number >= _ROUNDS[0] and time.perf_counter() - began > _BUDGET_S:
                break
            for name, each in ((EAGER, eager), (candidate, engine)):
                timings[name].rounds[2 * len(part)].append(self._seconds(each, part, part))
        gain = speedup(timings[candidate], timings[EAGER])
        assert gain is not None
        if cosine < least_cosine or readout < least_readout:
            note(
                f"{candidate} would be {gain[0]:.1f} times faster, but does not agree with PyTorch"
                f" on the first images (cosine similarity {cosine:.4f}, linear readout"
                f" {readout:.0%} alike); PyTorch computes"
            )
            return Choice()
        if not is_clearly_faster(timings[candidate], timings[EAGER]):
            note(
                f"the frozen part is computed by PyTorch: {candidate} is not faster here (speedup"
                f" {gain[0]:.1f})"
            )
            return Choice()
        return Choice(candidate, round(gain[0], 2), cosine, readout)

    def _seconds(self, engine: Engine, *batches: torch.Tensor) -> float:
        started = time.perf_counter()
        for _ in engine.stream(batches):
            pass
        if self._device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started


def agreement(reference: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """Return how similar features are to those of a reference: the least cosine similarity, and the
    share of linear readouts with the same argmax.

    The readouts are random, of ten classes each, on features without their mean, where images
    differ.
    """
    if reference.shape != other.shape or not bool(torch.isfinite(other).all()):
        return 0.0, 0.0
    cosine = nn.functional.cosine_similarity(reference.flatten(1), other.flatten(1)).min()
    if reference.ndim > 2:
        reference, other = reference.flatten(2).mean(2), other.flatten(2).mean(2)
    mean = reference.mean(0)
    weights = torch.randn(
        reference.shape[1], 10 * _READOUTS, generator=torch.Generator().manual_seed(0)
    )
    answers = [
        ((features - mean) @ weights).view(-1, _READOUTS, 10).argmax(2)
        for features in (reference, other)
    ]
    return float(cosine), float((answers[0] == answers[1]).float().mean())


def _has_openvino() -> bool:
    return find_spec("openvino") is not None


def _computes(precision: str) -> bool:
    """Return whether OpenVINO computes in that precision here, instead of silently in another."""
    return precision != "bf16" or openvino_core.computes_bf16()


def _choice(tree: Any) -> Choice | None:
    try:
        return Choice(**tree) if tree else None
    except TypeError:  # written by another version
        return None


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:120] if lines else type(error).__name__
