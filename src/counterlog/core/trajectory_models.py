"""Everything that estimators of one policy on one log of trajectories share, made once and only when asked for.

Probability ratios, Q functions and occupancy weights; the last two fitted by trajectory folds, so that no trajectory is
judged by a model that saw it, or on the whole log. All fits are linear solves of `core.bellman`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core import ragged
from counterlog.core.bellman import (
    Design,
    Features,
    Truncation,
    design,
    of_logged,
    solve,
    solve_weights,
    start_vector,
    state_start,
    state_system,
    system,
    table_of,
)
from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, LogError, message
from counterlog.core.state_policies import log_ratios

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


class SharedLog:
    """What all policies share: the laid-out log, the folds (n,) of its trajectories, and the row weights omega (N,)."""

    def __init__(
        self,
        log: Episodes,
        *,
        gamma: float,
        truncation: Truncation,
        features: str | Features = "auto",
        time: bool = False,
        folds: int = 3,
        ridge: float = 1e-6,
        omega: Floats,
        rng: int = 0,
    ) -> None:
        self.log, self.gamma, self.truncation, self.ridge, self.omega = log, gamma, truncation, ridge, omega
        self.features, self._time = features, time
        self.folds = min(folds, log.n)
        self.fold: Codes = np.random.default_rng([rng, 1]).permutation(log.n) % self.folds

    @cached_property
    def design(self) -> Design:
        """States and features of the log."""
        return design(self.log, self.features, truncation=self.truncation, time=self._time)

    def base_rows(self, lag: int) -> NDArray[np.bool_]:
        """(N,) rows whose marginal weight can act `lag` steps later: all but the last `lag` of a cut trajectory that
        goes on unseen. Past the end of a task there is nothing, which is known."""
        use, log = self.design.use, self.log
        if lag == 0 or self.truncation == "end":
            return use
        left = np.repeat(log.lengths, log.lengths) - log.steps
        cut = np.repeat(log.truncated[log.last], log.lengths)
        return use & ~(cut & (left <= lag))

    def row_scale(self, base: NDArray[np.bool_]) -> Floats:
        """(N,) omega over the base rows; where rows count alike, their weights keep their sum."""
        used = self.omega[self.design.use]
        alike = len(used) > 1 and np.ptp(used) == 0
        return np.where(base, self.omega * (len(used) / base.sum() if alike else 1.0), 0.0)

    def parts(self) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """(trajectories to fit on, trajectories to predict), each (n,), a pair a fold."""
        if self.folds == 1:
            everything = np.ones(self.log.n, bool)
            return [(everything, everything)]
        return [(self.fold != k, self.fold == k) for k in range(self.folds)]


class Candidate:
    """One policy on one log. `q`, `weights` and `state_weights` may be given; what is not given is fitted when needed.

    q              (S, A) table, (T, S, A) table by step, or f(states, t) -> (n, A)
    weights        of (state, action): (N,) by row, (S, A), (T, S, A), or f(states, actions, t) -> (n,)
    state_weights  of the state: (N,) by row, (S,), (T, S), or f(states, t) -> (n,)
    """

    def __init__(
        self,
        shared: SharedLog,
        policy: Any,
        *,
        q: Any = None,
        weights: Any = None,
        state_weights: Any = None,
        bandwidth: float | None = None,
    ) -> None:
        self.shared, self.log, self.policy = shared, shared.log, policy
        self.given_q, self.given_weights, self.given_state_weights = q, weights, state_weights
        self.bandwidth = bandwidth
        self._cache: dict[str, Any] = {}

    # ratios

    @cached_property
    def probs(self) -> Floats:
        """(N [+ n], A) the policy's probabilities in the stacked states."""
        return self.shared.design.probs(self.policy)

    @cached_property
    def log_ratio(self) -> Floats:
        """(N,) log pi(a_t|s_t) / p_t."""
        probs = self.probs[: self.log.rows] if self.log.discrete else None
        return log_ratios(self.log, self.policy, probs, self.bandwidth)

    @cached_property
    def cumulative(self) -> Floats:
        """(N,) log of the product of the ratios up to the step."""
        return ragged.running_logs(self.log_ratio, self.log.offsets)

    # the value model

    @cached_property
    def q(self) -> Floats:
        """(N [+ n], A) action values in the stacked states: given, or fitted on the other folds."""
        d = self.shared.design
        if self.given_q is not None:
            return _given_table(self.given_q, d.states, d.t, d.actions)
        return self._by_fold(self._theta)

    @cached_property
    def v(self) -> Floats:
        """(N [+ n],) values of the stacked states."""
        return np.asarray((self.q * self.probs).sum(axis=1), np.float64)

    @property
    def start_values(self) -> Floats:
        """(n,) value of the first states."""
        return self.v[self.log.first]

    @cached_property
    def bellman_errors(self) -> Floats:
        """(N,) r_t + gamma V_{t+1} - q_t; V is 0 once the task is over, the term is 0 where V_{t+1} is unknown."""
        d = self.shared.design
        (reward,) = self.log.need("reward")
        target = reward + self.shared.gamma * d.alive * self.v[d.follow]
        return np.where(d.use, target - of_logged(d, self.q), 0.0)

    # the occupancy weights

    def weights(self, lag: int = 0, *, crossfit: bool = False) -> Floats:
        """(N,) w(s_t, a_t) to act `lag` steps later: given, or fitted on the whole log or on the other folds."""
        given, log = self.given_weights, self.log
        if given is not None:
            return self._kept("given", lambda: _given_rows(given, log, (log.state, log.action)))
        d = self.shared.design
        if crossfit:
            make = lambda: of_logged(d, self._by_fold(lambda fit: self._beta(fit, lag)))  # noqa: E731
        else:
            make = lambda: of_logged(d, table_of(d, self._beta(np.ones(log.n, bool), lag)))  # noqa: E731
        return self._kept(f"weights {self._key(lag)} {crossfit}", make)

    def state_weights(self, lag: int = 0, *, crossfit: bool = False) -> Floats:
        """(N,) w(s_t) to act `lag` steps later: given, or fitted on the whole log or on the other folds."""
        given, log = self.given_state_weights, self.log
        if given is not None:
            return self._kept("given state", lambda: _given_rows(given, log, (log.state,)))
        return self._kept(
            f"state weights {self._key(lag)} {crossfit}", lambda: self._fit_state_weights(lag, crossfit)
        )

    def _fit_state_weights(self, lag: int, crossfit: bool) -> Floats:
        everything = np.ones(self.log.n, bool)
        values = np.empty(self.log.rows)
        for fit, rest in self.shared.parts() if crossfit else [(everything, everything)]:
            rows = np.flatnonzero(rest[self.log.owners])
            values[rows] = self.shared.design.psi[rows] @ self._state_beta(fit, lag)
        return values

    def _key(self, lag: int) -> int:
        """Lags that share their base rows share their weights."""
        endless = self.shared.truncation == "bootstrap" and bool(self.log.truncated.any())
        return lag if endless else 0

    def _kept(self, key: str, make: Callable[[], Floats]) -> Floats:
        if key not in self._cache:
            self._cache[key] = make()
        kept: Floats = self._cache[key]
        return kept

    def learning(self, effect: Floats, *, state: bool, lag: int) -> Floats:
        """(n,) what the error of the weights fitted on the whole log adds to each trajectory's influence, mean 0.

        `effect` (N,) is the derivative of the value by the weight of each row. With h = sum_i effect_i phi_i and
        M x = h, trajectory j adds  x . [f0_j - n sum_{i in j} omega_i w_i (phi_i - gamma phi'_i)].
        """
        d, s, log = self.shared.design, self.shared, self.log
        everything = np.ones(log.n, bool)
        if state:
            h = np.asarray(d.psi[: log.rows].T @ effect, np.float64)
            equations = self._state_system(everything, lag)
            table = np.asarray(d.psi @ solve(equations.matrix, h, s.ridge * equations.mass), np.float64)
            here, after, start = table[: log.rows], table[d.follow], table[log.first]
            w = self.state_weights(lag) * np.exp(self.log_ratio)
        else:
            by_action = [np.flatnonzero(log.action == a) for a in range(d.actions)]
            h = np.concatenate([d.psi[i].T @ effect[i] for i in by_action])
            equations = self._system(everything, lag)
            table = table_of(d, solve(equations.matrix, h, s.ridge * equations.mass))
            ahead = (table * self.probs).sum(axis=1)
            here, after, start = of_logged(d, table), ahead[d.follow], ahead[log.first]
            w = self.weights(lag)
        omega = s.row_scale(s.base_rows(lag))
        gone = np.where(omega > 0, omega * w * (here - s.gamma * d.alive * after), 0.0)
        added = start - log.n * ragged.sums(gone, log.offsets)
        return np.asarray(added - added.mean(), np.float64)

    def value_learning(self, pull: Floats) -> Floats:
        """(n,) what the error of the fitted Q function adds to the influence of each trajectory, mean 0.

        `pull` (N,) is the derivative of the value by each Bellman error. Corrections cancel the error of theta but for
        h = f0 - sum_i pull_i (phi_i - gamma phi'_i), which is what cut trajectories leave to the value of their final
        state. With M^T x = h, trajectory j adds n sum_{i in j} omega_i (phi_i . x) (Bellman error of i).
        """
        d, s, log = self.shared.design, self.shared, self.log
        everything = np.ones(log.n, bool)
        u = np.where(d.use, pull, 0.0)
        ahead = s.gamma * u * d.alive
        parts = []
        for a in range(d.actions):
            i = np.flatnonzero(log.action == a)
            parts.append(d.psi[d.follow].T @ (ahead * self.probs[d.follow, a]) - d.psi[i].T @ u[i])
        h = start_vector(d, self.probs) + np.concatenate(parts)
        equations = self._system(everything, 0)
        x = solve(equations.matrix.T, h, s.ridge * equations.mass)
        moved = s.omega * of_logged(d, table_of(d, x)) * self.bellman_errors
        added = log.n * ragged.sums(moved, log.offsets)
        return np.asarray(added - added.mean(), np.float64)

    # fits

    def _systems(self, lag: int) -> list[Any]:
        """A system a fold, unscaled: sums of them serve every split."""
        s = self.shared
        base = s.base_rows(lag)
        omega = s.row_scale(base)
        owner_fold = s.fold[self.log.owners]
        return [
            system(s.design, self.probs, s.gamma, omega, base & (owner_fold == k)) for k in range(s.folds)
        ]

    def _system(self, fit: NDArray[np.bool_], lag: int) -> Any:
        key = f"systems {self._key(lag)}"
        if key not in self._cache:
            self._cache[key] = self._systems(lag)
        chosen = [e for k, e in enumerate(self._cache[key]) if fit[self.shared.fold == k].all()]
        return sum(chosen[1:], start=chosen[0])

    def _state_system(self, fit: NDArray[np.bool_], lag: int) -> Any:
        s = self.shared
        base = s.base_rows(lag)
        ratio = np.exp(self.log_ratio)
        return state_system(s.design, ratio, s.gamma, s.row_scale(base), base & fit[self.log.owners])

    def _theta(self, fit: NDArray[np.bool_]) -> Floats:
        e = self._system(fit, 0)
        return solve(e.matrix, e.reward, self.shared.ridge * e.mass)

    def _beta(self, fit: NDArray[np.bool_], lag: int) -> Floats:
        e = self._system(fit, lag)
        start = start_vector(self.shared.design, self.probs, fit) * self._share(fit, lag)
        return solve_weights(e, start, self.shared.ridge)

    def _state_beta(self, fit: NDArray[np.bool_], lag: int) -> Floats:
        start = state_start(self.shared.design, fit) * self._share(fit, lag)
        return solve_weights(self._state_system(fit, lag), start, self.shared.ridge)

    def _share(self, fit: NDArray[np.bool_], lag: int) -> float:
        """The part of the scale of the row weights that the fitted trajectories hold: of rows where rows count alike,
        of trajectories where they are discounted."""
        if fit.all():
            return 1.0
        base = self.shared.base_rows(lag)
        if np.ptp(self.shared.omega[base]) == 0:
            return float(base[fit[self.log.owners]].sum() / base.sum())
        return float(fit.mean())

    def _by_fold(self, coefficients: Callable[[NDArray[np.bool_]], Floats]) -> Floats:
        """(N [+ n], A) phi times coefficients that never saw the trajectory."""
        d = self.shared.design
        owner = np.concatenate([self.log.owners, np.arange(self.log.n)])[: len(d.states)]
        table = np.empty((len(d.states), d.actions))
        for fit, rest in self.shared.parts():
            rows = np.flatnonzero(rest[owner])
            table[rows] = d.psi[rows] @ coefficients(fit).reshape(d.actions, -1).T
        return table


