"""Small decision processes with known tables: exact values, exact occupancies, and logs drawn from them.

    Q_t(s, a) = r(s, a) + gamma sum_s' P(s'|s, a) V_{t+1}(s'),   V_t(s) = sum_a pi(a|s) Q_t(s, a)        (1)
    d_t(s, a) = pi(a|s) m_t(s),   m_{t+1}(s') = sum_{s,a} d_t(s, a) P(s'|s, a)                           (2)

Rows of P may sum to less than 1: the rest is the chance that the task ends with that step.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, message

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TabularMDP:
    """`transition` (S, A, S), `reward` (S, A) mean reward, `start` (S,); `noise`: sd of normal noise on each reward."""

    transition: Floats
    reward: Floats
    start: Floats
    noise: float = 0.0

    def __post_init__(self) -> None:
        p, r, m = (np.asarray(x, np.float64) for x in (self.transition, self.reward, self.start))
        states, actions = r.shape
        good = p.shape == (states, actions, states) and m.shape == (states,) and (p >= 0).all()
        if not good or (p.sum(axis=2) > 1 + 1e-9).any() or abs(m.sum() - 1) > 1e-9:
            msg = message(
                "the tables are no decision process",
                expected="transition (S, A, S) with rows summing to at most 1, reward (S, A), start (S,) summing to 1",
            )
            raise ConfigError(msg)
        for name, value in (("transition", p), ("reward", r), ("start", m)):
            object.__setattr__(self, name, value)

    @property
    def states(self) -> int:
        """Number of states."""
        return int(self.reward.shape[0])

    @property
    def actions(self) -> int:
        """Number of actions."""
        return int(self.reward.shape[1])

    def q_values(self, policy: ArrayLike, gamma: float, horizon: int | None = None) -> Floats:
        """Equation (1): (S, A) for no horizon, (horizon, S, A) with one; `policy` (S, A)."""
        pi = np.asarray(policy, np.float64)
        if horizon is None:
            flow = np.einsum("ijk,kl->ijkl", self.transition, pi).reshape(self.reward.size, -1)
            solved = np.linalg.solve(np.eye(self.reward.size) - gamma * flow, self.reward.ravel())
            return np.asarray(solved.reshape(self.reward.shape), np.float64)
        q = np.zeros((horizon, *self.reward.shape))
        follow = np.zeros(self.states)
        for t in reversed(range(horizon)):
            q[t] = self.reward + gamma * self.transition @ follow
            follow = (pi * q[t]).sum(axis=1)
        return q

    def value(self, policy: ArrayLike, gamma: float, horizon: int | None = None) -> float:
        """Expected discounted return from the start distribution."""
        q = self.q_values(policy, gamma, horizon)
        first = q if horizon is None else q[0]
        return float(self.start @ (np.asarray(policy) * first).sum(axis=1))

    def occupancy(self, policy: ArrayLike, horizon: int) -> Floats:
        """Equation (2): (horizon, S, A) probabilities of each state and action at each step."""
        pi = np.asarray(policy, np.float64)
        d = np.zeros((horizon, *self.reward.shape))
        mass = self.start
        for t in range(horizon):
            d[t] = mass[:, None] * pi
            mass = np.einsum("ij,ijk->k", d[t], self.transition)
        return d

    def discounted_occupancy(self, policy: ArrayLike, gamma: float, horizon: int | None = None) -> Floats:
        """(S, A) sum over t of gamma^t d_t(s, a): sums to 1/(1 - gamma) when nothing ends."""
        pi = np.asarray(policy, np.float64)
        if horizon is None:
            flow = np.einsum("ij,ijk->ik", pi, self.transition)
            mass = np.linalg.solve(np.eye(self.states) - gamma * flow.T, self.start)
            return np.asarray(mass[:, None] * pi, np.float64)
        return np.asarray(
            np.tensordot(gamma ** np.arange(horizon), self.occupancy(pi, horizon), axes=1), np.float64
        )

    def sample(self, policy: ArrayLike, trajectories: int, horizon: int, *, rng: int = 0) -> Episodes:
        """A log of the behaviour `policy` (S, A): stops at the end of the task, or truncated after `horizon` steps."""
        pi, gen = np.asarray(policy, np.float64), np.random.default_rng(rng)
        choose, move = pi.cumsum(axis=1), self.transition.cumsum(axis=2)
        state = np.full((trajectories, horizon + 1), -1)
        action = np.zeros((trajectories, horizon), np.int64)
        reward = np.zeros((trajectories, horizon))
        state[:, 0] = _pick(np.tile(self.start.cumsum(), (trajectories, 1)), gen, self.states)
        alive = np.arange(trajectories)
        for t in range(horizon):
            s = state[alive, t]
            a = _pick(choose[s], gen, self.actions)
            action[alive, t] = a
            reward[alive, t] = self.reward[s, a] + self.noise * gen.standard_normal(len(alive))
            u = gen.random(len(alive))
            reached = (u[:, None] >= move[s, a]).sum(axis=1)
            goes_on = reached < self.states
            state[alive[goes_on], t + 1] = reached[goes_on]
            alive = alive[goes_on]
        active = state[:, :horizon] >= 0
        size = active.sum(axis=1)
        final = state[np.arange(trajectories), size]
        offsets = np.concatenate([[0], np.cumsum(size)])
        flat_state, flat_action = state[:, :horizon][active], action[active]
        ended = np.zeros(offsets[-1], bool)
        ended[offsets[1:] - 1] = final < 0
        cut = np.zeros(offsets[-1], bool)
        cut[offsets[1:] - 1] = final >= 0
        return Episodes(
            offsets=offsets,
            state=flat_state,
            action=flat_action,
            reward=reward[active],
            propensity=pi[flat_state, flat_action],
            terminated=ended,
            truncated=cut,
            actions=self.actions,
            final_state=final,
        )


def _pick(cumulative: Floats, gen: np.random.Generator, most: int) -> NDArray[np.int64]:
    """One draw a row from cumulative probabilities (n, k)."""
    passed = (gen.random(len(cumulative))[:, None] >= cumulative).sum(axis=1)
    return np.asarray(np.minimum(passed, most - 1), np.int64)
