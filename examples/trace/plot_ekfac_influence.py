"""
Which digits taught a network this answer
=========================================

A small network is trained on handwritten digits. EK-FAC influence asks, for one test digit, which training digits lowered its
loss and which raised it. The most helpful rows look like the query and carry its label; the most harmful look like it and carry
another.
"""

# %%
# The model.
import numpy as np
import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots

from counterlog.core.torch_models import mlp
from counterlog.core.torch_training import TrainConfig, train
from counterlog.datasets.labelled import digits
from counterlog.trace.ekfac_influence import EKFACInfluence, EKFACInfluenceConfig

pixels, labels = digits()
order = np.random.default_rng(0).permutation(len(labels))
x, y = torch.from_numpy(pixels[order]), torch.from_numpy(labels[order])
model = train(mlp((64, 96, 48, 10), rng=0), x[:1200], y[:1200], TrainConfig(epochs=20, lr=2e-3))

# %%
# One query, the test digit the model finds hardest, and the ends of its ranking.
with torch.no_grad():
    loss = torch.nn.functional.cross_entropy(model(x[1200:]), y[1200:], reduction="none")
query = 1200 + int(loss.argmax())
influence = EKFACInfluence(model, x[:1200], y[:1200], config=EKFACInfluenceConfig(draws=8))
result = influence.score(x[query : query + 1], y[query : query + 1], k=5)
print(result.to_frame())

# %%
# Drawn: the query, then helpful rows above and harmful rows below.
found = result.queries[0]
titles = [f"query: {int(y[query])}", *[f"helps: {int(y[r])}" for r in found.helpful_rows]]
titles += ["", *[f"harms: {int(y[r])}" for r in found.harmful_rows]]
fig = make_subplots(rows=2, cols=6, subplot_titles=titles)
for row, rows in enumerate(((query, *found.helpful_rows), (None, *found.harmful_rows)), start=1):
    for column, number in enumerate(rows, start=1):
        if number is not None:
            image = np.flipud(x[number].reshape(8, 8).numpy())
            fig.add_trace(go.Heatmap(z=image, colorscale="Greys", showscale=False), row=row, col=column)
fig.update_xaxes(visible=False).update_yaxes(visible=False)
fig.update_layout(height=330)
fig  # noqa: B018
