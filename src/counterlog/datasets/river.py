"""A river to swim up: 30 states in a row, a current, a small reward downstream and a large one at the top.

Action 0 drifts down and always succeeds. Action 1 swims up: it moves up with probability `up`, holds its place with
probability `hold`, and is carried down otherwise. The reward is `small` a step at the lower end (action 0), 1 a step at
the upper end (action 1), and a little at every landing place between. All tables are exact, so every policy has a known
value; the model is that of Strehl and Littman (2008), longer and with a start in the middle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from counterlog.core.tabular import TabularMDP

Floats = NDArray[np.float64]


def river(
    states: int = 30, *, up: float = 0.75, hold: float = 0.15, small: float = 0.15, noise: float = 0.1
) -> TabularMDP:
    """The decision process; starts spread over the middle third."""
    s = np.arange(states)
    transition = np.zeros((states, 2, states))
    transition[s, 0, np.maximum(s - 1, 0)] = 1.0
    transition[s, 1, np.minimum(s + 1, states - 1)] += up
    transition[s, 1, s] += hold
    transition[s, 1, np.maximum(s - 1, 0)] += 1 - up - hold
    reward = np.zeros((states, 2))
    reward[:, 1] = 0.3 * (s / (states - 1)) ** 2
    reward[0, 0], reward[-1, 1] = small, 1.0
    start = np.zeros(states)
    start[states // 3 : 2 * states // 3] = 1.0
    return TabularMDP(transition, reward, start / start.sum(), noise)


def swimmers(
    states: int = 30, *, count: int = 8, lazy: float = 0.25, keen: float = 0.95
) -> dict[str, Floats]:
    """`count` candidate policies (states, 2) by name, from the laziest to the keenest: the chance of swimming up grows
    with the number and, a little, with the state."""
    policies = {}
    for i, chance in enumerate(np.linspace(lazy, keen, count)):
        logit = np.log(chance / (1 - chance)) + 0.6 * (np.arange(states) / (states - 1) - 0.5)
        p = 1 / (1 + np.exp(-logit))
        policies[f"swim-{i}"] = np.column_stack([1 - p, p])
    return policies
