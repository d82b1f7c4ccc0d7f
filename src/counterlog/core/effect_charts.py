"""Charts of effects: coefficients with their intervals, distributions, and curves with a band. Labels are escaped."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from counterlog.core.results import Estimate

FIRST, REST, BAND = "#2b7bba", "#8a8f98", "rgba(43,123,186,0.18)"


def figure(data: list[dict[str, Any]], *, height: int, **layout: Any) -> Any:
    """A plotly figure with small margins on no background."""
    import plotly.graph_objects as go

    shared: dict[str, Any] = {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12},
        "showlegend": False,
        "dragmode": False,
    }
    return go.Figure(data=data, layout={**shared, **layout})


def coefficients(estimates: Sequence[Estimate]) -> Any:
    """One line an estimate, the first at the top and in colour; hollow where it is not to be trusted."""
    drawn = [e for e in estimates if math.isfinite(e.value)]
    data = []
    for i, e in enumerate(drawn):
        colour = FIRST if i == 0 else REST
        ends = (e.hi - e.value, e.value - e.lo) if math.isfinite(e.hi) and math.isfinite(e.lo) else (0.0, 0.0)
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": html.escape(e.estimator),
                "x": [e.value],
                "y": [-i],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [ends[0]],
                    "arrayminus": [ends[1]],
                    "color": colour,
                },
                "marker": {"color": colour, "size": 9, "symbol": "circle" if e.valid else "circle-open"},
                "hovertext": [f"{html.escape(e.estimator)}: {e.value:,.4g} [{e.lo:,.4g}, {e.hi:,.4g}]"],
                "hoverinfo": "text",
            }
        )
    unit = drawn[0].unit if drawn else ""
    return figure(
        data,
        height=90 + 30 * len(drawn),
        xaxis={"title": {"text": html.escape(unit)}, "zeroline": True, "automargin": True},
        yaxis={
            "tickvals": [-i for i in range(len(drawn))],
            "ticktext": [html.escape(e.estimator) for e in drawn],
            "range": [-len(drawn) + 0.5, 0.5],
            "automargin": True,
            "zeroline": False,
            "showgrid": False,
        },
    )


def histogram(edges: Sequence[float], shares: Sequence[float], *, x: str, zero: bool = True) -> Any:
    """Shares of rows by bin, with a line at zero."""
    left = np.asarray(edges)
    data: list[dict[str, Any]] = [
        {
            "type": "bar",
            "x": ((left[1:] + left[:-1]) / 2).tolist(),
            "y": list(shares),
            "width": np.diff(left).tolist(),
            "marker": {"color": FIRST},
        }
    ]
    line = {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1, "line": {"dash": "dot"}}
    return figure(
        data,
        height=260,
        xaxis={"title": {"text": html.escape(x)}, "automargin": True},
        yaxis={"title": {"text": "share of rows"}, "tickformat": ".0%", "automargin": True},
        shapes=[line] if zero else [],
    )


def band(
    x: Sequence[float], low: Sequence[float], high: Sequence[float], middle: float, *, title: str, unit: str
) -> Any:
    """A band around a level, with a line at zero."""
    xs = [*x, *reversed(list(x))]
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": xs,
            "y": [*high, *reversed(list(low))],
            "fill": "toself",
            "fillcolor": BAND,
            "line": {"color": FIRST, "width": 1},
            "hoverinfo": "skip",
        },
        {
            "type": "scatter",
            "mode": "lines",
            "x": [x[0], x[-1]],
            "y": [middle, middle],
            "line": {"color": FIRST},
        },
    ]
    return figure(
        data,
        height=280,
        xaxis={"title": {"text": html.escape(title)}, "automargin": True},
        yaxis={"title": {"text": html.escape(unit)}, "zeroline": True, "automargin": True},
    )
