"""What the debugger recorded of tensors, over the steps."""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt

from breedlab.debugging.tensors import FIGURES, Series, Tensors
from breedlab.reporting.charts.theme import SERIES, Spec, data, finish, legend, short

_NAMED = 6
"""The most tensors that get their own colors and a legend."""


def reductions(tensors: Tensors) -> dict[str, Spec]:
    """Return one chart per collection, by title."""
    return {
        FIGURES[name][1]: _chart(name, series) for name, series in tensors.figures.items() if series
    }


def _chart(collection: str, series_by_tensor: Mapping[str, Series]) -> Spec:
    shares = FIGURES[collection][0] in ("dead", "saturated")
    # On a logarithmic axis, which has no zero; the rules report zeros.
    rows = [
        {"step": step, "value": short(value), "tensor": name}
        for name, series in series_by_tensor.items()
        for step, value in series
        if shares or value > 0
    ]
    names = list(series_by_tensor)
    y = alt.Y(
        "value:Q",
        title="share" if shares else "value",
        scale=alt.Scale(domain=[0, 1]) if shares else alt.Scale(type="log"),
        axis=alt.Axis(format=".0%" if shares else ".0e", tickCount=5),
    )
    color = alt.Color("tensor:N", scale=alt.Scale(domain=names, range=SERIES), legend=legend(names))
    base = alt.Chart(data(rows)).encode(
        x=alt.X("step:Q", title="steps", axis=alt.Axis(tickMinStep=1), scale=alt.Scale(nice=False)),
        y=y,
        detail=alt.Detail("tensor:N"),
        color=color if len(names) <= _NAMED else alt.ColorValue(SERIES[0]),
        tooltip=[
            alt.Tooltip("tensor:N", title="tensor"),
            alt.Tooltip("step:Q", title="step", format=",.0f"),
            alt.Tooltip(
                "value:Q", title=FIGURES[collection][0], format=".1%" if shares else ".3~e"
            ),
        ],
    )
    layers = alt.layer(
        base.mark_line(strokeWidth=1.4, opacity=0.7), base.mark_circle(size=26, opacity=0.8)
    )
    return finish(layers, 200, f"{FIGURES[collection][1]}: {len(names)} tensors")
