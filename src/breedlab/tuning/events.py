"""A trial in TensorBoard: its curves and its row of the HParams tab."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from breedlab.tuning.trial import Outcome


def write_events(folder: Path, values: Mapping[str, Any], outcome: Outcome) -> None:
    """Writes the curves by epoch, and the values with the final figures."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for number, figures in enumerate(outcome.epochs):
            for name, value in figures.items():
                writer.add_scalar(name, value, number + 1)
        final = outcome.epochs[-1] if outcome.epochs else {}
        write_hparams(writer, values, final)


def write_hparams(writer: Any, values: Mapping[str, Any], figures: Mapping[str, float]) -> None:
    """One row of the HParams tab, in the writer's own run instead of one beneath it."""
    from torch.utils.tensorboard.summary import hparams

    shown = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in values.items()}
    finals = {f"final/{name.replace('/', '_')}": value for name, value in figures.items()}
    for summary in hparams(shown, finals):  # type: ignore[no-untyped-call]
        writer.file_writer.add_summary(summary)
    for name, value in finals.items():
        writer.add_scalar(name, value)
