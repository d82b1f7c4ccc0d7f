"""
How far each estimator is from the truth, by size of the log
============================================================

A simulated log with five actions, whose propensities fall to 0.02, and a candidate whose true value is known. Every
estimator sees the same 40 logs of each size. Weighting pays for large weights with variance, the direct method for its
model with bias, and the doubly robust family sits between.
"""

# %%
# The log. Rewards depend on context and action by a curve that the linear reward model cannot follow.
import numpy as np
import plotly.graph_objects as go

from counterlog.core.evaluate import evaluate
from counterlog.core.policies import Function
from counterlog.core.rounds import Rounds

BEND = np.array([0.0, 0.4, 0.8, 1.2, 1.6])


def softmax(score):
    e = np.exp(score - score.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def mean_reward(x):
    return 0.5 + 0.4 * np.sin(2 * x[:, None] + 2 * BEND)


def logging(x):
    return 0.9 * softmax(np.outer(x, BEND * 2)) + 0.1 / 5


def candidate(context, actions):
    x = context["x"].to_numpy()
    return softmax(6 * mean_reward(x) - 1.0 * np.outer(x, BEND))


def draw(n, rng):
    gen = np.random.default_rng(rng)
    x = gen.normal(size=n)
    p = logging(x)
    a = (p.cumsum(axis=1) > gen.random(n)[:, None]).argmax(axis=1)
    r = (gen.random(n) < mean_reward(x)[np.arange(n), a]).astype(float)
    frame = {"x": x, "a": a, "r": r, "p": p[np.arange(n), a]}
    return Rounds(frame, action="a", reward="r", propensity="p", context=("x",))


grid = np.random.default_rng(99).normal(size=400_000)
truth = float((softmax(6 * mean_reward(grid) - np.outer(grid, BEND)) * mean_reward(grid)).sum(axis=1).mean())
print(f"true value of the candidate: {truth:.4f}")

# %%
# The error of every estimator: root of the mean squared error over 40 logs.
NAMES = ("IPS", "SNIPS", "ClippedIPS(slope)", "DM", "DR", "SNDR", "SwitchDR(slope)")
SIZES, LOGS = (100, 300, 1_000, 3_000), 40
error = {name: [] for name in NAMES}
for n in SIZES:
    missed = {name: [] for name in NAMES}
    for rng in range(LOGS):
        made = evaluate(draw(n, rng), [Function(candidate, name="candidate")], NAMES, model="linear")
        for e in made.estimates:
            missed[e.estimator].append(e.value - truth)
    for name in NAMES:
        error[name].append(float(np.sqrt(np.mean(np.square(missed[name])))))
print("rows   " + "".join(f"{name:>19}" for name in NAMES))
for i, n in enumerate(SIZES):
    print(f"{n:>5}  " + "".join(f"{error[name][i]:>19.4f}" for name in NAMES))

# %%
# Lines that fall with slope -1/2 have no bias left to show; a line that flattens out has.
colours = ("#0072B2", "#56B4E9", "#009E73", "#D55E00", "#E69F00", "#CC79A7", "#333333")
dashes = ("solid", "solid", "dash", "dot", "solid", "solid", "dash")
fig = go.Figure()
for name, colour, dash in zip(NAMES, colours, dashes, strict=True):
    fig.add_trace(
        go.Scatter(
            x=list(SIZES),
            y=error[name],
            name=name,
            mode="lines+markers",
            line={"color": colour, "dash": dash},
        )
    )
fig.update_xaxes(type="log", title_text="decisions in the log", tickvals=list(SIZES))
fig.update_yaxes(type="log", title_text="root mean squared error (reward per decision)")
fig.update_layout(height=460, template="plotly_white", legend={"orientation": "h", "y": -0.2})
fig  # noqa: B018
