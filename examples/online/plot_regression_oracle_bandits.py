"""
What exploration costs, and what it teaches
===========================================

Every point is a policy that retrains on its own log for 12 generations of simulated payments, mean of 10 seeds with
95% intervals. To the right: it earned more while it served. Up: the models trained on its data are better. Policies
that remember four generations are filled, policies that remember one are open.
"""

from pathlib import Path

import counterlog.studies
from counterlog.core.study import Study
from counterlog.report.figures import COLOURS, figure

study = Study.load(Path(counterlog.studies.__file__).parent / "results" / "regression-oracle-bandits.json")
tables = {t.title: t.rows for t in study.tables}

data = []
for window, symbol in ((4, "circle"), (1, "circle-open")):
    for k, row in enumerate(tables[f"window {window}"]):
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": row["policy"],
                "legendgroup": row["policy"],
                "showlegend": window == 4,
                "x": [row["served"]],
                "y": [row["next model"]],
                "error_x": {"type": "data", "array": [row["served +-"]], "thickness": 1},
                "error_y": {"type": "data", "array": [row["next model +-"]], "thickness": 1},
                "marker": {"color": COLOURS[k], "symbol": symbol, "size": 11},
                "hovertemplate": f"{row['policy']}, window {window}<br>served %{{x:.3f}}, next model %{{y:.3f}}",
            }
        )

fig = figure(
    data,
    height=480,
    xaxis={"title": {"text": "value served (0: uniform choice, 1: best possible)"}, "zeroline": False},
    yaxis={"title": {"text": "value of the next model's best actions"}, "zeroline": False},
)
fig.update_layout(hovermode="closest")
