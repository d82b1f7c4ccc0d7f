"""One linear Bellman system a policy: what a linear value function and linear occupancy weights both solve.

phi(s, a) puts the state features psi(s) into the block of action a, and phi_pi(s) = sum_a pi(a|s) phi(s, a).

    M   = sum_i omega_i phi(s_i, a_i) [phi(s_i, a_i) - gamma alive_i phi_pi(s'_i)]^T                    (1)
    b   = sum_i omega_i phi(s_i, a_i) r_i,     f0 = mean over trajectories of phi_pi(s_0)               (2)

A value function q = phi theta solves M theta = b; weights w = phi beta solve M^T beta = f0. psi is one-hot for state
codes, so that both are then exact tables.  `omega` (N,) weighs rows, `alive` (N,) says whether the task went on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

from counterlog.core.episodes import Episodes
from counterlog.core.errors import ConfigError, ConvergenceError, LogError, message
from counterlog.core.state_policies import action_probs

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
Flags = NDArray[np.bool_]
Features = Callable[[Any, Codes], Any]
Truncation = Literal["bootstrap", "end"]
FEATURES = ("auto", "tabular", "linear", "quadratic")
MOST_UNKNOWNS, SMALL_SYSTEM = 6000, 400


def tabular_features(states: int, horizon: int | None = None) -> Features:
    """One-hot of the state code, or of (state, step) with a `horizon`: psi (n, states [* horizon]) sparse."""

    def psi(state: Any, t: Codes) -> Any:
        code = np.asarray(state)
        width = states
        if horizon is not None:
            code, width = code + states * np.minimum(t, horizon - 1), states * horizon
        ones = np.ones(len(code))
        return sparse.csr_array((ones, (np.arange(len(code)), code)), shape=(len(code), width))

    return psi


def polynomial_features(log: Episodes, degree: int, horizon: int | None = None) -> Features:
    """[1, x] for degree 1, and all products of two for degree 2; x standardised by the log. With a `horizon`,
    t / horizon is one more coordinate of x."""
    table = np.asarray(log.state, np.float64)
    centre, spread = table.mean(axis=0), table.std(axis=0)
    spread = np.where(spread > 1e-12, spread, 1.0)

    def psi(state: Any, t: Codes) -> Any:
        x = (np.asarray(state, np.float64) - centre) / spread
        if horizon is not None:
            x = np.column_stack([x, 2 * t / horizon - 1])
        parts = [np.ones((len(x), 1)), x]
        if degree == 2:
            i, j = np.triu_indices(x.shape[1])
            parts.append(x[:, i] * x[:, j])
        return np.hstack(parts)

    return psi


def state_features(log: Episodes, kind: str | Features = "auto", *, time: bool = False) -> Features:
    """The features that a name stands for: tabular for state codes, quadratic for vectors when `auto`."""
    if callable(kind):
        return kind
    if kind not in FEATURES:
        msg = message(
            f"features {kind!r}", expected=f"one of {', '.join(FEATURES)}, or a function f(state, t)"
        )
        raise ConfigError(msg)
    codes = log.state.ndim == 1
    chosen = ("tabular" if codes else "quadratic") if kind == "auto" else kind
    horizon = int(log.lengths.max()) if time else None
    if chosen == "tabular":
        if not codes:
            msg = message("tabular features need state codes", hint="give one integer state column")
            raise ConfigError(msg)
        final = int(log.final_state.max()) if log.final_state is not None else -1
        return tabular_features(max(int(log.state.max()), final) + 1, horizon)
    if codes:
        msg = message(
            f"{chosen} features need numbers as states", hint="use tabular features for state codes"
        )
        raise ConfigError(msg)
    return polynomial_features(log, 1 if chosen == "linear" else 2, horizon)


@dataclass(frozen=True, eq=False)
class Design:
    """What a log gives to every policy: stacked states and features, successors, and which rows can be used.

    states, t, psi   the N logged states, then the n states after the ends where recorded: (N [+ n], ...)
    follow           (N,) position of the successor among them; alive (N,) whether the task went on
    use              (N,) whether the row's transition is known; unknown only for cut rows without a final state
    """

    log: Episodes
    states: NDArray[Any]
    t: Codes
    psi: Any
    follow: Codes
    alive: Flags
    use: Flags

    @property
    def actions(self) -> int:
        """Number of actions."""
        return len(self.log.actions)

    def probs(self, policy: Any) -> Floats:
        """(N [+ n], actions) the policy's probabilities in all stacked states."""
        return action_probs(policy, self.states, self.actions)


def design(
    log: Episodes, features: str | Features = "auto", *, truncation: Truncation, time: bool = False
) -> Design:
    """Lay out a log for `system`. `truncation`: a cut row goes on in its final state (`bootstrap`; left out when that
    was not recorded), or the task is over there (`end`)."""
    if not log.discrete:
        msg = message(
            "a model of values or weights sums over actions, and this log has continuous ones",
            hint="use TIS, PDIS or their self-normalised versions",
        )
        raise LogError(msg)
    states, t = log.state, log.steps
    follow = np.minimum(np.arange(log.rows) + 1, log.rows - 1)
    follow[log.last] = log.last
    ended = log.terminated | log.truncated
    if truncation == "bootstrap" and log.final_state is not None:
        final = np.array(log.next_state[log.last])
        states, t = np.concatenate([states, final]), np.concatenate([t, log.lengths])
        follow[log.last] = log.rows + np.arange(log.n)
    alive = log.continues if truncation == "bootstrap" else ~ended
    use = log.continues | log.terminated if truncation == "bootstrap" else np.ones(log.rows, bool)
    psi = state_features(log, features, time=time)(states, t)
    return Design(log, states, t, psi, follow, alive, use)


