"""What TensorBoard shows besides the curves: hyperparameters with final figures, confusions,
predictions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw

from breedlab import extras
from breedlab.config import Config
from breedlab.console import note
from breedlab.data.decode import decode, read_image
from breedlab.data.module import ImageData
from breedlab.evaluation.figures import (
    calibration_before,
    interval,
    metric,
    named_ends,
    shown_metrics,
)
from breedlab.profiling.reading import read
from breedlab.reporting.confusions import Cells, among, drawn_classes, read_cells
from breedlab.training.evaluation import Evaluation
from breedlab.training.label_evaluation import LabelEvaluation
from breedlab.tuning.events import write_hparams, write_objective

_SHOWN = 12
_TILE = 200
_CAPTION = 42
_NAME = 240
"""Pixels that a class's name may take next to the matrix."""


def write_review(
    run: Path,
    config: Config,
    data: ImageData,
    evaluation: Evaluation | LabelEvaluation,
    search_values: Mapping[str, Any],
    monitored: Mapping[str, Any],
) -> None:
    """Add the test's pictures and figures, the config and the HParams row to the run's `final`
    events.

    Args:
        run: The run directory.
        config: Of the training.
        data: The images.
        evaluation: The test.
        search_values: What the search found, by config path.
        monitored: `monitor` of metrics.json.
    """
    if config.logger.name != "tensorboard":
        return
    if not extras.has("tensorboard"):
        note(f"nothing was written for TensorBoard; it needs {extras.install('tensorboard')}")
        return
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(run / "tensorboard" / "final")) as writer:
        writer.add_text(
            "config", f"```yaml\n{yaml.safe_dump(config.recorded(), sort_keys=False)}\n```"
        )
        if isinstance(evaluation, Evaluation):
            for title, picture in _pictures(data, evaluation):
                writer.add_image(title, picture, dataformats="HWC")
        if operators := _operators(run):
            writer.add_text("profile/operators", operators)
        writer.add_text("test/metrics", _metrics(evaluation.as_dict()))
        for name, value in evaluation.metrics.items():
            writer.add_scalar(f"test/{name}", value)
            for end, each in named_ends(f"test/{name}", evaluation.intervals.get(name)).items():
                writer.add_scalar(end, each)
        values = dict(search_values) or {
            "optim.lr": config.optim.lr,
            "data.batch_size": config.data.batch_size,
        }
        tests = {f"test/{name}": value for name, value in evaluation.metrics.items()}
        best, span = monitored["best"], monitored.get("interval")
        monitor = config.monitor.metric
        short = monitor.removeprefix("valid/")
        tests |= named_ends(f"test/{short}", evaluation.intervals.get(short))
        figures = {monitor: best, **named_ends(monitor, span), **tests}
        write_hparams(writer, values, figures, monitor)
        write_objective(writer, monitor, best, span)


