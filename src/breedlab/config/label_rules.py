"""Rules on how many classes an image has (`data.multi_label`); see `config.rules`."""

from __future__ import annotations

from collections.abc import Iterator

from breedlab.config.problems import Problem, Rule
from breedlab.config.sections import Data, Monitor, Optim, Serving, Tuner
from breedlab.registry import LOSSES, METRICS


def metric_suits_labels(monitor: Monitor, data: Data) -> Iterator[Problem]:
    """Metrics measure images of one class, of several, or both."""
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


def multi_label_suits(
    data: Data, optim: Optim, tuner: Tuner, serving: Serving
) -> Iterator[Problem]:
    """Yield the settings that only make sense with one class per image."""
    if not data.multi_label:
        return
    why = "since data.multi_label=true"
    if data.mixup:
        yield Problem("data.mixup", f"got {data.mixup:g}; expected 0, {why}")
    if data.sampling != "shuffled":
        yield Problem(
            "data.sampling",
            f"got {data.sampling!r}; expected 'shuffled', {why}: an image may be of a rare class"
            " and of common ones (data.class_weights=balanced weighs labels)",
        )
    if data.fixes is not None:
        yield Problem(
            "data.fixes", f"got {data.fixes!r}; expected null, {why}: edit the label file"
        )
    if not LOSSES.get(optim.loss).multi_label:
        fitting = [name for name, loss in LOSSES.items() if loss.multi_label]
        yield Problem(
            "optim.loss", f"got {optim.loss!r}; expected {' or '.join(map(repr, fitting))}, {why}"
        )
    if tuner.folds > 1 and tuner.strategy != "none":
        yield Problem(
            "tuner.folds",
            f"got {tuner.folds}; expected 1, {why}: folds are stratified by one class an image",
        )
    if tuner.strategy == "auto":
        yield Problem(
            "tuner.strategy",
            f"got 'auto'; expected none, random, grid, bayesian or hyperband, {why}: in place of"
            " experiment=auto take experiment=resnet34_hpo, such as with model=efficientnet_lite0",
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
