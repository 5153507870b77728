"""What a run's `profile/` holds, typed. A torn last line of a killed run is ignored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import yaml

from breedlab.config.yaml_folders import parsed
from breedlab.verdicts import NotEnough

Figures = npt.NDArray[np.float64]


@dataclass(frozen=True)
class System:
    """The machine over time.

    Attributes:
        t: (samples,) seconds since the run's start.
        stage: The run's stage at each sample.
        cpu: (samples, cores) percent.
        io_wait: (samples,) percent of the time in which the CPU had nothing to do but wait for
            disks.
        memory_gb: (samples,) of the machine.
        process_memory_gb: (samples,) of the run and its workers.
        gpu: (samples, gpus) percent.
        gpu_memory_gb: (samples, gpus).
        gpu_capacity_gb: (gpus,).
        disk_read_mb_s, disk_write_mb_s, net_in_mb_s, net_out_mb_s: (samples,).
        header: The first header: `wall_start`, `interval_ms`, `cores`, `memory_gb`.
    """

    t: Figures
    stage: list[str]
    cpu: Figures
    io_wait: Figures
    memory_gb: Figures
    process_memory_gb: Figures
    gpu: Figures
    gpu_memory_gb: Figures
    gpu_capacity_gb: Figures
    disk_read_mb_s: Figures
    disk_write_mb_s: Figures
    net_in_mb_s: Figures
    net_out_mb_s: Figures
    header: dict[str, Any]


@dataclass(frozen=True)
class Steps:
    """The training's steps.

    Attributes:
        step: (steps,) from 1.
        epoch: (steps,) from 0.
        t: (steps,) seconds since the run's start at which each ended.
        parts: Milliseconds, (steps,), by part: data, forward, backward, optimizer, callbacks,
            checkpoint, other.
    """

    step: Figures
    epoch: Figures
    t: Figures
    parts: dict[str, Figures]

    @property
    def total_ms(self) -> Figures:
        return np.sum(list(self.parts.values()), axis=0) if self.parts else np.zeros(0)


@dataclass(frozen=True)
class Recording:
    """Everything that the profiler left; what is not there is empty.

    Attributes:
        traced: The training's steps, from 1, that torch.profiler's tracing made slow.
        min_samples: Samples of the machine, or steps, from which a rule judges.
    """

    system: System
    steps: Steps
    framework: dict[str, Any] = field(default_factory=dict)
    operators: list[dict[str, Any]] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    traces: tuple[Path, ...] = ()
    traced: tuple[int, ...] = ()
    min_samples: int = 10

    def sample_times(self) -> Figures:
        """Return (samples,) seconds since the run's start at which the machine was sampled.

        Raises:
            NotEnough: If there are fewer samples than a rule judges from.
        """
        if len(self.system.t) < self.min_samples:
            raise NotEnough(
                f"{len(self.system.t)} samples of the machine; judged from {self.min_samples}"
            )
        return self.system.t

    def during_training(self, values: Figures) -> Figures:
        """Return the values, one per sample, that were taken while the run trained or searched.

        Raises:
            NotEnough: If there are fewer of them than a rule judges from.
        """
        trains = np.array([is_training(stage) for stage in self.system.stage], dtype=bool)
        if trains.sum() < self.min_samples:
            raise NotEnough(
                f"{int(trains.sum())} samples of the training; judged from {self.min_samples}"
            )
        selected: Figures = values[trains]
        return selected

    def gpu_during_training(self) -> Figures:
        """Return (samples, gpus) percent while the run trained or searched.

        Raises:
            NotEnough: If there is no GPU, or too few samples of it.
        """
        if not self.system.gpu.shape[1]:
            raise NotEnough("no GPU")
        return self.during_training(self.system.gpu)

    def step_ms(self) -> Figures:
        """Return (steps,) milliseconds of each training step.

        Raises:
            NotEnough: If there are fewer steps than a rule judges from.
        """
        total = self.steps.total_ms
        if len(total) < self.min_samples:
            raise NotEnough(f"{len(total)} steps; judged from {self.min_samples}")
        return total


def is_training(stage: str) -> bool:
    """Return whether a stage of a run trains."""
    return stage.startswith(("Search", "Training"))


def read(run: Path) -> Recording:
    """Read a run directory's `profile/`."""
    folder = run / "profile"
    traces = tuple(sorted((folder / "traces").glob("*.json*")))
    return Recording(
        read_system(folder / "system.jsonl"),
        read_steps(folder / "steps.jsonl"),
        _json(folder / "framework.json", {}),
        _json(folder / "operators.json", []),
        _json(folder / "verdicts.json", []),
        traces,
        _traced(run) if traces else (),
    )


def _traced(run: Path) -> tuple[int, ...]:
    """Return the traced steps, and the ones after each, in which the trace is written."""
    try:
        traced = parsed((run / "config.yaml").read_text("utf-8"))["profiler"]["trace_steps"]
    except (OSError, yaml.YAMLError, TypeError, KeyError):
        return ()
    # the config counts from 0
    return tuple(sorted({step + later for step in traced for later in (1, 2)}))


def read_system(path: Path) -> System:
    headers: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    for line in _lines(path):
        (headers if "wall_start" in line else samples).append(line)
    header = headers[0] if headers else {}

    def column(name: str) -> Figures:
        return np.array([float(sample[name]) for sample in samples])

    def of_gpus(name: str) -> Figures:
        rows = [[gpu[name] for gpu in sample["gpu"]] for sample in samples]
        values = np.array(rows, dtype=np.float64)
        return values.reshape(len(samples), -1) if values.size else np.zeros((len(samples), 0))

    return System(
        t=column("t"),
        stage=[sample["stage"] for sample in samples],
        cpu=np.array([sample["cpu"] for sample in samples], dtype=np.float64).reshape(
            len(samples), -1 if samples else 0
        ),
        io_wait=column("io_wait"),
        memory_gb=column("memory_gb"),
        process_memory_gb=column("process_memory_gb"),
        gpu=of_gpus("util"),
        gpu_memory_gb=of_gpus("memory_gb"),
        gpu_capacity_gb=np.array(header.get("gpu_memory_gb", []), dtype=np.float64),
        disk_read_mb_s=column("disk_read_mb_s"),
        disk_write_mb_s=column("disk_write_mb_s"),
        net_in_mb_s=column("net_in_mb_s"),
        net_out_mb_s=column("net_out_mb_s"),
        header=header,
    )


def read_steps(path: Path) -> Steps:
    """Read the steps. One that a resumed run did again is kept as last done."""
    names: list[str] = []
    rows: dict[int, list[float]] = {}
    for line in _lines(path):
        if isinstance(line, dict):
            names = line["columns"]
        else:
            rows[int(line[0])] = line
    table = np.array([rows[step] for step in sorted(rows)], dtype=np.float64).reshape(
        len(rows), len(names)
    )
    columns = {name: table[:, index] for index, name in enumerate(names)}
    empty = np.zeros(0)
    parts = {
        name.removesuffix("_ms"): values for name, values in columns.items() if name.endswith("_ms")
    }
    return Steps(
        columns.get("step", empty), columns.get("epoch", empty), columns.get("t", empty), parts
    )


def _lines(path: Path) -> Iterator[Any]:
    if not path.exists():
        return
    for line in path.read_text(errors="replace").splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _json(path: Path, otherwise: Any) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return otherwise
