"""Two control tasks with discrete actions, all copies at once in numpy: Gymnasium's CartPole-v1 and MountainCar-v0.

Cart and pole: state (m, m/s, rad, rad/s), two pushes, reward 1 a step, ends when the pole falls or the cart leaves, cut
after 500 steps. Mountain car: state (position, velocity), three pushes, reward -1 a step, ends on the hill at 0.5, cut
after 200 steps.

    velocity' = clip(velocity + 0.001 (action - 1) - 0.0025 cos(3 position), +-0.07),  0 at the left wall -1.2
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.environments import Moves, check_groups
from counterlog.datasets.cart_pole import START, fallen, push

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


class _Copies:
    """Copies that begin anew in the step that ends them."""

    discrete = True
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    longest: int

    def __init__(self, copies: int = 1) -> None:
        self.copies = copies
        self.reset(0)

    def reset(self, rng: int, *, groups: int = 1) -> Floats:
        """(copies, d) fresh states."""
        self._gen = np.random.default_rng(rng)
        each = check_groups(self.copies, groups)
        self.state = np.tile(self.fresh(each), (groups, 1))
        self._age = np.zeros(self.copies, np.int64)
        return self.state.copy()

    def step(self, action: Any) -> Moves:
        """One step of all copies."""
        following = self.move(self.state, np.asarray(action, np.int64))
        over = self.over(following)
        self._age += 1
        cut = (self._age >= self.longest) & ~over
        fresh = over | cut
        self.state = following.copy()
        if fresh.any():
            self.state[fresh] = self.fresh(int(fresh.sum()))
            self._age[fresh] = 0
        return Moves(following, np.full(self.copies, self.pay), over, cut, self.state.copy())

    pay: float

    def fresh(self, n: int) -> Floats:
        """(n, d) start states."""
        raise NotImplementedError

    def move(self, state: Floats, action: Codes) -> Floats:
        """(n, d) states one step later."""
        raise NotImplementedError

    def over(self, state: Floats) -> NDArray[np.bool_]:
        """(n,) whether the task is over."""
        raise NotImplementedError


class CartPole(_Copies):
    """A pole to balance for 500 steps."""

    name, state_size, action_size, longest, reward_unit, pay = "cart-pole", 4, 2, 500, "steps", 1.0

    def fresh(self, n: int) -> Floats:
        """Uniform in +-0.05."""
        return self._gen.uniform(-START, START, (n, 4))

    def move(self, state: Floats, action: Codes) -> Floats:
        """`cart_pole.push`."""
        return push(state, action)

    def over(self, state: Floats) -> NDArray[np.bool_]:
        """`cart_pole.fallen`."""
        return fallen(state)


class MountainCar(_Copies):
    """A car that must swing up to leave a valley."""

    name, state_size, action_size, longest, reward_unit, pay = "mountain-car", 2, 3, 200, "reward", -1.0

    def fresh(self, n: int) -> Floats:
        """Position uniform in [-0.6, -0.4], at rest."""
        return np.column_stack([self._gen.uniform(-0.6, -0.4, n), np.zeros(n)])

    def move(self, state: Floats, action: Codes) -> Floats:
        """The equation above."""
        position, velocity = state.T
        velocity = (velocity + 0.001 * (action - 1) - 0.0025 * np.cos(3 * position)).clip(-0.07, 0.07)
        position = (position + velocity).clip(-1.2, 0.6)
        velocity = np.where((position <= -1.2) & (velocity < 0), 0.0, velocity)
        return np.column_stack([position, velocity])

    def over(self, state: Floats) -> NDArray[np.bool_]:
        """On the hill."""
        return np.asarray(state[:, 0] >= 0.5)


def balance(state: Any) -> Codes:
    """(n,) pushes that hold the pole up and the cart near the middle."""
    x, v, angle, w = np.asarray(state, np.float64).T
    return np.asarray(0.1 * x + 0.3 * v + 8.0 * angle + 2.5 * w > 0, np.int64)


def swing(state: Any) -> Codes:
    """(n,) pushes along the velocity."""
    return np.where(np.asarray(state)[:, 1] < 0, 0, 2).astype(np.int64)
