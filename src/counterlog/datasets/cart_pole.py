"""A pole on a cart: balance it by pushing left or right, all episodes at once in numpy.

State: position x (m), velocity (m/s), angle of the pole from upright (rad), angular velocity (rad/s). Action 0 pushes
left, 1 right, with `FORCE`. One reward a step while the pole stands. The task ends when the angle leaves 12 degrees or
the cart leaves 2.4 m. The equations are those of Barto, Sutton and Anderson (1983), without friction, with the
constants that are in common use, integrated by Euler's method with 0.02 s a step:

    u         = (F + m l w^2 sin(angle)) / (M + m)
    dw/dt     = (g sin(angle) - u cos(angle)) / (l (4/3 - m cos(angle)^2 / (M + m)))
    dv/dt     = u - m l (dw/dt) cos(angle) / (M + m)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.episodes import Episodes
from counterlog.core.state_policies import LinearSoftmax, action_probs

Floats = NDArray[np.float64]
GRAVITY, CART, POLE, HALF_LENGTH, FORCE, STEP = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
FARTHEST, STEEPEST, START = 2.4, float(np.radians(12)), 0.05


def push(state: Floats, action: NDArray[np.int64]) -> Floats:
    """(n, 4) states one step later."""
    x, v, angle, w = state.T
    sin, cos, total = np.sin(angle), np.cos(angle), CART + POLE
    u = (np.where(action == 1, FORCE, -FORCE) + POLE * HALF_LENGTH * w**2 * sin) / total
    spin = (GRAVITY * sin - u * cos) / (HALF_LENGTH * (4 / 3 - POLE * cos**2 / total))
    drive = u - POLE * HALF_LENGTH * spin * cos / total
    return np.column_stack([x + STEP * v, v + STEP * drive, angle + STEP * w, w + STEP * spin])


def fallen(state: Floats) -> NDArray[np.bool_]:
    """(n,) whether the task is over."""
    return np.asarray((np.abs(state[:, 0]) > FARTHEST) | (np.abs(state[:, 2]) > STEEPEST))


def roll(policy: Any, episodes: int, horizon: int = 50, *, rng: int = 0) -> Episodes:
    """A log of `policy` (anything with probs(states) -> (n, 2)): ends where the pole falls, cut after `horizon`."""
    gen = np.random.default_rng(rng)
    now = gen.uniform(-START, START, (episodes, 4))
    state = np.full((episodes, horizon, 4), np.nan)
    action = np.zeros((episodes, horizon), np.int64)
    chance = np.zeros((episodes, horizon))
    down = np.zeros(episodes, bool)
    size = np.zeros(episodes, np.int64)
    final = now.copy()
    alive = np.arange(episodes)
    for t in range(horizon):
        p = action_probs(policy, now[alive], 2)
        a = (gen.random(len(alive)) < p[:, 1]).astype(np.int64)
        state[alive, t], action[alive, t], chance[alive, t] = now[alive], a, p[np.arange(len(alive)), a]
        now[alive] = final[alive] = push(now[alive], a)
        size[alive] = t + 1
        over = fallen(now[alive])
        down[alive] = over
        alive = alive[~over]
        if not alive.size:
            break
    active = np.arange(horizon) < size[:, None]
    offsets = np.concatenate([[0], np.cumsum(size)])
    ended, cut = np.zeros(offsets[-1], bool), np.zeros(offsets[-1], bool)
    ended[offsets[1:] - 1], cut[offsets[1:] - 1] = down, ~down
    return Episodes(
        offsets=offsets,
        state=state[active],
        action=action[active],
        reward=np.ones(offsets[-1]),
        propensity=chance[active],
        terminated=ended,
        truncated=cut,
        actions=2,
        final_state=final,
        reward_unit="steps",
    )


def balancers(
    count: int = 8, *, poor: float = -0.2, good: float = 1.0, temperature: float = 1.0
) -> dict[str, Any]:
    """`count` softmax-linear policies by name, from one that leans into the fall (`poor`) to one that counters it.

    The chance of a push to the right is the logistic of `skill` times (8 angle + 2.5 angular velocity) / temperature.
    """
    made = {}
    for i, skill in enumerate(np.linspace(poor, good, count)):
        right = skill * np.array([0.0, 0.0, 8.0, 2.5])
        weights = np.column_stack([-right / 2, right / 2])
        made[f"pole-{i}"] = LinearSoftmax(weights, temperature=temperature)
    return made