def _pictures(
    data: ImageData, evaluation: Evaluation
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield the test's pictures by title: confusions, predictions, most confident mistakes."""
    labels = [image.label for image in data.images.splits["test"]]
    order = range(len(labels))
    wrong = [i for i in order if evaluation.predictions[i][0] != labels[i]]
    worst = sorted(wrong, key=lambda i: -evaluation.predictions[i][1])[:_SHOWN]
    spread = list(order)[:: max(1, len(labels) // _SHOWN)][:_SHOWN]
    matrix = confusion_picture(evaluation.confusion, data.images.classes)
    yield "test/confusion", np.asarray(matrix)
    yield "test/predictions", _sheet(spread, data, evaluation)
    if worst:
        yield "test/worst_predictions", _sheet(worst, data, evaluation)


def _metrics(test: Mapping[str, Any]) -> str:
    """Return the metrics of a test with their intervals, as a table of Markdown."""
    rows = [
        f"| {title} | {metric(name, test['metrics'][name])} | {interval(name, test)} |"
        for name, title in shown_metrics(test).items()
    ]
    if calibration := test.get("calibration"):
        error, span = calibration_before(test)
        title = f"calibration error before scaling by temperature {calibration['temperature']:.2f}"
        rows.append(f"| {title} | {error} | {span} |")
    return "\n".join(
        [f"| {test['photos']:,} images | value | 95% interval |", "|---|---|---|", *rows]
    )


def confusion_picture(
    confusion: Cells | np.ndarray[Any, Any], classes: tuple[str, ...]
) -> Image.Image:
    """Draw a confusion matrix by shares of the true class: rows are true classes, columns predicted
    ones.

    With more than `DRAWN` classes, only those with the most mistakes are drawn: a picture of all
    would take gigabytes.
    """
    cells = (
        confusion if isinstance(confusion, dict) else read_cells({"confusion": confusion.tolist()})
    )
    labels = drawn_classes(cells, len(classes))
    of_class: Counter[int] = Counter()
    for (truth, _), images in cells.items():
        of_class[truth] += images
    totals = np.array([[of_class[label]] for label in labels])
    matrix = np.zeros((len(labels), len(labels)), dtype=np.int64)
    for (row, column), images in among(cells, labels).items():
        matrix[row, column] = images
    caption = (
        f"the {len(labels)} of {len(classes):,} classes with the most mistakes"
        if len(labels) < len(classes)
        else ""
    )
    classes = tuple(classes[label] for label in labels)
    count = len(classes)
    cell = max(8, min(48, 1200 // count))
    size = min(12, cell + 2)
    names = [_shortened(name, size) for name in classes]
    margin = 14 + max(_length(name, size) for name in names)
    image = Image.new(
        "RGB", (margin + count * cell + 8, margin + count * cell + (30 if caption else 8)), "white"
    )
    draw = ImageDraw.Draw(image)
    shares = matrix / np.maximum(totals, 1)
    for row, share_row in enumerate(shares):
        for column, share in enumerate(share_row):
            left, top = margin + column * cell, margin + row * cell
            fade = round(255 * (1 - share))
            # The diagonal in blue, mistakes in red.
            color = (fade, fade, 255) if row == column else (255, fade, fade)
            draw.rectangle((left, top, left + cell - 2, top + cell - 2), fill=color)
            if cell >= 24 and matrix[row, column]:
                ink = "white" if share > 0.5 else "black"
                middle = (left + cell / 2, top + cell / 2)
                draw.text(middle, str(matrix[row, column]), fill=ink, anchor="mm")
    for index, name in enumerate(names):
        center = margin + index * cell + cell / 2
        draw.text((margin - 6, center), name, fill="black", anchor="rm", font_size=size)
        label = Image.new("RGB", (margin - 6, cell), "white")
        ImageDraw.Draw(label).text((2, cell / 2), name, fill="black", anchor="lm", font_size=size)
        image.paste(label.rotate(90, expand=True), (round(center - cell / 2), 0))
    if caption:
        draw.text((margin, margin + count * cell + 8), caption, fill="black", font_size=12)
    return image


def _length(name: str, size: int) -> int:
    """Return the width of a name in pixels."""
    return math.ceil(ImageDraw.Draw(Image.new("L", (1, 1))).textlength(name, font_size=size))


def _shortened(name: str, size: int) -> str:
    """Shorten a name to leave room for the matrix."""
    text = name
    while _length(text, size) > _NAME:
        text = f"{text.removesuffix('…')[:-1]}…"
    return text


def _operators(run: Path) -> str:
    """Return the traced steps' most expensive operators as Markdown, and where the traces are.

    Empty without a trace.
    """
    recording = read(run)
    if not recording.traces:
        return ""
    rows = [
        f"| `{row['name']}` | {row['calls']} | {row['cpu_ms']:.2f} |"
        for row in recording.operators[:20]
    ]
    where = ", ".join(f"`{path.relative_to(run)}`" for path in recording.traces)
    head = "| operator | calls | own CPU ms |\n|---|---|---|\n"
    return f"Traces, for ui.perfetto.dev or chrome://tracing: {where}\n\n{head}" + "\n".join(rows)


def _sheet(indices: list[int], data: ImageData, evaluation: Evaluation) -> np.ndarray[Any, Any]:
    """Draw images with their true and predicted labels, green if right, red if wrong."""
    classes, split = data.images.classes, data.images.splits["test"]
    columns = min(4, len(indices))
    rows = -(-len(indices) // columns)
    sheet = Image.new("RGB", (columns * _TILE, rows * (_TILE + _CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(indices):
        left, top = place % columns * _TILE, place // columns * (_TILE + _CAPTION)
        image = Image.fromarray(decode(read_image(split[index].path)))
        image.thumbnail((_TILE - 8, _TILE - 8))
        sheet.paste(image, (left + (_TILE - image.width) // 2, top + 4))
        predicted, probability = evaluation.predictions[index]
        right = predicted == split[index].label
        color = "#0a6b2d" if right else "#b00020"
        draw.text(
            (left + 6, top + _TILE),
            f"{classes[predicted][:26]} {probability:.0%}",
            fill=color,
            font_size=12,
        )
        draw.text(
            (left + 6, top + _TILE + 18),
            f"is {classes[split[index].label][:28]}",
            fill="black",
            font_size=12,
        )
    return np.asarray(sheet)
