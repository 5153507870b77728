"""What a run's `debug/` holds, read with smdebug's own trials; registrations merged into one.

A run that was resumed, or whose layers were unfrozen, has several registrations: `debug/0`,
`debug/1`, ... Each counts steps on from where its training began, so what a later one holds
replaces what the one before recorded from there on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from breedlab.errors import DataError

Values = npt.NDArray[Any]

BATCH_SIZE = "batch_size"
"""The tensor with a batch's number of images, where its labels are not saved."""


class NothingRecorded(DataError):
    """A run without tensors."""

    code = "BL203"


def losses(run: Path | str) -> dict[str, list[tuple[int, float]]]:
    """Return the recorded losses by mode, `TRAIN` and `EVAL`.

    Args:
        run: A run directory, or an `s3://` path to one.

    Returns:
        For each mode (step, loss) in order. The step of a training loss counts from 1; a
        validation's batches have the number of training steps that came before, the same for a
        whole pass. Empty lists where nothing was recorded.
    """
    try:
        tape = TensorLog(opened(run))
    except NothingRecorded:
        return {"TRAIN": [], "EVAL": []}
    return {mode: loss_series(tape, mode) for mode in ("TRAIN", "EVAL")}


def loss_series(tape: TensorLog, mode: str) -> list[tuple[int, float]]:
    """Return a mode's losses with their steps."""
    return [(entry.at, entry.loss) for entry in tape.losses(mode)]


def registrations(run: Path | str) -> list[str]:
    """Return the folders below `debug/` that smdebug can open, in order."""
    if str(run).startswith("s3://"):
        folders = _on_s3(str(run))
    else:
        entries = Path(run, "debug").iterdir() if Path(run, "debug").is_dir() else iter(())
        folders = [
            str(folder)
            for folder in entries
            if any(folder.glob("collections/*/*_collections.json"))
        ]
    return sorted(
        (f for f in folders if _number(f).isdecimal()), key=lambda folder: int(_number(folder))
    )


def opened(run: Path | str) -> Any:
    """Return a run's recording as one `smdebug.trials.Trial`, completely read.

    Raises:
        NothingRecorded: If there is none.
        DataError: If it is damaged, or S3 refuses.
    """
    try:
        return _merged(run)
    except DataError:
        raise
    except Exception as error:  # smdebug's and boto's are many
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{run}: its recording cannot be read ({reason[:200]})") from error


def _merged(run: Path | str) -> Any:
    folders = registrations(run)
    if not folders:
        raise NothingRecorded(
            f"{run}: holds no recording of the debugger; record one with debugger=losses, default"
            " or full"
        )
    from breedlab.debugging import smdebug_compat  # noqa: F401  before smdebug

    starts = [_first_step(folder) for folder in folders[1:]]
    merged = _trial(folders[-1], None)
    for folder, end in zip(folders[:-1], starts, strict=True):
        if end is None or end > 0:  # nothing recorded after it, or something of its own left
            earlier = _trial(folder, end)
            merged._load_tensors_from_index_tensors(earlier.index_tensors_dict)
    settle(merged)
    return merged


def settle(trial: Any) -> None:
    """Make a trial answer from memory instead of listing its folder for every query."""
    trial.loaded_all_steps = True
    trial.last_complete_step = max(trial._global_to_mode, default=-1)


def _trial(folder: str, end: int | None) -> Any:
    from smdebug.trials import create_trial

    trial = create_trial(folder, range_steps=None if end is None else (0, end))
    trial.index_reader.fetch_tensor_value = EventFiles().fetch
    return trial


def _first_step(folder: str) -> int | None:
    """Return the first step that a registration saved."""
    if folder.startswith("s3://"):
        steps = list(_trial(folder, None)._global_to_mode)
    else:
        steps = [int(file.name.split("_")[0]) for file in Path(folder).glob("index/*/*.json")]
    return min(steps, default=None)


