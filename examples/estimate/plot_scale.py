"""
Rows against seconds and memory
===============================

One question, asked of logs of growing size: the value of one policy by importance weighting and by its self-normalised
form. Counterlog reads Parquet, checks it and gives intervals; obp has its arrays in memory and gives points; Vowpal
Wabbit reads its text and gives one point. Memory is the peak of a fresh process, with Java's where Spark computes. Nobody
stops before 1e8 rows on a machine of 24 GB: obp holds everything and is at half of it there.
"""

import json
from pathlib import Path

from counterlog.report.figures import COLOURS, figure

here = Path(globals().get("__file__", "examples/estimate/plot_scale.py")).resolve()
results = next(p / "benchmarks" / "results" for p in here.parents if (p / "benchmarks").is_dir())
rows = json.loads((results / "estimate-scale.json").read_text())["everywhere"]
names = list(dict.fromkeys(r["who"] for r in rows))

# %%
# Both axes are logarithmic: a line of slope 1 is linear time, a flat one is constant memory.
data = []
for i, (key, title) in enumerate((("seconds", "processor seconds"), ("rss_mb", "peak MB"))):
    for j, name in enumerate(names):
        line = [r for r in rows if r["who"] == name]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "legendgroup": name,
                "showlegend": i == 0,
                "x": [r["rows"] for r in line],
                "y": [r[key] for r in line],
                "xaxis": f"x{i + 1}" if i else "x",
                "yaxis": f"y{i + 1}" if i else "y",
                "line": {"color": COLOURS[j % len(COLOURS)]},
                "hovertemplate": f"{name}<br>%{{x:,}} rows<br>%{{y:.3g}} {title}<extra></extra>",
            }
        )
fig = figure(
    data,
    height=460,
    grid={"rows": 1, "columns": 2, "pattern": "independent"},
    xaxis={"type": "log", "title": "rows"},
    xaxis2={"type": "log", "title": "rows"},
    yaxis={"type": "log", "title": "processor seconds"},
    yaxis2={"type": "log", "title": "peak MB"},
)
fig  # noqa: B018