@dataclass(frozen=True, eq=False)
class System:
    """Equations (1), (2): `matrix` (p, p), dense or sparse, `reward` (p,), `mass` = sum of omega; p = actions * m."""

    matrix: Any
    reward: Floats
    mass: float

    def __add__(self, other: System) -> System:
        return System(self.matrix + other.matrix, self.reward + other.reward, self.mass + other.mass)


def system(d: Design, probs: Floats, gamma: float, omega: Floats, rows: Flags | None = None) -> System:
    """Equations (1) and (2) over the usable rows (and `rows`, if given), one block a pair of actions."""
    m, k = d.psi.shape[1], d.actions
    if m * k > MOST_UNKNOWNS and not is_sparse(d.psi):
        msg = message(
            f"{m} features times {k} actions are {m * k:,} unknowns",
            expected=f"at most {MOST_UNKNOWNS:,}",
            hint="merge states, or use linear features",
        )
        raise ConfigError(msg)
    reward, blocks = np.zeros((k, m)), []
    chosen = d.use if rows is None else d.use & rows
    (earned,) = d.log.need("reward")
    for a in range(k):
        i = np.flatnonzero(chosen & (d.log.action == a))
        left = _scaled(d.psi[i], omega[i]).T
        reward[a] = left @ earned[i]
        after, go = d.psi[d.follow[i]], gamma * d.alive[i]
        line = [-(left @ _scaled(after, go * probs[d.follow[i], b])) for b in range(k)]
        line[a] = line[a] + left @ d.psi[i]
        blocks.append(line)
    if is_sparse(d.psi):
        matrix: Any = sparse.block_array(blocks, format="csc")
        if k * m <= SMALL_SYSTEM:
            matrix = _dense(matrix)
    else:
        matrix = np.block(blocks)
    return System(matrix, reward.ravel(), float(omega[chosen].sum()))


def is_sparse(matrix: Any) -> bool:
    """Whether a matrix is kept sparse: features of state codes are."""
    return bool(sparse.issparse(matrix))


def start_vector(d: Design, probs: Floats, chosen: Flags | None = None) -> Floats:
    """(p,) f0: mean over trajectories (n,) (the chosen ones) of phi_pi at the first state."""
    first = d.log.first if chosen is None else d.log.first[chosen]
    return np.asarray(d.psi[first].T @ probs[first], np.float64).T.ravel() / len(first)


def state_system(d: Design, ratio: Floats, gamma: float, omega: Floats, rows: Flags | None = None) -> System:
    """sum_i omega_i rho_i psi_i (psi_i - gamma alive_i psi(s'_i))^T: the system of weights that depend on the state
    alone, with the one-step probability ratios rho (N,)."""
    i = np.flatnonzero(d.use if rows is None else d.use & rows)
    here = d.psi[i]
    matrix = _scaled(here, omega[i] * ratio[i]).T @ (
        here - _scaled(d.psi[d.follow[i]], np.asarray(gamma * d.alive[i], np.float64))
    )
    return System(_dense(matrix), np.zeros(matrix.shape[0]), float(omega[i].sum()))


def state_start(d: Design, chosen: Flags | None = None) -> Floats:
    """(m,) mean of psi at the first states."""
    first = d.log.first if chosen is None else d.log.first[chosen]
    return np.asarray(d.psi[first].sum(axis=0), np.float64).ravel() / len(first)


def solve(matrix: Any, right: Floats, ridge: float) -> Floats:
    """(p,) solution of (matrix + ridge I) x = right. Raises `ConvergenceError` when there is none."""
    hint = "raise ridge, lower gamma, or drop features that repeat each other"
    try:
        if is_sparse(matrix):
            damped = (matrix + ridge * sparse.eye_array(matrix.shape[0])).tocsc()
            x = np.asarray(splu(damped).solve(right), np.float64)
        else:
            x = np.asarray(np.linalg.solve(matrix + ridge * np.eye(len(matrix)), right), np.float64)
    except (np.linalg.LinAlgError, RuntimeError) as cause:
        msg = message("the linear system of the values or weights is singular", hint=hint)
        raise ConvergenceError(msg) from cause
    if not np.isfinite(x).all():
        msg = message("the linear system of the values or weights has no finite solution", hint=hint)
        raise ConvergenceError(msg)
    return x


def solve_weights(equations: System, start: Floats, ridge: float) -> Floats:
    """(p,) beta with M^T beta = f0; 0 for features that no row shows (a state and action never logged), whose weight
    nothing determines."""
    beta = solve(equations.matrix.T, start, ridge * equations.mass)
    size = abs(equations.matrix).max(axis=1)
    shown = np.asarray(size.todense() if is_sparse(size) else size).ravel() > 0
    return np.where(shown, beta, 0.0)


def table_of(d: Design, coefficients: Floats) -> Floats:
    """(N [+ n], actions) phi(s, a) times the coefficients (p,), for every stacked state and action."""
    return np.asarray(d.psi @ coefficients.reshape(d.actions, -1).T, np.float64)


def of_logged(d: Design, table: Floats) -> Floats:
    """(N,) the entry of the logged action."""
    return np.asarray(table[np.arange(d.log.rows), d.log.action], np.float64)


def _scaled(matrix: Any, scale: Floats) -> Any:
    """Rows times numbers, dense or sparse."""
    return sparse.diags_array(scale) @ matrix if is_sparse(matrix) else matrix * scale[:, None]


def _dense(matrix: Any) -> Floats:
    return np.asarray(matrix.todense() if is_sparse(matrix) else matrix, np.float64)
