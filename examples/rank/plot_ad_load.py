"""
More revenue and more satisfaction from one log
===============================================

Every static ad load trades satisfaction for revenue. Policies learnt from a log of 20,000 fetches lie above that line:
with the right weight they beat the production load (2) in both. Values are true ones, averaged over logs.
"""

from pathlib import Path

import counterlog.studies
from counterlog.core.study import Study
from counterlog.report.figures import COLOURS, figure

study = Study.load(Path(counterlog.studies.__file__).parent / "results" / "ad-load.json")
policies, sweep = study.tables[0].rows, study.tables[1].rows
static = [r for r in policies if r["policy"].startswith("static")]

data = [
    {
        "type": "scatter",
        "mode": "lines+markers+text",
        "name": "static loads",
        "x": [r["satisfaction"] for r in static],
        "y": [r["revenue"] for r in static],
        "text": [r["policy"].removeprefix("static ") for r in static],
        "textposition": "bottom left",
        "line": {"color": COLOURS[1]},
    },
    {
        "type": "scatter",
        "mode": "lines+markers+text",
        "name": "learnt, by the weight of revenue",
        "x": [r["satisfaction"] for r in sweep],
        "y": [r["revenue"] for r in sweep],
        "error_x": {"type": "data", "array": [r["satisfaction half width"] for r in sweep]},
        "error_y": {"type": "data", "array": [r["revenue half width"] for r in sweep]},
        "text": [f"{r['revenue weight']:g}" for r in sweep],
        "textposition": "top right",
        "line": {"color": COLOURS[0]},
    },
]

fig = figure(
    data,
    height=420,
    xaxis={"title": {"text": "satisfaction: chance that the visit goes on"}},
    yaxis={"title": {"text": "revenue, US dollars a fetch"}},
)
