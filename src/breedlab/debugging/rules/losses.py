"""Rules on the losses of training and validation."""

from __future__ import annotations

from typing import Any

import numpy as np

from breedlab.debugging.reader import EvalPass
from breedlab.debugging.rules.base import RunRule


class LossNotDecreasing(RunRule):
    name, section, latest = "LossNotDecreasing", "loss_not_decreasing", True
    needs = "the losses of training, of three windows of steps"
    link = "report.html#loss"
    meaning = (
        "The training loss is no lower than it was at the beginning: the network does not learn."
    )
    advice = (
        "Try another optim.lr, ten times lower or higher; look at the images' labels; check that"
        " something trains."
    )
    sound = "The training loss fell."

    def steps_to_check(self) -> list[int]:
        steps = [entry.step for entry in self.tape.losses("TRAIN")]
        window = self.limits.window
        return [
            step
            for index, step in enumerate(steps)
            if (index + 1) % window == 0 and index + 1 >= 3 * window
        ]

    def invoke_at_step(self, step: int) -> bool:
        losses = [entry.loss for entry in self.tape.losses("TRAIN") if entry.step <= step]
        first, last = (
            float(np.mean(losses[: self.limits.window])),
            float(np.mean(losses[-self.limits.window :])),
        )
        self.figures = {
            "first_loss": first,
            "last_loss": last,
            "decrease": 1 - last / first if first else 0.0,
        }
        self.tensor_names = ["CrossEntropyLoss_output_0"]
        return not last <= first * (1 - self.limits.decrease)  # a NaN is not lower


class _PassRule(RunRule):
    """Asked once a validation."""

    mode = "EVAL"
    needs = "the losses of validation, of more epochs than its patience"
    link = "report.html#loss"
    latest = True

    def steps_to_check(self) -> list[int]:
        return [one.last for one in self.tape.passes("EVAL")]

    def passes(self, step: int, mode: str = "EVAL") -> list[EvalPass]:
        return [one for one in self.tape.passes(mode) if one.last <= step]

    def missing(self) -> str:
        if len(self.judged) > self.limits.patience:
            return ""
        return (
            f"needs the losses of validation of more than {self.limits.patience} epochs;"
            f" {len(self.judged)} saved"
        )


class Overfit(_PassRule):
    name, section = "Overfit", "overfit"
    meaning = (
        "The network memorizes the training set: its loss goes down, the validation's goes up."
    )
    advice = (
        "Augment (data.augment), raise model.dropout or optim.weight_decay, freeze more, or stop"
        " earlier."
    )
    sound = "The validation loss did not keep rising while the training loss fell."

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._rising = 0

    def invoke_at_step(self, step: int) -> bool:
        valid = [one.loss for one in self.passes(step)]
        best = int(np.nanargmin(valid)) if np.isfinite(valid).any() else 0
        train = [one.loss for one in self.passes(step, "TRAIN")]
        risen = (
            valid[-1] > valid[best] * (1 + self.limits.rise)
            and valid[-1] - valid[best] > self.limits.margin
        )
        # Without training losses of its own (not saved so often) only the rise of the validation
        # loss is used.
        learning = len(train) != len(valid) or (train[-1] < valid[-1] and train[-1] <= train[best])
        self._rising = self._rising + 1 if risen and learning else 0
        self.figures = {
            "lowest_loss": valid[best],
            "last_loss": valid[-1],
            "lowest_at_epoch": best + 1,
        }
        if train:
            self.figures["last_training_loss"] = train[-1]
        self.tensor_names = ["CrossEntropyLoss_output_0"]
        return bool(self._rising >= self.limits.patience)


class Overtraining(_PassRule):
    name, section = "Overtraining", "overtraining"
    meaning = "The last epochs brought nothing: the validation loss has long stopped getting lower."
    advice = (
        "Set trainer.patience to end such a training, or fewer trainer.max_epochs; the best epoch"
        " is kept anyway."
    )
    sound = "The validation loss got lower until shortly before the end."

    def invoke_at_step(self, step: int) -> bool:
        valid = [one.loss for one in self.passes(step)]
        best, at = float("inf"), 0
        for index, loss in enumerate(valid):
            if loss < best * (1 - self.limits.improvement):
                best, at = loss, index
        waited = len(valid) - 1 - at
        self.figures = {"lowest_loss": best, "lowest_at_epoch": at + 1, "epochs_since": waited}
        self.tensor_names = ["CrossEntropyLoss_output_0"]
        return bool(waited >= self.limits.patience)
