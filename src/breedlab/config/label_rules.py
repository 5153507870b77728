"""Rules on how many classes an image has (`data.multi_label`); see `config.rules`."""

from __future__ import annotations

from collections.abc import Iterator

from breedlab.config.problems import Problem, Rule
from breedlab.config.sections import Data, Monitor, Optim, Serving
from breedlab.registry import LOSSES, METRICS


def metric_suits_labels(monitor: Monitor, data: Data) -> Iterator[Problem]:
    """Refuse a metric that does not suit the kind of labels."""
    metric = METRICS.get(monitor.metric.removeprefix(METRICS.prefix))
    if metric.multi_label if data.multi_label else metric.single_label:
        return
    fitting = [
        f"{METRICS.prefix}{name}"
        for name, kind in METRICS.items()
        if (kind.multi_label if data.multi_label else kind.single_label)
    ]
    state = str(data.multi_label).lower()
    expected = f"expected one of {', '.join(fitting)}, since data.multi_label={state}"
    if data.multi_label:
        expected += " (data=multi_label sets both)"
    else:
        expected += " (data=multi_label trains on images of several classes)"
    yield Problem("monitor.metric", f"got {monitor.metric!r}; {expected}")


def labels_name_a_file(data: Data) -> Iterator[Problem]:
    if data.labels in ("multi", "single"):
        yield Problem(
            "data.labels",
            f"got {data.labels!r}; expected auto, or a label file of data.root. Images of several"
            " classes are data=multi_label",
        )


def multi_label_suits(data: Data, optim: Optim, serving: Serving) -> Iterator[Problem]:
    """Yield the settings that only make sense with one class per image."""
    if not data.multi_label:
        return
    why = "since data.multi_label=true"
    if data.sampling != "shuffled":
        yield Problem(
            "data.sampling",
            f"got {data.sampling!r}; expected 'shuffled', {why}: an image may be of a rare class"
            " and of common ones (data.class_weights=balanced weighs labels)",
        )
    if not LOSSES.get(optim.loss).multi_label:
        fitting = [name for name, loss in LOSSES.items() if loss.multi_label]
        yield Problem(
            "optim.loss", f"got {optim.loss!r}; expected {' or '.join(map(repr, fitting))}, {why}"
        )
    if serving.unknown == "row":
        yield Problem(
            "serving.unknown",
            f"got 'row'; expected 'field' or 'off', {why}: an image of none of the classes has no"
            " label",
        )


RULES: tuple[Rule, ...] = (
    metric_suits_labels,
    labels_name_a_file,
    multi_label_suits,
)
