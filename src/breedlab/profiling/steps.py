"""Where the time of each training step goes, from what Lightning tells its profiler at every
hook."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.profilers import Profiler

from breedlab.console import warn
from breedlab.files import atomic_write_json

PARTS = ("data", "forward", "backward", "optimizer", "callbacks", "checkpoint", "other")
"""What a step's time is divided into; each moment counts once, for the innermost."""

_FLUSH_S = 2.0


class StepClock(Profiler):
    """Divide the time into `PARTS`: an action's time excludes that of the actions within it.

    Times are the main process's: work that is only queued on a GPU counts where the process waits
    for it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spent = dict.fromkeys(PARTS, 0.0)
        self._open: list[str] = []
        self._known: dict[str, str | None] = {}
        self._since = time.perf_counter()

    def start(self, action_name: str) -> None:
        now = time.perf_counter()
        part = self._known.get(action_name, "")
        if part == "":
            part = self._known[action_name] = part_of(action_name)
        current = self._open[-1] if self._open else "other"
        self.spent[current] += now - self._since
        self._since = now
        self._open.append(part or current)  # an action without a part counts for its parent's

    def stop(self, action_name: str) -> None:
        now = time.perf_counter()
        if self._open:
            self.spent[self._open.pop()] += now - self._since
            self._since = now

    def take(self) -> dict[str, float]:
        """Return the seconds by part since the last call."""
        now = time.perf_counter()
        self.spent[self._open[-1] if self._open else "other"] += now - self._since
        self._since = now
        spent, self.spent = self.spent, dict.fromkeys(PARTS, 0.0)
        return spent


def part_of(action: str) -> str | None:
    """Return the part that one of Lightning's actions belongs to, or None for its parent's."""
    kind, _, rest = action.partition("]")
    hook = rest.rpartition(".")[2]
    if hook in ("train_dataloader_next", "val_next", "batch_to_device", "transfer_batch_to_device"):
        return "data"
    if action == "save_checkpoint" or (kind == "[Callback" and "Checkpoint" in rest):
        return "checkpoint"
    if hook in ("training_step", "validation_step"):
        return "forward"
    if hook in ("backward", "optimizer_step", "optimizer_zero_grad"):
        return "backward" if hook == "backward" else "optimizer"
    return "callbacks" if kind == "[Callback" else None


class StepTimes(lightning.Callback):
    """Write `steps.jsonl`, one short list per step, and `framework.json`, the sums.

    Args:
        folder: The run's `profile/`.
        started_at: When the run began by `time.monotonic`; when training begins by default.
    """

    def __init__(self, folder: Path, started_at: float | None = None) -> None:
        self.folder = folder
        self._started_at = started_at
        self.clock = StepClock()
        self.steps, self.inside = 0, dict.fromkeys(PARTS, 0.0)
        self.outside = dict.fromkeys(PARTS, 0.0)
        self._lines: list[str] = []
        self._written = time.monotonic()
        self._fresh = True
        self._failed = False

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        trainer.profiler = self.clock  # type: ignore[attr-defined]
        self._began = time.monotonic()
        self.clock.take()  # the time before Lightning began is not its own
        # Seconds since the run's start; a resumed run's clock continues where its recording
        # stopped.
        self._zero = self._began if self._started_at is None else self._started_at
        self._zero -= _offset(self.folder)

    def on_train_epoch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self._outside()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        spent = self.clock.take()
        self.steps += 1
        for part, seconds in spent.items():
            self.inside[part] += seconds
        now = time.monotonic()
        figures = [round(1000 * seconds, 3) for seconds in spent.values()]
        row = [trainer.global_step, trainer.current_epoch, round(now - self._zero, 3), *figures]
        self._lines.append(json.dumps(row, separators=(",", ":")))
        if now - self._written > _FLUSH_S:
            self._write()

    def on_validation_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self._outside()

    def on_train_epoch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self._outside()
        self._write()

    def teardown(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        self._outside()
        self._write()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        self._write()

    def _outside(self) -> None:
        for part, seconds in self.clock.take().items():
            self.outside[part] += seconds

    def _write(self) -> None:
        self._written = time.monotonic()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / "steps.jsonl").open("a") as file:
                if self._fresh:
                    file.write(
                        json.dumps({"columns": ["step", "epoch", "t", *(f"{p}_ms" for p in PARTS)]})
                        + "\n"
                    )
                file.writelines(f"{line}\n" for line in self._lines)
            self._fresh = False
            self._lines.clear()
            summary = {
                "clock": "the main process's",
                "seconds": round(self._written - self._began, 3),
                "steps": self.steps,
                "inside": {part: round(s, 4) for part, s in self.inside.items()},
                "outside": {part: round(s, 4) for part, s in self.outside.items()},
            }
            atomic_write_json(self.folder / "framework.json", summary, indent=1)
        except OSError as error:
            self._lines.clear()
            if not self._failed:
                self._failed = True
                warn(
                    f"the profiler cannot write below {self.folder} ({error.strerror}); training"
                    " goes on"
                )


def _offset(folder: Path) -> float:
    """Return the start time in the newest header of the system's recording."""
    try:
        lines = (folder / "system.jsonl").read_text("utf-8").splitlines()
        return max(
            (float(json.loads(line).get("offset", 0)) for line in lines if '"offset"' in line),
            default=0.0,
        )
    except (OSError, ValueError):
        return 0.0
