"""
Check the rows that harm most
=============================

What ``counterlog trace`` does, called from Python: a LightGBM model on disk, its training table with a twentieth of the
labels turned, and rows that are trusted. The rows at the harmful end are the first to check; the dark bars are the turned
ones.
"""

from pathlib import Path
from tempfile import mkdtemp

import lightgbm
import numpy as np
import polars as pl
from sklearn.datasets import load_breast_cancer

from counterlog.report.attribution import attribute
from counterlog.report.figures import COLOURS, figure

X, y = load_breast_cancer(return_X_y=True)
gen = np.random.default_rng(0)
order = gen.permutation(len(y))
X, y = X[order], y[order]
turned = gen.permutation(400)[:20]
told = y[:400].copy()
told[turned] = 1 - told[turned]

folder = Path(mkdtemp())
names = [f"x{i}" for i in range(X.shape[1])]
pl.DataFrame(X[:400], schema=names).with_columns(label=told).write_parquet(folder / "train.parquet")
pl.DataFrame(X[400:], schema=names).with_columns(label=y[400:]).write_parquet(folder / "test.parquet")
model = lightgbm.LGBMClassifier(n_estimators=50, num_leaves=15, n_jobs=1, verbose=-1).fit(X[:400], told)
model.booster_.save_model(folder / "model.txt")

done = attribute(
    folder / "model.txt", folder / "train.parquet", folder / "test.parquet", target="label", top=20
)
page = done.write(folder / "trace")  # the page, the scores and what made them

shown = done.report.harmful[:20]
fig = figure(
    [
        {
            "type": "bar",
            "orientation": "h",
            "x": [r.score for r in shown][::-1],
            "y": [f"row {r.row}" for r in shown][::-1],
            "marker": {"color": [COLOURS[0 if r.row in turned else 1] for r in shown][::-1]},
            "showlegend": False,
        }
    ],
    height=460,
    xaxis={"title": {"text": "score summed over the trusted rows, nats"}},
)
fig  # noqa: B018
