"""
How close to retraining, and how soon
=====================================

A tenth of the rows of the MNIST sample must go. Every way of forgetting is a point: its average gap to a model retrained
without the rows, against the time it takes. Lower and further left is better.
"""

from pathlib import Path

import counterlog.studies
from counterlog.core.study import Study
from counterlog.report.figures import COLOURS, figure

results = Path(counterlog.studies.__file__).parent / "results"
study = Study.load(results / "influence-approximation-unlearning.json")
rows = next(t.rows for t in study.tables if t.title == "MNIST sample")
shown = [r for r in rows if "lr" not in r["method"] and r["method"] not in ("retrain", "original")]

data = [
    {
        "type": "scatter",
        "mode": "markers+text",
        "x": [r["cpu s"] for r in shown],
        "y": [r["avg gap"] for r in shown],
        "text": [r["method"] for r in shown],
        "textposition": "top center",
        "error_y": {"type": "data", "array": [r["avg gap half width"] for r in shown]},
        "marker": {"size": 9, "color": [COLOURS[0 if "IAU" in r["method"] else 1] for r in shown]},
        "showlegend": False,
    }
]
fig = figure(
    data,
    height=420,
    xaxis={"title": {"text": "processor seconds"}, "type": "log"},
    yaxis={"title": {"text": "average gap to retraining"}, "zeroline": True},
)
fig.update_yaxes(tickformat=".1%", rangemode="tozero")
