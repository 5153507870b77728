"""Which engine an archive answers with: the fastest here of those that agree with the module on
validation photos."""

from __future__ import annotations

import copy
import platform
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from breedlab.config.schema import Serving
from breedlab.console import note, progress, warn
from breedlab.evaluation.statistics import wilson
from breedlab.models.ranking import NOISY, Timing, ranked, speedup, typical_spread
from breedlab.registry import ENGINES
from breedlab.serving import openvino_export
from breedlab.serving.answers import Answers
from breedlab.serving.engine_kinds import AddedEngine
from breedlab.serving.engines import (
    EAGER,
    MODULE,
    OPENVINO,
    Choice,
    Eager,
    Engine,
    OpenVino,
    multiplies_bf16,
)
from breedlab.serving.model import Model

if TYPE_CHECKING:
    from breedlab.data.module import PhotoData

FEWEST_PHOTOS = 100
"""Validation photos without which int8 is not taken: of fewer, no agreement says enough."""
_TOO_FEW = f"{{photos}} validation photos cannot judge it, at least {FEWEST_PHOTOS} are needed"
LEAST_CERTAIN_AGREEMENT = 0.95
"""What the true agreement of int8 has to exceed with 95% confidence: the lower end of its Wilson
interval."""
MOST_LOST = 0.005
"""How much of the validation top-1 an engine may lose."""
LEAST_AGREEMENT = 0.98
"""The least share of validation photos that an engine has to put into the module's class."""
FOLDER = "engines"
_BATCHES = (1, 8, 32)
_CALIBRATION = 128
"""Training photos that the ranges of int8 are found on."""
_FEWEST_ROUNDS, _MOST_ROUNDS, _BUDGET_S = 4, 10, 4.0
"""Of timing; after so many seconds no other round is begun."""
_PATIENCE = 3
"""By how much of both more, where the rounds differ so much that other work must be running."""
_SAFEST_FIRST = ("fp32", "bf16", "int8")


