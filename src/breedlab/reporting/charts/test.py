"""Figures of the data and the test: class counts, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

from breedlab.evaluation.figures import rate_interval
from breedlab.evaluation.statistics import wilson
from breedlab.reporting.charts.theme import ACCENT, INK, SERIES, SOFT, Spec, data, finish, short

BINS = 15
"""As the calibration error (`ece`) is computed."""

NAMED = 40
"""The most classes that are drawn with their names."""


@dataclass(frozen=True)
class Bin:
    """Predictions of about the same confidence: its bounds, how many there are, their mean
    confidence, and their accuracy."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def bins(confidences: Sequence[float], right: Sequence[bool], count: int = BINS) -> list[Bin]:
    """Return equal bins of confidence over (0, 1], without the empty ones."""
    sure, hit = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.float64)
    which = np.clip(np.ceil(sure * count) - 1, 0, count - 1).astype(int)
    rows = []
    for index in range(count):
        mine = which == index
        if mine.any():
            confidence, accuracy = float(sure[mine].mean()), float(hit[mine].mean())
            rows.append(
                Bin(index / count, (index + 1) / count, int(mine.sum()), confidence, accuracy)
            )
    return rows


def calibration(bins: Sequence[Bin]) -> Spec | None:
    """Chart accuracy by confidence with its 95% intervals; on the diagonal the model is well
    calibrated."""
    if not bins:
        return None
    rows = []
    for b in bins:
        least, most = wilson(b.accuracy * b.images, b.images)
        rows.append(
            {
                "low": short(b.low),
                "high": short(b.high),
                "confidence": short(b.confidence),
                "accuracy": short(b.accuracy),
                "least": short(least),
                "most": short(most),
                "interval": rate_interval(b.accuracy, b.images),
                "images": b.images,
            }
        )
    unit = alt.Scale(domain=[0, 1])
    tooltip = [
        alt.Tooltip("images:Q", title="images", format=",.0f"),
        alt.Tooltip("confidence:Q", title="mean confidence", format=".1%"),
        alt.Tooltip("accuracy:Q", title="right", format=".1%"),
        alt.Tooltip("interval:N", title="95% interval"),
    ]
    x = alt.X(
        "low:Q",
        bin="binned",
        title="confidence",
        scale=unit,
        axis=alt.Axis(format=".0%", tickCount=5),
    )
    bars = (
        alt.Chart(data(rows))
        .mark_bar(color=ACCENT, opacity=0.35)
        .encode(
            x=x,
            x2=alt.X2("high:Q"),
            y=alt.Y(
                "accuracy:Q", title="right", scale=unit, axis=alt.Axis(format=".0%", tickCount=5)
            ),
            tooltip=tooltip,
        )
    )
    dots = (
        alt.Chart(data(rows))
        .mark_circle(color=ACCENT, opacity=1)
        .encode(
            x=alt.X("confidence:Q"),
            y=alt.Y("accuracy:Q"),
            size=alt.Size("images:Q", scale=alt.Scale(range=[30, 400]), legend=None),
            tooltip=tooltip,
        )
    )
    spans = (
        alt.Chart(data(rows))
        .mark_rule(color=ACCENT, strokeWidth=1.2)
        .encode(x=alt.X("confidence:Q"), y=alt.Y("least:Q"), y2=alt.Y2("most:Q"))
    )
    ideal = (
        alt.Chart(data([{"low": 0, "accuracy": 0}, {"low": 1, "accuracy": 1}]))
        .mark_line(color=SOFT, strokeDash=[5, 4], strokeWidth=1.2)
        .encode(x=alt.X("low:Q"), y=alt.Y("accuracy:Q"))
    )
    return finish(
        alt.layer(bars, ideal, spans, dots),
        300,
        "reliability diagram: share of right answers by confidence, with 95% intervals",
    )


def confidences(bins: Sequence[Bin]) -> Spec | None:
    """Chart the number of images by confidence, right and wrong."""
    if not bins:
        return None
    rows = []
    for b in bins:
        right = round(b.images * b.accuracy)
        for name, images in (("right", right), ("wrong", b.images - right)):
            if images:
                rows.append(
                    {"low": short(b.low), "high": short(b.high), "which": name, "images": images}
                )
    chart = (
        alt.Chart(data(rows))
        .mark_bar(opacity=0.9)
        .encode(
            x=alt.X(
                "low:Q",
                bin="binned",
                title="confidence",
                scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format=".0%", tickCount=5),
            ),
            x2=alt.X2("high:Q"),
            y=alt.Y(
                "images:Q", title="images", stack="zero", axis=alt.Axis(tickCount=5, tickMinStep=1)
            ),
            color=alt.Color(
                "which:N",
                scale=alt.Scale(domain=["right", "wrong"], range=["var(--c1)", "var(--bad)"]),
            ),
            tooltip=[
                alt.Tooltip("which:N", title="answers"),
                alt.Tooltip("images:Q", title="images", format=",.0f"),
            ],
        )
    )
    return finish(chart, 300, "images by confidence, right and wrong")


def class_counts(counts: Mapping[str, Sequence[int]], classes: Sequence[str]) -> Spec | None:
    """Chart the images per class by split, most first."""
    if not classes or not counts:
        return None
    totals = [sum(of_class) for of_class in zip(*counts.values(), strict=True)]
    order = sorted(range(len(classes)), key=lambda index: (-totals[index], classes[index]))
    splits = list(counts)
    rows = [
        {
            "class": classes[index],
            "split": split,
            "images": counts[split][index],
            "order": place,
            "at": at,
        }
        for place, index in enumerate(order)
        for at, split in enumerate(splits)
    ]
    many = len(classes) > NAMED
    images = "images:Q"
    length: dict[str, Any] = {"title": "images", "axis": alt.Axis(tickCount=5, tickMinStep=1)}
    names = [classes[index] for index in order]
    place_of: dict[str, Any] = {
        "title": f"{len(classes)} classes, most images first" if many else None,
        "sort": names,
    }
    encoding = {
        "color": alt.Color("split:N", scale=alt.Scale(domain=splits, range=SERIES)),
        "order": alt.Order("at:Q"),
        "tooltip": [
            alt.Tooltip("class:N", title="class"),
            alt.Tooltip("split:N", title="split"),
            alt.Tooltip(images, title="images"),
        ],
    }
    chart = alt.Chart(data(rows))
    if many:
        hidden = alt.Axis(labels=False, ticks=False, domain=False)
        bars = chart.mark_bar(binSpacing=0).encode(
            x=alt.X("class:N", axis=hidden, **place_of), y=alt.Y(images, **length), **encoding
        )
        return finish(bars, 220, "images of each class by split")
    axis = alt.Axis(labelColor=INK, ticks=False, domain=False, labelLimit=170)
    bars = chart.mark_bar().encode(
        y=alt.Y("class:N", axis=axis, **place_of), x=alt.X(images, **length), **encoding
    )
    return finish(bars, 40 + 22 * len(classes), "images of each class by split")
