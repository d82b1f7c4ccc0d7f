"""The report's figures. Text that comes from a log is escaped, since plotly reads markup in labels.

Colours are for a light and a dark page alike; the page sets the colours of text, axes and background by its theme.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from counterlog.core.results import Estimate, show
from counterlog.report.wording import per_decision

if TYPE_CHECKING:
    from counterlog.report.deployment import AtK, RiskPoint
    from counterlog.report.learnt import Share

COLOURS = (
    "#2b7bba",
    "#d9822b",
    "#2a9d6f",
    "#b5559f",
    "#8a8f98",
    "#c9a227",
    "#5b6ee1",
    "#cf4d4d",
    "#4aa3a2",
    "#9a6b4f",
    "#7a9e2f",
    "#d070a0",
)
SYMBOLS = (
    "circle",
    "square",
    "diamond",
    "triangle-up",
    "cross",
    "x",
    "star",
    "hexagon",
    "triangle-down",
    "pentagon",
)
LONGEST = 20
ROW = 17


def label(text: Any, *, width: int = LONGEST) -> str:
    """Text from a log as a label: escaped, broken into lines of at most `width` characters, at most three of them."""
    lines: list[str] = []
    for word in str(text).split():
        while len(word) > width:
            lines.append(word[:width])
            word = word[width:]
        if lines and len(lines[-1]) + len(word) < width:
            lines[-1] = f"{lines[-1]} {word}".strip()
        else:
            lines.append(word)
    if len(lines) > 3:
        lines = [*lines[:2], lines[2][: width - 1] + "…"]
    return "<br>".join(html.escape(line, quote=False) for line in lines) or " "


def figure(data: list[dict[str, Any]], *, height: int, **layout: Any) -> Any:
    """A plotly figure with the house's margins; `layout` adds to it."""
    import plotly.graph_objects as go

    shared: dict[str, Any] = {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 12},
        "legend": {
            "orientation": "h",
            "traceorder": "normal",
            "y": 1.0,
            "yanchor": "bottom",
            "x": 0,
            "xanchor": "left",
        },
        "hoverlabel": {"align": "left"},
        "dragmode": False,
    }
    return go.Figure(data=data, layout={**shared, **layout})


def legend(drawn: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """(plain name, colour) of the traces that a reader must tell apart, from a figure as JSON."""
    traces = [t for t in drawn["data"] if t.get("meta") and t.get("showlegend", True)]
    return tuple((str(t["meta"]), str(t["marker"]["color"])) for t in traces)


def forest(estimates: Sequence[Estimate], *, words: Callable[[str], str] = per_decision) -> Any:
    """Policies by estimators with their intervals; estimates without a value are left out of the drawing. `words` says
    a value's unit.

    Hollow markers are estimates whose interval does not deserve its level. All must be of one reward.
    """
    drawn = [e for e in estimates if math.isfinite(e.value)]
    policies = list(dict.fromkeys(e.policy for e in drawn))
    names = list(dict.fromkeys(e.estimator for e in drawn))
    unit = next((e.unit for e in drawn), "reward")
    step = 0.8 / max(len(names), 1)
    data = []
    for j, name in enumerate(names):
        mine = [e for e in drawn if e.estimator == name]
        colour = COLOURS[j % len(COLOURS)]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": html.escape(name),
                "meta": name,
                "x": [e.value for e in mine],
                "y": [-policies.index(e.policy) + 0.4 - step * (j + 0.5) for e in mine],
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [e.hi - e.value for e in mine],
                    "arrayminus": [e.value - e.lo for e in mine],
                    "color": colour,
                    "thickness": 2,
                    "width": 3,
                },
                "marker": {
                    "color": colour,
                    "size": 8,
                    "symbol": ["circle" if e.valid else "circle-open" for e in mine],
                },
                "hovertext": [_hover(e, words) for e in mine],
                "hoverinfo": "text",
            }
        )
    height = 90 + max(34, ROW * len(names)) * max(len(policies), 1)
    return figure(
        data,
        height=height,
        xaxis={"title": {"text": html.escape(words(unit))}, "zeroline": False, "automargin": True},
        yaxis={
            "tickvals": [-i for i in range(len(policies))],
            "ticktext": [label(p) for p in policies],
            "range": [-len(policies) + 0.5, 0.5],
            "automargin": True,
            "zeroline": False,
            "showgrid": False,
            "fixedrange": True,
        },
    )