@dataclass
class Candidate:
    """What was found out about one engine.

    Attributes:
        choice: Which it is.
        engine: Ready to compute; None if it cannot be had.
        milliseconds: By the photos in a batch: one photo's share of its time.
        timing: Every round of it.
        agreement: Share of the validation photos with the module's class, or with all of its labels
            and no other; None if it was not asked.
        right: Share of the validation photos with the true class, or labels; likewise.
        multi_label: Whether they may have several.
        objection: What speaks against it, else empty.
        taken: Whether it is the one.
        speedup: Over the module: the median of the rounds, and their quartiles.
    """

    choice: Choice
    engine: Engine | None = None
    milliseconds: dict[int, float] = field(default_factory=dict)
    timing: Timing = field(default_factory=Timing)
    agreement: float | None = None
    right: float | None = None
    multi_label: bool = False
    objection: str = ""
    taken: bool = False
    speedup: tuple[float, float, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        return {
            "engine": self.choice.engine,
            "precision": self.choice.precision,
            "milliseconds": {str(size): round(ms, 3) for size, ms in self.milliseconds.items()},
            "speedup": self.speedup and [round(factor, 2) for factor in self.speedup],
            "agreement": self.agreement,
            "exact" if self.multi_label else "top1": self.right,
            "verdict": ", ".join(filter(None, ["taken" if self.taken else "", self.objection])),
        }


@dataclass(frozen=True)
class Selection:
    """The engine that was taken, and what was measured.

    Attributes:
        taken: The engine.
        candidates: All that were looked at, the module first; none if there was nothing to choose.
        photos: Validation photos that they were compared on.
        calibration: Training photos that int8 was made with.
        test_right: What the engine taken answers right, of photos that decided nothing.
        multi_label: Whether they may have several labels.
    """

    taken: Choice
    candidates: tuple[Candidate, ...] = ()
    photos: int = 0
    calibration: int = 0
    test_right: float | None = None
    multi_label: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain data for metrics.json and model.json."""
        return {
            "engine": self.taken.engine,
            "precision": self.taken.precision,
            "candidates": [candidate.as_dict() for candidate in self.candidates],
            "photos": {"validation": self.photos, "calibration": self.calibration},
            "test_exact" if self.multi_label else "test_top1": self.test_right,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        }


def possible(serving: Serving, device: torch.device) -> list[Choice]:
    """What a config leaves to choose from on this machine.

    With a GPU, `auto` stays with PyTorch; and it takes no precision that the machine only emulates.
    """
    engines: list[str] = [serving.engine]
    if serving.engine == "auto":
        wanted = openvino_export.is_installed() and (
            device.type == "cpu" or serving.precision == "int8"
        )
        engines = [EAGER, OPENVINO] if wanted else [EAGER]
    return [
        Choice(engine, precision)
        for engine in engines
        for precision in ENGINES.get(engine).precisions
        if serving.precision == precision
        or (
            serving.precision == "auto"
            and (
                precision != "bf16"
                or multiplies_bf16(device if engine == EAGER else torch.device("cpu"))
            )
        )
    ]


def select(
    folder: Path, serving: Serving, data: PhotoData, *, device: torch.device, seed: int
) -> Selection:
    """Finds the engine for an archive's content; leaves its file in `engines/` if it has one.

    Args:
        folder: The content, as `write_folder` left it.
        serving: What the config wants.
        data: Training photos calibrate, validation photos decide, test photos only report.
        device: Where PyTorch computes.
        seed: Draws the training photos.
    """
    choices = possible(serving, device)
    if serving.engine == "auto" and device.type == "cpu" and not openvino_export.is_installed():
        note(
            "PyTorch answers; OpenVINO is several times as fast on a CPU: pip install"
            " 'breedlab[engines]'"
        )
    if choices == [MODULE]:
        return Selection(MODULE)
    model = Model(folder, device, EAGER)
    several = model.answers.multi_label
    candidates = [
        Candidate(choice, multi_label=several) for choice in dict.fromkeys([MODULE, *choices])
    ]
    validation = len(data.photos.splits["valid"])
    if serving.precision == "auto" and validation < FEWEST_PHOTOS:
        for candidate in candidates:
            if candidate.choice.precision == "int8":
                candidate.objection = _TOO_FEW.format(photos=validation)
    calibration = _make(candidates, model, folder, serving, data, seed)
    ready = [candidate for candidate in candidates if candidate.engine is not None]
    _time(ready, _photos(data, "valid", range(min(validation, max(_BATCHES)))))
    taken = _judge(ready, choices, data, model.answers)
    taken.taken = True
    for file in Path(folder, FOLDER).glob("*"):
        if taken.choice.engine == EAGER or file.stem != taken.choice.precision:
            file.unlink()
    test = len(data.photos.splits["test"])
    title, batches = f"testing {taken.choice}", data.test_dataloader()
    (labels,) = _predictions([taken], batches, title, test, model.answers)
    right = _alike(labels, data.labels("test"))
    return Selection(taken.choice, tuple(candidates), validation, calibration, right, several)


def _make(
    candidates: Sequence[Candidate],
    model: Model,
    folder: Path,
    serving: Serving,
    data: PhotoData,
    seed: int,
) -> int:
    """Gives each candidate its engine, or the reason why not; returns how many photos calibrated
    int8."""
    side, graph, calibration = model.transform.crop, None, 0
    for candidate in candidates:
        precision = candidate.choice.precision
        if candidate.objection:
            continue
        if candidate.choice.engine == EAGER:
            candidate.engine = Eager(model.served, model.device, precision)
            continue
        file = folder / FOLDER / f"{precision}.xml"
        try:
            if candidate.choice.engine != OPENVINO:
                candidate.engine = _added(
                    candidate.choice, model, serving, file.with_suffix(".bin"), data, seed
                )
                continue
            if graph is None:
                with progress("converting the network for OpenVINO"):
                    network = (
                        model.served
                        if model.device.type == "cpu"
                        else copy.deepcopy(model.served).cpu()
                    )
                    graph = openvino_export.convert(network, side)
            made = graph
            if precision == "int8":
                with progress("calibrating int8 on training photos") as report:
                    photos = _calibration_photos(data, seed)
                    calibration = len(photos)
                    made = openvino_export.quantise(graph, list(photos), report)
            with progress(f"making {candidate.choice}"):
                openvino_export.write_graph(made, file, halves=precision == "bf16")
                candidate.engine = OpenVino(file, precision)
        except Exception as error:
            # Whatever a network's operations bring about, another engine can answer
            reason = " ".join(str(error).split())[:120]
            candidate.objection = f"cannot be made: {reason}"
            warn(f"{candidate.choice} cannot be made ({reason})")
    return calibration


def _added(
    choice: Choice, model: Model, serving: Serving, file: Path, data: PhotoData, seed: int
) -> Engine:
    """Return the engine of a plugin, exported to a file."""
    kind = ENGINES.made(choice.engine, serving)
    file.parent.mkdir(exist_ok=True)
    network = model.served if model.device.type == "cpu" else copy.deepcopy(model.served).cpu()
    with progress(f"making {choice}"):
        kind.export(network, _calibration_photos(data, seed), file, choice.precision)
        return AddedEngine(choice, file, kind.model_dump(mode="json"))


def _time(candidates: Sequence[Candidate], photos: torch.Tensor) -> None:
    """Time candidates in turn, so that a noisy neighbor slows all alike; the first pass of each
    does not count."""
    batches = {size: torch.cat([photos] * -(-size // len(photos)))[:size] for size in _BATCHES}
    for candidate in candidates:
        _seconds(candidate, batches[1])
    once = sum(_seconds(candidate, batches[1]) for candidate in candidates)
    sizes = [size for size in _BATCHES if size == 1 or size * once <= _BUDGET_S]
    for candidate in candidates:
        candidate.timing = Timing({size: [] for size in sizes})
    started = time.monotonic()
    patience = 1
    number = 0
    with progress("timing engines, rounds") as report:
        while number < _MOST_ROUNDS * patience:
            if number >= _FEWEST_ROUNDS and time.monotonic() - started > _BUDGET_S * patience:
                break
            for size in sizes:
                for candidate in candidates:
                    candidate.timing.rounds[size].append(_seconds(candidate, batches[size]))
            number += 1
            busy = number >= _FEWEST_ROUNDS and _spread(candidates) > NOISY
            patience = _PATIENCE if busy else 1
            report(number, max(number, _MOST_ROUNDS * patience))
    for candidate in candidates:
        candidate.milliseconds = candidate.timing.milliseconds
        candidate.speedup = speedup(candidate.timing, candidates[0].timing)
    if (spread := _spread(candidates)) > NOISY:
        warn(
            f"the timings are rough: rounds differed by {spread:.0%}, so other work was running;"
            " where two engines cannot be told apart the safer one is taken"
        )


def _spread(candidates: Sequence[Candidate]) -> float:
    return typical_spread([candidate.timing for candidate in candidates])


def _seconds(candidate: Candidate, batch: torch.Tensor) -> float:
    assert candidate.engine is not None
    started = time.perf_counter()
    candidate.engine.scores(batch)
    return time.perf_counter() - started


def _judge(
    candidates: Sequence[Candidate], choices: Sequence[Choice], data: PhotoData, answers: Answers
) -> Candidate:
    """The fastest that agrees with the module; of what was asked for by name, the fastest if none
    agrees."""
    module = candidates[0]
    eligible = _ranked([candidate for candidate in candidates if candidate.choice in choices])
    if not eligible:
        warn("what serving.engine and serving.precision ask for cannot be had; PyTorch answers")
        return module
    reference: torch.Tensor | None = None
    for candidate in eligible:
        if candidate is module:
            return module
        asked = [candidate] if reference is not None else [module, candidate]
        count = len(data.photos.splits["valid"])
        # Not val_dataloader, which after training with several processes is this one's share.
        batches, title = data.view_dataloader("valid", 0), f"validating {candidate.choice}"
        found = _predictions(asked, batches, title, count, answers)
        truth = data.labels("valid")
        if reference is None:
            reference = found[0]
            module.right, module.agreement = _alike(reference, truth), 1.0
        candidate.right = _alike(found[-1], truth)
        candidate.agreement = _alike(found[-1], reference)
        candidate.objection = _objection(candidate, module, count)
        if not candidate.objection:
            return candidate
    taken = eligible[0]
    warn(f"{taken.choice} was asked for, and is exported, but it {taken.objection}")
    return taken


def _alike(labels: torch.Tensor, others: torch.Tensor) -> float:
    """Return the share of images with the same class, (n,), or the same labels, (n, classes)."""
    same = labels == others
    return float((same if same.ndim == 1 else same.all(1)).float().mean())


def _ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates from the fastest on; of two that noise cannot tell apart, the safer one
    first."""
    safest_first = sorted(
        candidates,
        key=lambda c: (_SAFEST_FIRST.index(c.choice.precision), c.choice.engine != EAGER),
    )
    by_choice = {candidate.choice: candidate for candidate in safest_first}
    return [
        by_choice[choice]
        for choice in ranked({choice: _timing(c) for choice, c in by_choice.items()})
    ]


def _timing(candidate: Candidate) -> Timing:
    if candidate.timing.rounds:
        return candidate.timing
    return Timing({size: [ms * size / 1000] for size, ms in candidate.milliseconds.items()})


def _objection(candidate: Candidate, module: Candidate, photos: int) -> str:
    """Return what speaks against a candidate by its answers on the validation photos, else an empty
    text."""
    assert (
        candidate.agreement is not None and candidate.right is not None and module.right is not None
    )
    if candidate.agreement < LEAST_AGREEMENT:
        return (
            f"agrees with the module on {candidate.agreement:.1%}, at least {LEAST_AGREEMENT:.0%}"
            " are needed"
        )
    if module.right - candidate.right > MOST_LOST + 1e-6:
        measure = "photos with all labels right" if candidate.multi_label else "top-1"
        return (
            f"loses {100 * (module.right - candidate.right):.1f} points of {measure}, at most"
            f" {100 * MOST_LOST:g} may go"
        )
    if candidate.choice.precision != "int8":
        return ""  # rounds, as training itself does; only int8 cuts values off
    if photos < FEWEST_PHOTOS:
        return _TOO_FEW.format(photos=photos)
    least, _ = wilson(round(candidate.agreement * photos), photos)
    if least < LEAST_CERTAIN_AGREEMENT:
        return (
            f"agrees with the module on {candidate.agreement:.1%} of {photos} validation photos;"
            f" the true share may be as low as {least:.1%}, at least {LEAST_CERTAIN_AGREEMENT:.0%}"
            " have to be certain"
        )
    return ""


def _predictions(
    candidates: Sequence[Candidate],
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    title: str,
    count: int,
    answers: Answers,
) -> list[torch.Tensor]:
    """What each candidate answers, as `Answers.decided`, in the order of the photos."""
    found: list[list[torch.Tensor]] = [[] for _ in candidates]
    done = 0
    with progress(title) as report:
        for photos, _ in batches:
            for labels, candidate in zip(found, candidates, strict=True):
                assert candidate.engine is not None
                labels.append(answers.decided(candidate.engine.scores(photos)))
            done += len(photos)
            report(done, count)
    return [torch.cat(labels) for labels in found]


def _calibration_photos(data: PhotoData, seed: int) -> torch.Tensor:
    count = len(data.photos.splits["train"])
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    return _photos(data, "train", order[:_CALIBRATION])


def _photos(data: PhotoData, split: str, indices: Iterable[int]) -> torch.Tensor:
    """Some photos of a split (n, 3, side, side) as the endpoint sees them, whatever training does
    to them."""
    dataset = data.dataset(split)
    return torch.stack([dataset[0, index][0] for index in indices])
