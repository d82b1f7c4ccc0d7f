"""A pendulum to swing up with a weak motor, all copies at once in numpy: Gymnasium's Pendulum-v1, and logs of it.

State (cos, sin of the angle from upright, speed in rad/s); action: torque in [-2, 2] Nm; reward
-(angle^2 + 0.1 speed^2 + 0.001 torque^2) a step; 200 steps of 0.05 s, then the recording stops (nothing terminates).

    speed' = clip(speed + (15 sin(angle) + 3 torque) 0.05, +-8),     angle' = angle + 0.05 speed'

The good controller pumps energy until the pole is near the top and then holds it with a spring and a damper.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.environments import Act, Moves, check_groups, record_episodes
from counterlog.core.episodes import Episodes

Floats = NDArray[np.float64]
STEP, GRAVITY, TORQUE, FASTEST, HORIZON = 0.05, 10.0, 2.0, 8.0, 200
NARROW = 0.1


class Pendulum:
    """Copies of the pendulum; starts: angle uniform in +-pi, speed in +-1."""

    name, state_size, action_size, discrete = "pendulum", 3, 1, False
    low: tuple[float, ...] = (-TORQUE,)
    high: tuple[float, ...] = (TORQUE,)
    longest, reward_unit = HORIZON, "reward"

    def __init__(self, copies: int = 1) -> None:
        self.copies = copies
        self._begin(np.random.default_rng(0), 1)

    def _begin(self, gen: np.random.Generator, groups: int) -> None:
        each = check_groups(self.copies, groups)
        start = gen.uniform([-np.pi, -1.0], [np.pi, 1.0], (each, 2))
        self._gen = gen
        self.angle, self.speed = np.tile(start, (groups, 1)).T.copy()
        self._steps = 0

    def reset(self, rng: int, *, groups: int = 1) -> Floats:
        """(copies, 3) fresh states."""
        self._begin(np.random.default_rng(rng), groups)
        return self.state

    @property
    def state(self) -> Floats:
        """(copies, 3)."""
        return np.column_stack([np.cos(self.angle), np.sin(self.angle), self.speed])

    def step(self, action: Any) -> Moves:
        """One step of all copies; all end together."""
        torque = np.asarray(action, np.float64).reshape(self.copies).clip(-TORQUE, TORQUE)
        angle = (self.angle + np.pi) % (2 * np.pi) - np.pi
        reward = -(angle**2 + 0.1 * self.speed**2 + 0.001 * torque**2)
        faster = self.speed + (1.5 * GRAVITY * np.sin(self.angle) + 3.0 * torque) * STEP
        self.speed = faster.clip(-FASTEST, FASTEST)
        self.angle = self.angle + STEP * self.speed
        self._steps += 1
        following = self.state
        cut = np.full(self.copies, self._steps >= HORIZON)
        if cut[0]:
            self._begin(self._gen, 1)
        return Moves(following, reward, np.zeros(self.copies, bool), cut, self.state)

    def snapshot(self) -> str:
        """Where all copies and the generator of their starts stand."""
        return json.dumps(
            {
                "angle": self.angle.tolist(),
                "speed": self.speed.tolist(),
                "steps": self._steps,
                "generator": self._gen.bit_generator.state,
            }
        )

    def put_back(self, text: str) -> Floats:
        """Go on from a snapshot."""
        said = json.loads(text)
        self.angle, self.speed = np.array(said["angle"]), np.array(said["speed"])
        self._steps = said["steps"]
        self._gen = np.random.default_rng(0)
        self._gen.bit_generator.state = said["generator"]
        return self.state


def swing_up(state: Floats, gain: float = 1.0) -> Floats:
    """(n, 1) torque of the good controller, scaled by `gain`: energy pumping below, spring and damper near the top."""
    cos, sin, speed = np.asarray(state, np.float64).T
    angle = np.arctan2(sin, cos)
    energy = 0.5 * speed**2 + 1.5 * GRAVITY * (cos - 1)
    pump = -np.sign(speed + 1e-12) * np.sign(energy) * TORQUE
    hold = -(10.0 * angle + 2.0 * speed)
    torque = np.where(np.abs(angle) < 0.6, hold, np.where(np.abs(energy) < 0.3, 0.0, pump))
    return np.asarray((gain * torque).clip(-TORQUE, TORQUE)[:, None])


def controller(gain: float = 1.0, noise: float = NARROW) -> Act:
    """The controller with normal noise on its torque, cut to the bounds; an end that was cut to counts as an atom."""
    from scipy.stats import norm

    def act(state: Any, gen: np.random.Generator) -> tuple[Floats, Floats]:
        mean = swing_up(state, gain)
        action = (mean + noise * gen.normal(size=mean.shape)).clip(-TORQUE, TORQUE)
        inside = norm.logpdf(action, mean, noise)
        low, high = norm.logcdf(-TORQUE, mean, noise), norm.logsf(TORQUE, mean, noise)
        log_p = np.where(action <= -TORQUE, low, np.where(action >= TORQUE, high, inside))
        return action, log_p[:, 0]

    return act


def uniform_torque(state: Any, gen: np.random.Generator) -> tuple[Floats, Floats]:
    """Torques uniform in [-2, 2]."""
    n = len(state)
    return gen.uniform(-TORQUE, TORQUE, (n, 1)), np.full(n, -np.log(2 * TORQUE))


def replaced(act: Act, share: float) -> Act:
    """`act` with a share of its actions replaced by uniform ones, and no known log-density."""

    def mixed(state: Any, gen: np.random.Generator) -> tuple[Floats, None]:
        action, _ = act(state, gen)
        other, _ = uniform_torque(state, gen)
        return np.where(gen.random((len(state), 1)) < share, other, action), None

    return mixed


def pendulum_log(name: str, rows: int = 20_000, *, rng: int = 0) -> Episodes:
    """A named log of 200-step episodes.

    pendulum-mix    90 % of episodes uniform torque, 10 % the good controller
    pendulum-weak   90 % a controller of a quarter gain, 10 % the good one
    pendulum-eps    the good controller with 70 % of its actions replaced by uniform ones
    """
    episodes = max(10, round(rows / HORIZON))
    good = max(1, round(0.1 * episodes))
    if name == "pendulum-eps":
        return record_episodes(Pendulum(episodes), replaced(controller(), 0.7), rng=rng)
    other = uniform_torque if name == "pendulum-mix" else controller(gain=0.25)
    first = record_episodes(Pendulum(episodes - good), other, rng=2 * rng)
    second = record_episodes(Pendulum(good), controller(), rng=2 * rng + 1)
    return joined(first, second)


def joined(*logs: Episodes) -> Episodes:
    """Logs of one environment one after the other; a log-density is kept when every log has it."""
    known = all(log.log_propensity is not None for log in logs)
    ends = np.cumsum([0, *(log.rows for log in logs)])
    offsets = [log.offsets[:-1] + start for log, start in zip(logs, ends[:-1], strict=True)]
    names = ("state", "action", "reward", "terminated", "truncated", "final_state")
    return Episodes(
        offsets=np.concatenate([*offsets, ends[-1:]]),
        **{k: np.concatenate([getattr(log, k) for log in logs]) for k in names},
        log_propensity=np.concatenate([log.log_propensity for log in logs]) if known else None,
        actions=logs[0].actions if logs[0].discrete else None,
        reward_unit=logs[0].reward_unit,
    )
