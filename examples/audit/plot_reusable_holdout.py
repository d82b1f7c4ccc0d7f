"""
What repeated looks do to a holdout
===================================

Features without any signal are screened on a training and a holdout half, and the best k vote. Read exactly, the
holdout reports an accuracy that does not exist; asked through Thresholdout, it stays near the truth of one half.
"""

from pathlib import Path

import counterlog.studies
from counterlog.core.study import Study
from counterlog.report.figures import COLOURS, figure

study = Study.load(Path(counterlog.studies.__file__).parent / "results" / "reusable-holdout.json")
rows = study.tables[0].rows

data = []
for way, colour, name in (
    ("naive", COLOURS[1], "holdout read exactly"),
    ("thresholdout", COLOURS[0], "through Thresholdout"),
):
    cells = [r for r in rows if r["way"] == way]
    data.append(
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": [r["k"] for r in cells],
            "y": [r["gap"] for r in cells],
            "error_y": {"type": "data", "array": [r["gap_band"] for r in cells]},
            "line": {"color": colour},
        }
    )

fig = figure(
    data,
    height=360,
    xaxis={"title": {"text": "features that vote"}, "type": "log"},
    yaxis={"title": {"text": "reported minus true accuracy"}, "zeroline": True},
)
fig.update_yaxes(tickformat=".0%")
