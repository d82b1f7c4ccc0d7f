"""
Which estimator forms the best portfolios
=========================================

Two tasks, 20 logs of 200 trajectories each, eight candidate policies. Each estimator sorts the candidates; the best k
go to a test. SharpeRatio@k is the gain of the best one tested over the logging policy, for each unit of spread among
those tested. All lines meet at k = 8, where everything is tested. The dotted line sorts at random, the black one by the
true values. On the river, every estimator but TIS soon sorts as the truth does; on the cart pole they part.
"""

from pathlib import Path

import counterlog.studies
from counterlog.core.study import Study
from counterlog.report.figures import COLOURS, figure

study = Study.load(Path(counterlog.studies.__file__).parent / "results" / "sharpe-ratio-at-k.json")
curves = study.tables[2].rows
tasks = ("river", "cart pole")
names = list(dict.fromkeys(r["estimator"] for r in curves))
marks = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "hexagon")

# %%
# One line an estimator; the intervals over logs are in the hover text.
data = []
for i, task in enumerate(tasks):
    for j, name in enumerate(names):
        line = [r for r in curves if r["task"] == task and r["estimator"] == name]
        plain = {"random ranking": ("dot", "#8a8f98"), "true ranking": ("solid", "black")}
        dash, colour = plain.get(name, ("solid", COLOURS[j % len(COLOURS)]))
        data.append(
            {
                "type": "scatter",
                "mode": "lines" if name in plain else "lines+markers",
                "name": name,
                "legendgroup": name,
                "showlegend": i == 0,
                "x": [r["k"] for r in line],
                "y": [r["value"] for r in line],
                "hovertext": [
                    f"{name}, k = {r['k']}: {r['value']:.2f} [{r['lo']:.2f}, {r['hi']:.2f}]" for r in line
                ],
                "hoverinfo": "text",
                "line": {"dash": dash, "color": colour, "width": 4 if name == "true ranking" else 2},
                "marker": {"symbol": marks[j % len(marks)], "size": 7},
                "opacity": 0.45 if name == "true ranking" else 1.0,
                "xaxis": f"x{i + 1}" if i else "x",
                "yaxis": f"y{i + 1}" if i else "y",
            }
        )
fig = figure(
    data,
    height=460,
    grid={"rows": 1, "columns": 2, "pattern": "independent"},
    xaxis={"title": "river: k policies tested", "dtick": 1},
    xaxis2={"title": "cart pole: k policies tested", "dtick": 1},
    yaxis={"title": "SharpeRatio@k", "rangemode": "tozero"},
    yaxis2={"rangemode": "tozero"},
)
fig  # noqa: B018
