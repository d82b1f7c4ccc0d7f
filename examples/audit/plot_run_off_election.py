"""
How much poison a prediction survives
=====================================

Forty networks learn handwritten digits, each from its own part of the training set, and vote. The curves show the share
of test digits that are read right and provably stay so when an attacker adds or removes so many training records: by
plurality, by run-off election, and by run-off election of six networks a part. Below, what the run-off adds to plurality.
"""

from pathlib import Path

import counterlog.studies
from counterlog.core.study import Study
from counterlog.report.figures import COLOURS, figure

study = Study.load(Path(counterlog.studies.__file__).parent / "results" / "run-off-election.json")
rows = study.tables[0].rows
budgets = [r["budget"] for r in rows]
lines = (
    ("DPA", "plurality (DPA)", COLOURS[4], "solid"),
    ("DPA+ROE", "run-off (DPA+ROE)", COLOURS[0], "solid"),
    ("FA+ROE", "run-off, spread 4 (FA+ROE)", COLOURS[2], "dot"),
    ("DPA*+ROE", "run-off, six a part (DPA*+ROE)", COLOURS[1], "solid"),
)

data = [
    {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": budgets,
        "y": [r[rule] for r in rows],
        "line": {"color": colour, "dash": dash, "shape": "hv"},
        "marker": {"size": 4},
    }
    for rule, name, colour, dash in lines
]
data += [
    {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": budgets,
        "y": [100 * (r[rule] - r["DPA"]) for r in rows],
        "line": {"color": colour, "dash": dash},
        "yaxis": "y2",
        "showlegend": False,
    }
    for rule, name, colour, dash in lines[1:]
]

fig = figure(
    data,
    height=480,
    xaxis={"title": {"text": "training records added or removed"}, "anchor": "y2"},
    yaxis={"title": {"text": "certified accuracy"}, "domain": [0.38, 1.0], "tickformat": ".0%"},
    yaxis2={"title": {"text": "points over plurality"}, "domain": [0.0, 0.28], "zeroline": True},
)
fig.update_xaxes(dtick=2)