def _hover(e: Estimate, words: Callable[[str], str]) -> str:
    """What a pointer shows on an estimate."""
    lines = [
        f"<b>{label(e.policy, width=40)}</b> by {html.escape(e.estimator)}",
        f"{show(e.value)} {html.escape(words(e.unit))}",
        f"{e.level:.0%} interval {show(e.lo)} to {show(e.hi)}",
        f"{e.n:,} independent units, {show(e.ess)} effective rows",
    ]
    return "<br>".join(lines if e.valid else [*lines, html.escape(e.reason)])


def gaps(
    labels: Sequence[str],
    values: Sequence[float],
    lows: Sequence[float],
    highs: Sequence[float],
    unit: str,
    *,
    centre: float = 0.0,
) -> Any:
    """Differences with their intervals beside a line at `centre`; labels that come from a log need not be escaped."""
    rows = list(range(len(labels)))
    clear = [lo > centre or hi < centre for lo, hi in zip(lows, highs, strict=True)]
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "x": list(values),
            "y": [-i for i in rows],
            "error_x": {
                "type": "data",
                "symmetric": False,
                "array": [hi - v for v, hi in zip(values, highs, strict=True)],
                "arrayminus": [v - lo for v, lo in zip(values, lows, strict=True)],
                "thickness": 2,
                "width": 3,
                "color": COLOURS[0],
            },
            "marker": {
                "size": 9,
                "color": COLOURS[0],
                "symbol": ["circle" if c else "circle-open" for c in clear],
            },
            "hovertext": [
                f"<b>{label(name, width=40)}</b><br>{show(v)} {html.escape(unit)}<br>interval {show(lo)} to {show(hi)}"
                for name, v, lo, hi in zip(labels, values, lows, highs, strict=True)
            ],
            "hoverinfo": "text",
            "showlegend": False,
        }
    ]
    return figure(data, height=76 + 40 * max(len(labels), 1), **_rows(labels, unit), shapes=[_line(centre)])


def without(labels: Sequence[str], values: Sequence[float], answer: float, unit: str) -> Any:
    """The answer without each segment or unit, as bars from the answer itself; the dashed line is no difference."""
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "x": [v - answer for v in values],
            "base": answer,
            "y": [-i for i in range(len(labels))],
            "width": 0.55,
            "marker": {"color": [COLOURS[0] if v >= answer else COLOURS[1] for v in values]},
            "hovertext": [
                f"without <b>{label(name, width=40)}</b><br>{show(v)} {html.escape(unit)}<br>with all: {show(answer)}"
                for name, v in zip(labels, values, strict=True)
            ],
            "hoverinfo": "text",
            "showlegend": False,
        }
    ]
    return figure(data, height=76 + 34 * max(len(labels), 1), **_rows(labels, unit), shapes=[_line(0.0)])


def _rows(labels: Sequence[str], unit: str) -> dict[str, Any]:
    """Axes with one labelled row an entry, the first on top."""
    return {
        "xaxis": {"title": {"text": html.escape(unit)}, "zeroline": False, "automargin": True},
        "yaxis": {
            "tickvals": [-i for i in range(len(labels))],
            "ticktext": [label(name) for name in labels],
            "range": [-len(labels) + 0.4, 0.6],
            "automargin": True,
            "zeroline": False,
            "showgrid": False,
            "fixedrange": True,
        },
    }


def _line(x: float) -> dict[str, Any]:
    """A dashed upright line."""
    return {
        "type": "line",
        "x0": x,
        "x1": x,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"dash": "dash", "width": 1.5, "color": COLOURS[4]},
    }