def _on_s3(run: str) -> list[str]:
    from breedlab.debugging import smdebug_compat  # noqa: F401  before smdebug

    from smdebug.core.access_layer.s3handler import ListRequest, S3Handler  # isort: skip

    bucket, _, prefix = run.removeprefix("s3://").partition("/")
    prefix = f"{prefix.strip('/')}/debug/".lstrip("/")
    return [
        f"s3://{bucket}/{key.rstrip('/')}"
        for key in S3Handler.list_prefix(ListRequest(bucket, prefix, "/"))
    ]


def _number(folder: str) -> str:
    return folder.rstrip("/").rpartition("/")[2]


class EventFiles:
    """A cache of the last event file: smdebug opens the file again for every tensor, and on S3
    lists all files before that."""

    def __init__(self) -> None:
        self._name, self._bytes = "", b""

    def fetch(self, location: Any) -> Values:
        from smdebug.core.access_layer.s3handler import ReadObjectRequest, S3Handler
        from smdebug.core.tfrecord.tensor_reader import TensorReader

        name = location.event_file_name
        if name != self._name:
            remote = name.startswith("s3://")
            self._bytes = (
                S3Handler.get_object(ReadObjectRequest(name)) if remote else Path(name).read_bytes()
            )
            self._name = name
        start = int(location.start_idx)
        part = self._bytes[start : start + int(location.length)]
        try:
            _, _, value, _, _ = next(iter(TensorReader(part).read_tensors()))
        except (
            Exception
        ) as error:  # of damaged bytes: smdebug's, NumPy's, protobuf's, StopIteration
            raise DataError(
                f"{name}: is damaged, so the tensors in it cannot be judged; train again with the"
                " debugger, or judge another run"
            ) from error
        return np.asarray(value)


@dataclass(frozen=True)
class Loss:
    """One recorded loss.

    Attributes:
        step: smdebug's global step.
        at: The training's step: its own from 1, or how many came before it.
        loss: In nats.
        images: In its batch, by the labels or the batch size saved with it; None in recordings that
            have neither.
    """

    step: int
    at: int
    loss: float
    images: int | None = None


@dataclass(frozen=True)
class EvalPass:
    """One validation, or the training between two.

    Attributes:
        at: Steps of training that came before its end.
        last: smdebug's global step of its last batch.
        loss: The mean over its images; over its batches where a recording does not have how many
            images they held.
        steps: smdebug's global steps of its batches.
    """

    at: int
    last: int
    loss: float
    steps: tuple[int, ...]


