"""
What a learner needs of a log
=============================

Logs of four rooms under a dozen behaviours, from uniform to planned. Each is placed by its coverage (SACo, against a
record that goes from uniform to planned) and its quality (TQ). The colour is how far a learner, solved exactly on the
log's counts, goes from the uniform to the planned policy. Cloning follows quality; values without constraint fail
wherever an action is missing; values within the logged actions are good almost everywhere.
"""

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from counterlog.audit.dataset_characteristics import DatasetCharacteristics, DatasetCharacteristicsConfig
from counterlog.datasets.grid_worlds import GridWorld
from counterlog.datasets.regimes import grid_log
from counterlog.learn.tabular_values import tabular_policy

world = GridWorld()
process, plan = world.process, world.plan(0.95)
low = process.value(np.full((104, 4), 0.25), 0.95)
high = process.value(np.eye(4)[plan], 0.95)
audit = DatasetCharacteristics(DatasetCharacteristicsConfig(gamma=0.95))
reference = audit.reference(grid_log("four-rooms-replay", 3000))
regimes = [
    "random",
    "mixed",
    "replay",
    "noisy",
    "medium",
    "expert",
    "eps-0.1",
    "eps-0.7",
    "mix-0.05",
    "mix-0.5",
    "mix-0.8",
]
learners = ["bc", "dqn", "discrete-bcq"]

places, scores = [], []
for regime in regimes:
    log = grid_log(f"four-rooms-{regime}", 3000)
    p = audit.check(log, reference=reference, random=low, best=high, possible=process.reward.size)
    places.append((p.saco, p.tq))
    values = [process.value(tabular_policy(name, log, 104), 0.95) for name in learners]
    scores.append([100 * (v - low) / (high - low) for v in values])
    print(f"{regime:8s} TQ {p.tq:5.2f}  SACo {p.saco:4.2f}  " + "  ".join(f"{s:5.1f}" for s in scores[-1]))
print(p)

figure = make_subplots(1, 3, subplot_titles=learners, shared_yaxes=True)
for k in range(3):
    figure.add_trace(
        go.Scatter(
            x=[x for x, _ in places],
            y=[y for _, y in places],
            mode="markers+text",
            text=regimes,
            textposition="top center",
            marker={"size": 13, "color": [s[k] for s in scores], "coloraxis": "coloraxis"},
            showlegend=False,
        ),
        1,
        k + 1,
    )
figure.update_xaxes(title="SACo", range=[0, 1.4])
figure.update_yaxes(title="TQ", range=[-0.15, 1.2], col=1)
figure.update_layout(
    title="How far a learner goes from the uniform to the planned policy, %",
    coloraxis={"cmin": 0, "cmax": 100, "colorscale": "Viridis"},
)
