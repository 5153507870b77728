"""torch.profiler's traces and operators of chosen steps (`profiler=full`)."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import lightning
import torch

from breedlab.console import warn
from breedlab.files import atomic_write_bytes, atomic_write_json

_OPERATORS = 50


class Traces(lightning.Callback):
    """Trace the training's steps of `trace_steps`, one file per run of consecutive steps.

    `profile/traces/*.pt.trace.json.gz` opens in Perfetto (ui.perfetto.dev) and chrome://tracing.

    Args:
        run: The run directory.
        steps: Counted from 0 over the whole training.
    """

    def __init__(self, run: Path, steps: list[int]) -> None:
        self.run, self.steps = run, frozenset(steps)
        self._profiler: Any = None
        self._step: Any = None
        self._first = 0
        self._failed = False

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if trainer.global_step in self.steps and self._profiler is None and not self._failed:
            self._safely(lambda: self._begin(trainer.global_step))
        if self._profiler is not None:
            # As torch.profiler's own schedule names a step; TensorBoard's plugin and Perfetto show
            # it by that.
            self._step = torch.profiler.record_function(f"ProfilerStep#{trainer.global_step}")
            self._step.__enter__()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        if self._step is not None:
            self._step.__exit__(None, None, None)
            self._step = None
        if self._profiler is not None and trainer.global_step not in self.steps:
            self._safely(self._end)

    def teardown(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        if self._profiler is not None:
            self._safely(self._end)

    def _begin(self, step: int) -> None:
        # it reports on stderr that it starts and stops
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        profiler = torch.profiler.profile(record_shapes=True, profile_memory=True)
        profiler.start()
        self._profiler, self._first = profiler, step

    def _end(self) -> None:
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        folder = self.run / "profile" / "traces"
        folder.mkdir(parents=True, exist_ok=True)
        plain = folder / f"step_{self._first:06}.json"
        profiler.export_chrome_trace(str(plain))
        packed = folder / f"step_{self._first:06}.pt.trace.json.gz"
        atomic_write_bytes(packed, gzip.compress(plain.read_bytes(), 6))
        plain.unlink()
        averages = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
        rows = [
            {
                "name": event.key,
                "calls": event.count,
                "cpu_ms": event.self_cpu_time_total / 1000,
                "gpu_ms": getattr(event, "self_device_time_total", 0) / 1000,
                "memory_mb": getattr(event, "self_cpu_memory_usage", 0) / 1e6,
            }
            for event in averages[:_OPERATORS]
        ]
        atomic_write_json(self.run / "profile" / "operators.json", rows, indent=1)

    def _safely(self, action: Any) -> None:
        try:
            action()
        except Exception as error:
            self._profiler = None
            if not self._failed:
                self._failed = True
                warn(
                    "steps are not traced, and training continues:"
                    f" {' '.join(str(error).split()) or repr(error)}"
                )