class TensorLog:
    """A trial's recording as rules ask for it. Values are read once and kept.

    Args:
        trial: From `opened`, or any other of smdebug's.
    """

    def __init__(self, trial: Any) -> None:
        self.trial = trial
        self._values: dict[tuple[str, int, str], Values | None] = {}
        self._saved: dict[tuple[str, str], dict[int, list[str]]] = {}
        self._losses: dict[str, list[Loss]] = {}

    def refresh(self) -> None:
        """Read the steps written since the last call."""
        self.trial.refresh_data()
        settle(self.trial)
        self._saved.clear()
        self._losses.clear()

    def training_step(self, step: int) -> int:
        """Return the training step of one of smdebug's global steps; for validation, the number of
        training steps before it."""
        mode, mode_step = self.trial.mode_modestep(step)
        if mode is None or mode.name not in ("TRAIN", "EVAL"):
            return step
        return int(mode_step) + 1 if mode.name == "TRAIN" else step - int(mode_step)

    def mode(self, step: int) -> str:
        return str(self.trial.mode(step).name)

    def steps(self, mode: str) -> list[int]:
        """Return smdebug's global steps of a mode at which anything was saved."""
        return [step for step in sorted(self.trial._global_to_mode) if self.mode(step) == mode]

    def names(self, collection: str) -> list[str]:
        """Return the tensors of a collection."""
        if collection not in self.trial.collections():
            return []
        return sorted(self.trial._tensors_in_collection(collection))

    def saved(self, collection: str, mode: str) -> dict[int, list[str]]:
        """Return the saved tensors of a collection, by smdebug's global step of a mode."""
        if (collection, mode) not in self._saved:
            members, by_step = set(self.names(collection)), self.trial.global_step_to_tensors_map
            saved = {}
            for step in self.steps(mode):
                if names := members & by_step.get(step, set()):
                    saved[step] = sorted(names)
            self._saved[collection, mode] = saved
        return self._saved[collection, mode]

    def value(self, name: str, step: int) -> Values | None:
        """Return a whole tensor; None where it was not saved whole."""
        return self._read(name, step, "")

    def reduction(self, name: str, step: int, reduction: str) -> float:
        """Return a reduction by the config's name, or of the whole tensor where that was saved; NaN
        where neither was."""
        value = self._read(name, step, reduction)
        return float("nan") if value is None else float(value)

    def has_reduction(self, name: str, step: int, reduction: str) -> bool:
        return self._read(name, step, reduction) is not None

    def shape(self, name: str, step: int) -> tuple[int, ...] | None:
        from smdebug.exceptions import SMDebugError

        try:
            return tuple(int(size) for size in self.trial.tensor(name).shape(step))
        except (SMDebugError, KeyError):
            return None

    def losses(self, mode: str) -> list[Loss]:
        """Return the losses of a mode in the order of steps."""
        if mode not in self._losses:
            losses = []
            for step, names in self.saved("losses", mode).items():
                for name in names:
                    value = self.value(name, step)
                    if value is not None:
                        loss = float(np.mean(value))
                        losses.append(
                            Loss(step, self.training_step(step), loss, self._images(step))
                        )
            self._losses[mode] = losses
        return self._losses[mode]

    def _images(self, step: int) -> int | None:
        labels = self.names("labels")
        values = self.value(labels[0], step) if len(labels) == 1 else None
        if values is not None:
            return int(values.size)
        size = self.value(BATCH_SIZE, step)
        return None if size is None else int(size)

    def passes(self, mode: str) -> list[EvalPass]:
        """Return the passes of validation, or of training between them, each with its mean loss."""
        validations: dict[int, list[Loss]] = {}
        for entry in self.losses("EVAL"):
            validations.setdefault(entry.at, []).append(entry)
        if mode == "EVAL":
            return [_pass(at, entries) for at, entries in validations.items()]
        trained, passes, begin = self.losses("TRAIN"), [], 0
        for at in validations:
            if between := [entry for entry in trained if begin < entry.at <= at]:
                passes.append(_pass(at, between))
            begin = at
        return passes

    def _read(self, name: str, step: int, reduction: str) -> Values | None:
        key = (name, step, reduction)
        if key not in self._values:
            self._values[key] = self._fetch(name, step, reduction)
        return self._values[key]

    def _fetch(self, name: str, step: int, reduction: str) -> Values | None:
        from smdebug.exceptions import SMDebugError, SMDebugValueError

        from breedlab.debugging.reductions import OWN, own_of, parse

        try:
            tensor = self.trial.tensor(name)
            if not reduction:
                return np.asarray(tensor.value(step))
            kind, absolute = parse(reduction)
            try:
                return np.asarray(tensor.reduction_value(step, kind, abs=absolute))
            except SMDebugValueError:
                return own_of(np.asarray(tensor.value(step)), kind) if kind in OWN else None
        except (SMDebugError, KeyError):
            return None


def _pass(at: int, entries: list[Loss]) -> EvalPass:
    steps = tuple(entry.step for entry in entries)
    sizes = [entry.images for entry in entries if entry.images is not None]
    weights = sizes if len(sizes) == len(entries) else None
    return EvalPass(
        at, steps[-1], float(np.average([entry.loss for entry in entries], weights=weights)), steps
    )


def class_names(run: Path | str) -> list[str]:
    """Return the classes by label, as the run recorded them; empty where it did not."""
    try:
        return [
            str(name) for name in json.loads(Path(run, "splits.json").read_text("utf-8"))["classes"]
        ]
    except (OSError, ValueError, KeyError):
        return []
