"""Which engine an archive answers with: the fastest here of those that agree with the module on
images that it was not trained on."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from breedlab.config.sections import Serving
from breedlab.console import note, progress, warn
from breedlab.hardware import multiplies_bf16
from breedlab.registry import ENGINES
from breedlab.serving import accuracy_control, openvino_export
from breedlab.serving.answers import Answers
from breedlab.serving.engine_candidates import Candidate, Selection
from breedlab.serving.engine_gate import objection, too_few
from breedlab.serving.engine_kinds import EAGER, MODULE, OPENVINO, Choice
from breedlab.serving.engine_output import calibrated
from breedlab.serving.engine_timing import BATCHES, fastest_first, time_engines
from breedlab.serving.engines.eager import EagerEngine
from breedlab.serving.model import Model

if TYPE_CHECKING:
    from breedlab.data.module import ImageData

FOLDER = "engines"
_CALIBRATION = 128
"""Training images that the ranges of int8 are found on."""


class _Sources:
    """What engines are made of, each computed once, when the first engine asks for it, and what
    they are compared on.

    Args:
        model: The archive's content.
        data: Whose training images calibrate.
        serving: Has the settings of engines.
        seed: Draws the images.
        split: Whose images decide.
    """

    def __init__(
        self, model: Model, data: ImageData, serving: Serving, seed: int, split: str
    ) -> None:
        self.model, self.data, self.seed, self.split = model, data, seed, split
        self.kind = cache(lambda engine: ENGINES.made(engine, serving))
        """Returns the engine of a name, the same for all precisions."""

    @cached_property
    def network(self) -> torch.nn.Module:
        """The network on the CPU."""
        served = self.model.served
        return served if self.model.device.type == "cpu" else copy.deepcopy(served).cpu()

    @cached_property
    def images(self) -> torch.Tensor:
        """Training images to trace or calibrate with, uint8 (n, 3, side, side)."""
        count = len(self.data.images.splits["train"])
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
        return _images(self.data, "train", order[:_CALIBRATION].tolist())


def possible(serving: Serving, device: torch.device) -> list[Choice]:
    """Return the engines and precisions that a config allows on this machine.

    With a GPU, `auto` stays with PyTorch; and it takes no precision that the machine only emulates.
    """
    engines: list[str] = [serving.engine]
    if serving.engine == "auto":
        with_openvino = openvino_export.is_installed() and (
            device.type == "cpu" or serving.precision == "int8"
        )
        engines = [EAGER, OPENVINO] if with_openvino else [EAGER]
    choices = []
    for engine in engines:
        computes_on = device if engine == EAGER else torch.device("cpu")
        for precision in ENGINES.get(engine).precisions:
            if serving.precision == "auto":
                allowed = precision != "bf16" or multiplies_bf16(computes_on.type)
            else:
                allowed = precision == serving.precision
            if allowed:
                choices.append(Choice(engine, precision))
    return choices


def select(
    folder: Path,
    serving: Serving,
    data: ImageData,
    *,
    device: torch.device,
    seed: int,
    refit: bool = False,
) -> Selection:
    """Find the engine for an archive's content; leave its file in `engines/` if it has one.

    Args:
        folder: The content, as `write_folder` left it.
        serving: What the config wants.
        data: Training images calibrate, validation images decide, test images only report.
        device: Where PyTorch computes.
        seed: Draws the training images.
        refit: Whether validation images were trained on, too. The network is surer of those than of
            new ones, and so are all engines; so the answers to the test images are compared
            instead. Their labels decide nothing.
    """
    choices = possible(serving, device)
    if serving.engine == "auto" and device.type == "cpu" and not openvino_export.is_installed():
        note(
            "PyTorch answers; OpenVINO is several times faster on a CPU: pip install"
            " 'breedlab[engines]'"
        )
    if choices == [MODULE]:
        return Selection(MODULE)
    model = Model(folder, device, EAGER)
    several = model.answers.multi_label
    candidates = [
        Candidate(choice, multi_label=several) for choice in dict.fromkeys([MODULE, *choices])
    ]
    compared_on = "test" if refit and data.images.splits["test"] else "valid"
    count = len(data.images.splits[compared_on])
    if serving.precision == "auto":
        for candidate in candidates:
            if candidate.choice.precision == "int8":
                candidate.objection = too_few(count)
    sources = _Sources(model, data, serving, seed, compared_on)
    calibration = _make(candidates, sources, folder)
    ready = [candidate for candidate in candidates if candidate.engine is not None]
    _time(ready, data)
    winner = _judge(ready, choices, sources, folder)
    winner.is_winner = True
    for file in Path(folder, FOLDER).glob("*"):
        if winner.choice.engine == EAGER or file.stem != winner.choice.precision:
            file.unlink()
    labels = winner.labels if compared_on == "test" else None
    if labels is None:
        test = len(data.images.splits["test"])
        title, batches = f"testing {winner.choice}", data.test_dataloader()
        (labels,) = _predictions([winner], batches, title, test, model.answers)
    right = _alike(labels, data.labels("test"))
    return Selection(
        winner.choice, tuple(candidates), count, compared_on, calibration, right, several
    )


def _make(candidates: Sequence[Candidate], sources: _Sources, folder: Path) -> int:
    """Build each candidate's engine, or record why that failed; return how many images calibrated
    int8."""
    model, calibration = sources.model, 0
    (folder / FOLDER).mkdir(exist_ok=True)
    for candidate in candidates:
        choice = candidate.choice
        if candidate.objection:
            continue
        if choice.engine == EAGER:
            candidate.engine = EagerEngine(model.served, model.device, choice.precision)
            continue
        kind = sources.kind(choice.engine)
        file = folder / FOLDER / f"{choice.precision}{kind.suffix}"
        try:
            with progress(f"making {choice}"):
                kind.export(sources.network, sources.images, file, choice.precision)
                candidate.engine = kind.engine(choice, file)
        except Exception as error:
            # whatever a network's operations cause, another engine can answer
            reason = " ".join(str(error).split())[:120]
            candidate.objection = f"cannot be made: {reason}"
            warn(f"{choice} cannot be made ({reason})")
        else:
            calibration += len(sources.images) if choice.precision == "int8" else 0
    return calibration


def _judge(
    candidates: Sequence[Candidate],
    choices: Sequence[Choice],
    sources: _Sources,
    folder: Path,
) -> Candidate:
    """Return the fastest engine that agrees with the module; of those chosen by name, the fastest
    even if none agrees; the module if none of them can run."""
    module = candidates[0]
    eligible = fastest_first([candidate for candidate in candidates if candidate.choice in choices])
    if not eligible:
        warn("serving.engine and serving.precision ask for what cannot run here; PyTorch answers")
        return module
    data, split = sources.data, sources.split
    count = len(data.images.splits[split])
    truth = data.labels("valid") if split == "valid" else None
    answers = sources.model.answers
    waiting = [*eligible]
    while waiting:
        candidate = waiting.pop(0)
        if candidate is module:
            return module
        compared = [candidate] if module.labels is not None else [module, candidate]
        # Not val_dataloader, which after training with several processes is this one's share.
        batches, title = data.view_dataloader(split, 0), f"comparing {candidate.choice}"
        predictions = _predictions(compared, batches, title, count, answers)
        reference = predictions[0] if module.labels is None else module.labels
        for each, labels in zip(compared, predictions, strict=True):
            each.labels, each.agreement = labels, _alike(labels, reference)
            each.right = None if truth is None else _alike(labels, truth)
        candidate.objection = objection(candidate, module, count)
        if not candidate.objection:
            return candidate
        if _may_be_restored(candidate, count) and _restored(candidate, sources, folder, reference):
            _time(candidates, data)
            waiting = fastest_first([candidate, *waiting])
    first = eligible[0]
    warn(f"{first.choice} was asked for, and is exported, but it {first.objection}")
    return first


def _may_be_restored(candidate: Candidate, images: int) -> bool:
    """Return whether it is OpenVINO's int8, not restored before, with enough images to judge it
    again."""
    int8 = candidate.choice == Choice(OPENVINO, "int8")
    return int8 and not candidate.remark and not too_few(images)


def _restored(
    candidate: Candidate,
    sources: _Sources,
    folder: Path,
    reference: torch.Tensor,
) -> bool:
    """Try accuracy control, and return whether it gave the candidate another engine."""
    order = torch.randperm(len(reference), generator=torch.Generator().manual_seed(sources.seed))
    indices = order[: accuracy_control.MOST_IMAGES].sort().values
    openvino = sources.kind(OPENVINO)
    return accuracy_control.restore_accuracy(
        candidate,
        openvino.graph(sources.network, sources.model.transform.crop),
        folder / FOLDER / f"int8{openvino.suffix}",
        sources.images,
        _images(sources.data, sources.split, indices.tolist()),
        reference[indices],
        sources.model.answers,
    )


def _time(candidates: Sequence[Candidate], data: ImageData) -> None:
    """Time candidates on validation images, as many as the largest batch takes."""
    count = min(len(data.images.splits["valid"]), max(BATCHES))
    time_engines(candidates, _images(data, "valid", range(count)))


def _alike(labels: torch.Tensor, others: torch.Tensor) -> float:
    """Return the share of images with the same class, (n,), or the same labels, (n, classes)."""
    same = labels == others
    return float((same if same.ndim == 1 else same.all(1)).float().mean())


def _predictions(
    candidates: Sequence[Candidate],
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    title: str,
    count: int,
    answers: Answers,
) -> list[torch.Tensor]:
    """Return each candidate's answers as `Answers.decided`, in the order of the images."""
    predictions: list[list[torch.Tensor]] = [[] for _ in candidates]
    count_done = 0
    with progress(title) as report:
        for images, _ in batches:
            for labels, candidate in zip(predictions, candidates, strict=True):
                assert candidate.engine is not None
                scores = calibrated(candidate.engine.scores, answers)(images)
                labels.append(answers.decided(scores))
            count_done += len(images)
            report(count_done, count)
    return [torch.cat(labels) for labels in predictions]


def _images(data: ImageData, split: str, indices: Iterable[int]) -> torch.Tensor:
    """Return some images of a split (n, 3, side, side) as the endpoint sees them, whatever training
    does to them."""
    dataset = data.dataset(split)
    return torch.stack([dataset[0, index][0] for index in indices])
