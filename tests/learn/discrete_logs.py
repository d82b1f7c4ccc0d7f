"""Small logs of discrete actions, and learners of them: what the tests of the Q-learning family share."""

from __future__ import annotations

import numpy as np

from counterlog.core.episodes import Episodes

SMALL = {"hidden": (16, 16), "batch": 32, "steps": 40, "log_every": 10, "lr": 1e-3}
STEPPED = {"hidden": (16, 16), "batch": 32, "lr": 1e-2, "gamma": 0.9, "target_every": 10}


def log_of(frame):
    """Three trajectories of twenty steps made of the contract tests' decisions."""
    import narwhals as nw

    table = nw.from_native(frame, eager_only=True)
    x = table["x"].to_numpy()[:60]
    return Episodes(
        offsets=[0, 20, 40, 60],
        state=np.column_stack([x, np.sin(x)]),
        action=(x > 0).astype(int),
        reward=table["click"].to_numpy()[:60],
        terminated=np.arange(60) % 20 == 19,
        actions=2,
    )


def chain(end="terminated", copies=8):
    """s0 -(r = 0)-> s1 -(r = 1)-> the end, or, where the recording is cut, s1 again."""
    last = np.arange(2 * copies) % 2 == 1
    return Episodes(
        offsets=2 * np.arange(copies + 1),
        state=last.astype(int),
        action=np.zeros(2 * copies, int),
        reward=last.astype(float),
        **{end: last},
        actions=1,
        final_state=np.ones(copies, int),
    )


def two_armed(rows=400, rng=0):
    """One step an episode, two actions: action 1 pays 1, action 0 pays 0; the log prefers action 0."""
    gen = np.random.default_rng(rng)
    action = (gen.random(rows) < 0.45).astype(int)
    return Episodes(
        offsets=np.arange(rows + 1),
        state=gen.normal(size=(rows, 2)),
        action=action,
        reward=action.astype(float),
        terminated=np.ones(rows, bool),
        actions=2,
    )


def stepped(learner, log, steps):
    """The learner after `steps` updates on the log."""
    learner.start(learner.prepare(log), rng=0)
    for _ in range(steps):
        learner.update(learner.draw())
    return learner