def _given_table(q: Any, states: Any, t: Codes, actions: int) -> Floats:
    """(n, A) action values from a table, a table by step (0 past its last step), or a function."""
    if callable(q):
        values = np.asarray(q(states, t), np.float64)
    else:
        array = np.asarray(q, np.float64)
        if array.ndim == 3:
            array = np.concatenate([array, np.zeros((1, *array.shape[1:]))])
            values = array[np.minimum(t, len(array) - 1), states]
        elif array.ndim == 2:
            values = array[states]
        else:
            msg = message(
                f"q has shape {array.shape}", expected="(S, A), (T, S, A), or a function f(states, t)"
            )
            raise ConfigError(msg)
    if values.shape != (len(states), actions) or not np.isfinite(values).all():
        msg = message(
            f"q answered shape {values.shape}", expected=f"finite numbers of shape {(len(states), actions)}"
        )
        raise LogError(msg)
    return values


def _given_rows(given: Any, log: Episodes, cell: tuple[NDArray[Any], ...]) -> Floats:
    """(N,) weights from an array by row, a table over `cell`, a table by step, or a function f(*cell, t)."""
    if callable(given):
        values = given(*cell, log.steps)
    else:
        array = np.asarray(given, np.float64)
        if array.shape == (log.rows,):
            values = array
        elif array.ndim in (len(cell), len(cell) + 1):
            values = array[cell] if array.ndim == len(cell) else array[(log.steps, *cell)]
        else:
            values = array
    result = np.asarray(values, np.float64)
    if result.shape != (log.rows,) or not np.isfinite(result).all():
        msg = message(f"the weights have shape {result.shape}", expected=f"({log.rows},) finite numbers")
        raise LogError(msg)
    return result