def risk(points: Sequence[RiskPoint]) -> Any:
    """Gain over what was done against its standard error, a mark a policy."""
    unit = html.escape(per_decision(points[0].unit)) if points else ""
    data = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": label(p.policy, width=30),
            "meta": p.policy,
            "x": [p.se],
            "y": [p.gain],
            "marker": {"size": 13, "color": COLOURS[j % len(COLOURS)], "symbol": SYMBOLS[j % len(SYMBOLS)]},
            "hovertext": [
                f"<b>{label(p.policy, width=40)}</b><br>gain {show(p.gain)} {unit}<br>standard error {show(p.se)}"
                f"<br>chance of a loss {p.loss_chance:.1%}"
            ],
            "hoverinfo": "text",
        }
        for j, p in enumerate(points)
    ]
    line = {"type": "line", "y0": 0, "y1": 0, "x0": 0, "x1": 1, "xref": "paper"}
    return figure(
        data,
        height=400,
        showlegend=True,
        xaxis={
            "title": {"text": f"standard error of the gain,<br>{unit}"},
            "rangemode": "tozero",
            "zeroline": False,
            "automargin": True,
        },
        yaxis={
            "title": {"text": f"gain over what was done,<br>{unit}"},
            "zeroline": False,
            "automargin": True,
        },
        shapes=[{**line, "line": {"dash": "dash", "width": 1.5, "color": COLOURS[4]}}],
    )


def ratio_curve(points: Sequence[AtK]) -> Any:
    """SharpeRatio@k against k with the band of its replicates; k without spread are left out."""
    drawn = [p for p in points if math.isfinite(p.ratio)]
    ks = [p.k for p in drawn]
    data: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [*ks, *reversed(ks)],
            "y": [*(p.hi for p in drawn), *(p.lo for p in reversed(drawn))],
            "fill": "toself",
            "fillcolor": "rgba(43,123,186,0.18)",
            "line": {"width": 0},
            "hoverinfo": "skip",
            "showlegend": False,
        },
        {
            "type": "scatter",
            "mode": "lines+markers",
            "x": ks,
            "y": [p.ratio for p in drawn],
            "line": {"color": COLOURS[0], "width": 2},
            "marker": {"size": 8, "color": COLOURS[0]},
            "hovertext": [
                f"<b>test the best {p.k}</b><br>SharpeRatio {show(p.ratio)} ({show(p.lo)} to {show(p.hi)})"
                f"<br>best {show(p.best)}, worst {show(p.worst)} {html.escape(per_decision(p.unit))}"
                for p in drawn
            ],
            "hoverinfo": "text",
            "showlegend": False,
        },
    ]
    return figure(
        data,
        height=300,
        xaxis={
            "title": {"text": "k: policies put to the test"},
            "dtick": 1,
            "zeroline": False,
            "automargin": True,
        },
        yaxis={
            "title": {"text": "SharpeRatio@k"},
            "rangemode": "tozero",
            "zeroline": False,
            "automargin": True,
        },
    )


def shares(rows: Sequence[Share]) -> Any:
    """How often the learnt policy takes each action, a bar a segment."""
    places = list(dict.fromkeys((s.column, s.level) for s in rows))
    names = [f"{column}: {level}" if column else level for column, level in places]
    actions = list(dict.fromkeys(s.action for s in rows))
    data = []
    for j, action in enumerate(actions):
        mine = [s for s in rows if s.action == action]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": label(action, width=30),
                "meta": action,
                "x": [100 * s.learnt for s in mine],
                "y": [-places.index((s.column, s.level)) for s in mine],
                "marker": {"color": COLOURS[j % len(COLOURS)]},
                "hovertext": [
                    f"<b>{label(names[places.index((s.column, s.level))], width=40)}</b><br>"
                    f"{label(action, width=40)}: {s.learnt:.1%} (in the log {s.logged:.1%})"
                    for s in mine
                ],
                "hoverinfo": "text",
            }
        )
    axes = _rows(names, "% of decisions")
    axes["xaxis"]["range"] = [0, 100]
    return figure(
        data,
        height=110 + 34 * len(places),
        barmode="stack",
        bargap=0.25,
        showlegend=True,
        **axes,
    )
