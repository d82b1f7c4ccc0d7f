"""
Which rows harm a boosted-tree model
====================================

Two fifths of the training labels of a tumour data set are flipped. BoostIn adds up what every training row does to the loss
of a validation set, from the trained trees alone: the flipped rows collect at the harmful end. Plain training loss, the
other score that needs no retraining, mixes them with rows that are only hard.
"""

# %%
# The model is trained once, on the labels as they are.
import numpy as np
import plotly.graph_objects as go
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier

from counterlog.trace.influence_measures import flip_labels
from counterlog.trace.tree_influence import TreeInfluence

X, y = load_breast_cancer(return_X_y=True)
order = np.random.default_rng(0).permutation(len(y))
X, y = X[order], y[order]
noisy, flipped = flip_labels(y[:400], 0.4, 0)
model = HistGradientBoostingClassifier(max_iter=50, max_leaf_nodes=15).fit(X[:400], noisy)

# %%
# Three orders in which the rows could be inspected.
influence = TreeInfluence(model, X[:400], noisy)
orders = {
    "BoostIn, harm to the validation rows": -influence.aggregate(X[400:], y[400:]),
    "BoostIn, self-influence": influence.self_influence(),
    "training loss": influence.using(method="loss").explain(X[400:401], y[400:401])[:, 0],
}
fig = go.Figure()
inspected = np.arange(1, 401) / 400
for (name, suspicion), colour in zip(orders.items(), ("#0072B2", "#E69F00", "#009E73"), strict=True):
    found = np.isin(np.argsort(-suspicion, kind="stable"), flipped).cumsum() / len(flipped)
    fig.add_trace(go.Scatter(x=inspected, y=found, mode="lines", name=name, line={"color": colour}))
    print(f"{name}: {found[119]:.0%} of the flips among the first 30 %")
chance = {"color": "#999999", "dash": "dot"}
fig.add_trace(go.Scatter(x=[0, 1], y=[0, 1], mode="lines", name="chance", line=chance))
fig.update_layout(
    xaxis={"title": "share of the training rows inspected", "tickformat": ".0%", "range": [0, 0.5]},
    yaxis={"title": "share of the flipped labels found", "tickformat": ".0%"},
    legend={"x": 0.98, "y": 0.05, "xanchor": "right"},
)
fig  # noqa: B018
