"""
Many actions: weighting descriptions instead of actions
=======================================================

The more actions, the larger the weights of IPS, although the log and what is known of it stay the same. Where a
description of the action explains the reward, MIPS weights the description, and its error hardly grows.
"""

# %%
# Ten kinds of action; the reward depends on the kind, and the number of actions grows from 10 to 1,000.
import numpy as np
import plotly.graph_objects as go

from counterlog.core.evaluate import evaluate
from counterlog.core.policies import Table
from counterlog.core.rounds import Rounds
from counterlog.estimate.large_action_spaces import MIPS, MIPSConfig

KINDS, N, LOGS = 10, 2_000, 20


def softmax(score):
    e = np.exp(score - score.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def draw(actions, rng):
    gen = np.random.default_rng(rng)
    kind = np.arange(actions) % KINDS
    taste = gen.normal(size=actions)
    x = gen.normal(size=N)
    p = softmax(np.outer(x, taste) * 0.5)
    liked = np.linspace(0, 3, KINDS)[kind] + np.outer(-x, taste)
    pi = 0.1 / actions + 0.9 * (liked == liked.max(axis=1, keepdims=True))  # mostly one action a row
    a = (p.cumsum(axis=1) > gen.random(N)[:, None]).argmax(axis=1)
    mean = np.linspace(0.2, 0.8, KINDS)[kind] + 0.05 * np.sin(x)[:, None]
    frame = {
        "x": x,
        "a": a,
        "r": gen.normal(mean[np.arange(N), a], 0.3),
        "p": p[np.arange(N), a],
        "kind": kind[a],
    }
    log = Rounds(frame, action="a", reward="r", propensity="p", context=("x",))
    seen = np.array(log.actions)  # actions that were never drawn have no column
    pi, p = (m[:, seen] / m[:, seen].sum(axis=1, keepdims=True) for m in (pi, p))
    frame["p"] = p[np.arange(N), log.action]
    log = Rounds(frame, action="a", reward="r", propensity="p", context=("x",))
    return log, Table("candidate", pi), Table("logging", p), float((pi * mean[:, seen]).sum(axis=1).mean())


# %%
# Root mean squared error over 20 logs of 2,000 decisions.
SIZES = (10, 30, 100, 300, 1_000)
NAMES = ("IPS", "SNIPS", "MIPS")
error = {name: [] for name in NAMES}
for actions in SIZES:
    missed = {name: [] for name in NAMES}
    for rng in range(LOGS):
        log, candidate, logging, truth = draw(actions, rng)
        mips = MIPS(MIPSConfig(embedding=("kind",)), logging=logging)
        for name, e in zip(NAMES, evaluate(log, [candidate], ["IPS", "SNIPS", mips]).estimates, strict=True):
            missed[name].append(e.value - truth)
    for name in NAMES:
        error[name].append(float(np.sqrt(np.mean(np.square(missed[name])))))
print("actions" + "".join(f"{name:>10}" for name in NAMES))
for i, actions in enumerate(SIZES):
    print(f"{actions:>7}" + "".join(f"{error[name][i]:>10.4f}" for name in NAMES))

# %%
fig = go.Figure()
for name, colour in zip(NAMES, ("#0072B2", "#56B4E9", "#D55E00"), strict=True):
    fig.add_trace(
        go.Scatter(x=list(SIZES), y=error[name], name=name, mode="lines+markers", line={"color": colour})
    )
fig.update_xaxes(type="log", title_text="actions", tickvals=list(SIZES))
fig.update_yaxes(type="log", title_text="root mean squared error (reward per decision)")
fig.update_layout(height=440, template="plotly_white", legend={"orientation": "h", "y": -0.2})
fig  # noqa: B018
