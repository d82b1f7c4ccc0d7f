"""
Which logged actions to stop copying
====================================

A good controller of a pendulum is logged with seven tenths of its actions replaced by noise. A2PR pulls its policy to the logged
action where that is better than average, to a proposal of its own where the proposal is better still, and nowhere where neither
is. Afterwards it says what became of every row.
"""

# %%
# Two seeds, trained side by side; a real run takes thousands of steps more.
import plotly.graph_objects as go

from counterlog.datasets.pendulum import pendulum_log
from counterlog.learn.a2pr import A2PR, A2PRConfig

log = pendulum_log("pendulum-eps", 4000)
small = {"hidden": (32, 32), "critic_hidden": (32, 32), "vae_hidden": (64, 64)}
learner = A2PR(A2PRConfig(seeds=2, batch=64, steps=1200, gamma=0.97, lr=1e-3, tau=0.01, **small))
policy = learner.fit(log, low=-2, high=2)
print(policy.report.last("positive_share"), policy.report.last("unguided"))

# %%
# A verdict a row: how often over seeds and draws it was imitated, replaced or ignored.
frame = learner.verdicts(draws=4).to_frame()
print(frame["verdict"].value_counts())
print(frame.sort("advantage_logged").head(3))

# %%
# Torque against speed, for the rows where the pole hangs low.
low = log.state[:, 0] < -0.5
figure = go.Figure()
for verdict in ("logged", "proposed", "ignored"):
    mine = low & (frame["verdict"] == verdict).to_numpy()
    figure.add_scatter(x=log.state[mine, 2], y=log.action[mine, 0], mode="markers", name=verdict)
figure.update_layout(xaxis_title="speed, rad/s", yaxis_title="logged torque, Nm")
figure  # noqa: B018
