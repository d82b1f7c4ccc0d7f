"""
Which interval can be believed
==============================

Every point is the share of 4,000 simulated logs whose 95% interval held the true value. With bounded weights, every
method keeps its word. With weights that have no bound, or rows that share a user, the usual intervals do not.
"""

from pathlib import Path

import counterlog.studies
from counterlog.core.study import Study
from counterlog.report.figures import COLOURS, figure

study = Study.load(Path(counterlog.studies.__file__).parent / "results" / "interval-coverage.json")
cells = [c for c in study.tables[1].rows if c["n"] != 100]
watched = study.tables[2].rows

worlds = {
    "bounded": "weights up to 4",
    "rare": "weights up to 400",
    "heavy": "weights without bound",
    "users": "100 users, many rows each",
}
shown = {
    "t": ("t", "clusters, t"),
    "bootstrap": ("bootstrap", "clusters, bootstrap"),
    "bernstein": ("bernstein",),
    "confidence sequence": ("cs",),
    "t, rows taken as independent": ("rows, t",),
    "asymptotic confidence sequence": (),
}
lines = [(w, e) for w in worlds for e in ("IPS", "SNIPS", "DR", "SNDR")]
place = {line: -i for i, line in enumerate(lines)}
looks = [("watched", "IPS"), ("watched", "SNIPS")]
place |= {line: -len(lines) - i for i, line in enumerate(looks)}
ticks = [f"{worlds[w]}, {e}" for w, e in lines] + [f"watched at every row, {e}" for _, e in looks]

every_look = {
    "t": "t, fixed n",
    "confidence sequence": "cs",
    "asymptotic confidence sequence": "asymptotic cs",
}
marks = ["circle", "square", "diamond", "x", "cross", "star"]

data = []
for k, (name, methods) in enumerate(shown.items()):
    mine = [(c["coverage"], place[c["world"], c["estimator"]]) for c in cells if c["method"] in methods]
    at_every_look = every_look.get(name)
    mine += [
        (s["coverage_at_every_look"], place["watched", s["estimator"]])
        for s in watched
        if s["method"] == at_every_look
    ]
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": [m[0] for m in mine],
            "y": [m[1] + 0.12 * (2 - k) for m in mine],
            "marker": {
                "color": COLOURS[k],
                "size": 9,
                "symbol": marks[k],
            },
        }
    )

fig = figure(
    data,
    height=620,
    xaxis={"title": {"text": "share of logs whose 95% interval holds the truth"}, "tickformat": ".0%"},
    yaxis={"tickvals": list(place.values()), "ticktext": ticks, "automargin": True, "zeroline": False},
    shapes=[
        {"type": "line", "x0": 0.95, "x1": 0.95, "y0": 0, "y1": 1, "yref": "paper", "line": {"dash": "dot"}}
    ],
)
fig.update_xaxes(range=[0.44, 1.02])
