"""Loss and accuracy over the steps of training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import altair as alt
import numpy as np

from breedlab.debugging.tensors import Series
from breedlab.evaluation.figures import rate_ends
from breedlab.reporting.charts.theme import SERIES, SOFT, Spec, data, finish, form, legend, short
from breedlab.reporting.record import RunRecord

_POINTS = 400
"""As many as a chart can show of a curve; more steps are averaged."""

_HEIGHT = 260
_DASHES = [[1, 0], [7, 5], [2, 3], [10, 3, 2, 3]]
"""If two runs have the same curve, the later one leaves the earlier one visible."""
_EACH, _TRAIN, _VALID = "training, each step", "training, mean of the epoch", "validation"


def loss(run: RunRecord) -> Spec | None:
    """Chart training and validation loss; with a debugger, the loss of each step, too."""
    each = thinned(run.tensors.losses.get("TRAIN", []))
    return _curves(run, "loss", "loss (nats)", each)


def accuracy(run: RunRecord) -> Spec | None:
    """Chart training and validation top-1, or for a multi-label run the share of images with all
    labels right."""
    if run.multi_label:
        return _curves(run, "exact", "all labels right", [])
    return _curves(run, "top1", "top-1", [])


def mean_precision(run: RunRecord) -> Spec | None:
    """Chart the validation mAP of a multi-label run; None for another run."""
    return _curves(run, "map", "mAP", []) if run.multi_label else None


def _curves(run: RunRecord, name: str, title: str, each: Series) -> Spec | None:
    train = at_middles(run.curves.get(f"train/{name}", []))
    valid = run.curves.get(f"valid/{name}", [])
    rows = [
        {"step": step, "value": short(value), "which": which}
        for which, series in ((_EACH, each), (_TRAIN, train), (_VALID, valid))
        for step, value in series
    ]
    if not rows:
        return None
    names = [which for which, series in ((_EACH, each), (_TRAIN, train), (_VALID, valid)) if series]
    colors = {_EACH: "var(--faint)", _TRAIN: SERIES[0], _VALID: SERIES[1]}
    last = max(row["step"] for row in rows)
    x = alt.X(
        "step:Q",
        title="steps",
        scale=alt.Scale(domain=[0, last], nice=False),
        axis=alt.Axis(tickMinStep=1),
    )
    y = alt.Y(
        "value:Q",
        title=title,
        scale=alt.Scale(zero=False),
        axis=alt.Axis(format=form(name), tickCount=6),
    )
    base = alt.Chart(data(rows)).encode(
        x=x,
        y=y,
        color=alt.Color(
            "which:N",
            scale=alt.Scale(domain=names, range=[colors[which] for which in names]),
            legend=legend(names),
        ),
        tooltip=[
            alt.Tooltip("which:N", title="which"),
            alt.Tooltip("step:Q", title="step", format=",.0f"),
            alt.Tooltip("value:Q", title=title, format=".4f" if name == "loss" else ".1%"),
        ],
    )
    layers = [*_band(run, name, valid, x), base.mark_line(clip=True)]
    if len(rows) - len(each) <= 2 * 60:  # points only if they can be told apart
        layers.append(
            base.transform_filter(alt.datum.which != _EACH).mark_circle(size=36, opacity=1)
        )
    layers += _kept(run, valid, top=name == "loss")
    return finish(
        alt.layer(*layers), _HEIGHT, f"{title} of training and validation over {last} steps"
    )


def _band(run: RunRecord, name: str, valid: Series, x: alt.X) -> list[Any]:
    """Return the 95% interval of a rate on validation as a band; nothing for another metric."""
    rows = []
    for step, value in valid:
        if ends := rate_ends(name, value, run.validated):
            rows.append({"step": step, "low": short(ends[0]), "high": short(ends[1])})
    if not rows:
        return []
    chart = alt.Chart(data(rows)).encode(x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"))
    return [chart.mark_area(color=SERIES[1], opacity=0.15, clip=True)]


def _kept(run: RunRecord, valid: Series, top: bool) -> list[Any]:
    """Return a labeled line at the step of the kept weights; nothing if that is not known."""
    epoch = (run.metrics.get("training") or {}).get("best_epoch", 0)
    if not 0 < epoch <= len(valid):
        return []
    step = valid[epoch - 1][0]
    right = 2 * step > valid[-1][0]
    mark = alt.Chart(data([{"step": step, "text": f"kept: epoch {epoch}"}])).encode(
        x=alt.X("step:Q")
    )
    return [
        mark.mark_rule(strokeDash=[4, 4], color=SOFT),
        mark.mark_text(
            align="right" if right else "left",
            dx=-5 if right else 5,
            y=8 if top else _HEIGHT - 10,
            color=SOFT,
        ).encode(text=alt.Text("text:N")),
    ]


def at_middles(means: Series) -> Series:
    """Return means over epochs, moved from the epochs' ends to their middles, which they describe.

    A middle may be between two steps. Rounded, the epochs of one step each fell on 0, 2, 2, 4, 4: a
    zigzag.
    """
    edges = [0, *(step for step, _ in means)]
    return [((a + b) / 2, value) for (a, b), (_, value) in zip(pairwise(edges), means, strict=True)]


def thinned(series: Series, most: int = _POINTS) -> Series:
    """Return at most `most` points, averaging neighbors."""
    if len(series) <= most:
        return series
    parts = np.array_split(np.asarray(series, dtype=np.float64), most)
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts]


def compared(runs: Sequence[RunRecord], names: Sequence[str], metric: str) -> Spec | None:
    """Chart one metric of several runs over their steps."""
    rows = []
    for run, name in zip(runs, names, strict=True):
        curve = list(run.curves.get(metric, []))
        if metric.startswith("train/"):
            curve = at_middles(curve)
        rows += [{"step": step, "value": short(value), "run": name} for step, value in curve]
    if not rows:
        return None
    base = alt.Chart(data(rows)).encode(
        x=alt.X(
            "step:Q",
            title="steps",
            scale=alt.Scale(zero=True, nice=False),
            axis=alt.Axis(tickMinStep=1),
        ),
        y=alt.Y(
            "value:Q",
            title=metric,
            scale=alt.Scale(zero=False),
            axis=alt.Axis(format=form(metric), tickCount=6),
        ),
        color=alt.Color(
            "run:N", scale=alt.Scale(domain=list(names), range=SERIES), legend=legend(names)
        ),
        tooltip=[
            alt.Tooltip("run:N", title="run"),
            alt.Tooltip("step:Q", title="step", format=",.0f"),
            alt.Tooltip("value:Q", title=metric, format=".4f"),
        ],
    )
    dashes = alt.StrokeDash(
        "run:N", scale=alt.Scale(domain=list(names), range=_DASHES), legend=None
    )
    return finish(
        alt.layer(base.mark_line().encode(dashes), base.mark_circle(size=30, opacity=1)),
        260,
        f"{metric} of {len(runs)} runs by step",
    )
