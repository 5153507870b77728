"""A trial in TensorBoard: its curves and its row of the HParams tab."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from breedlab import extras
from breedlab.evaluation.figures import named_ends, rate_ends
from breedlab.evaluation.metrics import end_names
from breedlab.registry import METRICS
from breedlab.training.curves import add_interval_charts, epoch_intervals
from breedlab.tuning.trial import Outcome


def write_events(folder: Path, values: Mapping[str, Any], outcome: Outcome, metric: str) -> None:
    """Write the curves by epoch, and the values with the final metrics, replacing what a kill left
    of them.

    Args:
        folder: Of the trial's events.
        values: What it tried, by config path.
        outcome: How it ended.
        metric: The monitored one.
    """
    if not extras.has("tensorboard"):
        return  # the trial's record has them
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(str(folder)) as writer:
        for number, figures in enumerate(outcome.epochs):
            scalars = figures | epoch_intervals(figures, outcome.images)
            for name, value in scalars.items():
                writer.add_scalar(name, value, number + 1)
        final = outcome.epochs[-1] if outcome.epochs else {}
        if outcome.images:
            add_interval_charts(writer, final)
        ends = rate_ends(metric, final[metric], outcome.images) if metric in final else None
        write_hparams(writer, values, final | named_ends(metric, ends), metric)
        if outcome.objective is not None:
            write_objective(writer, metric, outcome.objective, outcome.span(metric))


def write_objective(writer: Any, metric: str, value: float, span: Sequence[float] | None) -> None:
    """Write the monitored metric with the ends of its 95% interval, if that is known.

    Args:
        writer: Of the events.
        metric: Its name, such as `valid/top1`.
        value: Its best.
        span: The interval.
    """
    writer.add_scalar(f"best/{metric}", value)
    for name, end in named_ends(f"best/{metric}", span).items():
        writer.add_scalar(name, end)


def write_hparams(
    writer: Any, values: Mapping[str, Any], figures: Mapping[str, float], metric: str
) -> None:
    """Write one row of the HParams tab, in the writer's own run instead of one below it.

    Args:
        writer: Of the events.
        values: What was set, by config path.
        figures: The final metrics by name, with the ends of intervals (`named_ends`).
        metric: The monitored one: it has columns for the ends of its interval, in validation and
            test.
    """
    from torch.utils.tensorboard.summary import hparams

    # Sessions of one group are one row: TensorBoard reads the newest run twice, as itself and as
    # runs/latest.
    group = "/".join(Path(writer.log_dir).parts[-4:])
    plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in values.items()}
    finals = {f"final/{name.replace('/', '_')}": value for name, value in figures.items()}
    # TensorBoard takes its columns from one run: so each names the metrics of trials and those of
    # the test.
    columns = dict.fromkeys([*finals, *(f"final/{name}" for name in _columns(metric))], 0.0)
    experiment, start, end = hparams(plain, columns)  # type: ignore[no-untyped-call]
    for summary in (experiment, _grouped(start, group), end):
        writer.file_writer.add_summary(summary)
    for name, value in finals.items():
        writer.add_scalar(name, value)


def _grouped(start: Any, group: str) -> Any:
    """Return a session's start with the name of its group, which torch leaves empty."""
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    metadata_of = start.value[0].metadata
    content = plugin_data_pb2.HParamsPluginData.FromString(metadata_of.plugin_data.content)
    content.session_start_info.group_name = group
    metadata_of.plugin_data.content = content.SerializeToString()
    assert metadata_of.plugin_data.plugin_name == metadata.PLUGIN_NAME
    return start


def _columns(metric: str) -> tuple[str, ...]:
    """Return the columns that every run has, of images of one class; others bring their own."""
    tests = (f"test_{name}" for name, kind in METRICS.items() if kind.single_label)
    short = metric.removeprefix("valid/")
    ends = (*end_names(f"valid_{short}"), *end_names(f"test_{short}"))
    return ("train_loss", "valid_loss", "valid_top1", *tests, *ends)
